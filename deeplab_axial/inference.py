# SPDX-License-Identifier: Apache-2.0
"""From images to predictions: the network and the post-processing, as evaluation and export both use them."""

import tensorflow as tf
import tf_keras

from deeplab_axial import keys
from deeplab_axial.choices import EVALUATION, PADDINGS
from deeplab_axial.data import transforms
from deeplab_axial.data.pipeline import ImageOptions
from deeplab_axial.layers import resize
from deeplab_axial.models import panoptic_deeplab
from deeplab_axial.postprocessing.multi_scale import PLAIN, MultiScale, Size
from deeplab_axial.postprocessing.panoptic_deeplab import PostProcessor

_MAPS = (keys.SEMANTIC_MAP, keys.INSTANCE_MAP, keys.PANOPTIC_MAP)
_HEADS = (keys.CENTER_HEATMAP, keys.OFFSET_MAP)

# How images are padded: as their evaluation does it, to the crop size, or to the next output_stride * k + 1 alone. What
# the network says of an image depends on it, as attention and pooling see the padding.


class Predictor:
    """Joins a network and its post-processing.

    Args:
      model: (images [B, H, W, 3], 0 to 255; training; scale, as `PanopticDeepLab` takes it) -> raw outputs.
      postprocessor: outputs at the size of the input, sizes -> predictions.
      output_stride: inputs are padded to this times k + 1.
      image_options: how images are resized, and to which size their evaluation pads them.
      multi_scale: at which scales images are seen, counted from the size that padding gives them.
      padding: "evaluation" pads each side to the crop size, or to output_stride * k + 1 where the image is larger;
        "minimal" always to output_stride * k + 1.

    Raises:
      ValueError: there is no such padding.
    """

    def __init__(
        self,
        model: tf_keras.Model,
        postprocessor: PostProcessor,
        output_stride: int,
        image_options: ImageOptions,
        multi_scale: MultiScale = PLAIN,
        padding: str = EVALUATION,
    ):
        if padding not in PADDINGS:
            raise ValueError(f"padding must be {' or '.join(PADDINGS)}. Received: {padding!r}")
        self.model = model
        self.postprocessor = postprocessor
        self.output_stride = output_stride
        self.image_options = image_options
        self.multi_scale = multi_scale
        self.padding = padding

    def predict_padded(self, images: tf.Tensor, sizes: tf.Tensor, with_heads: bool = False) -> dict[str, tf.Tensor]:
        """Predictions for images that are already resized and padded.

        Args:
          images: [B, H, W, 3], 0 to 255.
          sizes: [B, 2] int32, (height, width) without the padding.
          with_heads: adds what the instance heads say, if the network has them.

        Returns:
          The prediction entries of keys.TABLE, at H x W; keys.CENTER_HEATMAP and keys.OFFSET_MAP, too, if asked for.
        """
        size = _size(images)
        if self.multi_scale.is_plain:
            # Without probabilities: the largest logit has the largest probability.
            outputs = panoptic_deeplab.upsample(self._network(images, 1.0), size)
        else:
            outputs = self.multi_scale(images, size, self._network, panoptic_deeplab.upsample)
        heads = {key: outputs[key] for key in _HEADS if key in outputs} if with_heads else {}
        return {**self.postprocessor(outputs, sizes), **heads}

    def _network(self, images: tf.Tensor, scale: float) -> dict[str, tf.Tensor]:
        return self.model(images, training=False, scale=scale)

    def prepare(self, images: tf.Tensor) -> tuple[tf.Tensor, Size]:
        """Images of any size as the network takes them.

        Args:
          images: [B, H, W, 3] uint8 RGB.

        Returns:
          [B, H', W', 3] float32, 0 to 255, resized as the options say and padded below and to the right; and (height,
          width) without the padding, as numbers where H and W are known.
        """
        size = self.resized_size(_size(images))
        padded = self.padded_size(size)
        x = tf.cast(images, tf.float32)
        if self.image_options.resizes:
            x = resize.resize_bilinear(x, size)
        return transforms.pad_border(x, size, padded, self.image_options.border_stride), size

    def resized_size(self, raw: Size) -> Size:
        """(height, width) that an image of this size is resized to; numbers for numbers."""
        options = self.image_options
        limits = (options.min_resize, options.max_resize, options.resize_factor)
        if tf.is_tensor(raw):
            return transforms.resized_size(raw, *limits)
        with tf.init_scope():  # numbers, in a graph too, so that its shapes are known
            height, width = transforms.resized_size(tf.constant(raw), *limits).numpy().tolist()
        return height, width

    def padded_size(self, size: Size) -> Size:
        """(height, width) that a resized image of this size is padded to; numbers for numbers."""
        stride, crop = self.output_stride, self.image_options.crop_size if self.padding == EVALUATION else (1, 1)
        if tf.is_tensor(size):
            return tf.maximum(size + (1 - size) % stride, crop)
        height, width = (max(side + (1 - side) % stride, least) for side, least in zip(size, crop))
        return height, width

    def predict_images(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Predictions for images of any size.

        Args:
          images: [B, H, W, 3] uint8 RGB.

        Returns:
          The prediction entries of keys.TABLE, at H x W.
        """
        raw = _size(images)
        x, size = self.prepare(images)
        predictions = self.predict_padded(x, tf.tile(tf.convert_to_tensor(size)[None], [tf.shape(images)[0], 1]))
        resizes = self.image_options.resizes
        for key in _MAPS:
            if key in predictions:
                cropped = predictions[key][:, : size[0], : size[1]]
                predictions[key] = _undo(cropped, raw) if resizes else cropped
        if resizes and keys.CENTERS in predictions:
            raw, size = tf.convert_to_tensor(raw), tf.convert_to_tensor(size)
            scale = tf.cast(raw - 1, tf.float32) / tf.cast(tf.maximum(size - 1, 1), tf.float32)
            centers = tf.cast(predictions[keys.CENTERS], tf.float32) * scale
            predictions[keys.CENTERS] = tf.cast(tf.round(centers), tf.int32)
        return predictions


def _size(images: tf.Tensor) -> Size:
    """(height, width), numbers where they are known."""
    height, width = images.shape[1:3]
    return tf.shape(images)[1:3] if height is None or width is None else (height, width)


def _undo(maps: tf.Tensor, size: Size) -> tf.Tensor:
    """Maps [B, h, w] back to the size of the image, nearest pixel."""
    return tf.raw_ops.ResizeNearestNeighbor(images=maps[..., None], size=size, align_corners=True)[..., 0]
