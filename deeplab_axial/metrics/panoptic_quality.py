# SPDX-License-Identifier: Apache-2.0
"""Panoptic quality with the rules of the official tool.

Definition: Kirillov et al., "Panoptic Segmentation", 2019 (https://arxiv.org/abs/1801.00868). Where the paper leaves a
choice open, the rule is that of `panopticapi`, so the numbers equal those of the COCO and Cityscapes servers.

DeepLab2's panoptic quality is another number: its conversion of the data makes crowd void (`treat_crowd_as_ignore`),
and its metric knows no crowd. `crowd_as_void` does the former; what remains of the rules is the same for both.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from deeplab_axial.metrics.segments import Overlaps, Segments, find_overlaps, integer_vector, positions, some, sum_at

# In the maps that are compared, this id is void whatever the segment lists say.
_VOID = 0


class ClassQuality(NamedTuple):
    """Quality of one category; all 0 where it occurs neither in ground truth nor in predictions."""

    pq: float
    sq: float
    rq: float
    iou_sum: float
    tp: int
    fp: int
    fn: int


class MeanQuality(NamedTuple):
    """Means over the n categories with a true positive, false positive or false negative; 0 where n is 0."""

    pq: float
    sq: float
    rq: float
    n: int


class ImageQuality(NamedTuple):
    """Quality of one image alone: means over its n categories, and counts over all of them."""

    image_name: str | None
    pq: float
    sq: float
    rq: float
    n: int
    tp: int
    fp: int
    fn: int


@dataclasses.dataclass(frozen=True)
class PanopticQualityResult:
    """Panoptic (pq), segmentation (sq) and recognition (rq) quality, each from 0 to 1.

    Attributes:
      all: means over all categories.
      things: means over the thing categories.
      stuff: means over the stuff categories.
      per_class: category id -> its quality, for every category.
    """

    all: MeanQuality
    things: MeanQuality
    stuff: MeanQuality
    per_class: dict[int, ClassQuality]

    def to_dict(self) -> dict:
        """Plain types, for JSON; category ids become strings."""
        means = {name: getattr(self, name)._asdict() for name in ("all", "things", "stuff")}
        return {**means, "per_class": {str(c): quality._asdict() for c, quality in self.per_class.items()}}


class PanopticQuality:
    """Streaming panoptic quality: `update` per image, `merge` across workers, `result` at any time.

    A prediction and a ground-truth segment of the same category match where their IoU exceeds 0.5; void pixels of the
    ground truth do not count in the union, crowds never match. A prediction without match is forgiven where more than
    half of it lies on void pixels and on its category's crowd; of several crowds of a category in one image only the
    last of the annotation counts, as in the official tool. Ground-truth pixels of an id without segment are neither
    void nor matched.

    Attributes:
      categories: category id -> True for things, False for stuff.
      per_image: the quality of every image, in the order of the updates.
    """

    def __init__(self, categories: Mapping[int, bool]):
        """Starts at zero.

        Args:
          categories: category id -> True for things, False for stuff.

        Raises:
          ValueError: no categories.
        """
        if not categories:
            raise ValueError("categories must name at least one category. Received: none")
        self.categories = {int(c): bool(categories[c]) for c in sorted(categories)}
        self.per_image: list[ImageQuality] = []
        self._category_ids = np.array(list(self.categories), np.int64)
        self._is_thing = np.array(list(self.categories.values()), bool)
        self._totals = np.zeros([4, len(self.categories)])  # Rows: sum of IoU, tp, fp, fn.

    def update(
        self,
        gt_map: ArrayLike,
        gt_segments: Segments,
        pred_map: ArrayLike,
        pred_segments: Segments,
        image_name: str | None = None,
    ) -> ImageQuality:
        """Adds an image given as in the COCO panoptic format.

        Args:
          gt_map: [H, W] integers, the segment id of each pixel; 0 is void.
          gt_segments: the ground-truth segments. One without pixels is a false negative.
          pred_map: [H, W] integers.
          pred_segments: the predicted segments: exactly the ids of `pred_map`; 0 may be left out and is void then.
          image_name: named in errors and in `per_image`.

        Returns:
          The quality of this image alone.

        Raises:
          ValueError: the maps are not integers of one shape, an id lies outside [0, 2^32), predicted ids and map
            differ, a category is unknown, the ground truth lists id 0 as a segment or gives a matched segment area 0.
            The metric is left as it was.
        """
        overlaps = find_overlaps(gt_map, pred_map, self._where(image_name))
        return self._add(overlaps, gt_segments, pred_segments, image_name)

    def update_from_panoptic_ids(
        self,
        gt: ArrayLike,
        pred: ArrayLike,
        label_divisor: int,
        void_id: int,
        crowd_ids: Sequence[int] | np.ndarray = (),
        image_name: str | None = None,
    ) -> ImageQuality:
        """Adds an image given as maps of panoptic ids: category * label_divisor + instance id.

        Every id that occurs, other than `void_id`, is one segment.

        Args:
          gt: [H, W] integers.
          pred: [H, W] integers.
          label_divisor: more than the largest instance id.
          void_id: the id of void pixels in both maps. Id 0 is a segment unless it is this one.
          crowd_ids: the ground truth's crowd segments in the order of the annotation; negative entries are padding.
          image_name: named in errors and in `per_image`.

        Returns:
          The quality of this image alone.

        Raises:
          ValueError: as for `update`; a crowd is void or repeated.
        """
        where = self._where(image_name)
        if label_divisor < 1:
            raise ValueError(f"{where}: label_divisor must be at least 1. Received: {label_divisor}")
        crowds = integer_vector("crowd_ids", crowd_ids)
        crowds = crowds[crowds >= 0]
        if void_id in crowds or np.unique(crowds).size < crowds.size:
            raise ValueError(f"{where}: crowd_ids must be distinct and not void ({void_id}). Received: {some(crowds)}")
        overlaps = find_overlaps(gt, pred, where)
        gt_ids = np.unique(overlaps.gt[overlaps.gt != void_id])
        pred_ids = np.unique(overlaps.pred[overlaps.pred != void_id])
        gt_ids = np.concatenate([gt_ids[~np.isin(gt_ids, crowds)], crowds])
        # Ids move up by one, for 0 is void from here on but may be a segment so far (class 0, instance 0).
        gt_segments = Segments(gt_ids + 1, gt_ids // label_divisor, np.isin(gt_ids, crowds))
        pred_segments = Segments(pred_ids + 1, pred_ids // label_divisor)
        overlaps = Overlaps(
            np.where(overlaps.gt == void_id, _VOID, overlaps.gt + 1),
            np.where(overlaps.pred == void_id, _VOID, overlaps.pred + 1),
            overlaps.pixels,
        )
        return self._add(overlaps, gt_segments, pred_segments, image_name)

    def merge(self, other: "PanopticQuality") -> None:
        """Adds the images of another instance.

        Args:
          other: left unchanged.

        Raises:
          ValueError: the categories differ.
        """
        if self.categories != other.categories:
            raise ValueError(f"Metrics to merge must have the same categories. Received: {other.categories}")
        self._totals += other._totals
        self.per_image.extend(other.per_image)

    def result(self) -> PanopticQualityResult:
        """The quality over all images so far."""
        classes = zip(*(row.tolist() for row in (*_quality(self._totals), *self._totals)))
        per_class = {
            category: ClassQuality(pq, sq, rq, iou_sum, int(tp), int(fp), int(fn))
            for category, (pq, sq, rq, iou_sum, tp, fp, fn) in zip(self.categories, classes)
        }
        return PanopticQualityResult(
            all=_mean_quality(self._totals),
            things=_mean_quality(self._totals[:, self._is_thing]),
            stuff=_mean_quality(self._totals[:, ~self._is_thing]),
            per_class=per_class,
        )

    def _where(self, image_name: str | None) -> str:
        return f"Image number {len(self.per_image)} (from 0)" if image_name is None else f"Image {image_name!r}"

    def _add(self, overlaps: Overlaps, gt: Segments, pred: Segments, image_name: str | None) -> ImageQuality:
        where = self._where(image_name)
        gt_class = self._classes(gt, f"{where}, ground truth")
        pred_class = self._classes(pred, f"{where}, prediction")
        totals = _compare(overlaps, gt, pred, gt_class, pred_class, self._totals.shape[1], where)
        self._totals += totals
        tp, fp, fn = (int(row.sum()) for row in totals[1:])
        quality = ImageQuality(image_name, *_mean_quality(totals), tp, fp, fn)
        self.per_image.append(quality)
        return quality

    def _classes(self, segments: Segments, where: str) -> np.ndarray:
        """[S]: the column of each segment's category in the totals."""
        classes = positions(self._category_ids, segments.categories)
        if (classes < 0).any():
            unknown = np.unique(segments.categories[classes < 0])
            raise ValueError(
                f"{where}: every segment's category must be one of {some(self._category_ids)}. "
                f"Received: {some(unknown)}. Add it to the categories, or make these pixels void."
            )
        return classes


