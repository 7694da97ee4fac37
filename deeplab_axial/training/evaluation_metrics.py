# SPDX-License-Identifier: Apache-2.0
"""All metrics of an evaluation together, and how they are told: as plain types, as a table, as scalars."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from deeplab_axial.data.label_space import LabelSpace
from deeplab_axial.metrics.average_precision import InstanceClasses
from deeplab_axial.metrics.cityscapes_average_precision import CityscapesAveragePrecision
from deeplab_axial.metrics.coco_average_precision import CocoAveragePrecision
from deeplab_axial.metrics.mean_iou import MeanIoU
from deeplab_axial.metrics.panoptic_quality import PanopticQuality, crowd_as_void
from deeplab_axial.postprocessing.multi_scale import MultiScale
from deeplab_axial.training import log

_AVERAGE_PRECISION = {"coco": CocoAveragePrecision, "cityscapes": CityscapesAveragePrecision}
_RULES = {"coco": "COCO's rules", "cityscapes": "Cityscapes' rules"}
# Names in a table of the means of average precision and recall that are no more than details.
_DETAILS = {
    **{"ap75": "AP75", "ap_small": "AP small", "ap_medium": "AP medium", "ap_large": "AP large"},
    **{"ar_1": "AR 1", "ar_10": "AR 10", "ar_100": "AR 100"},
    **{"ar_small": "AR small", "ar_medium": "AR medium", "ar_large": "AR large"},
}
_GROUPS = ("all", "things", "stuff")


@dataclasses.dataclass(frozen=True)
class MetricOptions:
    """What is measured besides official panoptic quality and mean IoU.

    Attributes:
      instance_ap: rules of the average precision of instances, "coco" or "cityscapes"; "none" leaves it out.
      deeplab2_panoptic_quality: adds panoptic quality as DeepLab2 measures it, where crowd is void.

    Raises:
      ValueError: there are no such rules.
    """

    instance_ap: str = "none"
    deeplab2_panoptic_quality: bool = False

    def __post_init__(self):
        if self.instance_ap not in ("none", *_AVERAGE_PRECISION):
            raise ValueError(f"instance_ap must be none, coco or cityscapes. Received: {self.instance_ap!r}")


class EvaluationMetrics:
    """Streaming: `update` per image, `merge` across workers, `result` at any time.

    Args:
      space: of ground truth and predictions.
      options: what to measure.
    """

    def __init__(self, space: LabelSpace, options: MetricOptions):
        self.space = space
        categories = {c.id: c.is_thing for c in space.classes}
        self.quality = PanopticQuality(categories)
        self.mean_iou = MeanIoU(space.num_classes, space.ignore_label)
        self.deeplab2_quality = PanopticQuality(categories) if options.deeplab2_panoptic_quality else None
        self.average_precision = None
        # A data set of stuff alone has no instances.
        if options.instance_ap != "none" and space.thing_ids:
            classes = InstanceClasses(space.thing_ids, space.label_divisor, space.void_id)
            self.average_precision = _AVERAGE_PRECISION[options.instance_ap](classes)

    def update(
        self,
        name: str,
        truth: np.ndarray,
        crowd_ids: np.ndarray,
        prediction: np.ndarray,
        semantic: np.ndarray,
        instance_ids: np.ndarray,
        scores: np.ndarray,
    ) -> dict:
        """Adds an image.

        Args:
          name: of the image.
          truth: [H, W] panoptic ids.
          crowd_ids: [K] ids of the crowd segments; negative entries are padding.
          prediction: [H, W] panoptic ids.
          semantic: [H, W] predicted classes; mean IoU is that of semantic segmentation, which has no void.
          instance_ids: [N] panoptic ids of the predicted instances; not looked at without average precision.
          scores: [N] float, likewise.

        Returns:
          {"name", "pq", "sq", "rq", "tp", "fp", "fn", "miou"} of this image alone; plain types.

        Raises:
          ValueError: of one of the metrics; the others may have counted the image.
        """
        space = self.space
        divisor, void = space.label_divisor, space.void_id
        quality = self.quality.update_from_panoptic_ids(truth, prediction, divisor, void, crowd_ids, name)
        iou = self.mean_iou.update(truth // divisor, semantic, name)
        if self.deeplab2_quality is not None:
            truth_without_crowd = crowd_as_void(truth, crowd_ids, void)
            self.deeplab2_quality.update_from_panoptic_ids(truth_without_crowd, prediction, divisor, void, (), name)
        if self.average_precision is not None:
            self.average_precision.update(truth, prediction, crowd_ids, instance_ids, scores, name)
        parts = {key: getattr(quality, key) for key in ("pq", "sq", "rq", "tp", "fp", "fn")}
        return {"name": name, **parts, "miou": iou.mean_iou}

    def merge(self, other: "EvaluationMetrics") -> None:
        """Adds the images of another instance, which must have the same label space and options."""
        for name in ("quality", "mean_iou", "deeplab2_quality", "average_precision"):
            mine, others = getattr(self, name), getattr(other, name)
            if type(mine) is not type(others):
                raise ValueError(f"Metrics to merge must measure the same. Received: {name} {others} for {mine}")
            if mine is not None:
                mine.merge(others)

    def result(self) -> dict:
        """The metrics over all images so far; plain types, fractions between 0 and 1.

        Returns:
          {"num_images", "panoptic_quality": official PQ, SQ, RQ (all, things, stuff, per_class), "mean_iou"}, and if
          asked for "panoptic_quality_deeplab2", of the same form, and "average_precision": {"rules", "ap", "ap50",
          more with COCO's rules, "per_class"}.
        """
        iou = self.mean_iou.result().to_dict()
        result = {
            "num_images": len(self.quality.per_image),
            "panoptic_quality": self.quality.result().to_dict(),
            "mean_iou": {
                "mean": iou["mean_iou"],
                "per_class": {str(c.id): iou["per_class"][c.id] for c in self.space.classes},
            },
        }
        if self.deeplab2_quality is not None:
            result["panoptic_quality_deeplab2"] = self.deeplab2_quality.result().to_dict()
        if self.average_precision is not None:
            result["average_precision"] = self.average_precision.result().to_dict()
        return result


def format_metrics(metrics: dict, space: LabelSpace, detailed_ap: bool = False) -> str:
    """The metrics of an evaluation as a table of text; percent.

    Args:
      metrics: of `Evaluator.evaluate`, with "step" and "num_images_in_data_set" if they are known.
      space: names the classes.
      detailed_ap: whether average precision and recall are shown by area and by number of instances, too.
    """
    quality, iou, precision = metrics["panoptic_quality"], metrics["mean_iou"], metrics.get("average_precision")
    step = f"step {metrics['step']}, " if "step" in metrics else ""
    multi_scale = MultiScale(tuple(metrics["inference"]["scales"]), metrics["inference"]["flip"])
    variants = "" if multi_scale.is_plain else f", mean of {multi_scale}"
    last = f" {'AP':>6}" if precision else ""
    lines = [
        f"Panoptic quality (official rules) and IoU in percent; {step}{told_images(metrics)}{variants}",
        f"{'':<20} {'PQ':>6} {'SQ':>6} {'RQ':>6} {'TP':>7} {'FP':>7} {'FN':>7} {'IoU':>6}{last}",
    ]
    for name in _GROUPS:
        lines.append(f"{name:<20}" + "".join(_percent(quality[name][key]) for key in ("pq", "sq", "rq")))
    lines[2] += f"{'':24}{_percent(iou['mean'])}{_percent(precision['ap']) if precision else ''}"
    for c in space.classes:
        row = quality["per_class"][str(c.id)]
        ratios = "".join(_percent(row[key]) for key in ("pq", "sq", "rq"))
        counts = "".join(f" {row[key]:7d}" for key in ("tp", "fp", "fn"))
        class_iou = iou["per_class"][str(c.id)]
        if class_iou is None and not row["tp"] + row["fp"] + row["fn"]:
            continue  # occurs neither in ground truth nor in predictions
        class_ap = _percent(precision["per_class"][str(c.id)]["ap"]) if precision and c.is_thing else ""
        lines.append(f"{c.name[:20]:<20}{ratios}{counts}{_percent(class_iou)}{class_ap}")
    if precision:
        shown = {"ap": "AP", "ap50": "AP50", **(_DETAILS if detailed_ap else {})}
        values = [f"{shown[key]}{_percent(precision[key])}" for key in shown if key in precision]
        lines.append(f"Instances ({_RULES[precision['rules']]}): {', '.join(values)}")
    if "panoptic_quality_deeplab2" in metrics:
        values = [f"{name}{_percent(metrics['panoptic_quality_deeplab2'][name]['pq'])}" for name in _GROUPS]
        lines.append(f"PQ as DeepLab2 measures it (crowd is void): {', '.join(values)}")
    if not any(row["tp"] + row["fn"] for row in quality["per_class"].values()):
        lines.append(
            "No image has a segment of ground truth, all is void or crowd: no figure above tells anything. Look at the "
            "records: deeplab-axial check_data."
        )
    lines += told_differences(metrics)
    if metrics.get("num_surplus"):
        lines.append(
            f"Void for want of ids (label_divisor {space.label_divisor}): {metrics['num_surplus']} predicted instances"
        )
    return "\n".join(lines)


def told_images(metrics: Mapping) -> str:
    """Of how many images metrics are, as "50 images", or "50 of 5000 images" if the data set has more."""
    of = metrics.get("num_images_in_data_set", metrics["num_images"])
    return f"{metrics['num_images']}{'' if of == metrics['num_images'] else f' of {of}'} images"


def told_differences(metrics: dict) -> list[str]:
    """A line if what was measured is not the network of the run's config; none otherwise."""
    fields = metrics.get(log.DIFFERS, {}).get(log.NETWORK, [])
    names = ", ".join(field.partition(":")[0] for field in fields[:4]) + (", ..." if len(fields) > 4 else "")
    return [f"Not the run's network or post-processing: {len(fields)} fields differ, {names}"] if fields else []


def scalars(metrics: dict, detailed_ap: bool = False) -> dict[str, float]:
    """The means of `Evaluator.evaluate` by name, for TensorBoard; those that nothing tells are left out."""
    quality = metrics["panoptic_quality"]
    values = {f"{key}_{name}": quality[name][key] for name in _GROUPS for key in ("pq", "sq", "rq")}
    values["mean_iou"] = metrics["mean_iou"]["mean"]
    if "panoptic_quality_deeplab2" in metrics:
        values |= {f"pq_{name}_deeplab2": metrics["panoptic_quality_deeplab2"][name]["pq"] for name in _GROUPS}
    precision = metrics.get("average_precision", {})
    names = ("ap", "ap50", *(_DETAILS if detailed_ap else ()))
    return values | {name: precision[name] for name in names if precision.get(name) is not None}


def _percent(value: float | None) -> str:
    return "      -" if value is None else f" {100 * value:6.1f}"
