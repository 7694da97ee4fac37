# SPDX-License-Identifier: Apache-2.0
"""How sure each segment is (Panoptic-DeepLab, Cheng et al. 2020, section 3.3)."""

import tensorflow as tf

from deeplab_axial.postprocessing.merging import Merged

# Pixels are summed in this many parts first: in float32, a million numbers just below 1, added one by one, are off by
# per cents.
_PARTS = 1024


def segment_scores(
    values: tf.Tensor,
    are_logits: bool,
    semantic: tf.Tensor,
    instance: tf.Tensor,
    valid: tf.Tensor,
    merged: Merged,
    center_scores: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Scores of instances and stuff segments.

    Args:
      values: [H, W, C], class probabilities or logits.
      are_logits: whether they are logits.
      semantic: [H, W] int32, the class with the largest value.
      instance: [H, W] int32, instance of each thing pixel in 1..K, 0 elsewhere.
      valid: [H, W] bool, False on the padding around the image.
      merged: what merging made of them.
      center_scores: [K] float32.

    Returns:
      [K] float32: score of the centre x mean probability of the instance's class over its pixels, 0 without pixels;
      [C] float32: mean probability of each stuff class over its segment, 0 without one.
    """
    num_classes = values.shape[-1]
    winner = tf.gather(merged.instance_classes, tf.maximum(instance - 1, 0))
    probability = class_probability(values, are_logits, semantic, tf.where(instance > 0, winner, semantic))
    # Classes first, then instances.
    segment = tf.reshape(tf.where(instance > 0, instance - 1 + num_classes, semantic), [-1])
    num_segments = num_classes + merged.instance_areas.shape[0]
    part = tf.range(tf.size(segment)) // (-(-tf.size(segment) // _PARTS))
    probability = tf.reshape(tf.where(valid, probability, 0.0), [-1])
    sums = tf.math.unsorted_segment_sum(probability, part * num_segments + segment, _PARTS * num_segments)
    sums = tf.reduce_sum(tf.reshape(sums, [_PARTS, num_segments]), axis=0)
    stuff, things = sums[:num_classes], sums[num_classes:]
    things = tf.math.divide_no_nan(things, tf.cast(merged.instance_areas, tf.float32))
    return center_scores * things, tf.math.divide_no_nan(stuff, tf.cast(merged.stuff_areas, tf.float32))


def class_probability(values: tf.Tensor, are_logits: bool, semantic: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
    """Probability of one class a pixel.

    Args:
      values: [H, W, C], class probabilities or logits.
      are_logits: whether they are logits; only the sum of their softmax is computed then.
      semantic: [H, W] int32, the class with the largest value.
      classes: [H, W] int32, in [0, C).

    Returns:
      [H, W] float32.
    """
    values = tf.cast(values, tf.float32)
    chosen = tf.gather(values, classes, batch_dims=2)
    if not are_logits:
        return chosen
    largest = tf.gather(values, semantic, batch_dims=2)
    total = tf.reduce_sum(tf.exp(values - largest[..., None]), axis=-1)
    return tf.exp(chosen - largest) / total