def _compare(
    overlaps: Overlaps,
    gt: Segments,
    pred: Segments,
    gt_class: np.ndarray,
    pred_class: np.ndarray,
    num_classes: int,
    where: str,
) -> np.ndarray:
    """[4, C]: sum of IoU, tp, fp and fn of one image."""
    # Of each overlap: its segment's place in the list, or -1.
    gt_at, pred_at = positions(gt.ids, overlaps.gt), positions(pred.ids, overlaps.pred)
    pred_area = sum_at(pred_at, overlaps.pixels, pred.ids.size)
    _check_ids(gt.ids, overlaps.pred[(pred_at < 0) & (overlaps.pred != _VOID)], pred.ids[pred_area == 0], where)
    gt_area = sum_at(gt_at, overlaps.pixels, gt.ids.size) if gt.areas is None else gt.areas
    void_area = sum_at(np.where(overlaps.gt == _VOID, pred_at, -1), overlaps.pixels, pred.ids.size)

    paired = np.flatnonzero((gt_at >= 0) & (pred_at >= 0))
    g, p, intersection = gt_at[paired], pred_at[paired], overlaps.pixels[paired]
    last_crowd = np.full(num_classes, -1)
    np.maximum.at(last_crowd, gt_class[gt.is_crowd], np.flatnonzero(gt.is_crowd))
    crowd_area = sum_at(np.where(g == last_crowd[pred_class[p]], p, -1), intersection, pred.ids.size)

    comparable = ~gt.is_crowd[g] & (gt_class[g] == pred_class[p])
    g, p, intersection = g[comparable], p[comparable], intersection[comparable]
    union = pred_area[p] + gt_area[g] - intersection - void_area[p]
    if (union <= 0).any():
        bad = some(gt.ids[g[union <= 0]])
        raise ValueError(f"{where}: ground-truth segments with pixels need an area. Received: 0 for ids {bad}")
    iou = intersection / union
    matched = iou > 0.5
    g, p, iou = g[matched], p[matched], iou[matched]

    missed = ~gt.is_crowd
    missed[g] = False
    wrong = (void_area + crowd_area) / pred_area <= 0.5
    wrong[p] = False
    count = functools.partial(np.bincount, minlength=num_classes)
    tallies = [count(gt_class[g], iou), count(gt_class[g]), count(pred_class[wrong]), count(gt_class[missed])]
    return np.array(tallies, np.float64)


