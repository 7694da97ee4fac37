# SPDX-License-Identifier: Apache-2.0
"""Averaging over scales and mirror images: against known functions of position, and against the rule written out."""

import math

import numpy as np
import pytest
import tensorflow as tf

from deeplab_axial import keys
from deeplab_axial.models.panoptic_deeplab import upsample
from deeplab_axial.postprocessing.multi_scale import PLAIN, MultiScale, mirror, scaled_size
from tests.compare import assert_close, random_tensor

SCALES = (0.5, 1.0, 1.75)


def _resize(x, size) -> tf.Tensor:
    return tf.raw_ops.ResizeBilinear(images=x, size=size, align_corners=True)


class _Position:
    """In place of a network: it reads its position off the colours of `scene`, and points at a spot of that scene."""

    spot = (0.3, 0.8)

    def __init__(self):
        self.seen = []

    @staticmethod
    def scene(height: int, width: int) -> tf.Tensor:
        """Red grows with y and green with x, from 0 to 1."""
        y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
        return tf.constant(np.stack([y, x, 0 * x], -1)[None], tf.float32)

    def __call__(self, images, scale):
        _, height, width, _ = images.shape
        mirrored = bool(images[0, 0, 0, 1] > images[0, 0, -1, 1])
        self.seen.append((height, width, scale, mirrored))
        y, x = images[..., :1], images[..., 1:2]
        to_right = (self.spot[1] - x) * (width - 1) * (-1 if mirrored else 1)
        return {
            keys.SEMANTIC_LOGITS: tf.concat([y, x, 1 - x], -1),
            keys.CENTER_HEATMAP: 0.25 * y + 0.5 * x,
            keys.OFFSET_MAP: tf.concat([(self.spot[0] - y) * (height - 1), to_right], -1),
        }


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("scales", [(1.0,), (0.7,), SCALES, (2.0, 0.35)])
@pytest.mark.parametrize("size", [(17, 33), (20, 31), (9, 12)])
def test_all_variants_agree_on_what_is_linear_in_position(size, scales, flip):
    network = _Position()
    scene = network.scene(*size)
    found = MultiScale(scales, flip)(scene, size, network, upsample)
    expected = upsample(_Position()(scene, 1.0), size)
    assert_close(found[keys.CENTER_HEATMAP], expected[keys.CENTER_HEATMAP], 1e-5)
    assert_close(found[keys.SEMANTIC_PROBS], tf.nn.softmax(expected[keys.SEMANTIC_LOGITS]), 1e-5)
    assert_close(found[keys.OFFSET_MAP], expected[keys.OFFSET_MAP], 1e-5)
    variants = [(scale, mirrored) for scale in scales for mirrored in ((False, True) if flip else (False,))]
    assert network.seen == [(*scaled_size(size, scale), scale, mirrored) for scale, mirrored in variants]


class _Convolution:
    """A small random network of stride 2, with borders and no symmetry."""

    def __init__(self, seed: int = 0):
        self.kernel = random_tensor((3, 3, 3, 4 + 1 + 2), seed)

    def __call__(self, images, scale):
        maps = tf.nn.conv2d(images, self.kernel, 2, "SAME")
        return dict(zip((keys.SEMANTIC_LOGITS, keys.CENTER_HEATMAP, keys.OFFSET_MAP), tf.split(maps, [4, 1, 2], -1)))


def _rule(images: np.ndarray, network, scales, flip) -> dict[str, np.ndarray]:
    """DeepLab2's order of operations, written out: all variants stacked, then their mean."""
    _, height, width, _ = images.shape
    stacks: dict[str, list] = {}
    for scale in scales:
        size = tuple(int((n - 1) * scale + 1) for n in (height, width))
        scaled = images if scale == 1 else _resize(images, size)
        for mirrored in (False, True)[: 1 + flip]:
            raw = network(scaled[:, :, ::-1] if mirrored else scaled, scale)
            for key, value in raw.items():
                value = np.array(value)
                h, w = value.shape[1:3]
                if mirrored:
                    value = value[:, :, ::-1].copy()
                if key == keys.OFFSET_MAP:
                    value[..., 0] *= (height - 1) / (h - 1)
                    value[..., 1] *= (width - 1) / (w - 1) * (-1 if mirrored else 1)
                value = np.array(_resize(value, (height, width)), np.float64)
                if key == keys.SEMANTIC_LOGITS:
                    value = np.exp(value - value.max(-1, keepdims=True))
                    key, value = keys.SEMANTIC_PROBS, value / value.sum(-1, keepdims=True)
                stacks.setdefault(key, []).append(value)
    return {key: np.mean(stack, 0) for key, stack in stacks.items()}


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("size", "scales"), [((17, 25), SCALES), ((16, 21), SCALES), ((17, 25), (1.0,))])
def test_equals_the_rule(size, scales, flip):
    images = random_tensor((2, *size, 3), 1)
    found = MultiScale(scales, flip)(images, size, _Convolution(), upsample)
    expected = _rule(images.numpy(), _Convolution(), scales, flip)
    assert set(found) == set(expected)
    for key, value in expected.items():
        assert_close(found[key], value, 1e-5)


