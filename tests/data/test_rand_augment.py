# SPDX-License-Identifier: Apache-2.0
"""RandAugment's operations against Pillow's, and what is drawn."""

import collections

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps, ImageStat

from deeplab_axial.data import rand_augment

GREY = (127, 127, 127)


def _images() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(6)
    noise = rng.integers(0, 256, (37, 53, 3), np.uint8)
    smooth = np.asarray(Image.fromarray(noise[:8, :9]).resize((203, 151), Image.Resampling.BICUBIC))
    return {
        "noise": noise,
        "smooth": smooth // 2 + 30,
        "one value": np.full([40, 30, 3], 77, np.uint8),
        "two values": np.where(noise > 100, np.uint8(200), np.uint8(9)),
        "channels apart": np.stack([noise[..., 0] // 3, noise[..., 1] // 9 + 120, noise[..., 2] * 0 + 4], axis=-1),
        "row": noise[:1],
        "pixel": noise[:1, :1],
    }


IMAGES = _images()


def _distance(found: tf.Tensor, expected: Image.Image) -> int:
    assert found.dtype == tf.uint8
    return int(np.abs(found.numpy().astype(int) - np.asarray(expected).astype(int)).max())


def _affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=GREY)


def _moves(name: str, amount: float, image: Image.Image) -> Image.Image:
    """What Pillow makes of a geometric operation."""
    width, height = image.size
    if name == "rotate":
        return image.rotate(amount, Image.Resampling.NEAREST, fillcolor=GREY)
    return _affine(
        image,
        {
            "shear_x": (1, amount, 0, 0, 1, 0),
            "shear_y": (1, 0, 0, amount, 1, 0),
            "translate_x": (1, 0, amount * width, 0, 1, 0),
            "translate_y": (1, 0, 0, 0, 1, amount * height),
        }[name],
    )


@pytest.mark.parametrize("name", IMAGES)
def test_auto_contrast_and_posterize_are_those_of_pillow(name):
    image, pillow = tf.constant(IMAGES[name]), Image.fromarray(IMAGES[name])
    assert _distance(rand_augment.auto_contrast(image), ImageOps.autocontrast(pillow)) == 0
    for bits in (1, 4, 6, 8):
        assert _distance(rand_augment.posterize(image, bits), ImageOps.posterize(pillow, bits)) == 0


@pytest.mark.parametrize("factor", [0.1, 0.352, 1.0, 1.45, 1.9])
@pytest.mark.parametrize("name", IMAGES)
def test_contrast_is_that_of_pillow(name, factor):
    expected = ImageEnhance.Contrast(Image.fromarray(IMAGES[name])).enhance(factor)
    # Weights of the grey value, and rounding, differ by one level; a factor beyond 1 may double that.
    assert _distance(rand_augment.contrast(tf.constant(IMAGES[name]), factor), expected) <= (1 if factor <= 1 else 2)


def test_contrast_keeps_the_mean_of_a_large_image():
    # DeepLab2's contrast, in autoaugment, would move this one towards white.
    image = np.random.default_rng(0).integers(20, 81, (700, 900, 3), np.uint8)
    found = rand_augment.contrast(tf.constant(image), 0.1).numpy()
    assert ImageStat.Stat(Image.fromarray(found)).mean == pytest.approx([50, 50, 50], abs=1)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize(
    ("name", "amounts"),
    [
        ("rotate", (0.0, 7.3, 30.0)),
        ("shear_x", (0.0, 0.113, 0.3)),
        ("shear_y", (0.0, 0.113, 0.3)),
        ("translate_x", (0.0, 0.171, 0.453)),
        ("translate_y", (0.0, 0.171, 0.453)),
    ],
)
def test_geometric_operations_are_those_of_pillow(name, amounts, sign):
    for image_name in ("noise", "smooth", "row", "pixel"):
        image = IMAGES[image_name]
        for amount in amounts:
            found = getattr(rand_augment, name)(tf.constant(image), sign * amount)
            assert found.dtype == tf.uint8
            expected = np.asarray(_moves(name, sign * amount, Image.fromarray(image)))
            # Where the source lies between two pixels, rounding may choose the other one.
            differing = np.any(found.numpy() != expected, axis=-1)
            assert differing.sum() <= max(1, 0.005 * differing.size), (name, amount, image_name)


def test_what_comes_from_outside_is_grey():
    image = tf.zeros([20, 40, 3], tf.uint8)
    moved = rand_augment.translate_x(image, 0.25).numpy()
    assert (moved[:, 30:] == 127).all()
    assert (moved[:, :30] == 0).all()
    assert set(np.unique(rand_augment.rotate(image, 30.0))) == {0, 127}


def test_the_operations_are_the_fourteen_of_the_paper():
    colors = {"auto_contrast", "equalize", "solarize", "color", "posterize", "contrast", "brightness", "sharpness"}
    moves = {"rotate", "shear_x", "shear_y", "translate_x", "translate_y"}
    assert set(rand_augment.OPERATIONS) == {"identity"} | colors | moves


@pytest.mark.parametrize("name", sorted(rand_augment.OPERATIONS))
def test_magnitude_zero_changes_nothing_and_more_changes_more(name):
    image = tf.constant(IMAGES["smooth"])
    results = [
        rand_augment.OPERATIONS[name](image, strength, tf.constant(sign)).numpy().astype(int)
        for sign in (-1.0, 1.0)
        for strength in (0.0, 0.5, 1.0)
    ]
    changes = [np.abs(result - image.numpy()).mean() for result in results]
    if name in ("identity", "auto_contrast", "equalize"):
        assert len(set(changes)) == 1
    else:
        assert changes[0] == changes[3] == 0
        if name.startswith(("rotate", "shear", "translate")):  # Here the grey that comes in tells the strength.
            changes = [(result == 127).all(axis=-1).mean() for result in results]
        assert 0 < changes[1] < changes[2]
        assert 0 < changes[4] < changes[5]


def test_the_strongest_changes_are_those_of_the_paper():
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, -1)
    one = tf.constant(1.0)
    run = {name: change(tf.constant(ramp), 1.0, one).numpy() for name, change in rand_augment.OPERATIONS.items()}
    np.testing.assert_array_equal(run["solarize"], 255 - ramp)
    np.testing.assert_array_equal(run["posterize"], ramp & 0xF0)
    np.testing.assert_array_equal(run["brightness"], np.minimum((ramp.astype(np.float32) * 1.9).astype(int), 255))
    darker = rand_augment.OPERATIONS["brightness"](tf.constant(ramp), 1.0, -one).numpy()
    np.testing.assert_allclose(darker, ramp * 0.1, atol=1)
    assert (run["translate_x"][0, 256 - 115 :] == 127).all()  # 0.45 * 256 = 115.2
    assert run["translate_x"][0, 0, 0] == 115