def _check_ids(gt_ids: np.ndarray, unlisted: np.ndarray, absent: np.ndarray, where: str) -> None:
    if _VOID in gt_ids:
        raise ValueError(f"{where}: ground-truth id {_VOID} is void. Received: a segment of that id. Renumber it.")
    if unlisted.size:
        raise ValueError(
            f"{where}: every id of the predicted map must be in its segment list. "
            f"Received ids without segment: {some(np.unique(unlisted))}. List them, or set these pixels to {_VOID}."
        )
    if absent.size:
        raise ValueError(
            f"{where}: every predicted segment must have pixels in its map. "
            f"Received ids without pixels: {some(absent)}. Remove them from the segment list."
        )


def _quality(totals: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[4, C] -> pq, sq and rq, each [C]; 0 where nothing was counted."""
    iou_sum, tp, fp, fn = totals
    segments = tp + fp / 2 + fn / 2
    return _ratio(iou_sum, segments), _ratio(iou_sum, tp), _ratio(tp, segments)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)


def _mean_quality(totals: np.ndarray) -> MeanQuality:
    n = int(np.count_nonzero(totals[1:].sum(axis=0)))
    return MeanQuality(*(float(q.sum()) / max(n, 1) for q in _quality(totals)), n)


def crowd_as_void(gt: np.ndarray, crowd_ids: Sequence[int] | np.ndarray, void_id: int) -> np.ndarray:
    """A ground truth as DeepLab2 evaluates it, for its panoptic quality: crowd is void.

    A prediction on crowd is forgiven then whatever its class, and crowd pixels do not count in the union: the figure is
    a little higher than the official one.

    Args:
      gt: [H, W] panoptic ids.
      crowd_ids: ids of the crowd segments; ids that do not occur are of no effect.
      void_id: panoptic id of void pixels.

    Returns:
      [H, W], of the same type.
    """
    return np.where(np.isin(gt, crowd_ids), np.asarray(void_id, gt.dtype), gt)
