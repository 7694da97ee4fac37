# SPDX-License-Identifier: Apache-2.0
"""How sure each segment is (Panoptic-DeepLab, Cheng et al. 2020, section 3.3)."""

import tensorflow as tf

from deeplab_axial.postprocessing.merging import Merged

# Pixels are summed in this many parts first: in float32, a million numbers just below 1, added one by one, are off by
# per cents.
_PARTS = 1024
# Values that are looked at together: the softmax needs as many numbers again, of a strip instead of the image.
_VALUES_AT_ONCE = 1 << 22


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
    """Probability of one class a pixel, computed in strips of the image.

    Args:
      values: [H, W, C], class probabilities or logits.
      are_logits: whether they are logits; only the sum of their softmax is computed then.
      semantic: [H, W] int32, the class with the largest value.
      classes: [H, W] int32, in [0, C).

    Returns:
      [H, W] float32.
    """
    height, width = (size if size is not None else tf.shape(values)[i] for i, size in enumerate(values.shape[:2]))
    row = width * values.shape[-1]
    if isinstance(height, int) and isinstance(row, int):
        rows = min(height, max(1, _VALUES_AT_ONCE // row))
        if rows == height:
            return _class_probability(values, semantic, classes, are_logits)
    else:
        rows = tf.minimum(height, tf.maximum(1, _VALUES_AT_ONCE // row))
    num_strips = (height + rows - 1) // rows

    def strip(index):
        # The last one begins early enough to be as high as the others.
        first = tf.minimum(index * rows, height - rows)
        # Not x[first : first + rows], whose size XLA does not see.
        logits = tf.slice(values, [first, 0, 0], [rows, width, values.shape[2]])
        maps = (tf.slice(x, [first, 0], [rows, width]) for x in (semantic, classes))
        return _class_probability(logits, *maps, are_logits)

    strips = tf.map_fn(strip, tf.range(num_strips), fn_output_signature=tf.float32, parallel_iterations=1)
    last = strips[-1, num_strips * rows - height :]
    return tf.ensure_shape(tf.concat([tf.reshape(strips[:-1], [-1, width]), last], axis=0), values.shape[:2])


def _class_probability(values: tf.Tensor, semantic: tf.Tensor, classes: tf.Tensor, are_logits: bool) -> tf.Tensor:
    """`class_probability` of a strip."""
    values = tf.cast(values, tf.float32)
    chosen = tf.gather(values, classes, batch_dims=2)
    if not are_logits:
        return chosen
    largest = tf.gather(values, semantic, batch_dims=2)
    total = tf.reduce_sum(tf.exp(values - largest[..., None]), axis=-1)
    return tf.exp(chosen - largest) / total
