# SPDX-License-Identifier: Apache-2.0
"""From semantic and instance maps to one panoptic map, by majority vote (Cheng et al. 2020, section 3.3)."""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf


class Merged(NamedTuple):
    """What merging decides, of K slots of instances and C classes.

    Attributes:
      panoptic: [H, W] int32, panoptic ids.
      instance_classes: [K] int32, class of each instance; -1 where a slot has no pixels.
      instance_ids: [K] int32, panoptic id of each instance; void's where a slot has no pixels or too few.
      instance_areas: [K] int32, pixels.
      stuff_areas: [C] int32, pixels of each stuff segment in the panoptic map; 0 for things and where it has too few.
      num_surplus: [] int32, instances that are void because the label divisor holds no more of their class.
    """

    panoptic: tf.Tensor
    instance_classes: tf.Tensor
    instance_ids: tf.Tensor
    instance_areas: tf.Tensor
    stuff_areas: tf.Tensor
    num_surplus: tf.Tensor


def merge(
    semantic: tf.Tensor,
    instance: tf.Tensor,
    valid: tf.Tensor,
    center_scores: tf.Tensor,
    num_classes: int,
    thing_ids: Sequence[int],
    label_divisor: int,
    ignore_label: int,
    stuff_area_limit: int = 0,
    thing_area_limit: int = 0,
) -> Merged:
    """Joins the maps; an instance takes the class that most of its pixels have (the smallest of equals).

    Instance ids count from 1 in each class, in the order in which the instances first appear. Thing pixels without an
    instance, stuff segments below stuff_area_limit and instances below thing_area_limit become void.

    Panoptic ids hold label_divisor - 1 instances of a class. Where an image has more of one, those with the highest
    centre scores (of equals the first) are kept, and the surplus becomes void.

    Args:
      semantic: [H, W] int32, class of each pixel, in [0, num_classes).
      instance: [H, W] int32, instance of each thing pixel in 1..K, 0 elsewhere.
      valid: [H, W] bool, False on the padding around the image; those pixels become void and count nowhere.
      center_scores: [K] float32, of the slots of instances; they decide which of too many instances are kept.
      num_classes: C.
      thing_ids: classes that are things.
      label_divisor: panoptic id = class * label_divisor + instance id.
      ignore_label: class of void.
      stuff_area_limit: least pixels of a stuff segment.
      thing_area_limit: least pixels of an instance.

    Returns:
      The panoptic map and its segments.
    """
    slots = center_scores.shape[0] + 1
    instance = tf.where(valid, instance, 0)
    flat_semantic, flat_instance = tf.reshape(semantic, [-1]), tf.reshape(instance, [-1])
    counts = tf.cast(tf.reshape(valid, [-1]), tf.int32)
    # One histogram over (instance, class) pairs holds every vote and every area.
    pair = flat_instance * num_classes + flat_semantic
    votes = tf.math.unsorted_segment_sum(counts, pair, slots * num_classes)
    votes = tf.reshape(votes, [slots, num_classes])[1:]  # [K, C]
    area = tf.reduce_sum(votes, axis=1)  # [K]
    winner = tf.argmax(votes, axis=1, output_type=tf.int32)  # [K]
    present = (area > 0) & (area >= thing_area_limit)
    fits = present & _fits(winner, present, center_scores, label_divisor)

    position = tf.range(tf.size(flat_instance))
    first = tf.math.unsorted_segment_min(position, flat_instance, slots)[1:]  # [K]
    # Instances of the same class that appear before, [K, K] summed over the second axis.
    before = fits[None, :] & (winner[None, :] == winner[:, None]) & (first[None, :] < first[:, None])
    number = tf.reduce_sum(tf.cast(before, tf.int32), axis=1) + 1
    void = ignore_label * label_divisor
    instance_id = tf.where(fits, winner * label_divisor + number, void)  # [K]

    is_thing = [c in set(thing_ids) for c in range(num_classes)]
    class_area = tf.math.unsorted_segment_sum(counts, flat_semantic, num_classes)
    kept = tf.logical_not(is_thing) & (class_area >= stuff_area_limit)
    stuff_id = tf.where(kept, tf.range(num_classes) * label_divisor, void)  # [C]; things without instance are void
    of_thing, of_stuff = tf.gather(instance_id, tf.maximum(instance - 1, 0)), tf.gather(stuff_id, semantic)
    return Merged(
        panoptic=tf.where(valid, tf.where(instance > 0, of_thing, of_stuff), void),
        instance_classes=tf.where(area > 0, winner, -1),
        instance_ids=instance_id,
        instance_areas=area,
        stuff_areas=tf.where(kept, class_area, 0),
        num_surplus=tf.reduce_sum(tf.cast(present, tf.int32) - tf.cast(fits, tf.int32)),
    )


def _fits(classes: tf.Tensor, present: tf.Tensor, scores: tf.Tensor, label_divisor: int) -> tf.Tensor:
    """[K] bool: which instances have fewer than label_divisor - 1 better ones of their class; see `merge`."""
    if scores.shape[0] < label_divisor:  # there cannot be too many
        return tf.ones_like(present)
    slots = tf.range(scores.shape[0])
    better = (scores[None, :] > scores[:, None]) | (
        (scores[None, :] == scores[:, None]) & (slots[None, :] < slots[:, None])
    )
    better &= present[None, :] & (classes[None, :] == classes[:, None])
    return tf.reduce_sum(tf.cast(better, tf.int32), axis=1) < label_divisor - 1
