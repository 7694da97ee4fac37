# SPDX-License-Identifier: Apache-2.0
"""Mean intersection over union of semantic segmentation."""

import dataclasses
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class ImageIoU(NamedTuple):
    """Mean IoU of one image alone, over the n classes that occur in its ground truth or prediction; 0 where n is 0."""

    image_name: str | None
    mean_iou: float
    n: int


@dataclasses.dataclass(frozen=True)
class MeanIoUResult:
    """IoU from 0 to 1.

    Attributes:
      mean_iou: mean over the n classes that occur in ground truth or prediction; 0 where n is 0.
      n: number of these classes.
      per_class: IoU of each class; NaN where it does not occur.
    """

    mean_iou: float
    n: int
    per_class: tuple[float, ...]

    def to_dict(self) -> dict:
        """Plain types, for JSON; None takes the place of NaN, which JSON lacks."""
        return {
            "mean_iou": self.mean_iou,
            "n": self.n,
            "per_class": [None if np.isnan(iou) else iou for iou in self.per_class],
        }


class MeanIoU:
    """Streaming mean IoU: `update` per image, `merge` across workers, `result` at any time.

    Pixels whose ground truth is the ignore label do not count. A prediction that is no class (the ignore label, or
    outside [0, num_classes)) misses the class of the ground truth and is charged to no other.

    Attributes:
      num_classes: C; classes are 0 to C - 1.
      ignore_label: ground truth of pixels to leave out; may lie inside [0, C).
      confusion: [C, C + 1] int64, pixels by ground truth and prediction; the last column is "no class".
      per_image: the mean IoU of every image, in the order of the updates.
    """

    def __init__(self, num_classes: int, ignore_label: int):
        """Starts at zero.

        Args:
          num_classes: number of classes.
          ignore_label: ground truth of pixels to leave out.

        Raises:
          ValueError: `num_classes` is not positive.
        """
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1. Received: {num_classes}")
        self.num_classes = num_classes
        self.ignore_label = ignore_label
        self.confusion = np.zeros([num_classes, num_classes + 1], np.int64)
        self.per_image: list[ImageIoU] = []

    def update(self, gt: ArrayLike, pred: ArrayLike, image_name: str | None = None) -> ImageIoU:
        """Adds an image.

        Args:
          gt: integers of any shape, class or ignore label of each pixel.
          pred: integers of the same shape.
          image_name: named in errors and in `per_image`.

        Returns:
          The mean IoU of this image alone.

        Raises:
          ValueError: not integers, different shapes, or a ground truth that is neither class nor ignore label. The
            metric is left as it was.
        """
        where = f"Image number {len(self.per_image)} (from 0)" if image_name is None else f"Image {image_name!r}"
        gt, pred = np.asarray(gt), np.asarray(pred)
        if gt.shape != pred.shape:
            raise ValueError(f"{where}: gt and pred must have the same shape. Received: {gt.shape} and {pred.shape}")
        if gt.dtype.kind not in "iu" or pred.dtype.kind not in "iu":
            raise ValueError(f"{where}: gt and pred must hold integers. Received: {gt.dtype} and {pred.dtype}")
        counted = gt != self.ignore_label
        gt, pred = gt[counted].astype(np.int64), pred[counted].astype(np.int64)
        if gt.size and (gt.min() < 0 or gt.max() >= self.num_classes):
            raise ValueError(
                f"{where}: gt must be a class in [0, {self.num_classes}) or the ignore label {self.ignore_label}. "
                f"Received: {gt.min()} to {gt.max()}. Map other labels to the ignore label."
            )
        no_class = (pred < 0) | (pred >= self.num_classes) | (pred == self.ignore_label)
        cells = gt * (self.num_classes + 1) + np.where(no_class, self.num_classes, pred)
        confusion = np.bincount(cells, minlength=self.confusion.size).reshape(self.confusion.shape)
        self.confusion += confusion
        image = ImageIoU(image_name, *_mean(_iou(confusion)))
        self.per_image.append(image)
        return image

    def merge(self, other: "MeanIoU") -> None:
        """Adds the images of another instance.

        Args:
          other: left unchanged.

        Raises:
          ValueError: number of classes or ignore label differ.
        """
        if (self.num_classes, self.ignore_label) != (other.num_classes, other.ignore_label):
            raise ValueError(
                "Metrics to merge must have the same (num_classes, ignore_label). "
                f"Received: {(other.num_classes, other.ignore_label)} for {(self.num_classes, self.ignore_label)}"
            )
        self.confusion += other.confusion
        self.per_image.extend(other.per_image)

    def result(self) -> MeanIoUResult:
        """The mean IoU over the pixels of all images so far."""
        iou = _iou(self.confusion)
        return MeanIoUResult(*_mean(iou), tuple(iou.tolist()))


def _iou(confusion: np.ndarray) -> np.ndarray:
    """[C, C + 1] -> [C], NaN where a class does not occur."""
    classes = confusion.shape[0]
    intersection = np.diagonal(confusion)
    union = confusion.sum(axis=1) + confusion[:, :classes].sum(axis=0) - intersection
    return np.divide(intersection, union, out=np.full(classes, np.nan), where=union > 0)


def _mean(iou: np.ndarray) -> tuple[float, int]:
    present = iou[~np.isnan(iou)]
    return (float(present.mean()) if present.size else 0.0), present.size
