# SPDX-License-Identifier: Apache-2.0
"""From centre heatmap and offsets to instances (Panoptic-DeepLab, Cheng et al. 2020, section 3.2).

All shapes are known at trace time where the input's are, so that XLA compiles each function. The only loop over
centres is over those that one tile of an image cannot rule out.
"""

import tensorflow as tf

# Side of a tile, pixels.
_TILE = 32
# How many of them are looked at together.
_TILES = 16
# Far above the relative error of a squared distance in float32, a few times 2^-24.
_ROUNDING = 2.0**-18


def find_centers(
    heatmap: tf.Tensor, threshold: float, nms_kernel: int, max_centers: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Peaks of the heatmap: above the threshold and the largest in their window.

    Args:
      heatmap: [H, W] float32.
      threshold: peaks must be greater.
      nms_kernel: odd side of the window, pixels.
      max_centers: K; of more peaks the K highest are kept (of equals the first in row-major order).

    Returns:
      centers: [K, 2] int32 (y, x), in row-major order; 0 in unused slots.
      scores: [K] float32, the heatmap there; 0 in unused slots.
      count: [] int32, slots in use.
    """
    height, width = _size(heatmap)
    raised = tf.where(heatmap > threshold, heatmap, 0.0)
    margin = (nms_kernel - 1) // 2
    padded = tf.pad(raised, [[margin, margin], [margin, margin]])[None, ..., None]
    # A square maximum is the maximum over columns of maxima over rows: 2 k instead of k^2 comparisons.
    largest = tf.nn.max_pool2d(padded, [nms_kernel, 1], 1, "VALID")
    largest = tf.nn.max_pool2d(largest, [1, nms_kernel], 1, "VALID")[0, ..., 0]
    peaks = tf.reshape(tf.where(raised == largest, raised, 0.0), [-1])  # [H W]
    scores, index = tf.math.top_k(peaks, tf.minimum(max_centers, height * width))
    used = scores > 0.0
    # Row-major order, unused slots last.
    order = tf.argsort(tf.where(used, index, height * width))
    scores, index, used = tf.gather(scores, order), tf.gather(index, order), tf.gather(used, order)
    index = tf.where(used, index, 0)
    centers = tf.stack([index // width, index % width], axis=-1)
    missing = max_centers - tf.shape(scores)[0]
    centers = tf.ensure_shape(tf.pad(centers, [[0, missing], [0, 0]]), [max_centers, 2])
    scores = tf.ensure_shape(tf.pad(scores, [[0, missing]]), [max_centers])
    return centers, scores, tf.reduce_sum(tf.cast(used, tf.int32))


def group_pixels(offsets: tf.Tensor, is_thing: tf.Tensor, centers: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Gives each thing pixel to the centre nearest to where its offset points.

    The squared distance decides, in float32. The image is cut into tiles. The thing pixels of a tile point into a box;
    a centre that is farther than another one from every point of the box cannot win there, and only the others are
    measured against the pixels. That is all centres where the offsets of a tile point everywhere.

    Args:
      offsets: [H, W, 2] float32, (y, x), pixels.
      is_thing: [H, W] bool, pixels whose semantic class is a thing.
      centers: [K, 2] int32 (y, x).
      count: [] int32, how many of the centres are in use.

    Returns:
      [H, W] int32: index of the centre + 1 (the first of equals), 0 off things or without any centre.
    """
    height, width = _size(is_thing)
    rows, columns = -(-height // _TILE), -(-width // _TILE)

    groups = -(-(rows * columns) // _TILES)

    def tiles(x):  # [H, W] -> [groups, tiles, pixels of a tile]
        x = tf.pad(x, [[0, rows * _TILE - height], [0, columns * _TILE - width]])
        x = tf.transpose(tf.reshape(x, [rows, _TILE, columns, _TILE]), [0, 2, 1, 3])
        x = tf.pad(tf.reshape(x, [rows * columns, _TILE**2]), [[0, groups * _TILES - rows * columns], [0, 0]])
        return tf.reshape(x, [groups, _TILES, _TILE**2])

    y = tiles(tf.cast(tf.range(height), tf.float32)[:, None] + offsets[..., 0])
    x = tiles(tf.cast(tf.range(width), tf.float32)[None, :] + offsets[..., 1])
    center = tf.cast(centers, tf.float32)
    used = tf.range(centers.shape[0]) < count
    # Few tiles at a time: the rest waits for the one with most candidates, and memory must not grow with pixels times
    # centres.
    index = tf.map_fn(
        lambda group: _nearest(*group, center, used), (y, x, tiles(is_thing)), fn_output_signature=tf.int32
    )
    index = tf.reshape(index, [groups * _TILES, _TILE**2])[: rows * columns]
    index = tf.transpose(tf.reshape(index, [rows, columns, _TILE, _TILE]), [0, 2, 1, 3])
    index = tf.reshape(index, [rows * _TILE, columns * _TILE])[:height, :width]
    return tf.where(is_thing & (count > 0), index + 1, 0)


def _nearest(y: tf.Tensor, x: tf.Tensor, is_thing: tf.Tensor, center: tf.Tensor, used: tf.Tensor) -> tf.Tensor:
    """Index of the centre [K, 2] nearest to each thing among points (y, x) of tiles [T, n]; [T, n] int32."""
    candidates, most = _candidates(y, x, is_thing, center, used)
    # A slot more, infinitely far, for tiles with fewer candidates than others.
    center_y, center_x = tf.unstack(tf.pad(center, [[0, 1], [0, 0]], constant_values=float("inf")), axis=1)

    def step(i, best, index):
        candidate = tf.gather(candidates, i, axis=1)[:, None]  # [T, 1]
        distance = tf.math.squared_difference(y, tf.gather(center_y, candidate))
        distance += tf.math.squared_difference(x, tf.gather(center_x, candidate))
        # Candidates come in ascending order: of equals the first stays.
        nearer = distance < best
        return i + 1, tf.where(nearer, distance, best), tf.where(nearer, candidate, index)

    start = (0, tf.fill(y.shape, float("inf")), tf.zeros(y.shape, tf.int32))
    return tf.while_loop(lambda i, *_: i < most, step, start)[2]


def _candidates(y: tf.Tensor, x: tf.Tensor, is_thing: tf.Tensor, center: tf.Tensor, used: tf.Tensor):
    """Centres that may be nearest to a thing of a tile: ([T, K] int32 ascending, K in the rest; [] most of a tile)."""
    ends = [_ends(points, is_thing) for points in (y, x)]
    middle = tf.concat([(low + high) / 2 for low, high in ends], axis=1)  # [T, 2]
    distance = tf.reduce_sum(tf.math.squared_difference(middle[:, None], center[None]), axis=2)
    rival = tf.gather(center, tf.argmin(tf.where(used, distance, float("inf")), axis=1))  # [T, 2]
    # By how much a centre is farther than the rival, squared, is linear in the point: least in a corner of the box.
    margin, largest = 0.0, 0.0
    for axis, box in enumerate(ends):
        squares = [tf.math.squared_difference(end, center[None, :, axis]) for end in box]  # [T, K]
        rivals = [tf.math.squared_difference(end, rival[:, axis, None]) for end in box]  # [T, 1]
        margin += tf.minimum(squares[0] - rivals[0], squares[1] - rivals[1])
        largest += tf.maximum(squares[0], squares[1])
    # Rounding must not rule out what rounding would let win. A NaN rules out nothing.
    possible = tf.logical_not(margin > _ROUNDING * largest) & used & tf.reduce_any(is_thing, axis=1, keepdims=True)
    num_slots = center.shape[0]
    candidates = tf.sort(tf.where(possible, tf.range(num_slots), num_slots), axis=1)
    return candidates, tf.reduce_max(tf.reduce_sum(tf.cast(possible, tf.int32), axis=1))


def _ends(points: tf.Tensor, mask: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Least and largest of the masked points [T, n] of each tile, [T, 1]."""
    return (
        tf.reduce_min(tf.where(mask, points, float("inf")), axis=1, keepdims=True),
        tf.reduce_max(tf.where(mask, points, -float("inf")), axis=1, keepdims=True),
    )


def _size(x: tf.Tensor) -> tuple:
    """(H, W), as numbers where they are known."""
    shape = tf.shape(x)
    return tuple(shape[i] if x.shape[i] is None else x.shape[i] for i in range(2))
