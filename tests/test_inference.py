# SPDX-License-Identifier: Apache-2.0
"""The predictor: resizing, padding and their undoing around a network."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_axial import keys
from deeplab_axial.choices import EVALUATION, MINIMAL
from deeplab_axial.data.pipeline import ImageOptions
from deeplab_axial.inference import Predictor
from deeplab_axial.models.decoder import Decoder
from deeplab_axial.models.panoptic_deeplab import PanopticDeepLab, upsample
from deeplab_axial.postprocessing.multi_scale import PLAIN, MultiScale
from deeplab_axial.postprocessing.panoptic_deeplab import PostProcessor
from tests import conformance

MAPS = (keys.SEMANTIC_MAP, keys.INSTANCE_MAP, keys.PANOPTIC_MAP)


@pytest.fixture(scope="module")
def network():
    model = next(case for case in conformance.CASES if case.name == "panoptic_deeplab").make()
    model(tf.random.uniform([2, 65, 81, 3], 0, 255), training=True)  # moving statistics that fit
    return model


def _predictor(model, multi_scale: MultiScale = PLAIN, padding: str = EVALUATION, **options) -> Predictor:
    postprocessor = PostProcessor(5, (1, 2), 1000, 255, center_score_threshold=0.0, nms_kernel=7, keep_k_centers=20)
    return Predictor(model, postprocessor, 16, ImageOptions(crop_size=(65, 81), **options), multi_scale, padding)


def _images(height: int, width: int, batch: int = 1) -> tf.Tensor:
    return tf.constant(np.random.default_rng(0).integers(0, 256, (batch, height, width, 3)), tf.uint8)


@pytest.mark.parametrize(
    ("padding", "size", "padded"),
    [
        (EVALUATION, (65, 81), (65, 81)),
        (EVALUATION, (33, 34), (65, 81)),
        (EVALUATION, (1, 1), (65, 81)),
        (EVALUATION, (66, 34), (81, 81)),
        (EVALUATION, (33, 90), (65, 97)),
        (MINIMAL, (50, 66), (65, 81)),
        (MINIMAL, (33, 34), (33, 49)),
        (MINIMAL, (1, 1), (1, 1)),
    ],
)
def test_images_are_padded_and_cut_back(network, padding, size, padded):
    predictor = _predictor(network, padding=padding)
    assert predictor.padded_size(size) == padded
    assert predictor.padded_size(tf.constant(size)).numpy().tolist() == list(padded)
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


@pytest.mark.parametrize("multi_scale", [PLAIN, MultiScale((0.75, 1.5), True)])
def test_one_function_for_every_size(network, multi_scale):
    predictor = _predictor(network, multi_scale)
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
        self.scales = []

    def __call__(self, images, training, scale):
        batch, height, width, _ = images.shape
        self.sizes.append((height, width))
        self.scales.append(scale)
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
    found = _predictor(model, padding=MINIMAL, min_resize=33, max_resize=65).predict_images(_images(65, 97))
    assert model.sizes == [(33, 49)]
    for name in MAPS:
        assert found[name].shape == (1, 65, 97)
    np.testing.assert_array_equal(np.unique(found[keys.PANOPTIC_MAP]), [0, 1001])
    np.testing.assert_array_equal(found[keys.SEMANTIC_MAP][0, :, 0], np.arange(65) >= 31)
    # (20, 10) of 33 x 49 positions, at twice the resolution.
    np.testing.assert_array_equal(found[keys.CENTERS][0, 0], [40, 20])
    assert found[keys.NUM_CENTERS] == 1


@pytest.mark.parametrize("size", [(3, 700), (700, 2), (1, 1)])
def test_thin_images_are_resized_to_a_pixel_at_least(network, size):
    predictor = _predictor(network, min_resize=65, max_resize=65)
    function = tf.function(
        predictor.predict_images, input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)], autograph=False
    )
    for predict in (predictor.predict_images, function):
        found = predict(_images(*size))
        for name in MAPS:
            assert found[name].shape == (1, *size)


def test_the_resize_factor_leaves_no_padding():
    model = _Constant()
    _predictor(model, padding=MINIMAL, resize_factor=16).predict_images(_images(40, 60))
    assert model.sizes == [(49, 65)]


def test_what_is_resized_is_padded_as_in_evaluation():
    model = _Constant()
    _predictor(model, resize_factor=16).predict_images(_images(40, 60))
    _predictor(model, max_resize=33).predict_images(_images(65, 97))
    _predictor(model, min_resize=90).predict_images(_images(45, 45))
    assert model.sizes == [(65, 81), (65, 81), (97, 97)]


def test_another_padding_is_refused():
    with pytest.raises(ValueError, match=r"padding must be evaluation or minimal\. Received: 'crop'"):
        _predictor(None, padding="crop")


def test_scales_count_from_the_padded_input():
    model = _Constant()
    multi_scale = MultiScale((0.5, 1.0, 1.3), True)
    found = _predictor(model, multi_scale, padding=MINIMAL, min_resize=49).predict_images(_images(60, 80))
    assert model.sizes == [(25, 33), (25, 33), (49, 65), (49, 65), (63, 84), (63, 84)]
    assert model.scales == [0.5, 0.5, 1, 1, 1.3, 1.3]
    assert found[keys.PANOPTIC_MAP].shape == (1, 60, 80)


def test_scale_1_alone_is_the_network_as_it_is(network):
    images, sizes = tf.cast(_images(65, 81, batch=2), tf.float32), tf.constant([[65, 81], [50, 33]])
    predictor = _predictor(network)
    expected = predictor.postprocessor(upsample(network(images), (65, 81)), sizes)
    # Twice the same scale takes the long way, over probabilities and means, and back to the same.
    for scales in ((1.0,), (1.0, 1.0)):
        found = _predictor(network, MultiScale(scales)).predict_padded(images, sizes)
        assert set(found) == set(expected)
        for name, value in expected.items():
            if value.dtype == tf.float32:
                np.testing.assert_allclose(found[name], value, rtol=1e-5)
            else:
                np.testing.assert_array_equal(found[name], value)


def _padded_batch(sizes) -> tf.Tensor:
    images = np.full((len(sizes), 65, 81, 3), 127.5, np.float32)
    for canvas, size in zip(images, sizes):
        canvas[: size[0], : size[1]] = _images(*size)[0]
    return tf.constant(images)


@pytest.mark.parametrize("multi_scale", [PLAIN, MultiScale((0.75, 1.25), True)])
def test_a_padded_batch_is_predicted_as_its_images(network, multi_scale):
    predictor = _predictor(network, multi_scale)
    sizes = [(65, 60), (40, 81)]
    images = _padded_batch(sizes)
    together = predictor.predict_padded(images, tf.constant(sizes))
    for i in range(2):
        alone = predictor.predict_padded(images[i : i + 1], tf.constant(sizes[i : i + 1]))
        for name in MAPS:
            assert np.mean(together[name][i].numpy() == alone[name][0].numpy()) > 0.999  # rounding decides a few pixels
        void = together[keys.PANOPTIC_MAP][i].numpy() == 255_000
        assert void[sizes[i][0] :].all()
        assert void[:, sizes[i][1] :].all()


def _pointwise(images, training, scale):
    """In place of a network: outputs at stride 4 in which no image's rounding depends on its batch."""
    del training, scale
    x = images[:, ::4, ::4] / 255
    classes = tf.constant([3.0, 5.0, 7.0, 11.0, 13.0])
    return {
        keys.SEMANTIC_LOGITS: 4 * tf.cos(classes * x[..., :1] + 9 * x[..., 1:2]),
        keys.CENTER_HEATMAP: x[..., 2:],
        keys.OFFSET_MAP: 9 * x[..., :2] - 4,
    }


