# SPDX-License-Identifier: Apache-2.0
"""Evaluation of a model on a data set, at the size of the images on disk."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from deeplab_axial import keys
from deeplab_axial.data import dataset_info, records, transforms
from deeplab_axial.data.label_space import LabelSpace
from deeplab_axial.errors import InputError
from deeplab_axial.inference import Predictor
from deeplab_axial.postprocessing.surplus import Surplus
from deeplab_axial.progress import Bar
from deeplab_axial.training import replicas
from deeplab_axial.training.evaluation_metrics import EvaluationMetrics, MetricOptions

# What the metrics need of the predictions.
_PREDICTIONS = (
    keys.SEMANTIC_MAP,
    keys.PANOPTIC_MAP,
    keys.INSTANCE_PANOPTIC_IDS,
    keys.INSTANCE_SCORES,
    keys.NUM_SURPLUS,
)
_HEADS = (keys.CENTER_HEATMAP, keys.OFFSET_MAP)


class ImageResult(NamedTuple):
    """An image with its ground truth and prediction.

    Attributes:
      name: of the image.
      image: [h, w, 3] float32, 0 to 255, as the network saw it, without padding.
      ground_truth: [H, W] int32 panoptic ids, at the size on disk.
      prediction: [H, W] int32 panoptic ids.
      metrics: {"name", "pq", "sq", "rq", "tp", "fp", "fn", "miou"} of this image alone; plain types.
      crowd_ids: [N] panoptic ids of the ground truth's crowd segments.
      read_heads: fetches the centre heatmap [h, w] and the offsets [h, w, 2], (y, x) in pixels of `image`. None if the
        evaluator does not keep them or the network has no instance heads.
    """

    name: str
    image: np.ndarray
    ground_truth: np.ndarray
    prediction: np.ndarray
    metrics: dict
    crowd_ids: np.ndarray
    read_heads: Callable[[], tuple[np.ndarray, np.ndarray]] | None = None


class Evaluator:
    """Predicts and measures.

    Args:
      predictor: the network with its post-processing.
      label_space: of ground truth and predictions.
      num_images: of the data set, for the progress bar.
      use_tf_function: whether the prediction runs as a graph (eagerly otherwise, for debugging).
      options: what to measure; None for no more than official panoptic quality and mean IoU.
      strategy: each batch is shared out among its replicas; the variables of the network were made in its scope. None:
        the strategy that is in force, by default one device.
      keep_heads: whether `ImageResult.read_heads` is there. What nobody reads is never fetched from the device.
    """

    def __init__(
        self,
        predictor: Predictor,
        label_space: LabelSpace,
        num_images: int,
        use_tf_function: bool = True,
        options: MetricOptions | None = None,
        strategy: tf.distribute.Strategy | None = None,
        keep_heads: bool = False,
    ):
        self.label_space = label_space
        self.num_images = num_images
        self.multi_scale = predictor.multi_scale
        self.options = options or MetricOptions()
        self._strategy = strategy = strategy or tf.distribute.get_strategy()

        def predict(images, sizes):
            # Closed over: on a TPU every argument of `run` becomes a tensor, which no `if` can read.
            def on_replica(images, sizes):
                return predictor.predict_padded(images, sizes, **({"with_heads": True} if keep_heads else {}))

            return strategy.run(on_replica, (images, sizes))

        self._predict = tf.function(predict, autograph=False) if use_tf_function else predict

    def evaluate(
        self, dataset: Iterable[Mapping[str, tf.Tensor]], on_image: Callable[[ImageResult], None] | None = None
    ) -> dict:
        """Measures the model as it is now.

        Args:
          dataset: batches of `data.pipeline.evaluation_dataset`.
          on_image: called with each image.

        Returns:
          What `EvaluationMetrics.result` returns, "inference": {"scales", "flip"}, and "num_surplus", the predicted
          instances that are void because the label divisor holds no more of their class.

        Raises:
          InputError: an image has no ground truth, or one of another label space.
        """
        metrics = EvaluationMetrics(self.label_space, self.options)
        surplus = Surplus(self.label_space.label_divisor)
        with Bar(total=self.num_images, desc="Evaluating", unit="image") as progress:
            for batch in dataset:
                for image, predictions, read_heads in self._predict_batch(batch):
                    result = self._update(metrics, image, predictions, read_heads)
                    surplus.add(int(predictions.get(keys.NUM_SURPLUS, 0)), result.name)
                    if on_image is not None:
                        on_image(result)
                    progress.update()
        surplus.say()
        inference = {"scales": list(self.multi_scale.scales), "flip": self.multi_scale.flip}
        return {"inference": inference, "num_surplus": surplus.num_instances, **metrics.result()}

    def _predict_batch(self, batch: Mapping[str, tf.Tensor]) -> Iterator[tuple[dict, dict, Callable | None]]:
        """Yields each real image of a batch with its predictions, and what fetches the outputs of its heads."""
        images, sizes = replicas.share_out([batch[keys.IMAGE], batch[keys.RESIZED_SIZE]], self._strategy)
        outputs = self._predict(images, sizes)
        shares = {
            key: [part.numpy() for part in self._strategy.experimental_local_results(outputs[key])]
            for key in _PREDICTIONS
            if key in outputs
        }
        heads = [self._strategy.experimental_local_results(outputs[key]) for key in _HEADS if key in outputs]
        each = len(shares[keys.PANOPTIC_MAP][0])
        for i in np.flatnonzero(batch[keys.IS_REAL].numpy()):
            image = {key: value[i] for key, value in batch.items()}
            place, row = divmod(int(i), each)
            height, width = image[keys.RESIZED_SIZE].numpy().tolist()
            parts = [part[place] for part in heads]
            read = functools.partial(_fetch, parts, row, height, width) if parts else None
            yield image, {key: parts[place][row] for key, parts in shares.items()}, read

    def _update(
        self,
        metrics: EvaluationMetrics,
        image: Mapping[str, tf.Tensor],
        predictions: Mapping[str, np.ndarray],
        read_heads: Callable | None,
    ) -> ImageResult:
        """Adds an image to the metrics and returns it."""
        name = image[keys.IMAGE_NAME].numpy().decode()
        space = self.label_space
        truth, crowd_ids = _ground_truth(image, name, space)
        height, width = image[keys.RESIZED_SIZE].numpy()
        semantic, panoptic = (predictions[key][:height, :width] for key in (keys.SEMANTIC_MAP, keys.PANOPTIC_MAP))
        if (height, width) != truth.shape:
            semantic, panoptic = (
                transforms.resize_nearest(tf.constant(map_), truth.shape).numpy() for map_ in (semantic, panoptic)
            )
        # Channels of the network that are no class of the label space say nothing.
        known = np.isin(panoptic // space.label_divisor, list(space.by_id))
        panoptic = np.where(known, panoptic, np.int32(space.void_id))
        ids, scores = predictions.get(keys.INSTANCE_PANOPTIC_IDS), predictions.get(keys.INSTANCE_SCORES)
        if ids is None:  # the network has no instance heads
            ids, scores = np.zeros(0, np.int32), np.zeros(0, np.float32)
        has_segment = ids != space.void_id
        row = metrics.update(name, truth, crowd_ids, panoptic, semantic, ids[has_segment], scores[has_segment])
        pixels = image[keys.IMAGE].numpy()[:height, :width]
        return ImageResult(name, pixels, truth, panoptic, row, crowd_ids, read_heads)


def _fetch(heads: Sequence[tf.Tensor], row: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Heatmap [height, width] and offsets [height, width, 2] of an image, from those of its batch."""
    heatmap, offsets = (head[row, :height, :width].numpy() for head in heads)
    return heatmap[..., 0], offsets


