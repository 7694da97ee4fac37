# SPDX-License-Identifier: Apache-2.0
"""Post-processing of a batch against slow references."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from deeplab_axial import keys
from deeplab_axial.postprocessing import scores
from deeplab_axial.postprocessing.panoptic_deeplab import PostProcessor
from tests import graph_sizes, reference

PROCESSOR = PostProcessor(
    num_classes=5,
    thing_ids=(1, 3),
    label_divisor=1000,
    ignore_label=255,
    center_score_threshold=0.5,
    nms_kernel=5,
    keep_k_centers=12,
    stuff_area_limit=20,
    thing_area_limit=3,
)


def _outputs(batch: int = 3, height: int = 14, width: int = 18, seed: int = 0) -> dict[str, tf.Tensor]:
    rng = np.random.default_rng(seed)
    blocks = rng.normal(size=(batch, -(-height // 3), -(-width // 3), 5)).repeat(3, 1).repeat(3, 2)[:, :height, :width]
    return {
        keys.SEMANTIC_LOGITS: tf.constant(blocks + 0.1 * rng.normal(size=blocks.shape), tf.float32),
        keys.CENTER_HEATMAP: tf.constant(rng.random((batch, height, width, 1)), tf.float32),
        keys.OFFSET_MAP: tf.constant(rng.normal(0, 3, (batch, height, width, 2)), tf.float32),
    }


def _expected(outputs, i: int, height: int, width: int):
    """What the references say of image i, cut to its size."""
    logits, heatmap, offsets = (
        outputs[name][i, :height, :width].numpy()
        for name in (keys.SEMANTIC_LOGITS, keys.CENTER_HEATMAP, keys.OFFSET_MAP)
    )
    semantic = logits.argmax(-1)
    centers = reference.find_centers(heatmap[..., 0], 0.5, 5, 12)
    instance = reference.group_pixels(offsets, np.isin(semantic, (1, 3)), [c[1:] for c in centers])
    return semantic, instance, reference.merge(semantic, instance, (1, 3), 1000, 255, 20, 3), centers


def _softmax(logits: tf.Tensor) -> np.ndarray:
    """In float64."""
    x = np.exp(logits.numpy().astype(np.float64))
    return x / x.sum(-1, keepdims=True)


def _assert_same(found: dict, expected: dict, rounding: float = 0.0) -> None:
    """The same maps and ids, and the same scores but for rounding."""
    assert set(found) == set(expected)
    for name in found:
        if found[name].dtype == tf.float32:
            np.testing.assert_allclose(found[name], expected[name], rtol=rounding, err_msg=name)
        else:
            np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_equals_the_references():
    outputs = _outputs()
    found = PROCESSOR(outputs)
    for i in range(3):
        semantic, instance, panoptic, centers = _expected(outputs, i, 14, 18)
        assert len(centers) > 3
        assert len(np.unique(panoptic)) > 4
        np.testing.assert_array_equal(found[keys.SEMANTIC_MAP][i], semantic)
        np.testing.assert_array_equal(found[keys.INSTANCE_MAP][i], instance)
        np.testing.assert_array_equal(found[keys.PANOPTIC_MAP][i], panoptic)
        np.testing.assert_array_equal(found[keys.CENTERS][i, : len(centers)], [c[1:] for c in centers])
        assert found[keys.NUM_CENTERS][i] == len(centers)


def _assert_scores(found, i, probabilities, height, width, semantic, instance, panoptic, centers):
    of_instances, of_stuff = reference.segment_scores(
        probabilities[i, :height, :width], semantic, instance, panoptic, [c[0] for c in centers], (1, 3), 1000
    )
    assert sum(score > 0 for score in of_instances) > 3
    assert len(of_stuff) > 1
    used = len(centers)
    np.testing.assert_allclose(found[keys.INSTANCE_SCORES][i, :used], of_instances, rtol=1e-5)
    np.testing.assert_array_equal(found[keys.INSTANCE_SCORES][i, used:], 0)
    np.testing.assert_allclose(found[keys.STUFF_SCORES][i], [of_stuff.get(c, 0) for c in range(5)], rtol=1e-5)
    np.testing.assert_array_equal(found[keys.INSTANCE_CLASSES][i, used:], -1)
    np.testing.assert_array_equal(found[keys.INSTANCE_PANOPTIC_IDS][i, used:], 255_000)
    for slot in range(used):
        ids = np.unique(panoptic[instance == slot + 1])
        assert [found[keys.INSTANCE_PANOPTIC_IDS][i, slot]] == (ids.tolist() or [255_000])
        if ids.size and ids[0] != 255_000:
            assert found[keys.INSTANCE_CLASSES][i, slot] == ids[0] // 1000


@pytest.mark.parametrize("seed", range(3))
def test_scores_equal_the_reference(seed):
    sizes = [(14, 18), (9, 18), (14, 15)]
    outputs = _outputs(seed=seed)
    # Too large for a plain softmax in float32.
    outputs[keys.SEMANTIC_LOGITS] += 100.0
    found = PROCESSOR(outputs, tf.constant(sizes))
    for i, (height, width) in enumerate(sizes):
        probabilities = _softmax(outputs[keys.SEMANTIC_LOGITS])
        _assert_scores(found, i, probabilities, height, width, *_expected(outputs, i, height, width))


def test_scores_of_averaged_probabilities():
    outputs = _outputs()
    probabilities = np.sqrt(_softmax(outputs[keys.SEMANTIC_LOGITS])).astype(np.float32)
    probabilities /= probabilities.sum(-1, keepdims=True)
    given = {**outputs, keys.SEMANTIC_PROBS: tf.constant(probabilities)}
    del given[keys.SEMANTIC_LOGITS]
    found = PROCESSOR(given)
    for i in range(3):
        _assert_scores(found, i, probabilities, 14, 18, *_expected(outputs, i, 14, 18))


@pytest.mark.parametrize("rows", [1, 3, 7, 14])
@pytest.mark.parametrize("compiled", [False, True])
def test_scores_in_strips_of_the_image(rows, compiled, monkeypatch):
    monkeypatch.setattr(scores, "_VALUES_AT_ONCE", rows * 18 * 5)
    outputs = _outputs()
    unknown = {name: tf.TensorSpec([None, None, None, value.shape[-1]]) for name, value in outputs.items()}
    function = (
        tf.function(PROCESSOR, autograph=False, jit_compile=True)
        if compiled
        else tf.function(PROCESSOR, input_signature=[unknown], autograph=False)
    )
    found = function(outputs)
    for i in range(3):
        _assert_scores(found, i, _softmax(outputs[keys.SEMANTIC_LOGITS]), 14, 18, *_expected(outputs, i, 14, 18))


def test_a_mean_over_many_pixels_is_exact():
    # One by one in float32, a million times 0.9526 comes to 0.9375 on average.
    shape = (1, 1, 2**20)
    logits = tf.broadcast_to([3.0, 0.0, -30.0, -30.0, -30.0], [*shape, 5])
    found = PROCESSOR({keys.SEMANTIC_LOGITS: logits})
    np.testing.assert_allclose(found[keys.STUFF_SCORES][0, 0], 1 / (1 + np.exp(-3)), rtol=1e-4)


def test_memory_does_not_grow_with_pixels_times_centers():
    processor = dataclasses.replace(PROCESSOR, keep_k_centers=400)
    outputs = {name: tf.TensorSpec([1, 128, 512, value.shape[-1]]) for name, value in _outputs().items()}
    largest = max(graph_sizes.tensor_sizes(tf.function(processor).get_concrete_function(outputs)))
    assert largest <= 1024 * (400 + 5) < 128 * 512 * 400 / 50


def test_entries_are_as_the_table_says():
    found = PROCESSOR(_outputs())
    sizes = {"B": 3, "H": 14, "W": 18, "K": 12, "C": 5, "2": 2}
    assert len(found) == 11
    for name, value in found.items():
        assert value.dtype.name == keys.TABLE[name].dtype
        assert value.shape == [sizes[size] for size in keys.TABLE[name].shape.strip("[]").split(", ")]


def test_padding_has_no_say():
    outputs = _outputs()
    sizes = [(14, 18), (9, 18), (11, 7)]
    found = PROCESSOR(outputs, tf.constant(sizes))
    for i, (height, width) in enumerate(sizes):
        _, instance, panoptic, centers = _expected(outputs, i, height, width)
        np.testing.assert_array_equal(found[keys.INSTANCE_MAP][i, :height, :width], instance)
        np.testing.assert_array_equal(found[keys.PANOPTIC_MAP][i, :height, :width], panoptic)
        assert found[keys.NUM_CENTERS][i] == len(centers)
        outside = np.ones((14, 18), bool)
        outside[:height, :width] = False
        assert (found[keys.PANOPTIC_MAP][i].numpy()[outside] == 255_000).all()
        assert (found[keys.INSTANCE_MAP][i].numpy()[outside] == 0).all()


@pytest.mark.parametrize("semantic", [keys.SEMANTIC_LOGITS, keys.SEMANTIC_PROBS])
@pytest.mark.parametrize("seed", range(3))
def test_a_batch_is_its_images(seed, semantic):
    rng = np.random.default_rng(seed)
    outputs = _outputs(4, 41, 50, seed)
    outputs[semantic] = tf.nn.softmax(outputs.pop(keys.SEMANTIC_LOGITS))
    sizes = tf.constant(np.stack([rng.integers(1, 42, 4), rng.integers(1, 51, 4)], -1), tf.int32)
    together = PROCESSOR(outputs, sizes)
    for i, (height, width) in enumerate(sizes.numpy()):
        alone = PROCESSOR({k: v[i : i + 1] for k, v in outputs.items()}, sizes[i : i + 1])
        _assert_same(alone, {k: v[i : i + 1] for k, v in together.items()})
        cut = PROCESSOR({k: v[i : i + 1, :height, :width] for k, v in outputs.items()})
        padded = {k: v[i : i + 1] for k, v in together.items()}
        padded |= {k: v[:, :height, :width] for k, v in padded.items() if v.shape[1:3] == (41, 50)}
        _assert_same(cut, padded, 1e-5)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_graph_and_xla_equal_eager(jit_compile):
    outputs, sizes = _outputs(), tf.constant([(14, 18), (9, 18), (11, 7)])
    _assert_same(tf.function(PROCESSOR, jit_compile=jit_compile)(outputs, sizes), PROCESSOR(outputs, sizes), 1e-6)


def test_unknown_sizes():
    spec = {name: tf.TensorSpec([None, None, None, value.shape[-1]]) for name, value in _outputs().items()}
    function = tf.function(lambda x: PROCESSOR(x), input_signature=[spec])
    for size in ((14, 18), (7, 20)):
        outputs = _outputs(2, *size)
        _assert_same(function(outputs), PROCESSOR(outputs))


def test_without_any_centre_things_are_void():
    outputs = {**_outputs(), keys.CENTER_HEATMAP: tf.zeros([3, 14, 18, 1])}
    found = PROCESSOR(outputs)
    np.testing.assert_array_equal(found[keys.NUM_CENTERS], 0)
    np.testing.assert_array_equal(found[keys.INSTANCE_MAP], 0)
    things = np.isin(found[keys.SEMANTIC_MAP], (1, 3))
    assert (found[keys.PANOPTIC_MAP].numpy()[things] == 255_000).all()


def test_semantic_segmentation_alone():
    outputs = _outputs()
    sizes = tf.constant([(14, 18), (9, 18), (11, 7)])
    found = PROCESSOR({keys.SEMANTIC_LOGITS: outputs[keys.SEMANTIC_LOGITS]}, sizes)
    without = PROCESSOR({**outputs, keys.CENTER_HEATMAP: tf.zeros([3, 14, 18, 1])}, sizes)
    assert set(found) == {keys.SEMANTIC_MAP, keys.PANOPTIC_MAP, keys.STUFF_SCORES}
    _assert_same(found, {name: without[name] for name in found})


def test_more_peaks_than_centers():
    outputs = _outputs()
    few = dataclasses.replace(PROCESSOR, keep_k_centers=2)(outputs)
    assert few[keys.CENTERS].shape == (3, 2, 2)
    np.testing.assert_array_equal(few[keys.NUM_CENTERS], 2)
    many = PROCESSOR(outputs)
    for i in range(3):
        highest = np.sort(many[keys.CENTER_SCORES][i])[-2:]
        np.testing.assert_array_equal(np.sort(few[keys.CENTER_SCORES][i]), highest)


def test_bfloat16_outputs():
    outputs = {name: tf.cast(value, tf.bfloat16) for name, value in _outputs().items()}
    _assert_same(PROCESSOR(outputs), PROCESSOR({name: tf.cast(value, tf.float32) for name, value in outputs.items()}))