@pytest.mark.parametrize("multi_scale", [PLAIN, MultiScale((0.75, 1.25), True)])
@pytest.mark.parametrize("seed", range(3))
def test_nothing_of_a_batch_reaches_another_image(seed, multi_scale):
    predictor = _predictor(_pointwise, multi_scale)
    rng = np.random.default_rng(seed)
    sizes = [(int(rng.integers(1, 66)), int(rng.integers(1, 82))) for _ in range(4)] + [(65, 81)]
    images = _padded_batch(sizes)
    together = predictor.predict_padded(images, tf.constant(sizes))
    assert together[keys.NUM_CENTERS][-1] > 3
    assert len(np.unique(together[keys.PANOPTIC_MAP][-1])) > 5
    for i in range(len(sizes)):
        alone = predictor.predict_padded(images[i : i + 1], tf.constant(sizes[i : i + 1]))
        assert set(alone) == set(together)
        for name, value in alone.items():
            np.testing.assert_array_equal(value[0], together[name][i], err_msg=name)


def test_with_mirror_images_left_and_right_are_the_same(network):
    predictor = _predictor(network, MultiScale((1.0, 1.5), flip=True))
    images = _images(65, 81)
    found, mirrored = predictor.predict_images(images), predictor.predict_images(images[:, :, ::-1])
    agree = np.mean(found[keys.SEMANTIC_MAP].numpy() == mirrored[keys.SEMANTIC_MAP].numpy()[:, :, ::-1])
    assert agree > 0.999
    plain, other = (_predictor(network).predict_images(x)[keys.SEMANTIC_MAP] for x in (images, images[:, :, ::-1]))
    assert np.mean(plain.numpy() == other.numpy()[:, :, ::-1]) < 0.99


def test_the_scale_reaches_the_pooled_window(network):
    decoder = Decoder("res5", [("res2", 2)], 8, 4, (1, 2, 3), pool_size=(5, 6), name="semantic_decoder")
    model = PanopticDeepLab(network.backbone, decoder, network.semantic_head)
    model(tf.zeros([1, 65, 81, 3]))
    seen = []
    original = decoder.aspp.call
    decoder.aspp.call = lambda x, **kwargs: (seen.append((*x.shape[1:3], kwargs["scale"])), original(x, **kwargs))[1]
    found = _predictor(model, MultiScale((0.5, 2.0))).predict_images(_images(65, 81))
    assert seen == [(3, 3, 0.5), (9, 11, 2.0)]
    assert found[keys.PANOPTIC_MAP].shape == (1, 65, 81)
