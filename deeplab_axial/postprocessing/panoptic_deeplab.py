# SPDX-License-Identifier: Apache-2.0
"""Post-processing of Panoptic-DeepLab: raw maps of a batch -> predictions."""

import dataclasses
from collections.abc import Mapping

import tensorflow as tf

from deeplab_axial import keys
from deeplab_axial.postprocessing import instances, merging


@dataclasses.dataclass(frozen=True)
class PostProcessor:
    """Finds centres, groups pixels and merges, image by image.

    Attributes:
      num_classes: channels of the logits.
      thing_ids: classes that are things.
      label_divisor: panoptic id = class * label_divisor + instance id.
      ignore_label: class of void.
      center_score_threshold: peaks of the heatmap must be greater.
      nms_kernel: odd side of the window of a peak, pixels.
      keep_k_centers: most centres of an image.
      stuff_area_limit: stuff segments of fewer pixels become void.
      thing_area_limit: instances of fewer pixels become void.
    """

    num_classes: int
    thing_ids: tuple[int, ...]
    label_divisor: int
    ignore_label: int
    center_score_threshold: float = 0.1
    nms_kernel: int = 3
    keep_k_centers: int = 400
    stuff_area_limit: int = 0
    thing_area_limit: int = 0

    def __call__(self, outputs: Mapping[str, tf.Tensor], sizes: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """Predictions from the network's outputs at the size of its input.

        Args:
          outputs: semantic probabilities, or else logits, [B, H, W, C]; heatmap [B, H, W, 1] and offsets [B, H, W, 2],
            or neither: then every thing pixel is void in the panoptic map.
          sizes: [B, 2] int32, (height, width) of each image inside the input; what lies outside is padding, has no
            instances and is void. None: there is no padding.

        Returns:
          The prediction entries of keys.TABLE.
        """
        scores = outputs[keys.SEMANTIC_PROBS if keys.SEMANTIC_PROBS in outputs else keys.SEMANTIC_LOGITS]
        semantic = tf.argmax(scores, axis=-1, output_type=tf.int32)
        if sizes is None:
            sizes = tf.tile(tf.shape(semantic)[None, 1:], [tf.shape(semantic)[0], 1])
        if keys.CENTER_HEATMAP not in outputs:
            panoptic = tf.map_fn(
                lambda maps: self._merge(maps[0], tf.zeros_like(maps[0]), _inside(*maps)),
                (semantic, sizes),
                fn_output_signature=tf.int32,
            )
            return {keys.SEMANTIC_MAP: semantic, keys.PANOPTIC_MAP: panoptic}
        heatmap = tf.squeeze(tf.cast(outputs[keys.CENTER_HEATMAP], tf.float32), -1)
        offsets = tf.cast(outputs[keys.OFFSET_MAP], tf.float32)
        return {keys.SEMANTIC_MAP: semantic} | tf.map_fn(
            lambda maps: self._one(*maps),
            (semantic, heatmap, offsets, sizes),
            fn_output_signature={
                keys.INSTANCE_MAP: tf.int32,
                keys.PANOPTIC_MAP: tf.int32,
                keys.CENTERS: tf.int32,
                keys.CENTER_SCORES: tf.float32,
                keys.NUM_CENTERS: tf.int32,
            },
        )

    def _one(self, semantic: tf.Tensor, heatmap: tf.Tensor, offsets: tf.Tensor, size: tf.Tensor):
        """Predictions of one image: semantic [H, W], heatmap [H, W], offsets [H, W, 2], size [2]."""
        inside = _inside(semantic, size)
        centers, scores, count = instances.find_centers(
            tf.where(inside, heatmap, 0.0), self.center_score_threshold, self.nms_kernel, self.keep_k_centers
        )
        things = tf.constant([c in set(self.thing_ids) for c in range(self.num_classes)])
        instance = instances.group_pixels(offsets, inside & tf.gather(things, semantic), centers, count)
        return {
            keys.INSTANCE_MAP: instance,
            keys.PANOPTIC_MAP: self._merge(semantic, instance, inside),
            keys.CENTERS: centers,
            keys.CENTER_SCORES: scores,
            keys.NUM_CENTERS: count,
        }

    def _merge(self, semantic: tf.Tensor, instance: tf.Tensor, inside: tf.Tensor) -> tf.Tensor:
        return merging.merge(
            semantic,
            instance,
            inside,
            self.keep_k_centers,
            self.num_classes,
            self.thing_ids,
            self.label_divisor,
            self.ignore_label,
            self.stuff_area_limit,
            self.thing_area_limit,
        )


def _inside(semantic: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """[H, W] bool: whether a pixel of the map lies inside the image of the size (height, width)."""
    shape = tf.shape(semantic)
    return (tf.range(shape[0]) < size[0])[:, None] & (tf.range(shape[1]) < size[1])[None, :]
