# SPDX-License-Identifier: Apache-2.0
"""The schema of an evaluation as it is kept for the report: what `json_files` checks it against."""

import dataclasses
from typing import Annotated, Literal, TypedDict

from deeplab_axial.data.label_space import LabelSpace
from deeplab_axial.json_files import Bounds, Count, Share


class _Quality(TypedDict):
    pq: Share
    sq: Share
    rq: Share


class _GroupQuality(_Quality):
    n: Count


class _ClassQuality(_Quality):
    tp: Count
    fp: Count
    fn: Count


class _Image(_ClassQuality):
    name: str
    miou: Share | None


class _PanopticQuality(TypedDict):
    all: _GroupQuality
    things: _GroupQuality
    stuff: _GroupQuality
    per_class: dict[str, _ClassQuality]


class _MeanIoU(TypedDict):
    mean: Share | None
    per_class: dict[str, Share | None]


class _ClassPrecision(TypedDict):
    ap: Share | None


class _AveragePrecision(TypedDict):
    rules: Literal["coco", "cityscapes"]
    ap: Share | None
    ap50: Share | None
    per_class: dict[str, _ClassPrecision]


class _Inference(TypedDict):
    scales: list[Annotated[float, Bounds(0, 1000)]]
    flip: bool


class _Measured(TypedDict, total=False):
    average_precision: _AveragePrecision
    panoptic_quality_deeplab2: _PanopticQuality


class _Metrics(_Measured):
    step: Count
    num_images: Count
    panoptic_quality: _PanopticQuality
    mean_iou: _MeanIoU
    inference: _Inference


class _Instances(TypedDict):
    class_id: list[Count]
    area: list[Count]
    iou: list[Share]


@dataclasses.dataclass(frozen=True)
class Picture:
    """Of a `details.Picture` what is not in files of its own."""

    name: str
    kinds: tuple[Literal["worst", "best", "sample"], ...]
    longest_offset: Annotated[float, Bounds(0, 1e9)] | None


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """See `details.Details`; `format` is that of the file."""

    format: Count
    metrics: _Metrics
    facts: dict[str, str]
    config: str
    images: list[_Image]
    label_space: LabelSpace
    confusion: list[list[Count]]
    instances: _Instances
    pictures: list[Picture]

    def __post_init__(self):
        ids = {str(c.id) for c in self.label_space.classes}
        for name in ("panoptic_quality", "mean_iou"):
            missing = ids - self.metrics[name]["per_class"].keys()
            if missing:
                raise ValueError(f"metrics.{name}.per_class has no class {min(missing)}")
        if [len(row) for row in self.confusion] != [len(ids) + 1] * len(ids):
            raise ValueError(f"confusion must have {len(ids)} rows of {len(ids) + 1} numbers")
        if len({len(numbers) for numbers in self.instances.values()}) != 1:
            raise ValueError("the lists of instances must be equally long")
