# SPDX-License-Identifier: Apache-2.0
"""Evaluation of a model on a data set, at the size of the images on disk."""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tqdm

from deeplab_axial import keys
from deeplab_axial.data import dataset_info, records, transforms
from deeplab_axial.data.label_space import LabelSpace
from deeplab_axial.errors import InputError
from deeplab_axial.inference import Predictor
from deeplab_axial.metrics.mean_iou import MeanIoU
from deeplab_axial.metrics.panoptic_quality import PanopticQuality
from deeplab_axial.postprocessing.multi_scale import MultiScale


class ImageResult(NamedTuple):
    """An image with its ground truth and prediction.

    Attributes:
      name: of the image.
      image: [h, w, 3] float32, 0 to 255, as the network saw it, without padding.
      ground_truth: [H, W] int32 panoptic ids, at the size on disk.
      prediction: [H, W] int32 panoptic ids.
    """

    name: str
    image: np.ndarray
    ground_truth: np.ndarray
    prediction: np.ndarray


class Evaluator:
    """Predicts and measures.

    Args:
      predictor: the network with its post-processing.
      label_space: of ground truth and predictions.
      num_images: of the data set, for the progress bar.
      use_tf_function: whether the prediction runs as a graph (eagerly otherwise, for debugging).
    """

    def __init__(self, predictor: Predictor, label_space: LabelSpace, num_images: int, use_tf_function: bool = True):
        self.label_space = label_space
        self.num_images = num_images
        self.multi_scale = predictor.multi_scale
        self._predict = (
            tf.function(predictor.predict_padded, autograph=False) if use_tf_function else predictor.predict_padded
        )

    def evaluate(
        self, dataset: Iterable[Mapping[str, tf.Tensor]], on_image: Callable[[ImageResult], None] | None = None
    ) -> dict:
        """Measures the model as it is now.

        Args:
          dataset: batches of `data.pipeline.evaluation_dataset`.
          on_image: called with each image.

        Returns:
          {"num_images", "inference": {"scales", "flip"}, "panoptic_quality": official PQ, SQ, RQ (all, things, stuff,
          per_class), "mean_iou"}; plain types, fractions between 0 and 1.

        Raises:
          InputError: an image has no ground truth, or one of another label space.
        """
        space = self.label_space
        quality = PanopticQuality({c.id: c.is_thing for c in space.classes})
        iou = MeanIoU(space.num_classes, space.ignore_label)
        with tqdm.tqdm(total=self.num_images, desc="Evaluating", unit="image") as progress:
            for batch in dataset:
                maps = self._predict(batch[keys.IMAGE], batch[keys.RESIZED_SIZE])[keys.PANOPTIC_MAP]
                for i in np.flatnonzero(batch[keys.IS_REAL].numpy()):
                    result = self._update(quality, iou, {key: value[i] for key, value in batch.items()}, maps[i])
                    if on_image is not None:
                        on_image(result)
                    progress.update()
        result = iou.result().to_dict()
        per_class = {str(c.id): result["per_class"][c.id] for c in space.classes}
        return {
            "num_images": len(quality.per_image),
            "inference": {"scales": list(self.multi_scale.scales), "flip": self.multi_scale.flip},
            "panoptic_quality": quality.result().to_dict(),
            "mean_iou": {"mean": result["mean_iou"], "per_class": per_class},
        }

    def _update(self, quality: PanopticQuality, iou: MeanIoU, image: Mapping[str, tf.Tensor], panoptic: tf.Tensor):
        """Adds an image to the metrics and returns it as an ImageResult."""
        name = image[keys.IMAGE_NAME].numpy().decode()
        space = self.label_space
        truth, crowd_ids = _ground_truth(image, name, space)
        height, width = image[keys.RESIZED_SIZE].numpy()
        panoptic = panoptic[:height, :width]
        if (height, width) != truth.shape:
            panoptic = transforms.resize_nearest(panoptic, truth.shape)
        panoptic = panoptic.numpy()
        try:
            quality.update_from_panoptic_ids(truth, panoptic, space.label_divisor, space.void_id, crowd_ids, name)
            iou.update(truth // space.label_divisor, panoptic // space.label_divisor, name)
        except ValueError as error:
            raise InputError(
                f"{error} The ground truth is not of the label space in {dataset_info.DATASET_FILE}: convert again."
            ) from error
        return ImageResult(name, image[keys.IMAGE].numpy()[:height, :width], truth, panoptic)


def _ground_truth(image: Mapping[str, tf.Tensor], name: str, space: LabelSpace) -> tuple[np.ndarray, np.ndarray]:
    """Panoptic map [H, W] and crowd ids of an image on disk."""
    encoded = image[keys.RAW_PANOPTIC].numpy()
    if not encoded:
        raise InputError(f"Image {name!r} has no ground truth: evaluate on a split that has.")
    encoding = records.detect_format(encoded)
    try:
        truth = records.decode_panoptic(encoded, encoding, *image[keys.RAW_SIZE].numpy())
    except InputError as error:
        raise InputError(f"Image {name!r}: {error}") from error
    crowd_ids = image[keys.RAW_CROWD_IDS].numpy()
    if encoding == records.RAW:  # DeepLab2's files: crowd is a thing with instance id 0
        ids = np.unique(truth)
        crowd_ids = ids[(ids % space.label_divisor == 0) & np.isin(ids // space.label_divisor, space.thing_ids)]
    return truth, crowd_ids


def format_metrics(metrics: dict, space: LabelSpace) -> str:
    """The metrics of `Evaluator.evaluate` as a table of text; percent."""
    quality, iou = metrics["panoptic_quality"], metrics["mean_iou"]
    step = f"step {metrics['step']}, " if "step" in metrics else ""
    multi_scale = MultiScale(tuple(metrics["inference"]["scales"]), metrics["inference"]["flip"])
    variants = "" if multi_scale.is_plain else f", mean of {multi_scale}"
    lines = [
        f"Panoptic quality (official rules) and IoU in percent; {step}{metrics['num_images']} images{variants}",
        f"{'':<20} {'PQ':>6} {'SQ':>6} {'RQ':>6} {'TP':>7} {'FP':>7} {'FN':>7} {'IoU':>6}",
    ]
    for name in ("all", "things", "stuff"):
        mean = quality[name]
        lines.append(f"{name:<20}" + "".join(f" {100 * mean[key]:6.1f}" for key in ("pq", "sq", "rq")))
    lines[2] += f"{'':25}{100 * iou['mean']:6.1f}"
    for c in space.classes:
        row = quality["per_class"][str(c.id)]
        ratios = "".join(f" {100 * row[key]:6.1f}" for key in ("pq", "sq", "rq"))
        counts = "".join(f" {row[key]:7d}" for key in ("tp", "fp", "fn"))
        class_iou = iou["per_class"][str(c.id)]
        if class_iou is None and not row["tp"] + row["fp"] + row["fn"]:
            continue  # occurs neither in ground truth nor in predictions
        shown = "     -" if class_iou is None else f"{100 * class_iou:6.1f}"
        lines.append(f"{c.name[:20]:<20}{ratios}{counts} {shown}")
    return "\n".join(lines)


def scalars(metrics: dict) -> dict[str, float]:
    """The means of `Evaluator.evaluate` by name, for TensorBoard."""
    quality = metrics["panoptic_quality"]
    values = {f"{key}_{name}": quality[name][key] for name in ("all", "things", "stuff") for key in ("pq", "sq", "rq")}
    return {**values, "mean_iou": metrics["mean_iou"]["mean"]}
