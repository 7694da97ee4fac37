# SPDX-License-Identifier: Apache-2.0
"""Average precision of instances by COCO's rules, which pycocotools applies."""

import contextlib
import io
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from deeplab_axial.metrics.average_precision import AveragePrecisionResult, InstanceClasses, find_instances
from deeplab_axial.metrics.segments import find_runs, positions

# What COCOeval.summarize tells, in its order: AP over IoU 0.5 to 0.95, at 0.5, at 0.75, by area (below 32^2, up to
# 96^2, above); recall with 1, 10 and 100 instances an image, and by area.
_STATISTICS = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large"),
)


class _Image(NamedTuple):
    """Size (height, width) in pixels, and what COCO's format says of each instance."""

    size: tuple[int, int]
    truths: list[dict[str, Any]]
    predictions: list[dict[str, Any]]


class CocoAveragePrecision:
    """Streaming average precision: `update` per image, `merge` across workers, `result` at any time.

    Masks are kept run-length encoded. Crowd is ignored as COCO's rules say. Images may differ in size.

    Attributes:
      classes: which segments are instances.
    """

    def __init__(self, classes: InstanceClasses):
        """Starts without images."""
        self.classes = classes
        self._images: list[_Image] = []

    def update(
        self,
        gt: ArrayLike,
        pred: ArrayLike,
        crowd_ids: Sequence[int] | np.ndarray,
        pred_ids: Sequence[int] | np.ndarray,
        scores: ArrayLike,
        image_name: str | None = None,
    ) -> None:
        """Adds an image; the arguments, and what is raised, are those of `average_precision.find_instances`."""
        where = f"Image number {len(self._images)} (from 0)" if image_name is None else f"Image {image_name!r}"
        found = find_instances(self.classes, gt, pred, crowd_ids, pred_ids, scores, where)
        truths = [
            {"category_id": int(c), "area": int(area), "iscrowd": int(crowd), "segmentation": rle}
            for c, area, crowd, rle in zip(
                found.gt_classes, found.gt_areas, found.is_crowd, encode_masks(np.asarray(gt), found.gt_ids)
            )
        ]
        predictions = [
            {"category_id": int(c), "area": int(area), "iscrowd": 0, "score": float(score), "segmentation": rle}
            for c, area, score, rle in zip(
                found.pred_classes, found.pred_areas, found.scores, encode_masks(np.asarray(pred), found.pred_ids)
            )
        ]
        self._images.append(_Image(np.shape(gt), truths, predictions))

    def merge(self, other: "CocoAveragePrecision") -> None:
        """Adds the images of another instance.

        Args:
          other: left unchanged.

        Raises:
          ValueError: the classes differ.
        """
        if self.classes != other.classes:
            raise ValueError(f"Metrics to merge must have the same classes. Received: {other.classes}")
        self._images.extend(other._images)

    def result(self) -> AveragePrecisionResult:
        """Average precision and recall over all images so far; NaN where there is no ground truth."""
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = COCOeval(self._coco("truths"), self._coco("predictions"), "segm")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        means = {name: _value(value) for name, value in zip(_STATISTICS, evaluation.stats)}
        # [thresholds, recalls, classes, areas, limits]: all areas, 100 instances an image.
        precision = evaluation.eval["precision"][:, :, :, 0, -1]
        per_class = {
            c: {"ap": _value(precision[:, :, k].mean()), "ap50": _value(precision[0, :, k].mean())}
            for k, c in enumerate(sorted(self.classes.thing_ids))
        }
        return AveragePrecisionResult("coco", means, per_class)

    def _coco(self, part: str) -> COCO:
        """The truths or predictions as COCO's own object."""
        # New dicts, for the evaluation writes into them. Ids count from 1: it takes 0 for "no match".
        annotations = [
            {**instance, "image_id": number}
            for number, image in enumerate(self._images)
            for instance in getattr(image, part)
        ]
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i, "height": x.size[0], "width": x.size[1]} for i, x in enumerate(self._images)],
            "categories": [{"id": c} for c in self.classes.thing_ids],
            "annotations": [{**annotation, "id": i} for i, annotation in enumerate(annotations, 1)],
        }
        coco.createIndex()
        return coco


def encode_masks(panoptic: np.ndarray, ids: np.ndarray) -> list[dict[str, Any]]:
    """The masks of segments in COCO's compressed run-length encoding.

    Args:
      panoptic: [H, W] integers.
      ids: [N] distinct ids that occur in the map.

    Returns:
      For each id {"size": [H, W], "counts": bytes}, as pycocotools.mask.encode gives it.
    """
    height, width = panoptic.shape
    flat = panoptic.T.ravel()  # COCO counts down the columns
    starts, lengths = find_runs(flat)
    owner = positions(ids, flat[starts])
    order = np.argsort(owner, kind="stable")
    bounds = np.searchsorted(owner[order], np.arange(ids.size + 1))
    encoded = []
    for first, last in itertools.pairwise(bounds):
        runs = order[first:last]
        ends = starts[runs] + lengths[runs]
        gaps = starts[runs] - np.append(0, ends[:-1])
        counts = np.stack([gaps, lengths[runs]], axis=1).ravel().tolist()
        if ends[-1] < flat.size:
            counts.append(int(flat.size - ends[-1]))
        encoded.append(mask.frPyObjects({"size": [height, width], "counts": counts}, height, width))
    return encoded


def _value(value: float) -> float:
    """COCO writes -1 where there is nothing to measure."""
    return float("nan") if value < 0 else float(value)
