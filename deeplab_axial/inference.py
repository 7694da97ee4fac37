# SPDX-License-Identifier: Apache-2.0
"""From images to predictions: the network and the post-processing, as evaluation and export both use them."""

import tensorflow as tf
import tf_keras

from deeplab_axial import keys
from deeplab_axial.data import transforms
from deeplab_axial.data.pipeline import ImageOptions
from deeplab_axial.models import panoptic_deeplab
from deeplab_axial.postprocessing.multi_scale import PLAIN, MultiScale
from deeplab_axial.postprocessing.panoptic_deeplab import PostProcessor

_MAPS = (keys.SEMANTIC_MAP, keys.INSTANCE_MAP, keys.PANOPTIC_MAP)


class Predictor:
    """Joins a network and its post-processing.

    Args:
      model: (images [B, H, W, 3], 0 to 255; training; scale, as `PanopticDeepLab` takes it) -> raw outputs.
      postprocessor: outputs at the size of the input, sizes -> predictions.
      output_stride: inputs are padded to this times k + 1.
      image_options: how images are resized (its crop size is not used).
      multi_scale: at which scales images are seen, counted from the size that `image_options` gives them.
    """

    def __init__(
        self,
        model: tf_keras.Model,
        postprocessor: PostProcessor,
        output_stride: int,
        image_options: ImageOptions,
        multi_scale: MultiScale = PLAIN,
    ):
        self.model = model
        self.postprocessor = postprocessor
        self.output_stride = output_stride
        self.image_options = image_options
        self.multi_scale = multi_scale

    def predict_padded(self, images: tf.Tensor, sizes: tf.Tensor) -> dict[str, tf.Tensor]:
        """Predictions for images that are already resized and padded.

        Args:
          images: [B, H, W, 3], 0 to 255.
          sizes: [B, 2] int32, (height, width) without the padding.

        Returns:
          The prediction entries of keys.TABLE, at H x W.
        """
        size = images.shape[1:3] if images.shape[1:3].is_fully_defined() else tf.shape(images)[1:3]
        size = size if tf.is_tensor(size) else tuple(size)
        if self.multi_scale.is_plain:
            # Without probabilities: the largest logit has the largest probability.
            return self.postprocessor(panoptic_deeplab.upsample(self._network(images, 1.0), size), sizes)
        return self.postprocessor(self.multi_scale(images, size, self._network, panoptic_deeplab.upsample), sizes)

    def _network(self, images: tf.Tensor, scale: float) -> dict[str, tf.Tensor]:
        return self.model(images, training=False, scale=scale)

    def predict_images(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Predictions for images of any size.

        Args:
          images: [B, H, W, 3] uint8 RGB.

        Returns:
          The prediction entries of keys.TABLE, at H x W.
        """
        raw = tf.shape(images)[1:3]
        x = tf.cast(images, tf.float32)
        options = self.image_options
        size = transforms.resized_size(raw, options.min_resize, options.max_resize, options.resize_factor)
        resizes = options.resizes
        if resizes:
            x = tf.raw_ops.ResizeBilinear(images=x, size=size, align_corners=True)
        margin = (1 - size) % self.output_stride
        x = tf.pad(x, [[0, 0], [0, margin[0]], [0, margin[1]], [0, 0]], constant_values=transforms.PADDING_VALUE)
        predictions = self.predict_padded(x, tf.tile(size[None], [tf.shape(images)[0], 1]))
        for key in _MAPS:
            if key in predictions:
                cropped = predictions[key][:, : size[0], : size[1]]
                predictions[key] = _undo(cropped, raw) if resizes else cropped
        if resizes and keys.CENTERS in predictions:
            scale = tf.cast(raw - 1, tf.float32) / tf.cast(tf.maximum(size - 1, 1), tf.float32)
            centers = tf.cast(predictions[keys.CENTERS], tf.float32) * scale
            predictions[keys.CENTERS] = tf.cast(tf.round(centers), tf.int32)
        return predictions


def _undo(maps: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Maps [B, h, w] back to the size of the image, nearest pixel."""
    return tf.raw_ops.ResizeNearestNeighbor(images=maps[..., None], size=size, align_corners=True)[..., 0]
