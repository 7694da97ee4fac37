# SPDX-License-Identifier: Apache-2.0
"""Windows of scaled images, sampled from the encoded images: no more is decoded and scaled than is worth its while.

Positions are those of TensorFlow's resizing with corners onto corners: pixel i of h scaled pixels lies at
i * (H - 1) / (h - 1) of H pixels on disk.
"""

import tensorflow as tf

from deeplab_axial.data import image_bytes, transforms

# A sampled pixel of the window takes about as long as so many scaled pixels of the whole image: TensorFlow's op that
# scales whole images is by far the quicker one.
_WORTH_SAMPLING = 4
# The decoder makes up missing chroma at a window's border, and its neighbour is mixed with it.
_JPEG_MARGIN = 2


def decode_window(encoded: tf.Tensor, size: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
    """Decodes a part of an image file; of a JPEG, little more than this part is decoded.

    Equal to decoding all and cutting out the window. For this a JPEG is decoded with a border of two pixels, since
    TensorFlow's decoder gives other colours along the edges of a cropped image with subsampled chroma.

    Args:
      encoded: string [], a JPEG or PNG file.
      size: [2] int32 (height, width) of the whole image, pixels.
      window: [4] int32 (top, left, height, width), pixels, inside the image.

    Returns:
      [height, width, 3] uint8, RGB.
    """
    corner, extent = window[:2], window[2:]

    def from_jpeg():
        start = tf.maximum(corner - _JPEG_MARGIN, 0)
        end = tf.minimum(corner + extent + _JPEG_MARGIN, size)
        part = tf.image.decode_and_crop_jpeg(encoded, tf.concat([start, end - start], axis=0), channels=3)
        return tf.slice(part, tf.concat([corner - start, [0]], axis=0), shape)

    def from_other():
        image = image_bytes.decode_tf(encoded)
        return tf.slice(image, tf.concat([corner, [0]], axis=0), shape)

    shape = tf.concat([extent, [3]], axis=0)
    return tf.ensure_shape(tf.cond(tf.io.is_jpeg(encoded), from_jpeg, from_other), [None, None, 3])


def sample_image(encoded: tf.Tensor, size: tf.Tensor, scaled: tf.Tensor | None, window: transforms.Window) -> tf.Tensor:
    """A window of an image that was scaled bilinearly.

    Equal to decoding, scaling and cutting, but for the rounding of positions: at most 2^-10 pixels in images of 4096.

    Args:
      encoded: string [], a JPEG or PNG file.
      size: [2] int32 (height, width) of the image, pixels; checked.
      scaled: [2] int32, its size after scaling; None leaves the size.
      window: in the scaled image.

    Returns:
      [height, width, 3] float32, 0 to 255, of the window's size.
    """

    def whole():
        image = decode_image(encoded, size)
        if scaled is not None:
            image = transforms.resize(image, scaled)
        return tf.cast(transforms.cut(image, window), tf.float32)

    def part():
        if scaled is None:
            return tf.cast(_decode_part(encoded, size, window.corner, window.size), tf.float32)
        return _sample_part(encoded, size, scaled, window)

    pixels = tf.reduce_prod(tf.cast(size if scaled is None else scaled, tf.float32))
    is_small = pixels > _WORTH_SAMPLING * tf.reduce_prod(tf.cast(window.size, tf.float32))
    return tf.ensure_shape(tf.cond(is_small, part, whole), [None, None, 3])


def _sample_part(encoded: tf.Tensor, size: tf.Tensor, scaled: tf.Tensor, window: transforms.Window) -> tf.Tensor:
    scale = _pixels_a_pixel(size, scaled)
    first = tf.cast(window.corner, tf.float32) * scale
    last = tf.cast(window.corner + window.size - 1, tf.float32) * scale
    start = tf.cast(first, tf.int32)
    stop = tf.minimum(tf.cast(last, tf.int32) + 2, size)  # each position lies between two pixels
    image = _decode_part(encoded, size, start, stop - start)
    # Once more the last row and column: what rounding puts a hair beyond them is not outside then.
    image = tf.concat([image, image[-1:]], axis=0)
    image = tf.concat([image, image[:, -1:]], axis=1)
    length = tf.cast(stop - start, tf.float32)
    box = tf.concat([(first - tf.cast(start, tf.float32)) / length, (last - tf.cast(start, tf.float32)) / length], 0)
    return tf.image.crop_and_resize(image[None], box[None], [0], window.size)[0]


def _decode_part(encoded: tf.Tensor, size: tf.Tensor, corner: tf.Tensor, extent: tf.Tensor) -> tf.Tensor:
    """A part of an image, uint8; of a JPEG, little more than this part is decoded."""

    def from_jpeg():
        found = tf.image.extract_jpeg_shape(encoded)[:2]
        with tf.control_dependencies([_assert_size(found, size)]):
            return decode_window(encoded, size, tf.concat([corner, extent], axis=0))

    def from_other():
        return transforms.cut(decode_image(encoded, size), transforms.Window(corner, extent))

    return tf.cond(tf.io.is_jpeg(encoded), from_jpeg, from_other)


def sample_labels(panoptic: tf.Tensor, scaled: tf.Tensor | None, window: transforms.Window) -> tf.Tensor:
    """A window of a map that was scaled to the nearest pixel.

    Args:
      panoptic: [H, W] int32.
      scaled: [2] int32 (height, width), the map's size after scaling; None leaves the size.
      window: in the scaled map.

    Returns:
      [height, width] int32, of the window's size.
    """
    if scaled is None:
        return transforms.cut(panoptic, window)
    size = tf.shape(panoptic)
    scale = _pixels_a_pixel(size, scaled)

    def nearest(axis):
        place = tf.cast(window.corner[axis] + tf.range(window.size[axis]), tf.float32) * scale[axis]
        return tf.minimum(tf.cast(place + 0.5, tf.int32), size[axis] - 1)

    return tf.gather(tf.gather(panoptic, nearest(0)), nearest(1), axis=1)


def _pixels_a_pixel(size: tf.Tensor, scaled: tf.Tensor) -> tf.Tensor:
    """Pixels on disk from one scaled pixel to the next, [2] float32, in the arithmetic of TensorFlow's resizing."""
    return tf.cast(size - 1, tf.float32) / tf.cast(tf.maximum(scaled - 1, 1), tf.float32)


def decode_image(encoded: tf.Tensor, size: tf.Tensor | None = None) -> tf.Tensor:
    """A whole image.

    Args:
      encoded: string [], a JPEG or PNG file.
      size: [2] int32 (height, width) that its record says; another one fails. None leaves this unchecked.

    Returns:
      [H, W, 3] uint8, RGB.
    """
    image = image_bytes.decode_tf(encoded)
    if size is None:
        return image
    with tf.control_dependencies([_assert_size(tf.shape(image)[:2], size)]):
        return tf.identity(image)


def _assert_size(found: tf.Tensor, size: tf.Tensor) -> tf.Operation | None:
    return tf.debugging.assert_equal(found, size, "image/height and image/width must be the size of the image")