def _ground_truth(image: Mapping[str, tf.Tensor], name: str, space: LabelSpace) -> tuple[np.ndarray, np.ndarray]:
    """Panoptic map [H, W] and crowd ids of an image on disk, checked against the label space."""
    encoded = image[keys.RAW_PANOPTIC].numpy()
    if not encoded:
        raise InputError(f"Image {name!r} has no ground truth: evaluate on a split that has.")
    encoding = records.detect_format(encoded)
    try:
        truth = records.decode_panoptic(encoded, encoding, *image[keys.RAW_SIZE].numpy())
    except InputError as error:
        raise InputError(f"Image {name!r}: {error}") from error
    classes = truth // space.label_divisor
    _check_classes(classes[classes != space.ignore_label], name, space)
    # A label space may turn things of the records into stuff, of which an image has one segment a class.
    truth = np.where(np.isin(classes, space.thing_ids), truth, classes * space.label_divisor)
    crowd_ids = image[keys.RAW_CROWD_IDS].numpy()
    crowd_ids = crowd_ids[np.isin(crowd_ids // space.label_divisor, space.thing_ids)]
    if encoding == records.RAW:  # DeepLab2's files: crowd is a thing with instance id 0
        ids = np.unique(truth)
        crowd_ids = ids[(ids % space.label_divisor == 0) & np.isin(ids // space.label_divisor, space.thing_ids)]
    if np.unique(crowd_ids).size < crowd_ids.size:
        raise InputError(
            f"Image {name!r}: {records.CROWD_IDS} must be distinct. Received: {crowd_ids.tolist()}. Convert again."
        )
    return truth, crowd_ids


def _check_classes(classes: np.ndarray, name: str, space: LabelSpace) -> None:
    """Refuses classes of a ground truth that the label space lacks."""
    unknown = np.unique(classes[~np.isin(classes, list(space.by_id))])
    if unknown.size:
        raise InputError(
            f"Image {name!r}: the ground truth is not of the label space {space.name!r}, whose classes are "
            f"{', '.join(f'{c.id} ({c.name})' for c in space.classes[:8])}{', ...' if len(space.classes) > 8 else ''} "
            f"with label divisor {space.label_divisor}. Received: class {', '.join(map(str, unknown[:8]))}. The label "
            f"space is that of the config's section label_space, else of {dataset_info.DATASET_FILE} beside the "
            "records, else the shipped one named in eval_dataset_options.dataset: correct it, or convert again."
        )
