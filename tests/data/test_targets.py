# SPDX-License-Identifier: Apache-2.0
"""Training targets against a slow reference and against DeepLab2."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_axial import keys
from deeplab_axial.data import targets
from deeplab_axial.data.label_space import LabelClass, LabelSpace
from deeplab_axial.data.targets import TargetOptions, make_targets
from tests import golden, reference
from tests.compare import assert_close

NAMES = (
    keys.SEMANTIC_TARGET,
    keys.SEMANTIC_WEIGHT,
    keys.CENTER_TARGET,
    keys.CENTER_WEIGHT,
    keys.OFFSET_TARGET,
    keys.OFFSET_WEIGHT,
)


def _space(things, stuff, num_classes: int, ignore: int, divisor: int) -> LabelSpace:
    classes = sorted((*((i, True) for i in things), *((i, False) for i in stuff)))
    rows = tuple(LabelClass(i, f"class {i}", is_thing, (0, 0, 0), i) for i, is_thing in classes)
    return LabelSpace("test", rows, num_classes, ignore, divisor)


CITYSCAPES_LIKE = _space((2, 3), (0, 1), 4, 255, 1000)  # void outside the classes
COCO_LIKE = _space((1, 2), (3,), 4, 0, 256)  # void among them


def _no_crowd() -> tf.Tensor:
    return tf.zeros([0], tf.int32)


def _random_map(space: LabelSpace, height: int, width: int, seed: int) -> np.ndarray:
    """Rectangles of all classes over each other, void and crowd among them."""
    rng = np.random.default_rng(seed)
    panoptic = np.full((height, width), space.void_id, np.int32)
    labels = [*(c.id for c in space.classes), space.ignore_label]
    for _ in range(14):
        label = int(rng.choice(labels))
        number = int(rng.integers(0, 3)) if label in space.thing_ids else 0
        y, x = rng.integers(0, height), rng.integers(0, width)
        panoptic[y : y + rng.integers(1, 8), x : x + rng.integers(1, 8)] = label * space.label_divisor + number
    return panoptic


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("sigma", [1, 2.25, 3])
@pytest.mark.parametrize("space", [CITYSCAPES_LIKE, COCO_LIKE], ids=["void_outside", "void_inside"])
def test_equals_the_reference(space, sigma, seed):
    panoptic = _random_map(space, 17, 23, seed)
    things = [i for i in np.unique(panoptic) if i // space.label_divisor in space.thing_ids and i % space.label_divisor]
    crowd = [*things[:1], 987654]  # one that does not occur, too
    options = TargetOptions(sigma, 20, 3.0)
    found = make_targets(tf.constant(panoptic), tf.constant(crowd, tf.int32), space, options)
    expected = reference.targets(
        panoptic, crowd, space.thing_ids, space.label_divisor, space.ignore_label, sigma, 20, 3.0
    )
    assert tuple(found) == NAMES
    for name, value in zip(NAMES, expected):
        assert_close(found[name], value, 1e-6)


@pytest.mark.parametrize("sigma", [8, 10])
def test_equals_deeplab2(sigma):
    arrays = golden.load(f"targets_coco_sample0_sigma{sigma}")
    space = _space(range(1, 81), range(81, 134), 134, 0, 256)
    panoptic = np.full(arrays["crop_size"], space.void_id, np.int32)
    height, width = arrays["panoptic_input"].shape
    panoptic[:height, :width] = arrays["panoptic_input"]
    options = TargetOptions(sigma, int(arrays["small_instance_threshold"]), float(arrays["small_instance_weight"]))
    found = make_targets(tf.constant(panoptic), _no_crowd(), space, options)
    theirs = (
        "semantic_gt",
        "semantic_loss_weight",
        "instance_center_gt",
        "center_loss_weight",
        "instance_regression_gt",
        "regression_loss_weight",
    )
    compared = 0
    for ours, name in zip(NAMES, theirs):
        if f"target:{name}" in arrays:
            assert_close(found[ours], arrays[f"target:{name}"], 1e-6)
            compared += 1
    assert compared == (6 if sigma == 8 else 1)


@pytest.mark.parametrize("value", [255_000, 0, 2_000])  # void, stuff, crowd
def test_an_image_without_instances(value):
    found = make_targets(tf.fill([5, 6], value), _no_crowd(), CITYSCAPES_LIKE, TargetOptions())
    for name in (keys.CENTER_TARGET, keys.OFFSET_TARGET, keys.OFFSET_WEIGHT):
        np.testing.assert_array_equal(found[name], 0)
    np.testing.assert_array_equal(found[keys.CENTER_WEIGHT], 1 if value == 0 else 0)
    np.testing.assert_array_equal(found[keys.SEMANTIC_TARGET], value // 1000)
    np.testing.assert_array_equal(found[keys.SEMANTIC_WEIGHT], 1)


def test_listed_crowd_counts_as_crowd_and_keeps_its_class():
    panoptic = np.zeros((6, 8), np.int32)
    panoptic[1:3, 1:4], panoptic[4:6, 5:8] = 2_001, 2_002
    found = make_targets(tf.constant(panoptic), tf.constant([2_002]), CITYSCAPES_LIKE, TargetOptions(1, 100, 3.0))
    crowd, thing = panoptic == 2_002, panoptic == 2_001
    np.testing.assert_array_equal(found[keys.CENTER_WEIGHT], ~crowd)
    np.testing.assert_array_equal(found[keys.OFFSET_WEIGHT], thing)
    np.testing.assert_array_equal(found[keys.SEMANTIC_WEIGHT], np.where(thing, 3, 1))
    np.testing.assert_array_equal(found[keys.SEMANTIC_TARGET], panoptic // 1000)
    assert (found[keys.CENTER_TARGET].numpy() == 1).sum() == 1
    alone = make_targets(
        tf.constant(np.where(crowd, 2_000, panoptic)), _no_crowd(), CITYSCAPES_LIKE, TargetOptions(1, 100, 3.0)
    )
    for name in NAMES:
        np.testing.assert_array_equal(found[name], alone[name])


def test_each_offset_leads_to_a_centre_of_the_heatmap():
    panoptic = _random_map(CITYSCAPES_LIKE, 30, 40, 1)
    found = make_targets(tf.constant(panoptic), _no_crowd(), CITYSCAPES_LIKE, TargetOptions(2))
    where = np.argwhere(found[keys.OFFSET_WEIGHT].numpy() > 0)
    centers = (where + found[keys.OFFSET_TARGET].numpy()[tuple(where.T)]).astype(int)
    assert len(np.unique(centers, axis=0)) >= 2
    np.testing.assert_array_equal(found[keys.CENTER_TARGET].numpy()[tuple(centers.T)], 1)


def test_works_on_unknown_sizes():
    signature = [tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None], tf.int32)]
    function = tf.function(lambda p, c: make_targets(p, c, COCO_LIKE, TargetOptions(2)), input_signature=signature)
    for seed, size in enumerate([(9, 12), (20, 5)]):
        panoptic = tf.constant(_random_map(COCO_LIKE, *size, seed))
        expected = make_targets(panoptic, _no_crowd(), COCO_LIKE, TargetOptions(2))
        for name, value in function(panoptic, _no_crowd()).items():
            np.testing.assert_allclose(value, expected[name], atol=1e-6)


def test_windows_are_laid_down_in_parts(monkeypatch):
    panoptic = np.zeros((30, 40), np.int32)
    for i in range(8):
        panoptic[3 * i : 3 * i + 2, 5 * i : 5 * i + 4] = 2_001 + i
    whole = make_targets(panoptic, _no_crowd(), CITYSCAPES_LIKE, TargetOptions(2))
    assert (whole[keys.CENTER_TARGET].numpy() == 1).sum() == 8
    monkeypatch.setattr(targets, "_WINDOWS_AT_ONCE", 3)
    parts = make_targets(panoptic, _no_crowd(), CITYSCAPES_LIKE, TargetOptions(2))
    np.testing.assert_array_equal(parts[keys.CENTER_TARGET], whole[keys.CENTER_TARGET])


def test_more_instances_than_sixteen_bits_hold():
    # Each pixel is an instance of its own, and a centre.
    space = _space((2,), (0,), 3, 255, 2**17)
    panoptic = 2 * 2**17 + 1 + np.arange(260 * 260, dtype=np.int32).reshape(260, 260)
    crowd = panoptic[::2].ravel()
    found = make_targets(tf.constant(panoptic), tf.constant(crowd), space, TargetOptions(1, 2, 3.0))
    is_crowd = np.isin(panoptic, crowd)
    np.testing.assert_array_equal(found[keys.OFFSET_TARGET], 0)
    np.testing.assert_array_equal(found[keys.OFFSET_WEIGHT], ~is_crowd)
    np.testing.assert_array_equal(found[keys.SEMANTIC_WEIGHT], np.where(is_crowd, 1, 3))
    np.testing.assert_array_equal(found[keys.CENTER_TARGET].numpy() == 1, ~is_crowd)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1)])
def test_tiny_crops(size):
    panoptic = np.full(size, 2_001, np.int32)
    found = make_targets(tf.constant(panoptic), tf.constant([3, 3, -5]), CITYSCAPES_LIKE, TargetOptions(8, 100, 3.0))
    expected = reference.targets(panoptic, [], (2, 3), 1000, 255, 8, 100, 3.0)
    for name, value in zip(NAMES, expected):
        assert_close(found[name], value, 1e-6)
