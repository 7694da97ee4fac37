# SPDX-License-Identifier: Apache-2.0
"""Merging by majority vote against a slow reference."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_axial.postprocessing import merging
from tests import reference

THINGS = (2, 4)
DIVISOR, IGNORE = 1000, 255


def _merge(
    semantic, instance, valid=None, slots=9, stuff_limit=0, thing_limit=0, function=merging.merge, ignore=IGNORE
):
    valid = np.ones(semantic.shape, bool) if valid is None else valid
    return function(
        tf.constant(semantic, tf.int32),
        tf.constant(instance, tf.int32),
        tf.constant(valid),
        tf.ones([slots]),
        6,
        THINGS,
        DIVISOR,
        ignore,
        stuff_limit,
        thing_limit,
    ).panoptic.numpy()


def _maps(height: int, width: int, seed: int, count: int = 6):
    rng = np.random.default_rng(seed)
    semantic = rng.integers(0, 6, (height // 2, width // 2)).repeat(2, 0).repeat(2, 1)
    instance = np.where(np.isin(semantic, THINGS), rng.integers(0, count + 1, semantic.shape), 0)
    return semantic, instance


@pytest.mark.parametrize(("stuff_limit", "thing_limit"), [(0, 0), (25, 0), (0, 6), (25, 6)])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_reference(seed, stuff_limit, thing_limit):
    semantic, instance = _maps(10, 14, seed)
    expected = reference.merge(semantic, instance, THINGS, DIVISOR, IGNORE, stuff_limit, thing_limit)
    for function in (merging.merge, tf.function(merging.merge), tf.function(merging.merge, jit_compile=True)):
        found = _merge(semantic, instance, None, 9, stuff_limit, thing_limit, function)
        np.testing.assert_array_equal(found, expected)
    if seed == 0:
        plain = reference.merge(semantic, instance, THINGS, DIVISOR, IGNORE)
        assert (expected == plain).all() == (stuff_limit == thing_limit == 0)


def test_majority_and_ties():
    semantic = np.array([[2, 2, 4, 4, 2, 4, 4, 0]])
    instance = np.array([[1, 1, 1, 2, 2, 3, 3, 0]])
    # 1: two votes to one. 2: a tie, which the smaller class wins. Numbers count per class.
    np.testing.assert_array_equal(_merge(semantic, instance), [[2001, 2001, 2001, 2002, 2002, 4001, 4001, 0]])


def test_numbers_follow_the_first_appearance_not_the_index():
    semantic = np.full((1, 6), 2)
    np.testing.assert_array_equal(
        _merge(semantic, np.array([[5, 2, 5, 9, 2, 9]])), [[2001, 2002, 2001, 2003, 2002, 2003]]
    )


def test_thing_pixels_without_instance_are_void():
    np.testing.assert_array_equal(_merge(np.array([[2, 2, 0]]), np.array([[0, 1, 0]])), [[255_000, 2001, 0]])


@pytest.mark.parametrize(("limit", "kept"), [(2, True), (3, True), (4, False)])
def test_limits_are_inclusive(limit, kept):
    semantic, instance = np.array([[1, 1, 1, 2, 2, 2]]), np.array([[0, 0, 0, 1, 1, 1]])
    found = _merge(semantic, instance, stuff_limit=limit, thing_limit=limit)
    np.testing.assert_array_equal(found, [[1000] * 3 + [2001] * 3 if kept else [255_000] * 6])


def test_an_instance_below_the_limit_takes_no_number():
    semantic, instance = np.full((1, 5), 2), np.array([[1, 2, 2, 3, 3]])
    np.testing.assert_array_equal(_merge(semantic, instance, thing_limit=2), [[255_000, 2001, 2001, 2002, 2002]])


def test_void_among_the_classes():
    np.testing.assert_array_equal(_merge(np.array([[2, 1, 2]]), np.array([[0, 0, 1]]), ignore=0), [[0, 1000, 2001]])


def test_padding_is_void_and_counts_nowhere():
    semantic, instance = _maps(10, 14, 3)
    valid = np.zeros(semantic.shape, bool)
    valid[:7, :9] = True
    found = _merge(semantic, instance, valid, 9, 9, 3)
    expected = reference.merge(semantic[:7, :9], instance[:7, :9], THINGS, DIVISOR, IGNORE, 9, 3)
    np.testing.assert_array_equal(found[:7, :9], expected)
    assert (found[~valid] == 255_000).all()


def test_segments():
    semantic = np.array([[2, 2, 4, 4, 0, 0, 0, 1, 2, 4, 3]])
    instance = np.array([[1, 1, 1, 4, 0, 0, 0, 0, 0, 2, 0]])
    valid = np.arange(11)[None] < 10
    constants = (tf.constant(semantic, tf.int32), tf.constant(instance, tf.int32), tf.constant(valid))
    found = merging.merge(*constants, tf.ones([5]), 6, THINGS, DIVISOR, IGNORE, 2, 1)
    np.testing.assert_array_equal(found.panoptic, [[2001] * 3 + [4001] + [0] * 3 + [255_000] * 2 + [4002, 255_000]])
    np.testing.assert_array_equal(found.instance_classes, [2, 4, -1, 4, -1])
    np.testing.assert_array_equal(found.instance_areas, [3, 1, 0, 1, 0])
    np.testing.assert_array_equal(found.instance_ids, [2001, 4002, 255_000, 4001, 255_000])
    np.testing.assert_array_equal(found.stuff_areas, [3, 0, 0, 0, 0, 0])
    # Too small an instance has a class, but no segment.
    small = merging.merge(*constants, tf.ones([5]), 6, THINGS, DIVISOR, IGNORE, 2, 2)
    np.testing.assert_array_equal(small.instance_classes, [2, 4, -1, 4, -1])
    np.testing.assert_array_equal(small.instance_ids, [2001] + [255_000] * 4)


@pytest.mark.parametrize("seed", range(3))
def test_ids_are_those_of_the_map(seed):
    semantic, instance = _maps(20, 24, seed)
    constants = (tf.constant(semantic, tf.int32), tf.constant(instance, tf.int32), tf.ones(semantic.shape, tf.bool))
    found = merging.merge(*constants, tf.ones([9]), 6, THINGS, DIVISOR, IGNORE, 30, 12)
    for i, (label, panoptic_id, area) in enumerate(
        zip(found.instance_classes.numpy(), found.instance_ids.numpy(), found.instance_areas.numpy())
    ):
        mask = instance == i + 1
        assert area == mask.sum()
        assert (found.panoptic.numpy()[mask] == panoptic_id).all()
        assert label == (np.bincount(semantic[mask]).argmax() if area else -1)
        assert panoptic_id // DIVISOR == (label if area >= 12 else IGNORE)
    for label, area in enumerate(found.stuff_areas.numpy()):
        assert area == (found.panoptic.numpy() == label * DIVISOR).sum()


@pytest.mark.parametrize("compiled", [None, False, True])
def test_instances_beyond_the_label_divisor(compiled):
    """Divisor 4 holds three instances of a class: those with the lowest centre scores become void."""
    function = merging.merge if compiled is None else tf.function(merging.merge, jit_compile=compiled)
    semantic = np.array([[2, 2, 2, 2, 2, 4, 4, 4, 4, 3, 2]])
    instance = np.array([[5, 3, 2, 1, 4, 6, 7, 8, 9, 0, 10]])
    # Instance 4 would have the highest score, but is too small once the limit is 2; of 7, 8 and 9 the last loses.
    scores = tf.constant([0.5, 0.2, 0.9, 0.95, 0.3, 0.7, 0.6, 0.6, 0.6, 0.4])
    maps = (tf.constant(semantic, tf.int32), tf.constant(instance, tf.int32), tf.ones(semantic.shape, tf.bool))
    found = function(*maps, scores, 6, THINGS, 4, 63)
    np.testing.assert_array_equal(found.panoptic, [[252, 9, 252, 10, 11, 17, 18, 19, 252, 12, 252]])
    np.testing.assert_array_equal(found.instance_ids, [10, 252, 9, 11, 252, 17, 18, 19, 252, 252])
    np.testing.assert_array_equal(found.instance_classes, [2] * 5 + [4] * 4 + [2])
    assert found.num_surplus == 4
    wide = tuple(tf.repeat(x, [2, 2, 2, 2, 1, 2, 2, 2, 2, 2, 2], axis=1) for x in maps)
    limited = function(*wide, scores, 6, THINGS, 4, 63, 0, 2)
    np.testing.assert_array_equal(limited.instance_ids, [10, 252, 9, 252, 252, 17, 18, 19, 252, 11])
    assert limited.num_surplus == 3


def test_as_many_instances_as_the_label_divisor_holds():
    semantic, instance = np.full((1, 255), 2), np.arange(1, 256)[None]
    maps = (tf.constant(semantic, tf.int32), tf.constant(instance, tf.int32), tf.ones(semantic.shape, tf.bool))
    found = merging.merge(*maps, tf.linspace(0.0, 1.0, 400), 6, THINGS, 256, IGNORE)
    np.testing.assert_array_equal(found.panoptic, 512 + instance)
    assert found.num_surplus == 0
