# SPDX-License-Identifier: Apache-2.0
"""From centre heatmap and offsets to instances (Panoptic-DeepLab, Cheng et al. 2020, section 3.2).

All shapes are known at trace time where the input's are, so that XLA compiles each function; there is no loop over
instances.
"""

import tensorflow as tf

# Distances held at a time, pixels times centres: 16 MiB.
_CHUNK_ELEMENTS = 2**22


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

    Args:
      offsets: [H, W, 2] float32, (y, x), pixels.
      is_thing: [H, W] bool, pixels whose semantic class is a thing.
      centers: [K, 2] int32 (y, x).
      count: [] int32, how many of the centres are in use.

    Returns:
      [H, W] int32: index of the centre + 1 (the first of equals), 0 off things or without any centre.
    """
    height, width = _size(is_thing)
    num_slots = centers.shape[0]
    grid = tf.stack(tf.meshgrid(tf.range(height), tf.range(width), indexing="ij"), axis=-1)
    target = tf.reshape(tf.cast(grid, tf.float32) + offsets, [-1, 2])  # [P, 2], P = H W
    center = tf.cast(centers, tf.float32)
    unused = tf.where(tf.range(num_slots) < count, 0.0, float("inf"))

    def nearest(points):  # [p, 2] -> [p]
        distance = tf.square(points[:, :1] - center[None, :, 0]) + tf.square(points[:, 1:] - center[None, :, 1])
        return tf.argmin(distance + unused, axis=1, output_type=tf.int32)

    # A share of the pixels at a time, so that memory does not grow with pixels x centres.
    size = max(1, _CHUNK_ELEMENTS // num_slots)
    pixels = height * width
    chunks = (pixels + size - 1) // size
    if isinstance(pixels, int):
        size = (pixels + chunks - 1) // chunks
    padded = tf.pad(target, [[0, chunks * size - pixels], [0, 0]])
    index = tf.map_fn(nearest, tf.reshape(padded, [chunks, size, 2]), fn_output_signature=tf.int32)
    index = tf.reshape(tf.reshape(index, [-1])[:pixels], [height, width])
    return tf.where(is_thing & (count > 0), index + 1, 0)


def _size(x: tf.Tensor) -> tuple:
    """(H, W), as numbers where they are known."""
    shape = tf.shape(x)
    return tuple(shape[i] if x.shape[i] is None else x.shape[i] for i in range(2))
