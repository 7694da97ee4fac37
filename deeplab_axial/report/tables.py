# SPDX-License-Identifier: Apache-2.0
"""The figures of the report's tables, from what an evaluation kept."""

import itertools
from typing import NamedTuple

import numpy as np

from deeplab_axial.report.details import MATCH_IOU, Details

# Classes in the picture of the confusion matrix; of more, those that are confused most.
CONFUSION_CLASSES = 32
CONFUSIONS_IN_WORDS = 12
# Sides of squares, pixels: doublings, and the borders of COCO's small, medium and large (32 and 96).
_SIDES = (0, 8, 16, 32, 64, 96, 192, 384, np.inf)
_COCO_SIDES = (0, 32, 96, np.inf)
_RULES = {"coco": "COCO's rules", "cityscapes": "Cityscapes' rules"}


class Row(NamedTuple):
    """One figure of the summary; `value` lies in [0, 1] or is None where nothing tells it."""

    name: str
    value: float | None


class Recall(NamedTuple):
    """Recall of the instances of one size.

    Attributes:
      label: the size.
      count: instances.
      found: those with a prediction of IoU above 0.5.
    """

    label: str
    count: int
    found: int

    @property
    def share(self) -> float | None:
        """found / count; None without any instance."""
        return self.found / self.count if self.count else None


def summary(metrics: dict) -> list[Row]:
    """All means over classes."""
    quality, precision = metrics["panoptic_quality"], metrics.get("average_precision")
    rows = []
    for group, suffix in (("all", ""), ("things", " of things"), ("stuff", " of stuff")):
        rows += [Row(f"{name.upper()}{suffix}", quality[group][name]) for name in ("pq", "sq", "rq")]
    rows.append(Row("mIoU", metrics["mean_iou"]["mean"]))
    if precision is not None:
        rules = _RULES[precision["rules"]]
        rows += [Row(f"AP of instances, {rules}", precision["ap"]), Row("AP at IoU 0.5", precision["ap50"])]
    if "panoptic_quality_deeplab2" in metrics:
        rows.append(Row("PQ as DeepLab2 measures it", metrics["panoptic_quality_deeplab2"]["all"]["pq"]))
    return rows


def groups(metrics: dict) -> list[tuple[str, dict]]:
    """(name, {"pq", "sq", "rq", "n"}) of all classes, things and stuff."""
    return [(group.capitalize(), metrics["panoptic_quality"][group]) for group in ("all", "things", "stuff")]


def class_rows(details: Details) -> list[dict]:
    """One dict per class: "name", "kind", "color", "absent", "pq", "sq", "rq", "tp", "fp", "fn", "iou", "ap"."""
    metrics = details.metrics
    per_class, ious = metrics["panoptic_quality"]["per_class"], metrics["mean_iou"]["per_class"]
    precisions = metrics.get("average_precision", {}).get("per_class", {})
    rows = []
    for c in details.label_space.classes:
        key = str(c.id)
        row = {name: per_class[key][name] for name in ("pq", "sq", "rq", "tp", "fp", "fn")}
        # A class that is neither in the ground truth nor predicted has no quality; zeros would look like failure.
        absent = not row["tp"] + row["fp"] + row["fn"]
        if absent:
            row |= dict.fromkeys(("pq", "sq", "rq"))
        kind = "thing" if c.is_thing else "stuff"
        row |= {"name": c.name, "kind": kind, "color": c.color, "absent": absent, "iou": ious[key]}
        rows.append({**row, "ap": precisions.get(key, {}).get("ap")})
    return rows


