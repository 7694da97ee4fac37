# SPDX-License-Identifier: Apache-2.0
"""Losses of Panoptic-DeepLab (Cheng et al. 2020): each per image, and their weighted sum."""

import dataclasses
from collections.abc import Mapping

import tensorflow as tf

from deeplab_axial import keys


@dataclasses.dataclass(frozen=True)
class LossTerm:
    """Weight of a term, and the share of the hardest pixels that count, in (0, 1]."""

    weight: float = 1.0
    top_k_percent: float = 1.0


def top_k_mean(pixel_losses: tf.Tensor, top_k_percent: float) -> tf.Tensor:
    """Mean of the largest pixel losses of each image over those that are not zero.

    Args:
      pixel_losses: [B, H, W], zero where a pixel does not count.
      top_k_percent: share of the pixels that is kept, in (0, 1].

    Returns:
      [B]; 0 for an image whose kept losses are all zero.
    """
    flat = tf.reshape(pixel_losses, [tf.shape(pixel_losses)[0], -1])  # [B, H, W] -> [B, H W]
    if top_k_percent < 1.0:
        count = tf.shape(flat)[1] if flat.shape[1] is None else flat.shape[1]
        kept = tf.cast(tf.round(tf.cast(count, tf.float32) * top_k_percent), tf.int32)
        flat = tf.math.top_k(flat, kept, sorted=False).values
    used = tf.reduce_sum(tf.cast(flat != 0.0, tf.float32), axis=1)
    return tf.math.divide_no_nan(tf.reduce_sum(flat, axis=1), used)


def semantic_loss(
    logits: tf.Tensor, target: tf.Tensor, weight: tf.Tensor, ignore_label: int, top_k_percent: float
) -> tf.Tensor:
    """Softmax cross-entropy over the hardest pixels.

    Args:
      logits: [B, H, W, C].
      target: [B, H, W] class ids, or ignore_label.
      weight: [B, H, W] of each pixel.
      ignore_label: pixels of this target do not count.
      top_k_percent: share of the hardest pixels, in (0, 1].

    Returns:
      [B].
    """
    counts = target != ignore_label
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.where(counts, target, 0), tf.cast(logits, tf.float32))
    return top_k_mean(tf.where(counts, losses * weight, 0.0), top_k_percent)


def center_loss(heatmap: tf.Tensor, target: tf.Tensor, weight: tf.Tensor, top_k_percent: float) -> tf.Tensor:
    """Squared error of the centre heatmap.

    Args:
      heatmap: [B, H, W, 1].
      target: [B, H, W].
      weight: [B, H, W] of each pixel.
      top_k_percent: share of the hardest pixels, in (0, 1].

    Returns:
      [B].
    """
    error = tf.cast(tf.squeeze(heatmap, -1), tf.float32) - target
    return top_k_mean(tf.square(error) * weight, top_k_percent)


def offset_loss(offsets: tf.Tensor, target: tf.Tensor, weight: tf.Tensor, top_k_percent: float) -> tf.Tensor:
    """Absolute error of the offsets, mean of y and x.

    Args:
      offsets: [B, H, W, 2], pixels, (y, x).
      target: [B, H, W, 2].
      weight: [B, H, W] of each pixel.
      top_k_percent: share of the hardest pixels, in (0, 1].

    Returns:
      [B].
    """
    error = tf.reduce_mean(tf.abs(tf.cast(offsets, tf.float32) - target), axis=-1)
    return top_k_mean(error * weight, top_k_percent)


class PanopticDeepLabLoss:
    """All terms of a network's loss, by name.

    Args:
      ignore_label: semantic targets of this value do not count.
      semantic: weight and top-k of the cross-entropy.
      center: of the centre heatmap; None, as for `offset`, in a network without instance heads.
      offset: of the offsets.

    Call arguments:
      targets: entries of the input pipeline, see keys.TABLE.
      outputs: the network's outputs at the size of the image.

    Returns:
      {term: [B]}, weighted, with their sum under keys.TOTAL_LOSS.
    """

    def __init__(
        self,
        ignore_label: int,
        semantic: LossTerm,
        center: LossTerm | None = None,
        offset: LossTerm | None = None,
    ):
        self.ignore_label = ignore_label
        self.semantic = semantic
        self.center = center
        self.offset = offset

    @property
    def term_names(self) -> tuple[str, ...]:
        """Names of the terms, the sum last."""
        names = [keys.SEMANTIC_LOSS]
        if self.center is not None:
            names.append(keys.CENTER_LOSS)
        if self.offset is not None:
            names.append(keys.OFFSET_LOSS)
        return (*names, keys.TOTAL_LOSS)

    def __call__(self, targets: Mapping[str, tf.Tensor], outputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        terms = {
            keys.SEMANTIC_LOSS: self.semantic.weight
            * semantic_loss(
                outputs[keys.SEMANTIC_LOGITS],
                targets[keys.SEMANTIC_TARGET],
                targets[keys.SEMANTIC_WEIGHT],
                self.ignore_label,
                self.semantic.top_k_percent,
            )
        }
        if self.center is not None:
            terms[keys.CENTER_LOSS] = self.center.weight * center_loss(
                outputs[keys.CENTER_HEATMAP],
                targets[keys.CENTER_TARGET],
                targets[keys.CENTER_WEIGHT],
                self.center.top_k_percent,
            )
        if self.offset is not None:
            terms[keys.OFFSET_LOSS] = self.offset.weight * offset_loss(
                outputs[keys.OFFSET_MAP],
                targets[keys.OFFSET_TARGET],
                targets[keys.OFFSET_WEIGHT],
                self.offset.top_k_percent,
            )
        terms[keys.TOTAL_LOSS] = tf.add_n(list(terms.values()))
        return terms
