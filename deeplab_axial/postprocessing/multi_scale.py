# SPDX-License-Identifier: Apache-2.0
"""Multi-scale and mirrored inference: the mean of what a network says about variants of an image."""

import dataclasses
import fractions
import math
from collections.abc import Callable, Mapping

import tensorflow as tf

from deeplab_axial import keys

Outputs = Mapping[str, tf.Tensor]
# (height, width), numbers or a tensor
Size = tuple[int, int] | tf.Tensor


@dataclasses.dataclass(frozen=True)
class MultiScale:
    """Runs a network on an image at several scales, mirrored too, and averages.

    The rule is DeepLab2's: class probabilities (not logits), heatmaps and offsets are averaged plainly, all variants
    with the same weight. A batch is scaled and mirrored as it comes, its padding included, so that an image is
    predicted the same whatever shares its batch.

    Attributes:
      scales: of the image, each above 0.
      flip: whether each scale is also seen mirrored left to right.

    Raises:
      ValueError: there is no scale, or one that is not above 0.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    def __post_init__(self):
        if not self.scales or not all(math.isfinite(scale) and scale > 0 for scale in self.scales):
            raise ValueError(f"scales must be numbers above 0, one or more. Received: {self.scales}. Give (1.0,)")

    @property
    def is_plain(self) -> bool:
        """Whether the image itself is the only variant."""
        return self.scales == (1.0,) and not self.flip

    def __str__(self) -> str:
        shown = ", ".join(f"{scale:g}" for scale in self.scales)
        return f"scale{'s' if len(self.scales) > 1 else ''} {shown}{', plain and mirrored' if self.flip else ''}"

    def __call__(
        self,
        images: tf.Tensor,
        size: Size,
        network: Callable[[tf.Tensor, float], Outputs],
        upsample: Callable[[Outputs, Size], Outputs],
    ) -> dict[str, tf.Tensor]:
        """The mean outputs at the size of the images.

        Args:
          images: [B, H, W, 3].
          size: (H, W).
          network: (images at a scale [B, h, w, 3], the scale) -> raw outputs, with offsets in pixels of their map.
          upsample: (raw outputs, (H, W)) -> outputs at this size, with offsets in its pixels.

        Returns:
          {keys.SEMANTIC_PROBS: [B, H, W, C], keys.CENTER_HEATMAP: [B, H, W, 1], keys.OFFSET_MAP: [B, H, W, 2]}; the
          last two if the network has them.
        """
        total: dict[str, tf.Tensor] = {}
        variants = [(scale, mirrored) for scale in self.scales for mirrored in (False, True)[: 1 + self.flip]]
        for scale, mirrored in variants:
            # One variant after the other: a graph would run them side by side, at a multiple of the memory.
            with tf.control_dependencies(list(total.values())):
                x = tf.identity(images)
            if scale != 1:
                x = _resize(x, size, scaled_size(size, scale))
            outputs = mirror(network(tf.reverse(x, [2]), scale)) if mirrored else network(x, scale)
            outputs = dict(upsample(outputs, size))
            outputs[keys.SEMANTIC_PROBS] = tf.nn.softmax(outputs.pop(keys.SEMANTIC_LOGITS))
            total = {key: total[key] + value if total else value for key, value in outputs.items()}
        return {key: value / len(variants) for key, value in total.items()}


# The image itself alone.
PLAIN = MultiScale()


def scaled_size(size: Size, scale: float) -> Size:
    """int((n - 1) * scale + 1) for both sides: a corner pixel stays in its corner, and os * k + 1 keeps its form.

    Args:
      size: (height, width), numbers or a [2] int32 tensor.
      scale: with at most four decimals.

    Returns:
      The size, of the same kind.
    """
    # Whole numbers: 100 * 0.29 is less than 29 in floating point.
    ratio = fractions.Fraction(scale).limit_denominator(10_000)
    if tf.is_tensor(size):
        return (size - 1) * ratio.numerator // ratio.denominator + 1
    height, width = ((n - 1) * ratio.numerator // ratio.denominator + 1 for n in size)
    return height, width


def mirror(outputs: Outputs) -> dict[str, tf.Tensor]:
    """Outputs [B, h, w, C] turned left to right; what pointed right, by its offset, then points left."""
    mirrored = {key: tf.reverse(value, [2]) for key, value in outputs.items()}
    if keys.OFFSET_MAP in mirrored:
        mirrored[keys.OFFSET_MAP] *= tf.constant([1.0, -1.0], mirrored[keys.OFFSET_MAP].dtype)
    return mirrored


def _resize(images: tf.Tensor, size: Size, new_size: Size) -> tf.Tensor:
    """Bilinear resize that maps corner pixels onto corner pixels, [B, *size, C] to [B, *new_size, C].

    Not ResizeBilinear, which is wrong at 7 / 4 of the size, by a whole pixel in places, once XLA has compiled it
    (TensorFlow 2.21): 7 steps of 4 / 7 are not quite 4 there.
    """
    for axis in (1, 2):
        last, steps = size[axis - 1] - 1, new_size[axis - 1] - 1
        position = tf.range(steps + 1) * last
        divisor = tf.maximum(steps, 1)
        low = position // divisor
        weight = tf.cast(position % divisor, tf.float32) / tf.cast(divisor, tf.float32)
        below = tf.gather(images, low, axis=axis)
        above = tf.gather(images, tf.minimum(low + 1, last), axis=axis)
        images = below + (above - below) * tf.reshape(weight, [-1, 1, 1] if axis == 1 else [-1, 1])
    return images