def confusion_table(details: Details) -> dict:
    """The confusion matrix, normalised by ground truth, for at most CONFUSION_CLASSES classes.

    Returns:
      {"columns": names, "rows": [{"name", "color", "pixels", "cells": [share or None]}], "left_out": classes that
      occur but are not shown}. The last columns are the classes that are not shown, if any, and void.
    """
    confusion = details.confusion.astype(np.float64)
    size = len(confusion)
    wrong = confusion.copy()
    wrong[np.arange(size), np.arange(size)] = 0
    occurs = confusion.sum(axis=1) + confusion[:, :size].sum(axis=0) > 0
    order = np.argsort(-(wrong.sum(axis=1) + wrong[:, :size].sum(axis=0) + occurs), kind="stable")
    shown = np.sort(order[occurs[order]][:CONFUSION_CLASSES])
    others = np.setdiff1d(np.flatnonzero(occurs), shown)
    parts = [confusion[:, shown], confusion[:, size:]]
    columns = [details.label_space.classes[i].name for i in shown]
    if others.size:
        parts.insert(1, confusion[:, others].sum(axis=1, keepdims=True))
        columns.append("other classes")
    cells = np.concatenate(parts, axis=1)
    rows = []
    for i in shown:
        total = confusion[i].sum()
        shares = (cells[i] / total).tolist() if total else [None] * cells.shape[1]
        c = details.label_space.classes[i]
        rows.append({"name": c.name, "color": c.color, "pixels": int(total), "cells": shares})
    return {"columns": [*columns, "void"], "rows": rows, "left_out": int(others.size)}


def largest_confusions(details: Details) -> list[dict]:
    """The pairs of classes with the most wrong pixels.

    Returns:
      {"truth", "predicted": names, "share": of the truth's pixels, "of_errors": of all wrong pixels}, largest first.
    """
    wrong = details.confusion.astype(np.float64)
    size = len(wrong)
    wrong[np.arange(size), np.arange(size)] = 0
    names = [*(c.name for c in details.label_space.classes), "void"]
    pixels = details.confusion.sum(axis=1)
    found = []
    for flat in np.argsort(-wrong, axis=None, kind="stable")[:CONFUSIONS_IN_WORDS].tolist():
        i, j = divmod(flat, size + 1)
        if wrong[i, j]:
            share, of_errors = float(wrong[i, j] / pixels[i]), float(wrong[i, j] / wrong.sum())
            found.append({"truth": names[i], "predicted": names[j], "share": share, "of_errors": of_errors})
    return found


def recall_by_size(details: Details) -> list[Recall]:
    """Recall of all things by the side of a square of their area, at the size on disk."""
    labels = [f"{low:g}\u2013{high:g}" for low, high in itertools.pairwise(_SIDES)]
    labels[0], labels[-1] = f"under {_SIDES[1]}", f"over {_SIDES[-2]}"
    everything = np.ones(details.instance_areas.size, bool)
    return [Recall(label, *counts) for label, counts in zip(labels, _recall(details, everything, _SIDES))]


def recall_by_class(details: Details) -> list[dict]:
    """{"name", "color", "sizes": [Recall] of COCO's small, medium and large and of all} for each thing, and for all."""
    labels = ("small", "medium", "large")
    choices = [("All things", None, np.ones(details.instance_areas.size, bool))]
    choices += [(c.name, c.color, details.instance_classes == c.id) for c in details.label_space.classes if c.is_thing]
    rows = []
    for name, color, chosen in choices:
        sizes = [Recall(label, *counts) for label, counts in zip(labels, _recall(details, chosen, _COCO_SIDES))]
        sizes.append(Recall("all", *_recall(details, chosen, (0, np.inf))[0]))
        if sizes[-1].count:
            rows.append({"name": name, "color": color, "sizes": sizes})
    return rows


def _recall(details: Details, chosen: np.ndarray, sides: tuple[float, ...]) -> list[tuple[int, int]]:
    """(instances, found ones) between successive sides."""
    edges = np.square(np.array(sides, np.float64))
    areas, found = details.instance_areas[chosen], details.instance_ious[chosen] > MATCH_IOU
    bins = np.digitize(areas, edges) - 1
    size = len(sides) - 1
    counts, hits = np.bincount(bins, minlength=size), np.bincount(bins[found], minlength=size)
    return list(zip(counts.tolist(), hits.tolist()))
