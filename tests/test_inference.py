# SPDX-License-Identifier: Apache-2.0
"""The predictor: resizing, padding and their undoing around a network."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_axial import keys
from deeplab_axial.data.pipeline import ImageOptions
from deeplab_axial.inference import Predictor
from deeplab_axial.postprocessing.panoptic_deeplab import PostProcessor
from tests import conformance

MAPS = (keys.SEMANTIC_MAP, keys.INSTANCE_MAP, keys.PANOPTIC_MAP)


@pytest.fixture(scope="module")
def network():
    model = next(case for case in conformance.CASES if case.name == "panoptic_deeplab").make()
    model(tf.random.uniform([2, 65, 81, 3], 0, 255), training=True)  # moving statistics that fit
    return model


def _predictor(model, **options) -> Predictor:
    postprocessor = PostProcessor(5, (1, 2), 1000, 255, center_score_threshold=0.0, nms_kernel=7, keep_k_centers=20)
    return Predictor(model, postprocessor, 16, ImageOptions(crop_size=(65, 81), **options))


def _images(height: int, width: int, batch: int = 1) -> tf.Tensor:
    return tf.constant(np.random.default_rng(0).integers(0, 256, (batch, height, width, 3)), tf.uint8)


@pytest.mark.parametrize(
    ("size", "padded"), [((65, 81), (65, 81)), ((50, 66), (65, 81)), ((33, 34), (33, 49)), ((1, 1), (1, 1))]
)
def test_images_are_padded_to_the_stride_and_cut_back(network, size, padded):
    predictor = _predictor(network)
    images = _images(*size, batch=2)
    x = np.full((2, *padded, 3), 127.5, np.float32)
    x[:, : size[0], : size[1]] = images
    expected = predictor.predict_padded(tf.constant(x), tf.constant([size, size]))
    found = predictor.predict_images(images)
    for name in MAPS:
        assert found[name].shape == (2, *size)
        np.testing.assert_array_equal(found[name], expected[name][:, : size[0], : size[1]])
    for name in (keys.CENTERS, keys.CENTER_SCORES, keys.NUM_CENTERS):
        np.testing.assert_array_equal(found[name], expected[name])


def test_one_function_for_every_size(network):
    predictor = _predictor(network)
    function = tf.function(
        predictor.predict_images, input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)], autograph=False
    )
    for size in ((33, 34), (65, 50)):
        images = _images(*size)
        found, expected = function(images), predictor.predict_images(images)
        for name in MAPS:
            assert found[name].shape == (1, *size)
            assert np.mean(found[name].numpy() == expected[name].numpy()) > 0.99  # rounding decides a few pixels


class _Constant:
    """In place of a network: class 3 in the lower half, one centre, and the sizes that it saw."""

    def __init__(self):
        self.sizes = []

    def __call__(self, images, training):
        batch, height, width, _ = images.shape
        self.sizes.append((height, width))
        lower = np.zeros((batch, height, width, 5), np.float32)
        lower[:, : height // 2, :, 0] = 1
        lower[:, height // 2 :, :, 1] = 1
        heatmap = np.zeros((batch, height, width, 1), np.float32)
        heatmap[:, 20, 10] = 1
        return {
            keys.SEMANTIC_LOGITS: tf.constant(lower),
            keys.CENTER_HEATMAP: tf.constant(heatmap),
            keys.OFFSET_MAP: tf.zeros([batch, height, width, 2]),
        }


def test_resized_images_come_back_at_their_own_size():
    model = _Constant()
    found = _predictor(model, min_resize=33, max_resize=65).predict_images(_images(65, 97))
    assert model.sizes == [(33, 49)]
    for name in MAPS:
        assert found[name].shape == (1, 65, 97)
    np.testing.assert_array_equal(np.unique(found[keys.PANOPTIC_MAP]), [0, 1001])
    np.testing.assert_array_equal(found[keys.SEMANTIC_MAP][0, :, 0], np.arange(65) >= 31)
    # (20, 10) of 33 x 49 positions, at twice the resolution.
    np.testing.assert_array_equal(found[keys.CENTERS][0, 0], [40, 20])
    assert found[keys.NUM_CENTERS] == 1


def test_the_resize_factor_leaves_no_padding():
    model = _Constant()
    _predictor(model, resize_factor=16).predict_images(_images(40, 60))
    assert model.sizes == [(49, 65)]
