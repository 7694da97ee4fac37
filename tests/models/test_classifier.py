# SPDX-License-Identifier: Apache-2.0
"""The classification network."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from deeplab_axial import keys
from deeplab_axial.backbones.axial_resnet import AxialResNet
from deeplab_axial.models.classifier import Classifier
from tests.compare import assert_close, random_tensor, vary_weights


def _model(**kwargs) -> Classifier:
    stem = {"kind": "conv7x7", "width_multiplier": 0.125, "max_pool": True}
    shared = {"num_blocks": [1, 1, 1, 2], "output_stride": 32, "stem": stem, "width_multiplier": 0.125}
    return Classifier(AxialResNet(**{**shared, "axial_from_stride": 16, **kwargs}), 7)


@pytest.mark.parametrize("size", [(64, 64), (65, 33), (97, 64)])
def test_scores_are_linear_in_the_mean_of_the_last_stage(size):
    model = _model()
    images = 127.5 + 60 * random_tensor((3, *size, 3))
    model(images)
    vary_weights(model)
    (name, logits), *others = model(images).items()
    assert (name, others) == (keys.CLASS_LOGITS, [])
    assert logits.shape == (3, 7)
    features = model.backbone(images / 127.5 - 1)["res5"].numpy()
    kernel, bias = (weight.numpy() for weight in model.classification_head.weights)
    assert_close(logits, features.mean(axis=(1, 2)) @ kernel + bias, 1e-5)


def test_takes_integers_and_starts_near_zero():
    model = _model()
    images = tf.cast(tf.clip_by_value(127.5 + 60 * random_tensor((2, 64, 64, 3)), 0, 255), tf.uint8)
    logits = model(images)[keys.CLASS_LOGITS]
    assert_close(logits, model(tf.cast(images, tf.float32))[keys.CLASS_LOGITS], 1e-6)
    assert tf.reduce_max(tf.abs(logits)) < 1


def test_the_seed_decides_what_is_dropped():
    model = _model(keep_prob=(0.5, "constant"))
    images = 127.5 + 60 * random_tensor((8, 33, 33, 3))
    model(images)
    vary_weights(model)
    first, again, other = (
        model(images, training=True, seed=seed)[keys.CLASS_LOGITS] for seed in ([1, 2], [1, 2], [1, 3])
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).numpy().any()


def test_logits_are_float32_under_mixed_precision():
    tf_keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        model = _model()
        assert model.backbone(tf.zeros([1, 33, 33, 3]))["res5"].dtype == tf.bfloat16
        assert model(tf.zeros([1, 33, 33, 3]))[keys.CLASS_LOGITS].dtype == tf.float32
        assert all(w.dtype == tf.float32 for w in model.weights)
    finally:
        tf_keras.mixed_precision.set_global_policy("float32")


def test_refuses_no_classes():
    with pytest.raises(ValueError, match=r"num_classes must be at least 1. Received: 0"):
        Classifier(_model().backbone, 0)
