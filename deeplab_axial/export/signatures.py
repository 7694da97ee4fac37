# SPDX-License-Identifier: Apache-2.0
"""The functions of an export. They share one trace of the network, which is what takes time to trace and to load."""

import copy

import tensorflow as tf

from deeplab_axial.data.image_bytes import decode_scaled_tf
from deeplab_axial.data.value_range import ValueRange
from deeplab_axial.export.metadata import Variant
from deeplab_axial.inference import Predictor


def build(
    predictor: Predictor, variant: Variant, batch: int | None = None, value_range: ValueRange | None = None
) -> tf.Module:
    """The functions of an export, traced.

    Args:
      predictor: the network with its post-processing.
      variant: input_size and xla are used.
      batch: B, if it is fixed.
      value_range: of image files of 16 bits, see `value_range.to_8_bits`; None where the data set has none.

    Returns:
      A module with

        serve: images [B, H, W, 3] uint8 RGB -> the prediction entries of keys.TABLE.
        encoded: image_bytes [B] string, JPEG or PNG (BMP and GIF too) files of images of the same size -> the same.
        raw: images [B, H, W, 3] uint8 -> the network's own outputs, [B, h, w, channels] float32 at the decoder's
          stride. They cover the image as the network saw it: resized if the config says so, and padded below and to
          the right as `Predictor.padded_size` says.
    """
    shared = copy.copy(predictor)
    network = tf.function(
        lambda images, training, scale: predictor.model(images, training=training, scale=scale), autograph=False
    )
    shared.model = network
    height, width = variant.input_size or (None, None)
    spec = tf.TensorSpec([batch, height, width, 3], tf.uint8, name="images")
    compiled = True if variant.xla else None

    @tf.function(input_signature=[spec], autograph=False, jit_compile=compiled)
    def serve(images):
        return shared.predict_images(images)

    @tf.function(input_signature=[tf.TensorSpec([batch], tf.string, name="image_bytes")], autograph=False)
    def encoded(image_bytes):
        return serve(decode(image_bytes, variant.input_size, value_range))

    @tf.function(input_signature=[spec], autograph=False, jit_compile=compiled)
    def raw(images):
        x, _ = shared.prepare(images)
        return network(x, False, 1.0)

    # A bare module: saving the Keras model itself would trace every layer for a second time.
    module = tf.Module()
    module.weights = predictor.model.weights
    module.serve, module.encoded, module.raw = serve, encoded, raw
    return module


def decode(image_bytes: tf.Tensor, size: tuple[int, int] | None, value_range: ValueRange | None = None) -> tf.Tensor:
    """Decodes image files of one size.

    Args:
      image_bytes: [B] string, B at least 1.
      size: (height, width) that they must have; None: that of the first.
      value_range: of files of 16 bits; see `build`.

    Returns:
      [B, H, W, 3] uint8 RGB.
    """
    count = tf.size(image_bytes)
    with tf.control_dependencies([tf.debugging.assert_positive(count, "image_bytes must hold one image or more")]):
        images = tf.TensorArray(tf.uint8, count, infer_shape=False, element_shape=[None, None, 3])
    message = "image_bytes: the images of one batch must be of the same size; call once for each size"
    if size is not None:
        message = f"image_bytes: this export takes images of {size[0]} x {size[1]} pixels (height x width)"

    def step(index, images, expected):
        image = decode_scaled_tf(image_bytes[index], value_range)
        found = tf.shape(image)[:2]
        expected = tf.where(expected > 0, expected, found)
        with tf.control_dependencies([tf.debugging.assert_equal(found, expected, message)]):
            return index + 1, images.write(index, image), expected

    start = (tf.constant(0), images, tf.constant(size or (0, 0)))
    _, images, _ = tf.while_loop(lambda index, *_: index < count, step, start)
    return tf.ensure_shape(images.stack(), [None, *(size or (None, None)), 3])
