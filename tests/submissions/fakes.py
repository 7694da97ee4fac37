# SPDX-License-Identifier: Apache-2.0
"""A predictor that gets the ground truth nearly right."""

import numpy as np
import tensorflow as tf

from deeplab_axial import keys
from deeplab_axial.data import pipeline, records
from deeplab_axial.postprocessing.multi_scale import PLAIN

_SLOTS = 24


def truths(source: pipeline.Source) -> dict[str, np.ndarray]:
    """Panoptic maps of a split's images by name, in order."""
    maps = {}
    for serialized in tf.data.TFRecordDataset(list(source.files)):
        features, _, panoptic = pipeline.decode(serialized)
        maps[features[records.FILENAME].numpy().decode()] = panoptic.numpy()
    return maps


def perturb(truth: np.ndarray, space, rng: np.random.Generator) -> np.ndarray:
    """Shifts a map and gives some of its segments to void, to other classes, or to their neighbours."""
    panoptic = np.roll(truth, rng.integers(-2, 3, 2), (0, 1))
    classes = [c.id for c in space.classes]
    for segment in np.unique(panoptic).tolist():
        here, fate = panoptic == segment, rng.random()
        if fate < 0.15:
            panoptic[here] = space.void_id
        elif fate < 0.35:
            label = int(rng.choice(classes))
            panoptic[here] = label * space.label_divisor + (90 + segment % 7 if label in space.thing_ids else 0)
    # A false instance over whatever is there.
    y, x = rng.integers(0, truth.shape[0] - 20), rng.integers(0, truth.shape[1] - 20)
    panoptic[y : y + 20, x : x + 20] = space.thing_ids[0] * space.label_divisor + 99
    return panoptic.astype(np.int32)


class NearlyRight:
    """Predicts, image after image, the maps that it is given, at the size of the network's input."""

    multi_scale = PLAIN

    def __init__(self, maps, space, seed: int = 0, semantic=None):
        self._maps = list(maps)
        self._semantic = [m // space.label_divisor for m in self._maps] if semantic is None else list(semantic)
        self._space = space
        self._rng = np.random.default_rng(seed)

    def predict_padded(self, images, sizes):
        void, divisor = self._space.void_id, self._space.label_divisor
        entries = {key: [] for key in (keys.PANOPTIC_MAP, keys.SEMANTIC_MAP)}
        ids = np.full([len(sizes), _SLOTS], void, np.int32)
        scores = np.zeros([len(sizes), _SLOTS], np.float32)
        for i, size in enumerate(sizes.numpy()):
            # The images that fill up the last batch come last.
            panoptic = self._maps.pop(0) if self._maps else np.full(size, void, np.int32)
            semantic = self._semantic.pop(0) if self._semantic else np.zeros(size, np.int32)
            for key, value, padding in ((keys.PANOPTIC_MAP, panoptic, void), (keys.SEMANTIC_MAP, semantic, 0)):
                value = tf.image.resize(value[..., None], size, "nearest")[..., 0].numpy()
                margin = np.array(images.shape[1:3]) - size
                entries[key].append(np.pad(value, [[0, margin[0]], [0, margin[1]]], constant_values=padding))
            found = np.unique(panoptic)
            found = self._rng.permutation(found[np.isin(found // divisor, self._space.thing_ids)])
            # Rounded, so that scores are equal now and then.
            scores[i, : found.size] = self._rng.random(found.size).round(1) / 3 + 0.1
            ids[i, : found.size] = found
        entries = {key: tf.constant(np.stack(value), tf.int32) for key, value in entries.items()}
        return {
            **entries,
            keys.INSTANCE_PANOPTIC_IDS: tf.constant(ids),
            keys.INSTANCE_SCORES: tf.constant(scores),
            keys.NUM_SURPLUS: tf.zeros([len(sizes)], tf.int32),
        }
