# SPDX-License-Identifier: Apache-2.0
"""Average precision of instances by the rules of Cityscapes' own evaluation."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from deeplab_axial.metrics.average_precision import AveragePrecisionResult, InstanceClasses, find_instances
from deeplab_axial.metrics.segments import positions, sum_at

# As the official tool counts them, rounding errors included: an IoU must be greater.
_THRESHOLDS = np.arange(0.5, 1.0, 0.05)
# Smaller instances of the ground truth are neither found nor missed, pixels.
_MIN_AREA = 100


class CityscapesAveragePrecision:
    """Streaming average precision: `update` per image, `merge` across workers, `result` at any time.

    A prediction is right where its IoU with an instance of its class exceeds the threshold. One that is not right is
    wrong, unless it matches a crowd ("group" in Cityscapes) or an instance of fewer than 100 pixels, or the share of it
    that lies on void and on such segments of its class exceeds the threshold.

    One difference from the official tool is left: it takes no notice of single caravans and trailers, whose pixels are
    void in panoptic maps.

    Attributes:
      classes: which segments are instances.
    """

    def __init__(self, classes: InstanceClasses):
        """Starts without images."""
        self.classes = classes
        self._num_images = 0
        # [C]: instances to find.
        self._num_truths = np.zeros(len(classes.thing_ids), np.int64)
        # One entry an image of what was predicted: columns of the classes [N], scores [N], whether right or wrong
        # [T, N] at each threshold.
        self._columns: list[np.ndarray] = []
        self._scores: list[np.ndarray] = []
        self._right: list[np.ndarray] = []
        self._wrong: list[np.ndarray] = []

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
        where = f"Image number {self._num_images} (from 0)" if image_name is None else f"Image {image_name!r}"
        found = find_instances(self.classes, gt, pred, crowd_ids, pred_ids, scores, where)
        overlaps, count = found.overlaps, found.pred_ids.size
        # Of each overlap: the instances' places in their lists, or -1.
        g, p = positions(found.gt_ids, overlaps.gt), positions(found.pred_ids, overlaps.pred)
        on_void = sum_at(np.where(overlaps.gt == self.classes.void_id, p, -1), overlaps.pixels, count)
        comparable = (g >= 0) & (p >= 0)
        comparable[comparable] = found.gt_classes[g[comparable]] == found.pred_classes[p[comparable]]
        g, p, intersection = g[comparable], p[comparable], overlaps.pixels[comparable]

        is_small = found.gt_areas < _MIN_AREA
        counts = ~found.is_crowd & ~is_small
        iou = intersection / (found.gt_areas[g] + found.pred_areas[p] - intersection)
        # [T, overlaps]. Above one half an instance matches one other at most.
        matches = iou > _THRESHOLDS[:, None]
        matched, right = np.zeros([2, _THRESHOLDS.size, count], bool)
        threshold, pair = np.nonzero(matches)
        matched[threshold, p[pair]] = True
        right[threshold, p[pair]] = counts[g[pair]]
        # A crowd that is small, too, counts twice in the official tool.
        excused = on_void + sum_at(p, intersection * (found.is_crowd[g].astype(np.int64) + is_small[g]), count)
        wrong = ~matched & (excused / found.pred_areas <= _THRESHOLDS[:, None])

        self._num_images += 1
        things = np.asarray(self.classes.thing_ids)
        self._num_truths += np.bincount(positions(things, found.gt_classes[counts]), minlength=things.size)
        self._columns.append(positions(things, found.pred_classes))
        self._scores.append(found.scores)
        self._right.append(right)
        self._wrong.append(wrong)

    def merge(self, other: "CityscapesAveragePrecision") -> None:
        """Adds the images of another instance.

        Args:
          other: left unchanged.

        Raises:
          ValueError: the classes differ.
        """
        if self.classes != other.classes:
            raise ValueError(f"Metrics to merge must have the same classes. Received: {other.classes}")
        self._num_images += other._num_images
        self._num_truths += other._num_truths
        for name in ("_columns", "_scores", "_right", "_wrong"):
            getattr(self, name).extend(getattr(other, name))

    def result(self) -> AveragePrecisionResult:
        """Average precision over all images so far; NaN for a class without instances to find."""
        thresholds, classes = _THRESHOLDS.size, len(self.classes.thing_ids)
        columns = np.concatenate([np.zeros(0, np.int64), *self._columns])
        scores = np.concatenate([np.zeros(0), *self._scores])
        right = np.concatenate([np.zeros([thresholds, 0], bool), *self._right], axis=1)
        counted = right | np.concatenate([np.zeros([thresholds, 0], bool), *self._wrong], axis=1)
        table = np.full([thresholds, classes], np.nan)
        for c in np.flatnonzero(self._num_truths):
            for t in range(thresholds):
                mine = counted[t] & (columns == c)
                table[t, c] = _average_precision(scores[mine], right[t, mine], int(self._num_truths[c]))
        per_class = {
            i: {"ap": float(table[:, c].mean()), "ap50": float(table[0, c])}
            for c, i in enumerate(self.classes.thing_ids)
        }
        known = table[:, self._num_truths > 0]
        means = (float(known.mean()), float(known[0].mean())) if known.size else (float("nan"), float("nan"))
        return AveragePrecisionResult("cityscapes", dict(zip(("ap", "ap50"), means)), per_class)


def _average_precision(scores: np.ndarray, is_right: np.ndarray, num_truths: int) -> float:
    """The area under the curve of precision over recall, each precision held halfway to both of its neighbours.

    Args:
      scores: [N].
      is_right: [N] bool.
      num_truths: instances to find, at least 1.
    """
    order = np.argsort(scores)
    # One point of the curve for each score: what scores as much or more is taken.
    first = np.unique(scores[order], return_index=True)[1]
    right_below = np.append(0, np.cumsum(is_right[order]))[first]
    right = np.count_nonzero(is_right) - right_below
    precision = np.append(right / (scores.size - first), 1.0)
    recall = np.append(right / num_truths, 0.0)
    neighbours = np.concatenate([recall[:1], recall, [0.0]])
    return float(precision @ (neighbours[:-2] - neighbours[2:]) / 2)