def test_operations_and_directions_are_drawn_alike(monkeypatch):
    # Operations that mark the image: what was done, and in which direction, can be read from the pixel.
    count, names = 4000, list(rand_augment.OPERATIONS)
    marks = {
        name: lambda image, strength, sign, i=i: image + tf.constant(2 * i, tf.uint8) + tf.cast(sign > 0, tf.uint8)
        for i, name in enumerate(names)
    }
    monkeypatch.setattr(rand_augment, "OPERATIONS", marks)
    blank, options = tf.zeros([1, 1, 3], tf.uint8), rand_augment.RandAugmentOptions(1, 5.0)
    draw = tf.function(lambda seed: rand_augment.rand_augment(blank, options, seed)[0, 0, 0])
    seeds = tf.random.experimental.stateless_split([3, 4], count)
    found = collections.Counter(tf.map_fn(draw, seeds, fn_output_signature=tf.uint8).numpy().tolist())
    assert set(found) == set(range(28))
    spread = (count / 28) ** 0.5
    assert all(abs(n - count / 28) < 4.5 * spread for n in found.values())


def test_layers_follow_each_other(monkeypatch):
    monkeypatch.setattr(
        rand_augment, "OPERATIONS", {"add": lambda image, strength, sign: image + tf.constant(1, tf.uint8)}
    )
    for layers in (1, 2, 5):
        options = rand_augment.RandAugmentOptions(layers, 5.0)
        assert rand_augment.rand_augment(tf.zeros([2, 3, 3], tf.uint8), options, (1, 2)).numpy().max() == layers


def test_the_seed_alone_decides_eagerly_and_in_tf_data():
    image, options = tf.constant(IMAGES["smooth"]), rand_augment.RandAugmentOptions(2, 9.0)
    seeds = [(1, i) for i in range(8)]
    dataset = tf.data.Dataset.from_tensor_slices(seeds).map(lambda s: rand_augment.rand_augment(image, options, s))
    assert dataset.element_spec.shape == image.shape
    results = []
    for seed, mapped in zip(seeds, dataset):
        tf.random.set_seed(len(results))
        results.append(rand_augment.rand_augment(image, options, tf.constant(seed)).numpy())
        # The two ways of running may round one level apart, or a pixel between two others the other way.
        assert np.any(np.abs(mapped.numpy().astype(int) - results[-1]) > 2, axis=-1).mean() < 0.01
    assert len({result.tobytes() for result in results}) > 5


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match=r"num_layers must be at least 1\. Received: 0"):
        rand_augment.RandAugmentOptions(num_layers=0)
    for magnitude in (-1, 10.5):
        with pytest.raises(ValueError, match=rf"magnitude must lie in \[0, 10\]\. Received: {magnitude}"):
            rand_augment.RandAugmentOptions(magnitude=magnitude)