def test_the_probabilities_are_averaged_and_not_the_logits():
    # Class 0 is certain once and unlikely twice: the mean logit says class 0, the mean probability class 1.
    logits = iter([[30.0, 0.0], [0.0, 2.0], [0.0, 2.0]])

    def network(images, scale):
        return {keys.SEMANTIC_LOGITS: tf.ones([1, 3, 3, 1]) * tf.constant(next(logits))}

    found = MultiScale(SCALES)(tf.zeros([1, 3, 3, 3]), (3, 3), network, lambda outputs, size: outputs)
    assert list(found) == [keys.SEMANTIC_PROBS]
    assert (tf.argmax(found[keys.SEMANTIC_PROBS], -1) == 1).numpy().all()
    np.testing.assert_allclose(tf.reduce_sum(found[keys.SEMANTIC_PROBS], -1), 1, rtol=1e-6)


@pytest.mark.parametrize("scales", [(1.0,), SCALES])
def test_a_mirrored_image_has_mirrored_outputs(scales):
    images = random_tensor((1, 17, 25, 3))

    def predict(x):
        return MultiScale(scales, flip=True)(x, (17, 25), _Convolution(), upsample)

    found, expected = predict(tf.reverse(images, [2])), mirror(predict(images))
    for key, value in expected.items():
        assert_close(found[key], value, 1e-5)


def test_mirroring_twice_is_nothing():
    outputs = _Convolution()(random_tensor((2, 9, 13, 3)), 1.0)
    mirrored = mirror(outputs)
    offsets = outputs[keys.OFFSET_MAP].numpy()[:, :, ::-1]
    np.testing.assert_array_equal(mirrored[keys.OFFSET_MAP], offsets * [1, -1])
    for key, value in mirror(mirrored).items():
        np.testing.assert_array_equal(value, outputs[key])


@pytest.mark.parametrize("xla", [False, True])
def test_a_graph_gives_the_same(xla):
    multi_scale = MultiScale(SCALES, True)
    images = random_tensor((2, 17, 25, 3))
    function = tf.function(
        lambda x: multi_scale(x, (17, 25), _Convolution(), upsample), autograph=False, jit_compile=xla
    )
    for key, value in multi_scale(images, (17, 25), _Convolution(), upsample).items():
        assert_close(function(images)[key], value, 1e-5)


@pytest.mark.parametrize(
    ("size", "scale", "expected"),
    [
        ((65, 129), 1.0, (65, 129)),
        ((65, 129), 0.5, (33, 65)),
        ((1025, 2049), 1.75, (1793, 3585)),
        ((64, 10), 0.5, (32, 5)),
        ((101, 641), 0.29, (30, 186)),  # 100 * 0.29 is 28.999999999999996
        ((641, 11), float(np.float32(0.7)), (449, 8)),
        ((1, 2), 0.25, (1, 1)),
    ],
)
def test_scaled_size(size, scale, expected):
    assert scaled_size(size, scale) == expected
    np.testing.assert_array_equal(scaled_size(tf.constant(size), scale), expected)


def test_scaled_size_equals_the_formula():
    for scale in (0.25, 0.5, 0.625, 0.75, 1.25, 1.5, 2.0, 2.75):
        for n in (1, 2, 16, 33, 640, 1025, 4096):
            assert scaled_size((n, n), scale) == (int((n - 1) * scale + 1),) * 2


@pytest.mark.parametrize("scales", [(), (0.0,), (1.0, -0.5), (math.nan,), (math.inf,)])
def test_refuses_other_scales(scales):
    with pytest.raises(ValueError, match=r"numbers above 0, one or more\. Received: \("):
        MultiScale(scales)


def test_says_what_it_does():
    assert str(PLAIN) == "scale 1"
    assert str(MultiScale((0.5, 1.25), True)) == "scales 0.5, 1.25, plain and mirrored"
    assert PLAIN.is_plain
    assert not MultiScale((0.5,)).is_plain
    assert not MultiScale(flip=True).is_plain
