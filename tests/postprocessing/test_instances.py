# SPDX-License-Identifier: Apache-2.0
"""Centres and grouping against slow references."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_axial.postprocessing import instances
from tests import reference


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


def _grouping(height: int, width: int, count: int, slots: int, seed: int):
    rng = np.random.default_rng(seed)
    offsets = rng.normal(0, 5, (height, width, 2)).astype(np.float32)
    is_thing = rng.random((height, width)) < 0.7
    centers = np.zeros((slots, 2), np.int32)
    centers[:count] = np.stack([rng.integers(0, height, count), rng.integers(0, width, count)], -1)
    return offsets, is_thing, centers


@pytest.mark.parametrize("chunk", [2**22, 100, 1])
@pytest.mark.parametrize(("count", "slots"), [(0, 5), (1, 1), (4, 9), (9, 9)])
def test_grouping_equals_the_reference(count, slots, chunk, monkeypatch):
    monkeypatch.setattr(instances, "_CHUNK_ELEMENTS", chunk)
    offsets, is_thing, centers = _grouping(8, 11, count, slots, count)
    expected = reference.group_pixels(offsets, is_thing, centers[:count].tolist())
    arguments = [tf.constant(x) for x in (offsets, is_thing, centers, np.int32(count))]
    np.testing.assert_array_equal(instances.group_pixels(*arguments), expected)
    function = tf.function(
        instances.group_pixels,
        input_signature=[
            tf.TensorSpec([None, None, 2]),
            tf.TensorSpec([None, None], tf.bool),
            tf.TensorSpec([slots, 2], tf.int32),
            tf.TensorSpec([], tf.int32),
        ],
    )
    np.testing.assert_array_equal(function(*arguments), expected)


@pytest.mark.parametrize("chunk", [2**22, 100])
def test_grouping_under_xla(chunk, monkeypatch):
    monkeypatch.setattr(instances, "_CHUNK_ELEMENTS", chunk)
    offsets, is_thing, centers = _grouping(8, 11, 4, 9, 0)
    arguments = [tf.constant(x) for x in (offsets, is_thing, centers, np.int32(4))]
    expected = reference.group_pixels(offsets, is_thing, centers[:4].tolist())
    np.testing.assert_array_equal(tf.function(instances.group_pixels, jit_compile=True)(*arguments), expected)


def test_between_two_centers_the_first_wins():
    offsets, is_thing = tf.zeros([1, 5, 2]), tf.ones([1, 5], tf.bool)
    centers = tf.constant([[0, 0], [0, 4], [0, 4]])
    np.testing.assert_array_equal(instances.group_pixels(offsets, is_thing, centers, 2), [[1, 1, 1, 2, 2]])
    # Unused slots, which stand at (0, 0), attract nothing.
    centers = tf.constant([[0, 4], [0, 0], [0, 0]])
    np.testing.assert_array_equal(instances.group_pixels(offsets, is_thing, centers, 1), [[1, 1, 1, 1, 1]])


def test_memory_does_not_grow_with_pixels_times_centers(monkeypatch):
    monkeypatch.setattr(instances, "_CHUNK_ELEMENTS", 1000)
    seen = []
    argmin = tf.argmin
    monkeypatch.setattr(tf, "argmin", lambda x, **kwargs: (seen.append(x.shape), argmin(x, **kwargs))[1])
    offsets, is_thing, centers = _grouping(40, 50, 20, 20, 0)
    instances.group_pixels(*(tf.constant(x) for x in (offsets, is_thing, centers, np.int32(20))))
    assert len(seen) == 40
    assert all(shape.num_elements() <= 1000 for shape in seen)
