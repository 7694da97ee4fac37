# SPDX-License-Identifier: Apache-2.0
"""Changes of images and maps, eagerly and inside tf.data."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_axial.data import transforms


def _pair(height: int, width: int) -> tuple[tf.Tensor, tf.Tensor]:
    """An image whose pixels hold their own numbers, and a map of the same numbers."""
    numbers = np.arange(height * width, dtype=np.int32).reshape(height, width) + 1
    return tf.constant(np.repeat(numbers[..., None], 3, -1), tf.float32), tf.constant(numbers)


@pytest.mark.parametrize(
    ("size", "arguments", "expected"),
    [
        ((480, 640), (None, None), (480, 640)),
        ((480, 640), (240, None), (240, 320)),
        ((480, 640), (641, 641), (480, 641)),
        ((640, 480), (641, 641), (641, 480)),
        ((427, 640), (641, 1333), (641, 960)),
        ((333, 1000), (500, 1000), (333, 1000)),
        ((480, 640), (None, None, 32), (481, 641)),
        ((481, 641), (None, None, 32), (481, 641)),
        ((480, 640), (240, None, 16), (241, 321)),
        ((1, 1), (None, None, 16), (1, 1)),
        # Of thin images the short side would be less than half a pixel.
        ((3, 700), (None, 161), (1, 161)),
        ((3, 700), (161, 161), (1, 161)),
        ((700, 2), (97, (129, 161)), (129, 1)),
        ((5, 5000), (None, 641), (1, 641)),
        ((5, 5000), (641, 641, 16), (1, 641)),
        ((1, 100_000), ((2, 3), 65), (1, 65)),
    ],
)
def test_resized_size(size, arguments, expected):
    found = transforms.resized_size(tf.constant(size), *arguments)
    assert found.dtype == tf.int32
    assert tuple(found.numpy()) == expected


@pytest.mark.parametrize("aim", [97, 333, 641, 800, 1025])
def test_resized_size_reaches_its_aim(aim):
    rng = np.random.default_rng(0)
    for size in rng.integers(30, 3000, (60, 2)):
        found = transforms.resized_size(tf.constant(size, tf.int32), aim, None).numpy()
        assert found.min() == aim
        assert abs(found.max() / found.min() - size.max() / size.min()) < 1 / aim + 1e-3
        found = transforms.resized_size(tf.constant(size, tf.int32), aim, aim + 100).numpy()
        assert found.min() == aim or found.max() == aim + 100
        assert found.min() <= aim
        assert found.max() <= aim + 100


@pytest.mark.parametrize(("height", "width"), [(3, 700), (700, 2), (5, 5000)])
def test_thin_images_and_maps_keep_a_row(height, width):
    image, panoptic = _pair(height, width)
    size = transforms.resized_size(tf.shape(panoptic), None, 161)
    assert sorted(size.numpy()) == [1, 161]
    smaller, labels = transforms.resize(image, size), transforms.resize_nearest(panoptic, size)
    assert smaller.shape == (*size.numpy(), 3)
    last = (0, -1) if height < width else (-1, 0)
    for place in ((0, 0), last):
        np.testing.assert_allclose(smaller[place], image[place], rtol=1e-6)
        assert labels[place] == panoptic[place]


def test_resize_keeps_corners_and_the_values_of_maps():
    image, panoptic = _pair(4, 5)
    larger, labels = transforms.resize(image, (7, 9)), transforms.resize_nearest(panoptic, tf.constant([7, 9]))
    assert larger.shape == (7, 9, 3)
    for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        np.testing.assert_allclose(larger[corner], image[corner], rtol=1e-6)
        assert labels[corner] == panoptic[corner]
    # The image rises by 1 from column to column, so half a column gives one half; labels are never mixed.
    np.testing.assert_allclose(larger[0, :, 0], np.arange(1, 5.5, 0.5), rtol=1e-6)
    assert set(np.unique(labels)) <= set(np.unique(panoptic))
    np.testing.assert_array_equal(labels[::2, ::2], panoptic)
    np.testing.assert_array_equal(transforms.resize(tf.cast(image, tf.uint8), (7, 9)), larger)


def test_nearest_keeps_large_ids():
    label = tf.constant([[2**24 - 1, 5], [2**24 - 3, 7]])
    np.testing.assert_array_equal(transforms.resize_nearest(label, tf.constant([4, 4]))[::3, ::3], label)


@pytest.mark.parametrize("step", [0.1, float(np.float32(0.1))])  # a config's is float32
def test_random_scale_draws_from_the_steps(step):
    size = tf.constant([100, 200])
    drawn = {tuple(transforms.random_scale(size, 0.5, 2.0, step, (3, i)).numpy()) for i in range(300)}
    factors = np.linspace(0.5, 2.0, 16, dtype=np.float32)
    assert drawn == {(int(np.float32(100) * f), int(np.float32(200) * f)) for f in factors}


def test_random_scale_without_steps():
    size = tf.constant([1000, 1000])
    drawn = [int(transforms.random_scale(size, 0.5, 1.5, 0, (3, i))[0]) for i in range(100)]
    assert 500 <= min(drawn) < 600
    assert 1400 < max(drawn) <= 1500
    assert len(set(drawn)) > 80
    np.testing.assert_array_equal(transforms.random_scale(size, 1.5, 1.5, 0.25, (0, 0)), [1500, 1500])


def test_random_flip():
    image, panoptic = _pair(3, 4)
    flips = 0
    for i in range(40):
        new_image, new_panoptic = transforms.random_flip(image, panoptic, (1, i))
        np.testing.assert_array_equal(new_image[..., 0], tf.cast(new_panoptic, tf.float32))
        flipped = (new_panoptic.numpy() == panoptic.numpy()[:, ::-1]).all()
        assert flipped or (new_panoptic.numpy() == panoptic.numpy()).all()
        flips += flipped
    assert 10 < flips < 30


def test_pad_to():
    image, panoptic = _pair(3, 4)
    padded = transforms.pad_to(image, 5, 4, 127.5)
    np.testing.assert_array_equal(padded[:3], image)
    np.testing.assert_array_equal(padded[3:], np.full([2, 4, 3], 127.5))
    np.testing.assert_array_equal(transforms.pad_to(panoptic, 2, 6, 9)[:, 4:], np.full([3, 2], 9))  # never cuts
    assert transforms.pad_to(panoptic, 2, 6, 9).shape == (3, 6)


def test_random_window_takes_every_window():
    image, panoptic = _pair(5, 7)
    corners = set()
    for i in range(200):
        window = transforms.random_window(tf.constant([5, 7]), 3, 4, (2, i))
        labels = transforms.cut(panoptic, window)
        np.testing.assert_array_equal(transforms.cut(image, window)[..., 0], tf.cast(labels, tf.float32))
        y, x = divmod(int(labels[0, 0]) - 1, 7)
        np.testing.assert_array_equal(labels, panoptic[y : y + 3, x : x + 4])
        corners.add((y, x))
    assert corners == {(y, x) for y in range(3) for x in range(4)}


def test_random_window_takes_all_of_a_small_image():
    columns = set()
    for i in range(40):
        window = transforms.random_window(tf.constant([2, 5]), 4, 3, (0, i))
        assert window.size.numpy().tolist() == [2, 3]
        assert window.corner[0] == 0
        columns.add(int(window.corner[1]))
    assert columns == {0, 1, 2}


def test_the_same_inside_tf_data():
    image, panoptic = _pair(6, 8)

    def change(image, panoptic):
        size = transforms.random_scale(transforms.resized_size(tf.shape(panoptic), 9, None), 0.5, 2.0, 0.1, (1, 2))
        window = transforms.random_window(size, 5, 5, (3, 4))
        image = transforms.cut(transforms.resize(image, size), window)
        panoptic = transforms.cut(transforms.resize_nearest(panoptic, size), window)
        return transforms.random_flip(image, panoptic, (5, 6))

    dataset = tf.data.Dataset.from_tensors((image, panoptic))
    # Sizes are not known in a real pipeline.
    dataset = dataset.map(lambda a, b: (tf.ensure_shape(a, [None, None, 3]), tf.ensure_shape(b, [None, None])))
    for found, expected in zip(next(iter(dataset.map(change))), change(image, panoptic)):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_sizes_after_resizing_are_those_of_deeplab2():
    # (size, min, max, factor) -> size, by DeepLab2's rule: fit the least sides, then the largest, then round up.
    for size, low, high, factor, expected in [
        ((480, 640), None, 320, None, (240, 320)),
        ((480, 640), None, 1000, None, (480, 640)),
        ((400, 600), (500, 600), None, None, (500, 750)),
        ((400, 600), (100, 900), None, None, (600, 900)),
        ((400, 600), None, (200, 900), None, (200, 300)),
        ((400, 600), None, 641, 32, (417, 609)),
        ((480, 640), 800, 640, 32, (481, 609)),  # The limit is 609 = 19 * 32 + 1: the long side must not reach 641.
    ]:
        found = tuple(transforms.resized_size(tf.constant(size), low, high, factor).numpy())
        assert found == expected, (size, low, high, factor)


def test_random_scale_leaves_a_pixel():
    size = transforms.random_scale(tf.constant([1, 3]), 0.1, 0.1, 0.0, tf.constant([0, 0]))
    assert size.numpy().tolist() == [1, 1]


def test_pad_to_puts_the_image_in_every_place():
    image = tf.ones([2, 3, 3])
    found = set()
    for y in (0.0, 0.3, 0.6, 0.99999994):
        for x in (0.0, 0.5, 0.99999994):
            padded = transforms.pad_to(image, 5, 4, 0.0, tf.constant([y, x])).numpy()
            assert padded.shape == (5, 4, 3)
            top, left = np.argwhere(padded[..., 0])[0].tolist()
            assert padded[top : top + 2, left : left + 3].sum() == padded.sum() == 18
            found.add((top, left))
    assert found == {(top, left) for top in range(4) for left in range(2)}
    assert transforms.pad_to(tf.zeros([4, 5], tf.int32), 3, 3, 1, tf.constant([0.5, 0.5])).shape == (4, 5)


@pytest.mark.parametrize(
    ("size", "padded", "stride", "repeated"),
    [
        ((6, 9), (9, 13), 4, (9, 9)),
        ((6, 9), (13, 17), 4, (9, 9)),
        ((6, 10), (9, 17), 4, (9, 13)),
        ((1, 2), (1, 5), 4, (1, 5)),
        ((5, 5), (5, 5), 4, (5, 5)),
        ((6, 9), (9, 13), 1, (6, 9)),
    ],
)
def test_the_border_is_repeated_before_grey_begins(size, padded, stride, repeated):
    images = np.stack([_pair(*size)[0], 7 * _pair(*size)[0]])
    expected = np.pad(images, [(0, 0), *((0, r - n) for r, n in zip(repeated, size)), (0, 0)], "edge")
    rest = [(0, p - r) for p, r in zip(padded, repeated)]
    expected = np.pad(expected, [(0, 0), *rest, (0, 0)], constant_values=127.5)
    found = transforms.pad_border(tf.constant(images), size, padded, stride)
    np.testing.assert_array_equal(found, expected)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3])])
    def of_any_size(images):
        return transforms.pad_border(images, tf.shape(images)[1:3], tf.constant(padded), stride)

    np.testing.assert_array_equal(of_any_size(images), expected)
    compiled = tf.function(lambda images: transforms.pad_border(images, size, padded, stride), jit_compile=True)
    np.testing.assert_array_equal(compiled(tf.constant(images)), expected)
