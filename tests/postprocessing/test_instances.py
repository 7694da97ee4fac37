# SPDX-License-Identifier: Apache-2.0
"""Centres and grouping against slow references."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_axial.postprocessing import instances
from tests import graph_sizes, reference


def _heatmap(height: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((height, width)).astype(np.float32)


def _assert_centers(found, expected, slots: int):
    centers, scores, count = (x.numpy() for x in found)
    assert centers.shape == (slots, 2)
    assert scores.shape == (slots,)
    assert count == len(expected)
    np.testing.assert_array_equal(centers[:count], np.array([peak[1:] for peak in expected]).reshape(-1, 2))
    np.testing.assert_array_equal(scores[:count], np.array([peak[0] for peak in expected], np.float32))
    assert (centers[count:] == 0).all()
    assert (scores[count:] == 0).all()


@pytest.mark.parametrize("jit_compile", [None, False, True])
@pytest.mark.parametrize(("kernel", "most"), [(1, 300), (3, 60), (7, 60), (3, 5), (13, 1)])
def test_centers_equal_the_reference(kernel, most, jit_compile):
    function = instances.find_centers
    if jit_compile is not None:
        function = tf.function(function, jit_compile=jit_compile)
    for seed, size in enumerate([(15, 19), (16, 11)]):
        heatmap = _heatmap(*size, seed)
        expected = reference.find_centers(heatmap, 0.3, kernel, most)
        _assert_centers(function(tf.constant(heatmap), 0.3, kernel, most), expected, most)


def test_more_peaks_than_slots_keeps_the_highest_in_row_major_order():
    heatmap = np.zeros((9, 9), np.float32)
    heatmap[::2, ::2] = np.random.default_rng(0).permutation(25).reshape(5, 5) / 100 + 0.5
    for most in (1, 10, 24, 25, 26):
        expected = reference.find_centers(heatmap, 0.1, 3, most)
        assert len(expected) == min(most, 25)
        _assert_centers(instances.find_centers(tf.constant(heatmap), 0.1, 3, most), expected, most)


def test_of_equal_peaks_the_first_are_kept():
    heatmap = np.zeros((5, 9), np.float32)
    heatmap[::2, ::2] = 0.5
    found = instances.find_centers(tf.constant(heatmap), 0.1, 3, 4)
    _assert_centers(found, [(0.5, 0, 0), (0.5, 0, 2), (0.5, 0, 4), (0.5, 0, 6)], 4)


def test_a_plateau_is_all_peaks():
    heatmap = np.zeros((4, 5), np.float32)
    heatmap[1, 1:4] = 0.5
    _assert_centers(instances.find_centers(tf.constant(heatmap), 0.1, 3, 9), [(0.5, 1, x) for x in (1, 2, 3)], 9)


@pytest.mark.parametrize(
    ("value", "threshold", "count"), [(0.5, 0.5, 0), (0.5, 0.4999, 1), (0.0, 0.0, 0), (-1.0, 0.1, 0)]
)
def test_peaks_exceed_the_threshold(value, threshold, count):
    heatmap = np.full((5, 5), -2, np.float32)
    heatmap[2, 2] = value
    assert instances.find_centers(tf.constant(heatmap), threshold, 3, 5)[2] == count


def test_more_slots_than_pixels():
    heatmap = _heatmap(2, 3, 0)
    _assert_centers(
        instances.find_centers(tf.constant(heatmap), 0.0, 1, 10), reference.find_centers(heatmap, 0, 1, 10), 10
    )


def test_centers_of_unknown_size():
    function = tf.function(
        lambda x: instances.find_centers(x, 0.3, 3, 20), input_signature=[tf.TensorSpec([None, None])]
    )
    for seed, size in enumerate([(3, 4), (15, 9)]):
        heatmap = _heatmap(*size, seed)
        _assert_centers(function(tf.constant(heatmap)), reference.find_centers(heatmap, 0.3, 3, 20), 20)


def _nearest(offsets, is_thing, centers, count) -> np.ndarray:
    """The rule of `group_pixels` with all distances at once, in float32 as there."""
    if count == 0:
        return np.zeros(is_thing.shape, np.int32)
    height, width = is_thing.shape
    grid = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), -1).astype(np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        to = (grid + offsets)[:, :, None] - centers[:count].astype(np.float32)
        distance = to[..., 0] ** 2 + to[..., 1] ** 2
    return np.where(is_thing, 1 + distance.argmin(-1), 0)


def _centers(height: int, width: int, count: int, slots: int, rng: np.random.Generator) -> np.ndarray:
    centers = np.zeros((slots, 2), np.int32)
    centers[:count] = np.stack([rng.integers(0, height, count), rng.integers(0, width, count)], -1)
    return centers


def _offsets(kind: str, centers: np.ndarray, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """[height, width, 2] float32 offsets of a good network, a bad one, and of inputs where equals are common."""
    grid = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), -1)
    to_a_center = centers[rng.integers(0, len(centers), (height // 8 + 1, width // 8 + 1))].repeat(8, 0).repeat(8, 1)
    to_a_center = to_a_center[:height, :width] - grid
    shape = (height, width, 2)
    return {
        "pointing": lambda: to_a_center + rng.normal(0, 1, shape),
        "scattered": lambda: rng.normal(0, 40, shape),
        "whole": lambda: rng.integers(-9, 10, shape),
        "halves": lambda: rng.integers(-19, 20, shape) / 2,
        "on centres": lambda: to_a_center,
        "between": lambda: (to_a_center + np.roll(to_a_center, 8, axis=1)) / 2,
        "far outside": lambda: rng.normal(0, 1, shape) * 10.0 ** rng.integers(0, 8, (height, width, 1)),
        "huge": lambda: rng.normal(0, 1, shape) * 1e30,
    }[kind]().astype(np.float32)


KINDS = ("pointing", "scattered", "whole", "halves", "on centres", "between", "far outside", "huge")
SIZES = ((1, 1), (1, 150), (70, 1), (31, 33), (32, 64), (67, 203))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_grouping_equals_all_distances(size, kind):
    rng = np.random.default_rng([*size, KINDS.index(kind)])
    for count, share in ((0, 0.7), (1, 0.7), (5, 0.3), (30, 0.0), (30, 1.0), (40, 0.7)):
        centers = _centers(*size, count, 40, rng)
        offsets = _offsets(kind, centers[: max(count, 1)], *size, rng)
        is_thing = rng.random(size) < share
        found = instances.group_pixels(*(tf.constant(x) for x in (offsets, is_thing, centers, np.int32(count))))
        np.testing.assert_array_equal(found, _nearest(offsets, is_thing, centers, count))


@pytest.mark.parametrize("jit_compile", [False, True])
def test_grouping_in_graphs(jit_compile):
    function = tf.function(instances.group_pixels, jit_compile=jit_compile)
    for seed, kind in enumerate(KINDS):
        for count in (0, 1, 13, 40):
            rng = np.random.default_rng([seed, count])
            centers = _centers(67, 203, count, 40, rng)
            offsets, is_thing = _offsets(kind, centers[: max(count, 1)], 67, 203, rng), rng.random((67, 203)) < 0.5
            found = function(*(tf.constant(x) for x in (offsets, is_thing, centers, np.int32(count)))).numpy()
            expected = _nearest(offsets, is_thing, centers, count)
            if jit_compile and kind == "far outside":
                # XLA multiplies and adds in one rounding: of centres that float32 can hardly tell apart, any.
                assert np.mean(found == expected) > 0.99
                np.testing.assert_array_equal(found > 0, is_thing & (count > 0))
            else:
                np.testing.assert_array_equal(found, expected, err_msg=kind)


@pytest.mark.parametrize(("count", "slots"), [(0, 5), (1, 1), (4, 9), (9, 9)])
def test_grouping_of_unknown_sizes_equals_the_reference(count, slots):
    function = tf.function(
        instances.group_pixels,
        input_signature=[
            tf.TensorSpec([None, None, 2]),
            tf.TensorSpec([None, None], tf.bool),
            tf.TensorSpec([slots, 2], tf.int32),
            tf.TensorSpec([], tf.int32),
        ],
    )
    for size in ((8, 11), (33, 40)):
        rng = np.random.default_rng(count)
        offsets, is_thing = rng.normal(0, 5, (*size, 2)).astype(np.float32), rng.random(size) < 0.7
        centers = _centers(*size, count, slots, rng)
        found = function(*(tf.constant(x) for x in (offsets, is_thing, centers, np.int32(count))))
        np.testing.assert_array_equal(found, reference.group_pixels(offsets, is_thing, centers[:count].tolist()))


def test_between_two_centers_the_first_wins():
    offsets, is_thing = tf.zeros([1, 5, 2]), tf.ones([1, 5], tf.bool)
    centers = tf.constant([[0, 0], [0, 4], [0, 4]])
    np.testing.assert_array_equal(instances.group_pixels(offsets, is_thing, centers, 2), [[1, 1, 1, 2, 2]])
    # Unused slots, which stand at (0, 0), attract nothing.
    centers = tf.constant([[0, 4], [0, 0], [0, 0]])
    np.testing.assert_array_equal(instances.group_pixels(offsets, is_thing, centers, 1), [[1, 1, 1, 1, 1]])


def test_offsets_that_are_no_numbers_harm_nobody_else():
    rng = np.random.default_rng(0)
    centers = _centers(40, 50, 20, 20, rng)
    offsets = _offsets("scattered", centers, 40, 50, rng)
    offsets[::7, ::5] = [[np.nan, 0]]
    offsets[1::7, ::5] = [[np.inf, -np.inf]]
    is_thing = np.ones((40, 50), bool)
    found = instances.group_pixels(*(tf.constant(x) for x in (offsets, is_thing, centers, np.int32(20))))
    np.testing.assert_array_equal(found, _nearest(offsets, is_thing, centers, 20))


def test_few_centers_are_measured_where_offsets_agree():
    rng = np.random.default_rng(0)
    centers = np.stack(np.meshgrid(np.arange(5, 1000, 50), np.arange(5, 1000, 50), indexing="ij"), -1).reshape(-1, 2)
    points = rng.uniform(100, 120, (2, 3, 1024)).astype(np.float32)  # three tiles, all around one place
    is_thing = np.ones((3, 1024), bool)
    is_thing[1] = False
    candidates, most = instances._candidates(
        *(tf.constant(x) for x in (*points, is_thing, centers.astype(np.float32), np.ones(400, bool)))
    )
    assert most <= 4
    assert (candidates.numpy()[1] == 400).all()
    distance = np.square(points[..., None] - centers.T[:, None, None]).sum(0)
    for i in (0, 2):
        assert set(distance[i].argmin(-1)) <= set(candidates.numpy()[i][:most])


def test_memory_does_not_grow_with_pixels_times_centers():
    size, slots = (128, 512), 400
    graph = tf.function(instances.group_pixels).get_concrete_function(
        tf.TensorSpec([*size, 2]),
        tf.TensorSpec(size, tf.bool),
        tf.TensorSpec([slots, 2], tf.int32),
        tf.TensorSpec([], tf.int32),
    )
    largest = max(graph_sizes.tensor_sizes(graph))
    assert 2 * size[0] * size[1] == largest < size[0] * size[1] * slots / 100
