# SPDX-License-Identifier: Apache-2.0
"""Colour operations against Pillow's, and the policies' frequencies."""

import collections
import time

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from deeplab_axial.data import autoaugment

SCALED = "simple_classification_policy_magnitude_scale_0.2"
FACTORS = (0.1, 0.352, 0.46, 1.0, 1.72, 1.9)


def _images() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    noise = rng.integers(0, 256, (37, 53, 3), np.uint8)
    smooth = np.asarray(Image.fromarray(noise[:8, :9]).resize((203, 151), Image.Resampling.BICUBIC))
    return {
        "noise": noise,
        "smooth": smooth // 2 + 30,
        "one value": np.full([40, 30, 3], 77, np.uint8),
        "two values": np.where(noise > 100, np.uint8(200), np.uint8(9)),
        "row": noise[:1],
        "pixel": noise[:1, :1],
    }


IMAGES = _images()


def _distance(found: tf.Tensor, expected: Image.Image) -> int:
    assert found.dtype == tf.uint8
    return int(np.abs(found.numpy().astype(int) - np.asarray(expected).astype(int)).max())


@pytest.mark.parametrize("name", IMAGES)
def test_equalize_and_solarize_are_those_of_pillow(name):
    image = IMAGES[name]
    assert _distance(autoaugment.equalize(tf.constant(image)), ImageOps.equalize(Image.fromarray(image))) == 0
    for threshold in (0, 35, 128, 256):
        expected = ImageOps.solarize(Image.fromarray(image), threshold)
        assert _distance(autoaugment.solarize(tf.constant(image), threshold), expected) == 0


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("name", [name for name in IMAGES if name not in ("row", "pixel")])
def test_color_brightness_and_sharpness_are_those_of_pillow(name, factor):
    image, pillow = tf.constant(IMAGES[name]), Image.fromarray(IMAGES[name])
    # Weights of the grey value, and rounding, differ by one level; a factor beyond 1 may double that.
    tolerance = 1 if factor <= 1 else 2
    assert _distance(autoaugment.color(image, factor), ImageEnhance.Color(pillow).enhance(factor)) <= tolerance
    assert _distance(autoaugment.brightness(image, factor), ImageEnhance.Brightness(pillow).enhance(factor)) <= 1
    assert _distance(autoaugment.sharpness(image, factor), ImageEnhance.Sharpness(pillow).enhance(factor)) <= tolerance


@pytest.mark.parametrize("name", ["row", "pixel"])
def test_sharpness_leaves_the_border(name):
    np.testing.assert_array_equal(autoaugment.sharpness(tf.constant(IMAGES[name]), 0.3), IMAGES[name])


def test_contrast_is_that_of_pillow_only_where_pixels_over_256_is_the_mean():
    # 120 x 256 pixels / 256 = 120, the mean of this grey image.
    ramp = np.repeat(np.repeat(np.arange(120, dtype=np.uint8)[:, None], 256, 1)[..., None], 3, -1) + 60
    image = tf.constant(ramp)
    for factor in FACTORS:
        expected = ImageEnhance.Contrast(Image.fromarray(ramp)).enhance(factor)
        assert _distance(autoaugment.contrast(image, factor), expected) <= 1
    large = tf.fill([300, 300, 3], tf.constant(50, tf.uint8))
    np.testing.assert_array_equal(autoaugment.contrast(large, 0.46), np.full([300, 300, 3], int(255 - 0.46 * 205)))


def test_level_five_changes_nothing():
    image = tf.constant(IMAGES["noise"])
    for name in ("color", "contrast", "brightness", "sharpness"):
        np.testing.assert_array_equal(autoaugment.OPERATIONS[name](5)(image), image)


def test_the_scaled_policy_has_a_fifth_of_the_levels():
    plain, scaled = autoaugment.POLICIES["simple_classification_policy"], autoaugment.POLICIES[SCALED]
    assert len(plain) == len(scaled) == 5
    for some, others in zip(plain, scaled):
        assert [operation[:2] for operation in some] == [operation[:2] for operation in others]
        assert [operation.level * 0.2 for operation in some] == [operation.level for operation in others]
    for policy in plain:
        for operation in policy:
            assert operation.name in autoaugment.OPERATIONS
            assert 0 < operation.probability <= 1
            assert 0 <= operation.level <= 10


def test_each_outcome_is_as_frequent_as_the_policy_says(monkeypatch):
    # Operations that mark the image: what was done, and in which order, can be read from the pixel.
    names = ("sharpness", "brightness", "contrast", "color", "solarize", "equalize")
    marks = {
        name: lambda level, i=i: lambda image: image * 7 + tf.constant(i, tf.uint8) for i, name in enumerate(names, 1)
    }
    monkeypatch.setattr(autoaugment, "OPERATIONS", marks)
    expected = collections.Counter()
    for policy in autoaugment.POLICIES[SCALED]:
        outcomes = {0: 0.2}
        for operation in policy:
            number = names.index(operation.name) + 1
            done = {mark * 7 + number: p * operation.probability for mark, p in outcomes.items()}
            outcomes = {mark: p * (1 - operation.probability) for mark, p in outcomes.items()} | done
        expected.update(outcomes)

    count = 4000
    seeds = tf.random.experimental.stateless_split([3, 4], count)
    draw = tf.function(lambda seed: autoaugment.apply_policy(tf.zeros([1, 1, 3], tf.uint8), SCALED, seed)[0, 0, 0])
    found = collections.Counter(tf.map_fn(draw, seeds, fn_output_signature=tf.uint8).numpy().tolist())
    assert set(found) <= set(expected)
    for mark, probability in expected.items():
        spread = (probability * (1 - probability) / count) ** 0.5
        assert abs(found[mark] / count - probability) < 4 * spread


def test_the_seed_alone_decides():
    image = tf.constant(IMAGES["smooth"])
    compiled = tf.function(autoaugment.apply_policy)
    results = []
    for i in range(12):
        results.append(autoaugment.apply_policy(image, SCALED, tf.constant([1, i])).numpy())
        tf.random.set_seed(i)
        np.testing.assert_array_equal(compiled(image, SCALED, tf.constant([1, i])), results[-1])
    assert len({result.tobytes() for result in results}) > 3


def test_an_unknown_policy_is_refused():
    with pytest.raises(ValueError, match=f"Known: simple_classification_policy, {SCALED}. Received: 'x'"):
        autoaugment.apply_policy(tf.zeros([2, 2, 3], tf.uint8), "x", (0, 0))


def test_a_large_image_takes_well_below_a_second():
    image = tf.cast(tf.random.stateless_uniform([1024, 2048, 3], (1, 2), 0, 256, tf.int32), tf.uint8)
    for name, operation in autoaugment.OPERATIONS.items():
        run = tf.function(operation(1.4))
        run(image)
        start = time.perf_counter()
        run(image)
        assert time.perf_counter() - start < 2, name  # 5 to 90 ms on two idle cores
