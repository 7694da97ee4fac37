# SPDX-License-Identifier: Apache-2.0
"""Training targets of Panoptic-DeepLab from a panoptic map (Cheng et al. 2020)."""

import dataclasses

import tensorflow as tf

from deeplab_axial import keys
from deeplab_axial.data.label_space import LabelSpace


@dataclasses.dataclass(frozen=True)
class TargetOptions:
    """How targets are drawn.

    Attributes:
      sigma: standard deviation of the Gaussian at a centre, pixels.
      small_instance_threshold: instances of fewer pixels count as small.
      small_instance_weight: weight of their pixels in the semantic loss; 1 treats all alike.
    """

    sigma: float = 8.0
    small_instance_threshold: int = 4096
    small_instance_weight: float = 1.0


def make_targets(
    panoptic: tf.Tensor, crowd_ids: tf.Tensor, label_space: LabelSpace, options: TargetOptions
) -> dict[str, tf.Tensor]:
    """Targets of one crop; instances are found and measured inside the crop.

    Args:
      panoptic: [H, W] int32, class * label_divisor + instance id.
      crowd_ids: [N] int32, panoptic ids that are crowd; entries that do not occur are allowed. A thing with instance
        id 0 is crowd whether it is listed or not.
      label_space: of the map.
      options: see `TargetOptions`.

    Returns:
      The target entries of keys.TABLE, without the batch axis.
    """
    divisor = label_space.label_divisor
    semantic = panoptic // divisor  # [H, W]
    things = tf.constant([i in label_space.thing_ids for i in range(label_space.num_classes)])
    is_ignored = semantic == label_space.ignore_label
    is_thing = ~is_ignored & tf.gather(things, tf.where(is_ignored, 0, semantic))
    listed = tf.reduce_any(panoptic[..., None] == crowd_ids, axis=-1)
    is_crowd = is_thing & ((panoptic % divisor == 0) | listed)
    is_instance = is_thing & ~is_crowd

    # Number the instances 1..n in the order of their ids; 0 collects the rest.
    ids, index = tf.unique(tf.reshape(tf.where(is_instance, panoptic, -1), [-1]))
    index = tf.reshape(index, tf.shape(panoptic))
    count = tf.shape(ids)[0]
    real = ids >= 0  # the entry of -1 is no instance
    area, center = _areas_and_centers(index, count)
    height, width = (s or t for s, t in zip(panoptic.shape, tf.unstack(tf.shape(panoptic))))
    ys, xs = tf.range(height), tf.range(width)
    to_center = tf.gather(center, index) - tf.stack(tf.meshgrid(ys, xs, indexing="ij"), axis=-1)
    offset_weight = tf.cast(is_instance, tf.float32)
    small = tf.gather(area < options.small_instance_threshold, index) & is_instance
    return {
        keys.SEMANTIC_TARGET: semantic,
        keys.SEMANTIC_WEIGHT: tf.where(small, options.small_instance_weight, 1.0),
        keys.CENTER_TARGET: _heatmap(tf.boolean_mask(center, real), height, width, options.sigma),
        keys.CENTER_WEIGHT: 1.0 - tf.cast(is_ignored | is_crowd, tf.float32),
        keys.OFFSET_TARGET: tf.cast(to_center, tf.float32) * offset_weight[..., None],
        keys.OFFSET_WEIGHT: offset_weight,
    }


def _areas_and_centers(index: tf.Tensor, count: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Pixels [n] and mass centre [n, 2] (y, x; rounded half to even) of each number in the map."""
    height, width = tf.shape(index)[0], tf.shape(index)[1]
    flat = tf.reshape(index, [-1])
    area = tf.math.bincount(flat, minlength=count)
    # Integer sums in float64: exact, where float32 is not from 2^24 on.
    ys = tf.repeat(tf.range(height), width)
    xs = tf.tile(tf.range(width), [height])
    sums = tf.math.unsorted_segment_sum(tf.cast(tf.stack([ys, xs], axis=-1), tf.float64), flat, count)
    center = tf.round(sums / tf.cast(tf.maximum(area, 1), tf.float64)[:, None])
    return area, tf.cast(center, tf.int32)


def _heatmap(centers: tf.Tensor, height: int | tf.Tensor, width: int | tf.Tensor, sigma: float) -> tf.Tensor:
    """Largest of the instances' Gaussians, [H, W]; each is cut off 3 sigma + 1 pixels from its centre."""
    reach = int(3 * sigma + 1)
    # The window of int(6 sigma + 3) pixels reaches one pixel less far below and to the right when 6 sigma is odd.
    beyond = int(6 * sigma + 3) - reach - 1

    def gaussian(length, center):  # -> [n, length]
        distance = tf.range(length)[None, :] - center[:, None]
        inside = (distance >= -reach) & (distance <= beyond)
        return tf.where(inside, tf.exp(-tf.square(tf.cast(distance, tf.float32)) / (2.0 * sigma**2)), 0.0)

    # Gaussians are separable, but their maximum is not: instance by instance, rows times columns.
    rows, columns = gaussian(height, centers[:, 0]), gaussian(width, centers[:, 1])

    def add(heatmap, row_and_column):
        row, column = row_and_column
        return tf.maximum(heatmap, row[:, None] * column[None, :])

    return tf.foldl(add, (rows, columns), initializer=tf.zeros([height, width]))
