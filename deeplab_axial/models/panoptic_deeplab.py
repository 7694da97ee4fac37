# SPDX-License-Identifier: Apache-2.0
"""Panoptic-DeepLab: a backbone, one or two decoders and three heads (Cheng et al. 2020)."""

from collections.abc import Mapping

import tensorflow as tf
import tf_keras

from deeplab_axial import keys
from deeplab_axial.layers import resize


class PanopticDeepLab(tf_keras.Model):
    """Maps images to raw semantic logits, centre heatmap and offsets.

    Args:
      backbone: images -> {endpoint: features}.
      semantic_decoder: endpoints -> features of the semantic head.
      semantic_head: features -> logits.
      instance_decoder: endpoints -> features of the two instance heads; None if they share the semantic decoder.
      center_head: features -> heatmap, 1 channel; None, as all instance parts then, for semantic segmentation alone.
      offset_head: features -> offsets (y, x), 2 channels.

    Call arguments:
      images: [B, H, W, 3] RGB, 0 to 255; sizes of the form output_stride * k + 1 align best.
      training: whether batch normalisation uses the statistics of the batch, and drop path and dropout are on.
      seed: [2] integers, of drop path and dropout; None draws them.
      scale: by which the images were enlarged for multi-scale inference; ASPP's pooled window grows with them.

    Returns:
      {keys.SEMANTIC_LOGITS: [B, h, w, C], keys.CENTER_HEATMAP: [B, h, w, 1], keys.OFFSET_MAP: [B, h, w, 2]} at the
      decoder's stride (4), float32; `upsample` brings them to the size of the image.
    """

    def __init__(
        self,
        backbone: tf_keras.Model,
        semantic_decoder: tf_keras.layers.Layer,
        semantic_head: tf_keras.layers.Layer,
        instance_decoder: tf_keras.layers.Layer | None = None,
        center_head: tf_keras.layers.Layer | None = None,
        offset_head: tf_keras.layers.Layer | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        heads = [head is not None for head in (center_head, offset_head)]
        if any(heads) != all(heads) or (instance_decoder is not None and not all(heads)):
            raise ValueError(
                "center_head and offset_head come together or not at all, and an instance_decoder needs them. "
                f"Received: {instance_decoder}, {center_head}, {offset_head}"
            )
        self.backbone = backbone
        self.semantic_decoder = semantic_decoder
        self.semantic_head = semantic_head
        self.instance_decoder = instance_decoder
        self.center_head = center_head
        self.offset_head = offset_head

    def call(
        self, images: tf.Tensor, training: bool = False, seed: tf.Tensor | None = None, scale: float = 1.0
    ) -> dict[str, tf.Tensor]:
        images = tf.cast(images, tf.float32) / 127.5 - 1.0
        endpoints = self.backbone(tf.cast(images, self.compute_dtype), training=training, seed=seed)
        instance = semantic = self._decode(0, self.semantic_decoder, endpoints, training, seed, scale)
        outputs = {keys.SEMANTIC_LOGITS: self.semantic_head(semantic, training=training)}
        if self.instance_decoder is not None:
            instance = self._decode(1, self.instance_decoder, endpoints, training, seed, scale)
        if self.center_head is not None:
            outputs[keys.CENTER_HEATMAP] = self.center_head(instance, training=training)
            outputs[keys.OFFSET_MAP] = self.offset_head(instance, training=training)
        return outputs

    def _decode(self, number: int, decoder, endpoints, training: bool, seed: tf.Tensor | None, scale: float):
        """Features of a decoder; the number keeps its seed apart from that of others and of the backbone's blocks."""
        if training and seed is not None:
            seed = tf.random.experimental.stateless_fold_in(seed, 10_000 + number)
        return decoder(endpoints, training=training, seed=seed, scale=scale)


def upsample(outputs: Mapping[str, tf.Tensor], size: tuple[int, int] | tf.Tensor) -> dict[str, tf.Tensor]:
    """Brings raw outputs to the size of the image.

    Args:
      outputs: what `PanopticDeepLab` returns, at h x w; an entry without height and width, as the class logits
        [B, C] of a `Classifier`, passes through as it is.
      size: (H, W), numbers or a tensor.

    Returns:
      The same entries at H x W. Offsets are also scaled by (H - 1) / (h - 1) and (W - 1) / (w - 1), so that they count
      pixels of the image.
    """
    resized = {
        key: resize.resize_bilinear(value, size) if value.shape.rank == 4 else value for key, value in outputs.items()
    }
    if keys.OFFSET_MAP in outputs:
        small = tf.cast(tf.shape(outputs[keys.OFFSET_MAP])[1:3], tf.float32)
        large = tf.cast(tf.convert_to_tensor(size), tf.float32)
        resized[keys.OFFSET_MAP] *= (large - 1.0) / tf.maximum(small - 1.0, 1.0)
    return resized
