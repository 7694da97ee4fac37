# SPDX-License-Identifier: Apache-2.0
"""Photometric distortion against a slow reference."""

import colorsys

import numpy as np
import pytest
import tensorflow as tf

from deeplab_axial.data import photometric
from deeplab_axial.data.photometric import PhotometricOptions

STRONG = PhotometricOptions(brightness_delta=60, contrast_range=0.9, saturation_range=0.9, hue_delta=120)


def _reference(image, brightness, contrast, saturation, hue, contrast_first):
    """Pixel by pixel, with Python's own colour conversion."""

    def cut(values):
        return [min(max(v, 0.0), 255.0) for v in values]

    result = np.empty_like(image)
    for y, x in np.ndindex(*image.shape[:2]):
        pixel = cut([float(v) + brightness for v in image[y, x]])
        if contrast_first:
            pixel = cut([v * contrast for v in pixel])
        h, s, v = colorsys.rgb_to_hsv(*(v / 255 for v in pixel))
        pixel = [255 * v for v in colorsys.hsv_to_rgb((h + hue / 360) % 1, min(s * saturation, 1.0), v)]
        if not contrast_first:
            pixel = cut([v * contrast for v in pixel])
        result[y, x] = pixel
    return result


def _image(seed=0, size=(9, 11)):
    image = np.random.default_rng(seed).uniform(0, 255, (*size, 3)).astype(np.float32)
    image[0, 0], image[0, 1], image[0, 2] = 0, 255, 127.5
    image[0, 3], image[0, 4] = (255, 0, 0), (0, 0, 255)
    return image


@pytest.mark.parametrize("contrast_first", [True, False])
@pytest.mark.parametrize(
    "amounts",
    [
        (0.0, 1.0, 1.0, 0.0),
        (32.0, 1.0, 1.0, 0.0),
        (-32.0, 1.0, 1.0, 0.0),
        (0.0, 1.5, 1.0, 0.0),
        (0.0, 0.5, 1.0, 0.0),
        (0.0, 1.0, 1.5, 0.0),
        (0.0, 1.0, 0.0, 0.0),
        (0.0, 1.0, 1.0, 18.0),
        (0.0, 1.0, 1.0, -180.0),
        (20.0, 1.3, 0.7, -12.0),
        (-50.0, 0.4, 1.6, 100.0),
    ],
)
def test_equals_the_reference(amounts, contrast_first):
    image = _image()
    result = photometric.adjust(image, *map(tf.constant, amounts), tf.constant(contrast_first))
    np.testing.assert_allclose(result, _reference(image, *amounts, contrast_first), atol=0.02)


def test_degrees_of_hue():
    red = tf.constant([[[200.0, 0.0, 0.0]]])
    changes = {120.0: [0, 200, 0], 240.0: [0, 0, 200], -120.0: [0, 0, 200], 60.0: [200, 200, 0], 360.0: [200, 0, 0]}
    for degrees, expected in changes.items():
        result = photometric.adjust(red, *map(tf.constant, (0.0, 1.0, 1.0, degrees)), tf.constant(True))
        np.testing.assert_allclose(result[0, 0], expected, atol=0.01)


def test_the_order_of_contrast_matters():
    image = _image(3)
    amounts = tuple(map(tf.constant, (0.0, 1.5, 0.6, 0.0)))
    first, last = (photometric.adjust(image, *amounts, tf.constant(order)) for order in (True, False))
    assert np.abs(first - last).max() > 5


def test_the_seed_alone_decides():
    image = tf.constant(_image())
    results = [photometric.distort(image, STRONG, tf.constant([seed, 2])).numpy() for seed in (1, 1, 2, 3)]
    np.testing.assert_array_equal(results[0], results[1])
    assert any((results[0] != other).any() for other in results[2:])


def test_each_change_happens_half_of_the_time():
    def share(options, image):
        draw = tf.function(lambda seed: photometric.distort(image, options, tf.stack([seed, 7])))
        return np.mean([np.abs(draw(tf.constant(i)) - image).max() > 1e-3 for i in range(300)])

    image = tf.constant([[[120.0, 60.0, 30.0]]])
    for name in ("brightness_delta", "contrast_range", "saturation_range", "hue_delta"):
        one = PhotometricOptions(**dict.fromkeys(PhotometricOptions().__dict__, 0.0) | {name: 0.9})
        assert 0.4 < share(one, image) < 0.6
    # All four: unchanged only if no coin falls.
    assert 0.88 < share(STRONG, image) < 0.98


def test_amounts_stay_inside_their_limits():
    image = tf.constant([[[100.0, 100.0, 100.0]]])
    only = PhotometricOptions(brightness_delta=20, contrast_range=0.0, saturation_range=0.0, hue_delta=0.0)
    values = np.array([photometric.distort(image, only, [i, 7])[0, 0, 0] for i in range(200)])
    assert 80 <= values.min() < 85
    assert 115 < values.max() <= 120
    only = PhotometricOptions(brightness_delta=0, contrast_range=0.5, saturation_range=0.0, hue_delta=0.0)
    values = np.array([photometric.distort(image, only, [i, 7])[0, 0, 0] for i in range(200)])
    assert 50 <= values.min() < 60
    assert 140 < values.max() <= 150


def test_values_stay_inside_the_range_and_grey_stays_grey():
    image = _image(5)
    grey = np.repeat(image[..., :1], 3, axis=-1)
    for seed in range(20):
        result = photometric.distort(image, STRONG, [seed, 1]).numpy()
        assert result.shape == image.shape
        assert result.dtype == np.float32
        assert result.min() >= 0
        assert result.max() <= 255
        result = photometric.distort(grey, STRONG, [seed, 1]).numpy()
        np.testing.assert_allclose(result, np.repeat(result[..., :1], 3, axis=-1), atol=0.01)
