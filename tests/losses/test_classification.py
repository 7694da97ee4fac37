# SPDX-License-Identifier: Apache-2.0
"""The loss of classification against a slow reference, gradients included."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from deeplab_axial import keys
from deeplab_axial.losses.classification import ClassificationLoss, cross_entropy
from tests.compare import assert_close


def _reference(logits: np.ndarray, target: np.ndarray, smoothing: float) -> np.ndarray:
    losses = []
    for row, label in zip(logits.astype(np.float64), target):
        log_probabilities = row - row.max() - np.log(np.exp(row - row.max()).sum())
        wanted = np.full(row.size, smoothing / row.size)
        wanted[label] += 1 - smoothing
        losses.append(-(wanted * log_probabilities).sum())
    return np.array(losses)


def _batch(num_classes: int = 7, spread: float = 3.0) -> tuple[tf.Tensor, tf.Tensor]:
    rng = np.random.default_rng(0)
    logits = tf.constant(rng.normal(0, spread, [5, num_classes]), tf.float32)
    return logits, tf.constant(rng.integers(0, num_classes, 5), tf.int32)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("spread", [0.1, 3.0, 80.0])
def test_it_equals_the_reference(smoothing, spread):
    logits, target = _batch(spread=spread)
    expected = _reference(logits.numpy(), target.numpy(), smoothing)
    assert_close(cross_entropy(logits, target, smoothing), expected, 1e-5)


def test_it_equals_keras():
    logits, target = _batch()
    keras = tf_keras.losses.categorical_crossentropy(
        tf.one_hot(target, 7), logits, from_logits=True, label_smoothing=0.1
    )
    assert_close(cross_entropy(logits, target, 0.1), keras, 1e-5)


def test_the_gradient_is_probabilities_minus_target():
    logits, target = _batch()
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = tf.reduce_sum(cross_entropy(logits, target, 0.2))
    expected = tf.nn.softmax(logits) - (0.8 * tf.one_hot(target, 7) + 0.2 / 7)
    assert_close(tape.gradient(loss, logits), expected, 1e-5)


def test_it_is_float32_and_the_same_compiled():
    logits, target = _batch()
    compiled = tf.function(cross_entropy, jit_compile=True)
    assert_close(compiled(logits, target, 0.1), cross_entropy(logits, target, 0.1), 1e-6)
    assert cross_entropy(tf.cast(logits, tf.bfloat16), target).dtype == tf.float32


def test_the_terms():
    logits, target = _batch()
    loss = ClassificationLoss(0.1)
    terms = loss({keys.CLASS_TARGET: target}, {keys.CLASS_LOGITS: logits})
    assert tuple(terms) == loss.term_names == (keys.CLASSIFICATION_LOSS, keys.TOTAL_LOSS)
    for values in terms.values():
        assert_close(values, cross_entropy(logits, target, 0.1), 0)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, float("nan")])
def test_a_share_outside_its_range(smoothing):
    with pytest.raises(ValueError, match=r"label_smoothing must lie in \[0, 1\)\. Received"):
        ClassificationLoss(smoothing)
