# SPDX-License-Identifier: Apache-2.0
"""What was found on one image."""

import collections
import dataclasses
import os
from collections.abc import Mapping

import numpy as np

from deeplab_axial import keys, visualization
from deeplab_axial.data.label_space import LabelSpace


@dataclasses.dataclass(frozen=True)
class Segment:
    """A thing, or all of one kind of stuff.

    Attributes:
      id: panoptic id, class id * label_divisor + instance id: the segment's value in `Result.panoptic`.
      class_id: class in the label space.
      class_name: what people read.
      is_thing: countable (thing) or not (stuff).
      score: things: centre score x mean probability of the class over the instance (Panoptic-DeepLab, Cheng et al.
        2020, section 3.3); the centre score is a regressed height, near 1 and sometimes above it. Stuff: mean
        probability of the class over the segment, 0 to 1.
      area: pixels.
      box: (y0, x0, y1, x1) in pixels, the smallest that holds the segment; half-open: rows y0 to y1 - 1 and columns x0
        to x1 - 1.
    """

    id: int
    class_id: int
    class_name: str
    is_thing: bool
    score: float
    area: int
    box: tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Result:
    """A panoptic segmentation of one image.

    Attributes:
      image: uint8 [H, W, 3], RGB: the pixels that were segmented.
      panoptic: int32 [H, W], class id * label_divisor + instance id; void is `label_space.void_id`.
      semantic: int32 [H, W], the most probable class of each pixel, before small segments became void.
      segments: largest first; void is none of them.
      label_space: the classes.
      num_surplus: instances that are void because `label_space.label_divisor` holds no more of their class.
    """

    image: np.ndarray
    panoptic: np.ndarray
    semantic: np.ndarray
    segments: list[Segment]
    label_space: LabelSpace
    num_surplus: int = 0

    @classmethod
    def from_predictions(
        cls, image: np.ndarray, predictions: Mapping[str, np.ndarray], label_space: LabelSpace
    ) -> "Result":
        """From the prediction entries of keys.TABLE for one image, without the axis B."""
        panoptic = predictions[keys.PANOPTIC_MAP]
        segments = find_segments(panoptic, predictions, label_space)
        surplus = int(predictions.get(keys.NUM_SURPLUS, 0))  # older exports do not count them
        return cls(image, panoptic, predictions[keys.SEMANTIC_MAP], segments, label_space, surplus)

    def mask(self, segment: Segment) -> np.ndarray:
        """The pixels of a segment, bool [H, W]."""
        return self.panoptic == segment.id

    def overlay(self, scores: bool = False, alpha: float = 0.55) -> np.ndarray:
        """The segments painted over the image, with class names.

        Args:
          scores: writes each segment's score behind its name.
          alpha: opacity of the colours, 0 to 1.

        Returns:
          uint8 [H * s, W * s, 3]: images with a shorter side under 384 pixels are enlarged by a whole number s.
        """
        shown = {segment.id: segment.score for segment in self.segments} if scores else None
        return visualization.panoptic_overlay(self.image, self.panoptic, self.label_space, alpha, scores=shown)

    def save(self, path: str | os.PathLike, scores: bool = False, alpha: float = 0.55) -> None:
        """Writes `overlay` as the picture that the path's extension says (.png, .jpg, .webp or .bmp).

        The file is complete or absent, and folders above it are made.

        Raises:
          InputError: the extension is another one, or the file cannot be written.
        """
        visualization.check_extension(path)
        visualization.save_picture(path, self.overlay(scores, alpha))

    def coco(self) -> tuple[np.ndarray, list[dict]]:
        """The result in COCO's panoptic format.

        Returns:
          uint8 [H, W, 3], the pixels of a PNG: segment number = R + 256 G + 65536 B, 0 is void; and `segments_info`:
          for each segment, in the order of their panoptic ids, its number `id` from 1, the data set's `category_id`,
          `area` in pixels, `bbox` as (x, y, width, height), `iscrowd` 0 and `score`.
        """
        numbers = np.zeros(self.panoptic.shape, np.int32)
        info = []
        for number, segment in enumerate(sorted(self.segments, key=lambda s: s.id), start=1):
            y0, x0, y1, x1 = segment.box
            part = (slice(y0, y1), slice(x0, x1))
            numbers[part][self.panoptic[part] == segment.id] = number
            info.append(
                {
                    "id": number,
                    "category_id": self.label_space.by_id[segment.class_id].category_id,
                    "area": segment.area,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "iscrowd": 0,
                    "score": round(segment.score, 6),
                }
            )
        return np.stack([numbers & 255, numbers >> 8 & 255, numbers >> 16], -1).astype(np.uint8), info

    def __repr__(self) -> str:
        height, width = self.panoptic.shape
        counts = collections.Counter(segment.class_name for segment in self.segments)
        names = ", ".join(f"{count} {name}" if count > 1 else name for name, count in counts.items())
        return f"Result({height} x {width} pixels, {len(self.segments)} segments: {names or 'none'})"

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        return visualization.encode_png(self.overlay())


def find_segments(
    panoptic: np.ndarray, predictions: Mapping[str, np.ndarray], label_space: LabelSpace
) -> list[Segment]:
    """The segments of a panoptic map, largest first.

    Args:
      panoptic: int32 [H, W].
      predictions: entries of keys.TABLE for one image, of which the scores are used.
      label_space: the classes.
    """
    ids, index, areas = np.unique(panoptic, return_inverse=True, return_counts=True)
    boxes = _boxes(index.reshape(panoptic.shape), len(ids))
    scores: dict[int, float] = {}
    if keys.INSTANCE_SCORES in predictions:
        scores = dict(zip(predictions[keys.INSTANCE_PANOPTIC_IDS].tolist(), predictions[keys.INSTANCE_SCORES].tolist()))
    segments = []
    for panoptic_id, area, box in zip(ids.tolist(), areas.tolist(), boxes):
        if panoptic_id == label_space.void_id:
            continue
        label = label_space.by_id[panoptic_id // label_space.label_divisor]
        score = scores[panoptic_id] if label.is_thing else float(predictions[keys.STUFF_SCORES][label.id])
        segments.append(Segment(panoptic_id, label.id, label.name, label.is_thing, score, area, box))
    return sorted(segments, key=lambda segment: -segment.area)


def _boxes(index: np.ndarray, count: int) -> list[tuple[int, int, int, int]]:
    """The half-open (y0, x0, y1, x1) of each number below `count` in a map that has all of them."""
    height, width = index.shape
    rows, columns = np.zeros((count, height), bool), np.zeros((count, width), bool)
    rows[index, np.arange(height)[:, None]] = True
    columns[index, np.arange(width)[None, :]] = True
    y0, x0 = rows.argmax(1), columns.argmax(1)
    y1, x1 = height - rows[:, ::-1].argmax(1), width - columns[:, ::-1].argmax(1)
    return [tuple(box) for box in np.stack([y0, x0, y1, x1], 1).tolist()]
