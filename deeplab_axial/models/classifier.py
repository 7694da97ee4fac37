# SPDX-License-Identifier: Apache-2.0
"""Image classification: what the backbones are compared by and pretrained with (Axial-DeepLab, Table 1)."""

from collections.abc import Mapping

import tensorflow as tf
import tf_keras

from deeplab_axial import keys


class Classifier(tf_keras.Model):
    """Maps images to class scores: the backbone, the mean of its last stage over all positions, a linear layer.

    Args:
      backbone: images -> {endpoint: features}; its "res5" is taken.
      num_classes: classes C.

    Call arguments:
      images: [B, H, W, 3] RGB, 0 to 255, any H and W.
      training: whether batch normalisation uses the statistics of the batch and drop path is on.
      seed: [2] integers, of drop path; None draws them.

    Returns:
      {keys.CLASS_LOGITS: [B, C]}, float32 whatever the compute type.

    Raises:
      ValueError: there are no classes.
    """

    def __init__(self, backbone: tf_keras.Model, num_classes: int, **kwargs):
        super().__init__(**kwargs)
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1. Received: {num_classes}. ImageNet has 1000")
        self.backbone = backbone
        self.num_classes = num_classes
        self.classification_head = tf_keras.layers.Dense(
            num_classes,
            kernel_initializer=tf_keras.initializers.TruncatedNormal(stddev=0.01),
            dtype="float32",
            name="classification_head",
        )

    def call(self, images: tf.Tensor, training: bool = False, seed: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        images = tf.cast(images, tf.float32) / 127.5 - 1.0
        endpoints = self.backbone(tf.cast(images, self.compute_dtype), training=training, seed=seed)
        return {keys.CLASS_LOGITS: self.classify(endpoints)}

    def classify(self, endpoints: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Class scores [B, C] from the backbone's endpoints."""
        means = tf.reduce_mean(tf.cast(endpoints["res5"], tf.float32), axis=[1, 2])
        return self.classification_head(means)
