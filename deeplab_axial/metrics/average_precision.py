# SPDX-License-Identifier: Apache-2.0
"""What both rules of instance average precision share: the instances of an image, and the result.

A panoptic prediction has no two instances on one pixel, and each has one score: Panoptic-DeepLab's is the score of its
centre times the mean probability of its class (Cheng et al. 2020, section 3.3).
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from deeplab_axial.metrics.segments import Overlaps, find_overlaps, integer_vector, some, sum_at


@dataclasses.dataclass(frozen=True)
class AveragePrecisionResult:
    """Average precision from 0 to 1; NaN where nothing tells, as for a class without ground truth.

    Attributes:
      rules: "coco" or "cityscapes".
      means: by name, over all classes: "ap" (mean over IoU thresholds 0.5 to 0.95), "ap50", and more with COCO's rules.
      per_class: class id -> {"ap", "ap50"}.
    """

    rules: str
    means: dict[str, float]
    per_class: dict[int, dict[str, float]]

    def to_dict(self) -> dict:
        """Plain types, for JSON; class ids become strings, and None takes the place of NaN, which JSON lacks."""
        per_class = {str(c): _without_nan(values) for c, values in self.per_class.items()}
        return {"rules": self.rules, **_without_nan(self.means), "per_class": per_class}


def _without_nan(values: dict[str, float]) -> dict[str, float | None]:
    return {name: None if np.isnan(value) else float(value) for name, value in values.items()}


@dataclasses.dataclass(frozen=True)
class InstanceClasses:
    """Which segments of panoptic maps are instances.

    Attributes:
      thing_ids: classes that are things, distinct.
      label_divisor: panoptic id = class * label_divisor + instance id.
      void_id: panoptic id of void pixels.

    Raises:
      ValueError: no or repeated things, or a divisor below 1.
    """

    thing_ids: tuple[int, ...]
    label_divisor: int
    void_id: int

    def __post_init__(self):
        if not self.thing_ids or len(set(self.thing_ids)) < len(self.thing_ids):
            raise ValueError(f"thing_ids must be distinct class ids, one or more. Received: {self.thing_ids}")
        if self.label_divisor < 1:
            raise ValueError(f"label_divisor must be at least 1. Received: {self.label_divisor}")


class ImageInstances(NamedTuple):
    """The instances of an image: G of the ground truth, crowd among them, and N that were predicted.

    Attributes:
      overlaps: of the two maps.
      gt_ids: [G] int64 panoptic ids.
      gt_classes: [G] int64.
      gt_areas: [G] int64, pixels.
      is_crowd: [G] bool.
      pred_ids: [N] int64 panoptic ids.
      pred_classes: [N] int64.
      pred_areas: [N] int64, pixels.
      scores: [N] float64.
    """

    overlaps: Overlaps
    gt_ids: np.ndarray
    gt_classes: np.ndarray
    gt_areas: np.ndarray
    is_crowd: np.ndarray
    pred_ids: np.ndarray
    pred_classes: np.ndarray
    pred_areas: np.ndarray
    scores: np.ndarray


def find_instances(
    classes: InstanceClasses,
    gt: ArrayLike,
    pred: ArrayLike,
    crowd_ids: Sequence[int] | np.ndarray,
    pred_ids: Sequence[int] | np.ndarray,
    scores: ArrayLike,
    where: str,
) -> ImageInstances:
    """The instances of an image.

    Args:
      classes: which segments are instances.
      gt: [H, W] panoptic ids; every id of a thing class is an instance.
      pred: [H, W] panoptic ids.
      crowd_ids: the crowd segments of the ground truth; negative entries are padding.
      pred_ids: [M] panoptic ids of the predicted instances. One without pixels is left out.
      scores: [M], the greater the surer.
      where: names the image in errors.

    Returns:
      The instances, ordered by id.

    Raises:
      ValueError: the maps are not integers of one shape; a predicted instance is repeated, of no thing class or without
        a finite score; the map has an instance that `pred_ids` lacks.
    """
    pred_ids, scores = integer_vector("pred_ids", pred_ids), np.asarray(scores, np.float64)
    if scores.shape != pred_ids.shape or not np.isfinite(scores).all():
        raise ValueError(f"{where}: every predicted instance needs a finite score. Received: {scores} for {pred_ids}")
    if np.unique(pred_ids).size < pred_ids.size:
        raise ValueError(f"{where}: pred_ids must be distinct. Received: {some(np.sort(pred_ids))}")
    overlaps = find_overlaps(gt, pred, where)

    def instances(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values, inverse = np.unique(ids, return_inverse=True)
        areas = sum_at(inverse, overlaps.pixels, values.size)
        mine = np.isin(values // classes.label_divisor, classes.thing_ids) & (values != classes.void_id)
        return values[mine], areas[mine]

    gt_found, gt_areas = instances(overlaps.gt)
    pred_found, pred_areas = instances(overlaps.pred)
    strangers = pred_ids[~np.isin(pred_ids // classes.label_divisor, classes.thing_ids)]
    if strangers.size:
        raise ValueError(f"{where}: pred_ids must be of thing classes. Received: {some(strangers)}")
    unscored = pred_found[~np.isin(pred_found, pred_ids)]
    if unscored.size:
        raise ValueError(f"{where}: every instance of the predicted map needs a score. Received none: {some(unscored)}")
    order = np.argsort(pred_ids)
    scores = scores[order][np.isin(pred_ids[order], pred_found)]
    return ImageInstances(
        overlaps,
        gt_found,
        gt_found // classes.label_divisor,
        gt_areas,
        np.isin(gt_found, crowd_ids),
        pred_found,
        pred_found // classes.label_divisor,
        pred_areas,
        scores,
    )
