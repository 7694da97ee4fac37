# SPDX-License-Identifier: Apache-2.0
"""Training targets of Panoptic-DeepLab from a panoptic map (Cheng et al. 2020)."""

import dataclasses

import numpy as np
import tensorflow as tf

from deeplab_axial import keys
from deeplab_axial.data.label_space import LabelSpace

# Bounds the memory of the heatmap: indices and values of a window of sigma 8 are 30 KiB.
_WINDOWS_AT_ONCE = 512


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
    height, width = (s or t for s, t in zip(panoptic.shape, tf.unstack(tf.shape(panoptic))))
    run, begin, length = _find_runs(panoptic)
    ids, number = tf.unique(tf.gather(tf.reshape(panoptic, [-1]), begin))  # [n], [R]
    label = ids // divisor
    things = tf.constant([i in label_space.thing_ids for i in range(label_space.num_classes)])
    is_ignored = label == label_space.ignore_label
    is_thing = ~is_ignored & tf.gather(things, tf.where(is_ignored, 0, label))
    is_crowd = is_thing & ((ids % divisor == 0) | _is_among(ids, crowd_ids))
    is_instance = is_thing & ~is_crowd
    area, center = _areas_and_centers(begin, length, number, tf.size(ids), width)
    is_small = is_instance & (area < options.small_instance_threshold)

    def paint(values):  # [n, ...] -> [H, W, ...]
        # By way of the runs: their values lie side by side in memory, those of the ids do not.
        painted = tf.gather(tf.gather(values, number), run)
        return tf.reshape(painted, [height, width, *values.shape[1:]])

    offset_weight = paint(tf.cast(is_instance, tf.float32))
    grid = tf.stack(tf.meshgrid(tf.range(height), tf.range(width), indexing="ij"), axis=-1)
    to_center = paint(tf.cast(center, tf.float32)) - tf.cast(grid, tf.float32)
    return {
        keys.SEMANTIC_TARGET: paint(label),
        keys.SEMANTIC_WEIGHT: paint(tf.where(is_small, options.small_instance_weight, 1.0)),
        keys.CENTER_TARGET: _heatmap(tf.boolean_mask(center, is_instance), height, width, options.sigma),
        keys.CENTER_WEIGHT: paint(1.0 - tf.cast(is_ignored | is_crowd, tf.float32)),
        keys.OFFSET_TARGET: to_center * offset_weight[..., None],
        keys.OFFSET_WEIGHT: offset_weight,
    }


def _find_runs(panoptic: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Cuts the map [H, W] into R runs, neighbours in a row with one id: there are far fewer of them than pixels.

    Returns:
      The number of each pixel's run, int32 [H * W]; the first pixel of each run, int64 [R], counted row by row; its
      length in pixels, int64 [R].
    """
    changes = tf.pad(panoptic[:, 1:] != panoptic[:, :-1], [[0, 0], [1, 0]], constant_values=True)
    changes = tf.reshape(changes, [-1])
    begin = tf.where(changes)[:, 0]
    end = tf.concat([begin[1:], tf.size(changes, tf.int64)[None]], axis=0)
    return tf.cumsum(tf.cast(changes, tf.int32)) - 1, begin, end - begin


def _is_among(ids: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    """Whether each of `ids` [n] occurs in `others` [N], by binary search."""
    others = tf.sort(others)
    place = tf.searchsorted(others, ids)
    return tf.gather(tf.concat([others, [-1]], axis=0), place) == ids  # no id is -1


def _areas_and_centers(
    begin: tf.Tensor, length: tf.Tensor, number: tf.Tensor, count: tf.Tensor, width: int | tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Pixels [n] and mass centre [n, 2] (y, x; rounded half to even, int32) of each id, from its runs.

    Args:
      begin: int64 [R], see `_find_runs`.
      length: int64 [R], see `_find_runs`.
      number: int32 [R], which of the ids the run has.
      count: n, the number of ids.
      width: of the map, pixels.
    """
    width = tf.cast(width, tf.int64)
    y, x = begin // width, begin % width
    sums = tf.stack([length, y * length, x * length + length * (length - 1) // 2], axis=-1)
    sums = tf.math.unsorted_segment_sum(sums, number, count)
    area = sums[:, 0]
    return area, tf.cast(tf.round(sums[:, 1:] / area[:, None]), tf.int32)


def _heatmap(centers: tf.Tensor, height: int | tf.Tensor, width: int | tf.Tensor, sigma: float) -> tf.Tensor:
    """Largest of the instances' Gaussians, [H, W]; each is cut off 3 sigma + 1 pixels from its centre [n, 2]."""
    reach = int(3 * sigma + 1)
    # The window of int(6 sigma + 3) pixels reaches one pixel less far below and to the right when 6 sigma is odd.
    side = int(6 * sigma + 3)
    distance = np.arange(side) - reach
    gaussian = np.exp(-np.square(distance) / (2.0 * sigma**2)).astype(np.float32)
    window = tf.constant(np.outer(gaussian, gaussian).ravel())
    # On a map with a border as wide as a window no window ends outside.
    row = width + side
    places = tf.reshape(tf.range(side)[:, None] * row + tf.range(side), [-1])
    first = centers[:, 0] * row + centers[:, 1]
    count = tf.size(first)

    def add(done, heatmap):
        some = first[done : done + _WINDOWS_AT_ONCE]
        places_of_some = tf.reshape(some[:, None] + places, [-1, 1])
        values = tf.tile(window, [tf.size(some)])
        return done + _WINDOWS_AT_ONCE, tf.tensor_scatter_nd_max(heatmap, places_of_some, values)

    empty = tf.zeros([(height + side) * row])
    _, heatmap = tf.while_loop(lambda done, _: done < count, add, (0, empty), parallel_iterations=1)
    heatmap = tf.reshape(heatmap, [height + side, row])
    return heatmap[reach : reach + height, reach : reach + width]
