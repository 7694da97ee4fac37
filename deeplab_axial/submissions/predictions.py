# SPDX-License-Identifier: Apache-2.0
"""Predictions of all images of a split, at the size of the images on disk; ground truth is not looked at."""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from deeplab_axial import keys
from deeplab_axial.data import transforms
from deeplab_axial.data.label_space import LabelSpace
from deeplab_axial.inference import Predictor
from deeplab_axial.postprocessing.surplus import Surplus
from deeplab_axial.progress import Bar


class Prediction(NamedTuple):
    """What was found on one image.

    Attributes:
      name: of the image, as its record has it.
      panoptic: [H, W] int32 panoptic ids.
      semantic: [H, W] int32, the class of each pixel as the semantic head has it; the ignore label where it is none of
        the label space.
      instance_ids: [N] panoptic ids of the instances.
      instance_scores: [N] float32.
    """

    name: str
    panoptic: np.ndarray
    semantic: np.ndarray
    instance_ids: np.ndarray
    instance_scores: np.ndarray


def predict(
    predictor: Predictor,
    dataset: Iterable[Mapping[str, tf.Tensor]],
    space: LabelSpace,
    num_images: int,
    use_tf_function: bool = True,
) -> Iterator[Prediction]:
    """Yields the predictions of the real images of a data set, in its order; in the end logs what no id was left for.

    Args:
      predictor: a network with instance heads and its post-processing.
      dataset: batches of `data.pipeline.evaluation_dataset`.
      space: of the predictions.
      num_images: for the progress bar.
      use_tf_function: whether the prediction runs as a graph (eagerly otherwise, for debugging).
    """
    function = predictor.predict_padded
    if use_tf_function:
        function = tf.function(function, autograph=False)
    surplus = Surplus(space.label_divisor)
    with Bar(total=num_images, desc="Predicting", unit="image") as progress:
        for batch in dataset:
            outputs = function(batch[keys.IMAGE], batch[keys.RESIZED_SIZE])
            for i in np.flatnonzero(batch[keys.IS_REAL].numpy()):
                image = {key: value[i] for key, value in batch.items()}
                prediction = _at_raw_size(image, {key: value[i] for key, value in outputs.items()}, space)
                surplus.add(int(outputs[keys.NUM_SURPLUS][i]), prediction.name)
                yield prediction
                progress.update()
    surplus.say()


def _at_raw_size(image: Mapping[str, tf.Tensor], outputs: Mapping[str, tf.Tensor], space: LabelSpace) -> Prediction:
    """The prediction of one image without its padding, at the size on disk."""
    (height, width), raw_size = image[keys.RESIZED_SIZE].numpy(), image[keys.RAW_SIZE].numpy()
    maps = []
    for key in (keys.PANOPTIC_MAP, keys.SEMANTIC_MAP):
        value = outputs[key][:height, :width]
        maps.append(
            (value if (height, width) == tuple(raw_size) else transforms.resize_nearest(value, raw_size)).numpy()
        )
    panoptic, semantic = maps
    # Channels of the network that are no class of the label space say nothing.
    classes = list(space.by_id)
    panoptic = np.where(np.isin(panoptic // space.label_divisor, classes), panoptic, np.int32(space.void_id))
    semantic = np.where(np.isin(semantic, classes), semantic, np.int32(space.ignore_label))
    ids, scores = outputs[keys.INSTANCE_PANOPTIC_IDS].numpy(), outputs[keys.INSTANCE_SCORES].numpy()
    # A small instance may have lost its last pixel to the change of size.
    seen = (ids != space.void_id) & np.isin(ids, np.unique(panoptic))
    return Prediction(image[keys.IMAGE_NAME].numpy().decode(), panoptic, semantic, ids[seen], scores[seen])
