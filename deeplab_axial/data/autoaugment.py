# SPDX-License-Identifier: Apache-2.0
"""AutoAugment policies (Cubuk et al. 2019): random changes of the colours of a training image.

The policies are DeepLab2's, by its names. Their operations change colours only, so the labels stay as they are.
`equalize`, `solarize`, `color`, `brightness` and `sharpness` do what Pillow's ImageOps and ImageEnhance do, to one grey
level; `contrast` does not, see there.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf


class Operation(NamedTuple):
    """One step of a sub-policy.

    Attributes:
      name: key of OPERATIONS.
      probability: of doing it.
      level: how strongly, from 0 to 10.
    """

    name: str
    probability: float
    level: float


def equalize(image: tf.Tensor) -> tf.Tensor:
    """Spreads the values of each channel so that all are about equally frequent.

    Args:
      image: [H, W, 3] uint8; the same for all operations.

    Returns:
      [H, W, 3] uint8; the same for all operations.
    """
    value = tf.cast(image, tf.int32) + 256 * tf.range(3)  # the channels side by side
    histogram = tf.reshape(tf.math.bincount(tf.reshape(value, [-1]), minlength=768, maxlength=768), [3, 256])
    last = 255 - tf.argmax(tf.cast(histogram[:, ::-1] > 0, tf.int32), axis=1, output_type=tf.int32)
    step = (tf.reduce_sum(histogram, axis=1) - tf.gather(histogram, last, batch_dims=1)) // 255  # [3]
    below = tf.cumsum(histogram, axis=1, exclusive=True)  # [3, 256]
    table = tf.minimum((below + step[:, None] // 2) // tf.maximum(step, 1)[:, None], 255)
    # A channel of few pixels or of one value stays as it is.
    table = tf.where(step[:, None] > 0, table, tf.range(256))
    return tf.gather(tf.cast(tf.reshape(table, [-1]), tf.uint8), value)


def solarize(image: tf.Tensor, threshold: int) -> tf.Tensor:
    """Inverts the values from `threshold` (0 to 256) on."""
    return tf.where(tf.cast(image, tf.int32) < threshold, image, 255 - image)


def color(image: tf.Tensor, factor: float) -> tf.Tensor:
    """Saturation: 0 gives grey, 1 the image."""
    return blend(tf.image.rgb_to_grayscale(image), image, factor)


def contrast(image: tf.Tensor, factor: float) -> tf.Tensor:
    """Moves the image towards one grey: 0 gives this grey, 1 the image.

    In DeepLab2, whose trained models this is to reproduce, the grey is not the mean of the image but its number of
    pixels / 256, and so white from 65280 pixels on.
    """
    size = tf.cast(tf.shape(image), tf.float32)
    grey = tf.minimum(size[0] * size[1] / 256.0, 255.0)
    return blend(tf.fill([1, 1, 1], tf.cast(grey, tf.uint8)), image, factor)


def brightness(image: tf.Tensor, factor: float) -> tf.Tensor:
    """0 gives black, 1 the image."""
    return blend(tf.zeros([1, 1, 1], tf.uint8), image, factor)


def sharpness(image: tf.Tensor, factor: float) -> tf.Tensor:
    """0 gives the image smoothed by a 3 x 3 window (its border as it is), 1 the image."""
    value = tf.cast(image, tf.float32)
    padded = tf.pad(value, [[1, 1], [1, 1], [0, 0]])
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    smooth = (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * value) / 13  # weight 5 in the middle, 1 around it
    height, width = tf.unstack(tf.shape(image)[:2])
    y, x = tf.range(height)[:, None], tf.range(width)
    inside = (y > 0) & (y < height - 1) & (x > 0) & (x < width - 1)
    return blend(tf.where(inside[..., None], tf.cast(smooth, tf.uint8), image), image, factor)


def blend(low: tf.Tensor, image: tf.Tensor, factor: float) -> tf.Tensor:
    """low + factor * (image - low), cut to uint8; `low` is uint8 of the image's shape or broadcast to it."""
    low, image = tf.cast(low, tf.float32), tf.cast(image, tf.float32)
    return tf.cast(tf.clip_by_value(low + factor * (image - low), 0.0, 255.0), tf.uint8)


def _factor(level: float) -> float:
    """Level 5 leaves the image as it is."""
    return level / 10 * 1.8 + 0.1


# name -> level -> operation on an image
OPERATIONS: dict[str, Callable[[float], Callable[[tf.Tensor], tf.Tensor]]] = {
    "equalize": lambda level: equalize,
    "solarize": lambda level: functools.partial(solarize, threshold=int(level / 10 * 256)),
    "color": lambda level: functools.partial(color, factor=_factor(level)),
    "contrast": lambda level: functools.partial(contrast, factor=_factor(level)),
    "brightness": lambda level: functools.partial(brightness, factor=_factor(level)),
    "sharpness": lambda level: functools.partial(sharpness, factor=_factor(level)),
}


def _simple_classification_policy(level_scale: float) -> tuple[tuple[Operation, ...], ...]:
    policies = (
        (Operation("sharpness", 0.4, 7), Operation("brightness", 0.2, 10)),
        (Operation("contrast", 0.2, 10),),
        (Operation("sharpness", 0.2, 9), Operation("color", 0.2, 9)),
        (Operation("solarize", 0.2, 7), Operation("equalize", 0.6, 9)),
        (Operation("sharpness", 0.2, 1), Operation("equalize", 0.2, 7)),
    )
    return tuple(tuple(op._replace(level=op.level * level_scale) for op in policy) for policy in policies)


# name -> sub-policies
POLICIES: dict[str, tuple[tuple[Operation, ...], ...]] = {
    "simple_classification_policy": _simple_classification_policy(1.0),
    "simple_classification_policy_magnitude_scale_0.2": _simple_classification_policy(0.2),
}


def apply_policy(image: tf.Tensor, name: str, seed: tf.Tensor) -> tf.Tensor:
    """Draws one sub-policy, all alike, and does each of its operations with the operation's probability.

    Args:
      image: [H, W, 3] uint8.
      name: key of POLICIES.
      seed: [2] integers.

    Returns:
      [H, W, 3] uint8.
    """
    if name not in POLICIES:
        raise ValueError(f"Unknown AutoAugment policy. Known: {', '.join(POLICIES)}. Received: {name!r}")
    seeds = tf.random.experimental.stateless_split(seed, 2)
    policies = POLICIES[name]
    choice = tf.random.stateless_uniform([], seeds[0], 0, len(policies), tf.int32)
    chances = tf.random.stateless_uniform([max(map(len, policies))], seeds[1])

    def run(policy: tuple[Operation, ...]) -> tf.Tensor:
        result = image
        for i, operation in enumerate(policy):
            change = OPERATIONS[operation.name](operation.level)
            result = tf.cond(
                chances[i] < operation.probability,
                lambda result=result, change=change: change(result),
                lambda result=result: tf.identity(result),
            )
        return result

    return tf.switch_case(choice, [functools.partial(run, policy) for policy in policies])
