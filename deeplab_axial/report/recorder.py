# SPDX-License-Identifier: Apache-2.0
"""Collects, image by image, what the report tells of an evaluation."""

import bisect
import hashlib
from collections.abc import Mapping

import numpy as np
from PIL import Image

from deeplab_axial import contact_sheet
from deeplab_axial.data.label_space import LabelSpace
from deeplab_axial.metrics import segments
from deeplab_axial.report.details import Details, Picture
from deeplab_axial.training.evaluator import ImageResult

# Longest side of the pictures that are kept, pixels.
_LONGEST_SIDE = 512
# The strongest colour of offsets stands for this percentile of their lengths; the longest one may be far out.
_STRONGEST = 99


class Recorder:
    """Takes each image of an evaluation once; what it keeps of pictures does not grow with their number.

    Args:
      label_space: of ground truth and predictions.
      num_pictures: how many of the worst images, of the best and of a sample are kept. The sample depends on nothing
        but the names, so two evaluations of one data set keep the same.
    """

    def __init__(self, label_space: LabelSpace, num_pictures: int = 6):
        self.label_space = label_space
        self._class_ids = np.array([c.id for c in label_space.classes], np.int64)
        self._confusion = np.zeros([self._class_ids.size, self._class_ids.size + 1], np.int64)
        self._images: list[dict] = []
        self._instances: list[np.ndarray] = []
        self._kept = {kind: _Smallest(num_pictures) for kind in ("worst", "best", "sample")}

    def __call__(self, result: ImageResult) -> None:
        """Adds an image."""
        space = self.label_space
        overlaps = segments.find_overlaps(result.ground_truth, result.prediction, f"Image {result.name!r}")
        self._confusion += _confusion(overlaps, self._class_ids, space.label_divisor)
        self._instances.append(_instances(overlaps, result.crowd_ids, space))
        keys = _sort_keys(result.metrics)
        places = {kind: kept for kind, kept in self._kept.items() if kind in keys and kept.wants(keys[kind])}
        if places:
            picture = _shrink(result, space)
            for kind, kept in places.items():
                kept.add(keys[kind], len(self._images), picture)
        self._images.append(dict(result.metrics))

    def details(self, metrics: Mapping, facts: Mapping[str, str], config: str) -> Details:
        """All that was collected.

        Args:
          metrics: of the evaluation, with "step".
          facts: what to know about the run.
          config: the experiment, in text format.
        """
        kinds: dict[int, list[str]] = {}
        pictures: dict[int, dict] = {}
        for kind, kept in self._kept.items():
            for _, number, picture in kept.entries:
                kinds.setdefault(number, []).append(kind)
                pictures[number] = picture
        instances = np.concatenate([np.zeros([0, 3]), *self._instances])
        return Details(
            metrics=dict(metrics),
            facts=dict(facts),
            config=config,
            label_space=self.label_space,
            images=self._images,
            confusion=self._confusion,
            instance_classes=instances[:, 0].astype(np.int64),
            instance_areas=instances[:, 1].astype(np.int64),
            instance_ious=instances[:, 2],
            pictures=[Picture(kinds=tuple(kinds[number]), **picture) for number, picture in pictures.items()],
        )


class _Smallest:
    """The pictures of the smallest keys, in their order."""

    def __init__(self, size: int):
        self.size = size
        self.entries: list[tuple] = []

    def wants(self, key) -> bool:
        return len(self.entries) < self.size or (self.size > 0 and key < self.entries[-1][0])

    def add(self, key, number: int, picture: dict) -> None:
        bisect.insort(self.entries, (key, number, picture), key=lambda entry: entry[:2])
        del self.entries[self.size :]


def _sort_keys(metrics: Mapping) -> dict:
    """By what an image competes for each kind of place; one without any segment is neither good nor bad."""
    keys = {"sample": hashlib.sha256(metrics["name"].encode()).hexdigest()}
    if metrics["tp"] + metrics["fp"] + metrics["fn"]:
        keys |= {"worst": metrics["pq"], "best": -metrics["pq"]}
    return keys


def _confusion(overlaps: segments.Overlaps, class_ids: np.ndarray, divisor: int) -> np.ndarray:
    """[N, N + 1] pixels by class; what is no class of the ground truth is void and left out."""
    gt = segments.positions(class_ids, overlaps.gt // divisor)
    pred = segments.positions(class_ids, overlaps.pred // divisor)
    size = class_ids.size
    cells = np.where(gt < 0, -1, gt * (size + 1) + np.where(pred < 0, size, pred))
    return segments.sum_at(cells, overlaps.pixels, size * (size + 1)).reshape(size, size + 1)


def _instances(overlaps: segments.Overlaps, crowd_ids: np.ndarray, space: LabelSpace) -> np.ndarray:
    """[I, 3] class id, pixels and best IoU of the ground truth's things; as in PQ, void counts in no union."""
    gt_ids, gt_at = np.unique(overlaps.gt, return_inverse=True)
    pred_ids, pred_at = np.unique(overlaps.pred, return_inverse=True)
    gt_area = segments.sum_at(gt_at, overlaps.pixels, gt_ids.size)
    counted = overlaps.gt != space.void_id
    pred_area = segments.sum_at(np.where(counted, pred_at, -1), overlaps.pixels, pred_ids.size)
    union = gt_area[gt_at] + pred_area[pred_at] - overlaps.pixels
    same = counted & (overlaps.gt // space.label_divisor == overlaps.pred // space.label_divisor)
    best = np.zeros(gt_ids.size)
    np.maximum.at(best, gt_at[same], overlaps.pixels[same] / union[same])
    classes = gt_ids // space.label_divisor
    wanted = np.isin(classes, space.thing_ids) & ~np.isin(gt_ids, crowd_ids)
    return np.stack([classes, gt_area, best], axis=1)[wanted].astype(np.float64)


def _shrink(result: ImageResult, space: LabelSpace) -> dict:
    """The fields of `Picture`, without its kinds."""
    height, width = result.image.shape[:2]
    scale = min(1, _LONGEST_SIDE / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    image = Image.fromarray(np.rint(np.clip(result.image, 0, 255)).astype(np.uint8))
    picture = {
        "name": result.name,
        "image": np.asarray(image.resize(size[::-1], Image.Resampling.BOX) if scale < 1 else image),
        "truth": _nearest(result.ground_truth, size),
        "prediction": _nearest(result.prediction, size),
    }
    if result.read_heads is None:
        return picture
    heatmap, offsets = (_nearest(values, size) for values in result.read_heads())
    is_thing = np.isin(picture["prediction"] // space.label_divisor, space.thing_ids)
    lengths = np.linalg.norm(offsets[is_thing], axis=-1)
    longest = float(np.percentile(lengths, _STRONGEST)) if lengths.size else 0.0
    return {
        **picture,
        "heatmap": np.rint(255 * np.clip(heatmap, 0, 1)).astype(np.uint8),
        "offsets": contact_sheet.offset_colors(offsets, is_thing, longest),
        "longest_offset": longest,
    }


def _nearest(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[H, W, ...] -> [*size, ...]: the pixels at the middle of each new one."""
    ys, xs = (((np.arange(new) + 0.5) * old / new).astype(int) for old, new in zip(values.shape, size))
    return values[ys[:, None], xs]
