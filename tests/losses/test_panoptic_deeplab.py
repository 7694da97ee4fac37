# SPDX-License-Identifier: Apache-2.0
"""Losses against slow references and against DeepLab2, gradients included."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_axial import keys
from deeplab_axial.losses import panoptic_deeplab as losses
from tests import golden, reference
from tests.compare import assert_close

IGNORE = 255


def _batch(seed: int = 0, shape=(2, 7, 9)) -> tuple[dict, dict]:
    rng = np.random.default_rng(seed)
    semantic = rng.integers(0, 5, shape)
    semantic[rng.random(shape) < 0.2] = IGNORE
    targets = {
        keys.SEMANTIC_TARGET: tf.constant(semantic, tf.int32),
        keys.SEMANTIC_WEIGHT: tf.constant(rng.choice([1.0, 3.0], shape), tf.float32),
        keys.CENTER_TARGET: tf.constant(rng.random(shape), tf.float32),
        keys.CENTER_WEIGHT: tf.constant(rng.integers(0, 2, shape), tf.float32),
        keys.OFFSET_TARGET: tf.constant(rng.normal(size=(*shape, 2)), tf.float32),
        keys.OFFSET_WEIGHT: tf.constant(rng.integers(0, 2, shape), tf.float32),
    }
    outputs = {
        keys.SEMANTIC_LOGITS: tf.constant(rng.normal(size=(*shape, 5)), tf.float32),
        keys.CENTER_HEATMAP: tf.constant(rng.random((*shape, 1)), tf.float32),
        keys.OFFSET_MAP: tf.constant(rng.normal(size=(*shape, 2)), tf.float32),
    }
    return targets, outputs


def _cross_entropy(targets, outputs) -> np.ndarray:
    logits, target = outputs[keys.SEMANTIC_LOGITS].numpy(), targets[keys.SEMANTIC_TARGET].numpy()
    out = np.zeros(target.shape)
    for place in np.ndindex(target.shape):
        if target[place] != IGNORE:
            p = np.exp(logits[place]) / np.exp(logits[place]).sum()
            out[place] = -np.log(p[target[place]]) * targets[keys.SEMANTIC_WEIGHT].numpy()[place]
    return out


@pytest.mark.parametrize("share", [1.0, 0.5, 0.2, 0.01])
def test_top_k_mean(share):
    values = np.random.default_rng(0).random((3, 5, 7))
    values[0] = 0
    values[1, :, :5] = 0
    expected = reference.top_k_mean(values, share)
    assert expected[0] == 0
    assert_close(losses.top_k_mean(tf.constant(values, tf.float32), share), expected, 1e-6)
    function = tf.function(lambda x: losses.top_k_mean(x, share), input_signature=[tf.TensorSpec([None, None, None])])
    assert_close(function(tf.constant(values, tf.float32)), expected, 1e-6)


@pytest.mark.parametrize("share", [1.0, 0.2])
def test_terms_equal_the_reference(share):
    targets, outputs = _batch()
    term = losses.LossTerm(2.0, share)
    found = losses.PanopticDeepLabLoss(IGNORE, term, term, term)(targets, outputs)
    center = np.square(outputs[keys.CENTER_HEATMAP][..., 0] - targets[keys.CENTER_TARGET])
    offset = np.abs(outputs[keys.OFFSET_MAP] - targets[keys.OFFSET_TARGET]).mean(-1)
    expected = {
        keys.SEMANTIC_LOSS: 2 * reference.top_k_mean(_cross_entropy(targets, outputs), share),
        keys.CENTER_LOSS: 2 * reference.top_k_mean(center * targets[keys.CENTER_WEIGHT].numpy(), share),
        keys.OFFSET_LOSS: 2 * reference.top_k_mean(offset * targets[keys.OFFSET_WEIGHT].numpy(), share),
    }
    expected[keys.TOTAL_LOSS] = sum(expected.values())
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert_close(found[name], value, 1e-5)


def test_equals_deeplab2_with_gradients():
    arrays = golden.load("losses")
    true = golden.weights(arrays, "true:")
    targets = {
        keys.SEMANTIC_TARGET: true["semantic_gt"],
        keys.SEMANTIC_WEIGHT: true["semantic_loss_weight"],
        keys.CENTER_TARGET: true["instance_center_gt"],
        keys.CENTER_WEIGHT: true["center_loss_weight"],
        keys.OFFSET_TARGET: true["instance_regression_gt"],
        keys.OFFSET_WEIGHT: true["regression_loss_weight"],
    }
    targets = {name: tf.constant(value) for name, value in targets.items()}
    outputs = {
        keys.SEMANTIC_LOGITS: tf.constant(arrays["pred:semantic_logits"]),
        keys.CENTER_HEATMAP: tf.constant(arrays["pred:center_heatmap"][..., None]),
        keys.OFFSET_MAP: tf.constant(arrays["pred:offset_map"]),
    }
    loss = losses.PanopticDeepLabLoss(IGNORE, losses.LossTerm(1.0, 0.2), losses.LossTerm(200.0), losses.LossTerm(0.01))
    with tf.GradientTape() as tape:
        tape.watch(outputs)
        terms = loss(targets, outputs)
        mean = tf.reduce_mean(terms[keys.TOTAL_LOSS])
    assert_close(terms[keys.SEMANTIC_LOSS], arrays["loss:semantic_loss"])
    assert_close(terms[keys.CENTER_LOSS], arrays["loss:center_loss"])
    assert_close(terms[keys.OFFSET_LOSS], arrays["loss:regression_loss"])
    assert_close(terms[keys.TOTAL_LOSS], arrays["loss:total_loss"])
    for name, gradient in tape.gradient(mean, outputs).items():
        assert_close(tf.squeeze(gradient), arrays[f"grad_of_mean_total:{name}"].squeeze())
    for share in (1.0, 0.2, 0.15):
        found = losses.semantic_loss(
            outputs[keys.SEMANTIC_LOGITS],
            targets[keys.SEMANTIC_TARGET],
            targets[keys.SEMANTIC_WEIGHT],
            IGNORE,
            share,
        )
        assert_close(found, arrays[f"ce_top_k_{share}"])


def test_images_do_not_mix():
    targets, outputs = _batch()
    loss = losses.PanopticDeepLabLoss(IGNORE, losses.LossTerm(1.0, 0.3), losses.LossTerm(), losses.LossTerm())
    together = loss(targets, outputs)
    for i in range(2):
        alone = loss(*({k: v[i : i + 1] for k, v in d.items()} for d in (targets, outputs)))
        for name, value in alone.items():
            assert_close(together[name][i : i + 1], value, 1e-6)


@pytest.mark.parametrize("share", [1.0, 0.2])
def test_an_image_of_void_alone_gives_zero_and_zero_gradients(share):
    targets, outputs = _batch()
    targets = {name: tf.zeros_like(value) for name, value in targets.items()}
    targets[keys.SEMANTIC_TARGET] += IGNORE
    loss = losses.PanopticDeepLabLoss(IGNORE, *(losses.LossTerm(1.0, share) for _ in range(3)))
    with tf.GradientTape() as tape:
        tape.watch(outputs)
        terms = loss(targets, outputs)
        total = tf.reduce_sum(terms[keys.TOTAL_LOSS])
    assert all((value.numpy() == 0).all() for value in terms.values())
    assert all((gradient.numpy() == 0).all() for gradient in tape.gradient(total, outputs).values())


def test_ignored_pixels_have_no_gradient():
    targets, outputs = _batch()
    with tf.GradientTape() as tape:
        tape.watch(outputs)
        total = tf.reduce_sum(losses.PanopticDeepLabLoss(IGNORE, losses.LossTerm())(targets, outputs)[keys.TOTAL_LOSS])
    gradient = tape.gradient(total, outputs[keys.SEMANTIC_LOGITS]).numpy()
    ignored = targets[keys.SEMANTIC_TARGET].numpy() == IGNORE
    assert (gradient[ignored] == 0).all()
    assert (np.abs(gradient[~ignored]).max(axis=-1) > 0).all()


def test_an_ignore_label_among_the_classes():
    targets, outputs = _batch()
    target = tf.where(targets[keys.SEMANTIC_TARGET] == IGNORE, 0, targets[keys.SEMANTIC_TARGET])
    elsewhere = tf.where(target == 0, IGNORE, target)
    arguments = outputs[keys.SEMANTIC_LOGITS], targets[keys.SEMANTIC_WEIGHT]
    inside = losses.semantic_loss(arguments[0], target, arguments[1], 0, 0.5)
    np.testing.assert_array_equal(inside, losses.semantic_loss(arguments[0], elsewhere, arguments[1], IGNORE, 0.5))


def test_names_of_the_terms():
    term = losses.LossTerm()
    whole = losses.PanopticDeepLabLoss(IGNORE, term, term, term)
    assert whole.term_names == ("semantic_loss", "center_loss", "offset_loss", "total_loss")
    assert tuple(whole(*_batch())) == whole.term_names
    semantic = losses.PanopticDeepLabLoss(IGNORE, term)
    assert semantic.term_names == ("semantic_loss", "total_loss")
    assert tuple(semantic(*_batch())) == semantic.term_names


def test_bfloat16_outputs_give_float32_losses():
    targets, outputs = _batch()
    loss = losses.PanopticDeepLabLoss(IGNORE, losses.LossTerm(), losses.LossTerm(), losses.LossTerm())
    half = loss(targets, {name: tf.cast(value, tf.bfloat16) for name, value in outputs.items()})
    for name, value in loss(targets, outputs).items():
        assert half[name].dtype == tf.float32
        assert_close(half[name], value, 0.02)
