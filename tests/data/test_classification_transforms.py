# SPDX-License-Identifier: Apache-2.0
"""Inception crops, and `sampling.decode_window`, which sees only the crop."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab_axial.data import classification_transforms as transforms
from deeplab_axial.data import sampling

OPTIONS = transforms.InceptionCropOptions()


def _photo(height: int, width: int) -> np.ndarray:
    """Colours that change slowly, with noise."""
    rng = np.random.default_rng(height + width)
    coarse = Image.fromarray(rng.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return np.clip(smooth + rng.integers(-12, 13, smooth.shape), 0, 255).astype(np.uint8)


def _encode(pixels: np.ndarray, image_format: str, mode: str = "RGB", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, image_format, **options)
    return buffer.getvalue()


def _windows(size: tuple[int, int], options: transforms.InceptionCropOptions, count: int) -> np.ndarray:
    seeds = tf.random.experimental.stateless_split([5, 6], count)
    draw = tf.function(lambda seed: transforms.inception_window(tf.constant(size), options, seed))
    return tf.map_fn(draw, seeds, fn_output_signature=tf.int32).numpy()


@pytest.mark.parametrize("size", [(375, 500), (500, 333), (64, 64)])
def test_windows_keep_the_limits_and_fill_them(size):
    top, left, height, width = _windows(size, OPTIONS, 2000).T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (height >= 1).all()
    assert (width >= 1).all()
    assert (top + height <= size[0]).all()
    assert (left + width <= size[1]).all()
    # Rounding of the sides to whole pixels.
    slack = 1.5 / height.min()
    area, ratio = height * width / (size[0] * size[1]), width / height
    assert area.min() > 0.08 * (1 - 2 * slack)
    assert ratio.min() > 0.75 * (1 - slack)
    assert ratio.max() < 4 / 3 * (1 + slack)
    assert area.min() < 0.1
    assert area.max() > 0.8
    assert ratio.min() < 0.77
    assert ratio.max() > 1.3
    for start, extent, side in ((top, height, size[0]), (left, width, size[1])):
        room = side - extent
        assert (start == 0).any()
        assert (start == room).any()
        assert abs((start[room > 10] / room[room > 10]).mean() - 0.5) < 0.03


def test_small_windows_are_drawn_uniformly_in_area_and_in_the_logarithm_of_the_ratio():
    # Up to a fifth of the area every window fits, so that nothing is drawn again.
    options = transforms.InceptionCropOptions(0.1, 0.2, 0.5, 2.0)
    _, _, height, width = _windows((800, 800), options, 4000).T.astype(float)
    for found, low, high in ((height * width / 640000, 0.1, 0.2), (np.log2(width / height), -1, 1)):
        counts, _ = np.histogram(found, 8, (low, high))
        assert abs(counts - len(found) / 8).max() < 4.5 * (len(found) / 8) ** 0.5


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((100, 1000), (0, 433, 100, 133)),
        ((1000, 100), (433, 0, 133, 100)),
        ((1, 1), (0, 0, 1, 1)),
        ((1, 9), (0, 4, 1, 1)),
    ],
)
def test_an_image_that_no_window_fits_gives_its_middle(size, expected):
    whole = transforms.InceptionCropOptions(min_area=1.0)
    windows = _windows(size, whole, 5)
    np.testing.assert_array_equal(windows, np.tile(expected, (5, 1)))


def test_the_whole_image_where_only_that_is_allowed():
    whole = transforms.InceptionCropOptions(1.0, 1.0, 1.0, 1.0)
    np.testing.assert_array_equal(_windows((70, 70), whole, 3), [[0, 0, 70, 70]] * 3)


@pytest.mark.parametrize(
    "options",
    [
        {"min_area": 0.0},
        {"min_area": 0.5, "max_area": 0.4},
        {"max_area": 1.1},
        {"min_aspect_ratio": 0.0},
        {"min_aspect_ratio": 2.0},
    ],
)
def test_limits_that_contradict_each_other_are_refused(options):
    with pytest.raises(ValueError, match=r"must keep 0 < .* Received: .* Correct them"):
        transforms.InceptionCropOptions(**options)


FILES = {
    "4:2:0": lambda pixels: _encode(pixels, "JPEG", subsampling=2),
    "4:2:2": lambda pixels: _encode(pixels, "JPEG", subsampling=1),
    "4:4:4": lambda pixels: _encode(pixels, "JPEG", subsampling=0),
    "progressive": lambda pixels: _encode(pixels, "JPEG", progressive=True),
    "grey JPEG": lambda pixels: _encode(pixels, "JPEG", "L"),
    "CMYK": lambda pixels: _encode(pixels, "JPEG", "CMYK"),
    "PNG": lambda pixels: _encode(pixels, "PNG"),
    "PNG with alpha": lambda pixels: _encode(pixels, "PNG", "RGBA"),
    "grey PNG": lambda pixels: _encode(pixels, "PNG", "L"),
    "palette": lambda pixels: _encode(pixels, "PNG", "P"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_decoded_window_is_the_window_of_the_decoded_image(name):
    rng = np.random.default_rng(1)
    decode = tf.function(sampling.decode_window)
    for size in ((93, 118), (17, 5), (1, 1)):
        encoded = FILES[name](_photo(*size))
        whole = tf.io.decode_image(encoded, channels=3, expand_animations=False).numpy()
        windows = [(0, 0, *size), (0, 0, 1, 1), (size[0] - 1, size[1] - 1, 1, 1)]
        for _ in range(40):
            height, width = (int(rng.integers(1, side + 1)) for side in size)
            windows.append(
                (int(rng.integers(size[0] - height + 1)), int(rng.integers(size[1] - width + 1)), height, width)
            )
        for top, left, height, width in windows:
            found = decode(encoded, tf.constant(size), tf.constant([top, left, height, width]))
            np.testing.assert_array_equal(found, whole[top : top + height, left : left + width])


def test_without_a_border_the_edges_of_a_decoded_window_would_differ():
    # Why `decode_window` decodes two pixels more. Should this fail, TensorFlow has changed, and they may go.
    encoded = FILES["4:2:0"](_photo(93, 118))
    whole = tf.io.decode_jpeg(encoded, channels=3).numpy().astype(int)
    part = tf.image.decode_and_crop_jpeg(encoded, [11, 13, 40, 51], channels=3).numpy()
    difference = np.abs(part - whole[11:51, 13:64]).max(axis=-1)
    assert difference.max() > 3
    assert difference[1:-1, 1:-1].max() == 0


def test_resize_averages_where_it_shrinks():
    stripes = np.zeros([64, 96, 3], np.uint8)
    stripes[:, ::2] = 200
    found = transforms.resize(tf.constant(stripes), tf.constant([16, 24]))
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found[:, 2:-2], 100, atol=4)


def test_flip_mirrors_half_of_the_images():
    image = tf.reshape(tf.range(24), [2, 4, 3])
    seeds = tf.random.experimental.stateless_split([1, 2], 400)
    flipped = 0
    for seed in seeds:
        found = transforms.random_flip(image, seed).numpy()
        mirrored = (found == image.numpy()[:, ::-1]).all()
        assert mirrored or (found == image.numpy()).all()
        flipped += mirrored
    assert 160 < flipped < 240


@pytest.mark.parametrize("size", [(300, 400), (400, 300), (256, 256), (33, 47), (1, 1), (224, 500)])
def test_the_central_crop_is_the_middle_of_the_resized_image(size):
    pixels = _photo(*size)
    found = transforms.central_crop(tf.constant(pixels), 224, 224)
    assert found.shape == (224, 224, 3)
    scale = 256 / min(size)
    resized = [round(side * scale - 0.499) for side in size]
    whole = tf.image.resize(pixels, resized, antialias=True).numpy()
    top, left = (resized[0] - 224) // 2, (resized[1] - 224) // 2
    np.testing.assert_allclose(found, whole[top : top + 224, left : left + 224], atol=1e-3)


def test_a_central_crop_that_is_not_square_lies_inside_the_image():
    found = transforms.central_crop(tf.constant(_photo(100, 300)), 65, 129)
    assert found.shape == (65, 129, 3)
    assert found.numpy().min() >= 0
    ramp = np.tile(np.arange(300, dtype=np.float32)[None, :, None], (100, 1, 3))
    middle = transforms.central_crop(tf.constant(ramp), 65, 129).numpy()
    assert middle.mean() == pytest.approx(149.5, abs=1)
    assert middle[0, 0, 0] > 0
