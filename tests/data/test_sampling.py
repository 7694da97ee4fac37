# SPDX-License-Identifier: Apache-2.0
"""Windows sampled from encoded images against scaling the whole image and cutting it."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab_axial.data import sampling, transforms


def _image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def _encode(image: np.ndarray, encoding: str = "PNG", **options) -> tf.Tensor:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, encoding, **options)
    return tf.constant(buffer.getvalue())


def _window(rng: np.random.Generator, scaled: tuple[int, int]) -> transforms.Window:
    size = [int(rng.integers(1, side + 1)) for side in scaled]
    corner = [int(rng.integers(0, side - length + 1)) for side, length in zip(scaled, size)]
    return transforms.Window(tf.constant(corner), tf.constant(size))


def _reference(image: np.ndarray, scaled, window) -> tf.Tensor:
    """Scales the whole image, then cuts."""
    whole = tf.cast(image, tf.float32)
    return transforms.cut(whole if scaled is None else transforms.resize(whole, scaled), window)


# Sides on disk and after scaling; a window of random place and size in each.
SIZES = [((int(a), int(b)), (int(c), int(d))) for a, b, c, d in np.random.default_rng(1).integers(1, 90, (60, 4))]
SIZES += [((1, 1), (1, 1)), ((1, 1), (9, 7)), ((9, 7), (1, 1)), ((1, 40), (3, 1)), ((40, 1), (1, 90)), ((2, 2), (2, 2))]


@pytest.mark.parametrize("worth", [0, 10**9])
def test_equals_scaling_and_cutting(worth, monkeypatch):
    monkeypatch.setattr(sampling, "_WORTH_SAMPLING", worth)
    signature = [tf.TensorSpec([], tf.string), *[tf.TensorSpec([2], tf.int32)] * 4]
    sample = tf.function(
        lambda e, size, scaled, corner, extent: sampling.sample_image(
            e, size, scaled, transforms.Window(corner, extent)
        ),
        signature,
        autograph=False,
    )
    rng = np.random.default_rng(2)
    for size, scaled in SIZES:
        image = _image(*size)
        window = _window(rng, scaled)
        found = sample(_encode(image), size, scaled, *window)
        assert found.dtype == tf.float32
        # Neighbours differ by up to 255, and positions by 1e-5 pixels.
        np.testing.assert_allclose(found, _reference(image, scaled, window), atol=0.02 if worth == 0 else 0)


@pytest.mark.parametrize("scaled", [(4, 8000), (4, 4000), (4, 1700)])
def test_equals_scaling_and_cutting_in_large_images(scaled, monkeypatch):
    # The worst there is: neighbours of 0 and 255, at the far end of a long side, and its last pixel.
    monkeypatch.setattr(sampling, "_WORTH_SAMPLING", 0)
    image = np.zeros((3, 4000, 3), np.uint8)
    image[:, ::2] = 255
    window = transforms.Window(tf.constant([1, scaled[1] - 1025]), tf.constant([3, 1025]))
    found = sampling.sample_image(_encode(image), tf.constant([3, 4000]), tf.constant(scaled), window)
    np.testing.assert_allclose(found, _reference(image, scaled, window), atol=255 * 2**-10)


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_part_of_a_jpeg_has_the_pixels_of_the_whole(subsampling, progressive, monkeypatch):
    monkeypatch.setattr(sampling, "_WORTH_SAMPLING", 0)
    image = np.asarray(Image.fromarray(_image(12, 16)).resize((230, 170), Image.Resampling.BICUBIC))
    encoded = _encode(image, "JPEG", quality=90, subsampling=subsampling, progressive=progressive)
    whole = tf.io.decode_jpeg(encoded, channels=3).numpy()
    rng = np.random.default_rng(3)
    for _ in range(15):
        window = _window(rng, (170, 230))
        found = sampling.sample_image(encoded, tf.constant([170, 230]), None, window)
        np.testing.assert_array_equal(found, _reference(whole, None, window))
    scaled = tf.constant([300, 401])
    window = transforms.Window(tf.constant([101, 203]), tf.constant([70, 93]))
    found = sampling.sample_image(encoded, tf.constant([170, 230]), scaled, window)
    np.testing.assert_allclose(found, _reference(whole, scaled, window), atol=0.02)


def test_labels_equal_scaling_and_cutting():
    rng = np.random.default_rng(4)
    compared = 0
    for size, scaled in SIZES:
        panoptic = rng.integers(0, 2**24, size, np.int32)
        window = _window(rng, scaled)
        expected = transforms.cut(transforms.resize_nearest(tf.constant(panoptic), tf.constant(scaled)), window)
        found = sampling.sample_labels(tf.constant(panoptic), tf.constant(scaled), window)
        # Half way between two pixels rounding decides.
        ties = []
        for axis in range(2):
            scale = (size[axis] - 1) / max(scaled[axis] - 1, 1)
            place = (window.corner[axis].numpy() + np.arange(window.size[axis])) * scale
            ties.append(np.abs(place % 1 - 0.5) < 1e-5)
        clear = ~(ties[0][:, None] | ties[1][None, :])
        np.testing.assert_array_equal(found.numpy()[clear], expected.numpy()[clear])
        compared += clear.sum()
    assert compared > 20_000
    np.testing.assert_array_equal(
        sampling.sample_labels(tf.constant(panoptic), None, transforms.Window(tf.constant([0, 0]), tf.constant(size))),
        panoptic,
    )


@pytest.mark.parametrize("worth", [0, 10**9])
@pytest.mark.parametrize("encoding", ["PNG", "JPEG"])
@pytest.mark.parametrize("height", [39, 41])
def test_a_wrong_size_in_the_record_is_found(encoding, height, worth, monkeypatch):
    monkeypatch.setattr(sampling, "_WORTH_SAMPLING", worth)
    encoded = _encode(_image(40, 50), encoding)
    window = transforms.Window(tf.constant([30, 40]), tf.constant([height - 30, 8]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="must be the size of the image"):
        sampling.sample_image(encoded, tf.constant([height, 50]), None, window)
