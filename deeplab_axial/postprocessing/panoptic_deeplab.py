# SPDX-License-Identifier: Apache-2.0
"""Post-processing of Panoptic-DeepLab: raw maps of a batch -> predictions."""

import dataclasses
from collections.abc import Mapping

import tensorflow as tf

from deeplab_axial import keys
from deeplab_axial.postprocessing import instances, merging, scores

_OF_INSTANCES = (
    keys.INSTANCE_MAP,
    keys.CENTERS,
    keys.CENTER_SCORES,
    keys.NUM_CENTERS,
    keys.INSTANCE_SCORES,
    keys.INSTANCE_CLASSES,
    keys.INSTANCE_PANOPTIC_IDS,
    keys.NUM_SURPLUS,
)


@dataclasses.dataclass(frozen=True)
class PostProcessor:
    """Finds centres, groups pixels, merges and scores, image by image.

    Attributes:
      num_classes: channels of the logits.
      thing_ids: classes that are things.
      label_divisor: panoptic id = class * label_divisor + instance id.
      ignore_label: class of void.
      center_score_threshold: peaks of the heatmap must be greater.
      nms_kernel: odd side of the window of a peak, pixels.
      keep_k_centers: most centres of an image; of a class, label_divisor - 1 become instances, see `merging.merge`.
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
          The prediction entries of keys.TABLE; those of centres and instances only with a heatmap.
        """
        key = keys.SEMANTIC_PROBS if keys.SEMANTIC_PROBS in outputs else keys.SEMANTIC_LOGITS
        maps = {key: outputs[key], keys.SEMANTIC_MAP: tf.argmax(outputs[key], axis=-1, output_type=tf.int32)}
        if keys.CENTER_HEATMAP in outputs:
            maps[keys.CENTER_HEATMAP] = tf.squeeze(tf.cast(outputs[keys.CENTER_HEATMAP], tf.float32), -1)
            maps[keys.OFFSET_MAP] = tf.cast(outputs[keys.OFFSET_MAP], tf.float32)
        batch, height, width = tf.unstack(tf.shape(maps[keys.SEMANTIC_MAP]))
        if sizes is None:
            sizes = tf.tile([[height, width]], [batch, 1])
        produced = [keys.PANOPTIC_MAP, keys.STUFF_SCORES]
        if keys.CENTER_HEATMAP in outputs:
            produced += _OF_INSTANCES
        # Over numbers, not over the maps: these would be copied. One after the other, for the sake of memory.
        return {keys.SEMANTIC_MAP: maps[keys.SEMANTIC_MAP]} | tf.map_fn(
            lambda i: self._one({name: value[i] for name, value in maps.items()}, sizes[i]),
            tf.range(batch),
            fn_output_signature={name: tf.as_dtype(keys.TABLE[name].dtype) for name in produced},
            parallel_iterations=1,
        )

    def _one(self, maps: Mapping[str, tf.Tensor], size: tf.Tensor) -> dict[str, tf.Tensor]:
        """Predictions of one image from its maps, without batch axis, and its size [2]."""
        semantic = maps[keys.SEMANTIC_MAP]
        shape = tf.shape(semantic)
        inside = (tf.range(shape[0]) < size[0])[:, None] & (tf.range(shape[1]) < size[1])[None, :]
        predictions = {}
        instance, center_scores = tf.zeros_like(semantic), tf.zeros([self.keep_k_centers])
        if keys.CENTER_HEATMAP in maps:
            centers, center_scores, count = instances.find_centers(
                tf.where(inside, maps[keys.CENTER_HEATMAP], 0.0),
                self.center_score_threshold,
                self.nms_kernel,
                self.keep_k_centers,
            )
            things = tf.constant([c in set(self.thing_ids) for c in range(self.num_classes)])
            is_thing = inside & tf.gather(things, semantic)
            instance = instances.group_pixels(maps[keys.OFFSET_MAP], is_thing, centers, count)
            predictions = {keys.CENTERS: centers, keys.CENTER_SCORES: center_scores, keys.NUM_CENTERS: count}
        merged = merging.merge(
            semantic,
            instance,
            inside,
            center_scores,
            self.num_classes,
            self.thing_ids,
            self.label_divisor,
            self.ignore_label,
            self.stuff_area_limit,
            self.thing_area_limit,
        )
        are_logits = keys.SEMANTIC_PROBS not in maps
        values = maps[keys.SEMANTIC_LOGITS if are_logits else keys.SEMANTIC_PROBS]
        instance_scores, stuff_scores = scores.segment_scores(
            values, are_logits, semantic, instance, inside, merged, center_scores
        )
        if keys.CENTER_HEATMAP in maps:
            predictions[keys.INSTANCE_MAP] = instance
            predictions[keys.INSTANCE_SCORES] = instance_scores
            predictions[keys.INSTANCE_CLASSES] = merged.instance_classes
            predictions[keys.INSTANCE_PANOPTIC_IDS] = merged.instance_ids
            predictions[keys.NUM_SURPLUS] = merged.num_surplus
        return predictions | {keys.PANOPTIC_MAP: merged.panoptic, keys.STUFF_SCORES: stuff_scores}
