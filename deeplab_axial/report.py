# SPDX-License-Identifier: Apache-2.0
"""One self-contained HTML page about a run: facts, metrics, loss curves and pictures."""

import base64
import dataclasses
import io
import math
import numbers
import os
import re

import jinja2
import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from PIL import Image

from deeplab_axial import files, keys
from deeplab_axial.data.label_space import LabelSpace
from deeplab_axial.errors import InputError

_STEP = "step"
_NO_VALUE = "\u2013"
_FIRST_CURVES = (keys.TOTAL_LOSS, keys.SEMANTIC_LOSS, keys.CENTER_LOSS, keys.OFFSET_LOSS)
_LAST_CURVES = ("learning_rate", "images_per_second")
# More points than this do not fit a small panel; they are averaged in groups.
_CURVE_POINTS = 400
_LINE_COLOR = "#3b82f6"
# Stands for the text colour of the page until the drawing is inside it: Matplotlib has no word for that colour.
_PLACEHOLDER_COLOR = "#010203"


@dataclasses.dataclass(frozen=True)
class _Curve:
    """One small panel."""

    name: str
    last: str
    note: str
    drawing: str


def write_report(
    path: str | os.PathLike,
    title: str,
    metrics: dict | None,
    history: list[dict],
    overlays: list[tuple[str, np.ndarray]],
    facts: dict[str, str],
    label_space: LabelSpace,
) -> None:
    """Writes the page; it loads nothing from elsewhere.

    Args:
      path: the HTML file; one that exists is replaced, and no reader sees half of it.
      title: heading of the page.
      metrics: what an evaluation found, or None: {"step", "num_images", "panoptic_quality": {"all", "things", "stuff":
        {"pq", "sq", "rq", "n"}, "per_class": {class id: {"pq", "sq", "rq", "tp", "fp", "fn"}}}, "mean_iou": {"mean",
        "per_class": {class id: number or None}}}. Class ids are strings and shares lie in [0, 1].
      history: one dict per logged step: "step" and any numbers, each of which becomes a curve. Of two entries with one
        step the later one counts.
      overlays: (caption, uint8 [H, W, 3]) pictures.
      facts: what to know about the run, shown in this order.
      label_space: names and colours of the classes.

    Raises:
      InputError: when `metrics` or `history` lacks a field, or `metrics` has a class the label space lacks.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("deeplab_axial"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["percent"] = _percent
    page = environment.get_template("report.html").render(
        title=title,
        facts=facts,
        evaluation=_evaluation(metrics, label_space) if metrics is not None else None,
        curves=_curves(history),
        overlays=[(caption, _jpeg_data(image)) for caption, image in overlays],
        classes=label_space.classes,
    )
    files.write_atomically(path, page)


def _field(metrics, *names):
    """metrics[a][b]..., or an error that names the missing field."""
    value = metrics
    for i, name in enumerate(names):
        if not isinstance(value, dict) or name not in value:
            received = sorted(value) if isinstance(value, dict) else value
            raise InputError(
                f"The metrics must have the field {'.'.join(names[: i + 1])!r}. Received: {received}. "
                "Evaluate again to write a complete file."
            )
        value = value[name]
    return value


def _evaluation(metrics, label_space):
    """What the template shows of `metrics`; `groups` holds (name, quality) of all classes, things and stuff."""
    names = (("All", "all"), ("Things", "things"), ("Stuff", "stuff"))
    fields = ("pq", "sq", "rq", "n")
    return {
        "step": _field(metrics, "step"),
        "num_images": _field(metrics, "num_images"),
        "groups": [(name, {f: _field(metrics, "panoptic_quality", group, f) for f in fields}) for name, group in names],
        "mean_iou": _field(metrics, "mean_iou", "mean"),
        "rows": _class_rows(metrics, label_space),
    }


def _class_rows(metrics, label_space):
    """One dict per class that was evaluated, by ascending id."""
    per_class = _field(metrics, "panoptic_quality", "per_class")
    ious = _field(metrics, "mean_iou", "per_class")
    known = {str(c.id) for c in label_space.classes}
    unknown = sorted((set(per_class) | set(ious)) - known)
    if unknown:
        raise InputError(
            f"The classes of the metrics must be classes of {label_space.name!r}. Received: {unknown}. "
            "Use the label space that the evaluation used."
        )
    rows = []
    for c in label_space.classes:
        key = str(c.id)
        if key not in per_class and key not in ious:
            continue
        row = {"name": c.name, "kind": "thing" if c.is_thing else "stuff", "color": c.color, "iou": ious.get(key)}
        for field in ("pq", "sq", "rq", "tp", "fp", "fn"):
            row[field] = _field(metrics, "panoptic_quality", "per_class", key, field) if key in per_class else None
        # A class that is neither in the ground truth nor predicted has no quality; zeros would look like failure.
        row["absent"] = not any(row[field] for field in ("tp", "fp", "fn"))
        rows.append(row)
    return rows


def _percent(share):
    """0.1234 -> "12.3"; None -> a dash."""
    return _NO_VALUE if share is None else f"{100 * share:.1f}"


def _curves(history):
    by_step = {}
    for number, entry in enumerate(history):
        if _STEP not in entry:
            raise InputError(
                f"Each entry of the history must have {_STEP!r}. Received: entry {number} with {sorted(entry)}. "
                "Remove that entry from the file."
            )
        by_step[entry[_STEP]] = entry
    entries = [by_step[step] for step in sorted(by_step)]
    names = {
        name: None
        for entry in entries
        for name, value in entry.items()
        if name != _STEP and isinstance(value, numbers.Real) and not isinstance(value, bool)
    }
    ordered = [n for n in _FIRST_CURVES if n in names]
    ordered += [n for n in names if n not in _FIRST_CURVES + _LAST_CURVES]
    ordered += [n for n in _LAST_CURVES if n in names]
    return [_curve(name, [(e[_STEP], e[name]) for e in entries if e.get(name) is not None]) for name in ordered]


def _curve(name, points):
    """The panel of one value; `points` are (step, value) by ascending step."""
    steps, values = np.asarray(points, float).T
    finite = np.isfinite(values)
    lost = int((~finite).sum())
    note = f"{lost} of {len(values)} values are not finite, the first at step {steps[~finite][0]:g}" if lost else ""
    last = f"{values[-1]:.4g}"
    return _Curve(name.replace("_", " "), last, note, _draw(name, steps[finite], values[finite]))


def _draw(name, steps, values):
    """An SVG element: the values, faint, under their moving mean."""
    group = math.ceil(len(values) / _CURVE_POINTS)
    if group > 1:
        starts = np.arange(0, len(values), group)
        counts = np.diff(np.append(starts, len(values)))
        steps, values = (np.add.reduceat(v, starts) / counts for v in (steps, values))
    # "hashsalt" makes the ids inside the drawing differ from those of the other drawings of the page.
    style = {"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 9, "axes.formatter.limits": (-3, 4)}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(3.6, 2.1), layout="constrained")
        axes = figure.add_subplot()
        figure.patch.set_visible(False)  # The page's own background shows through, light or dark.
        axes.patch.set_visible(False)
        # A mean would blunt the peak of the learning rate, which has no noise.
        smooth = len(values) >= 50 and name != "learning_rate"
        axes.plot(
            steps,
            values,
            color=_LINE_COLOR,
            linewidth=1 if smooth else 1.6,
            alpha=0.3 if smooth else 1,
            marker="o" if len(values) == 1 else None,
        )
        if smooth:
            axes.plot(steps, _moving_mean(values, len(values) // 25), color=_LINE_COLOR, linewidth=1.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(_PLACEHOLDER_COLOR)
        axes.tick_params(colors=_PLACEHOLDER_COLOR, length=3)
        axes.locator_params(nbins=5)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.grid(color=_PLACEHOLDER_COLOR, alpha=0.12, linewidth=0.8)
        axes.set_xlabel("step", color=_PLACEHOLDER_COLOR)
        axes.yaxis.offsetText.set_color(_PLACEHOLDER_COLOR)
        buffer = io.StringIO()
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        FigureCanvasSVG(figure).print_svg(buffer, metadata=no_metadata)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(_PLACEHOLDER_COLOR, "currentColor")
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # Nothing refers to groups, and their ids would repeat on the page.
    return svg


def _moving_mean(values, half):
    """Means over up to 2 * half + 1 neighbours; fewer at the ends."""
    total = np.append(0, np.cumsum(values))
    i = np.arange(len(values))
    low, high = np.maximum(i - half, 0), np.minimum(i + half + 1, len(values))
    return (total[high] - total[low]) / (high - low)


def _jpeg_data(image):
    """A data URL. JPEG: as PNG, the pictures of a page would take tens of megabytes."""
    if image.dtype != np.uint8 or image.ndim != 3:
        raise ValueError(f"Pictures must be uint8 [H, W, 3]. Received: {image.dtype} {image.shape}.")
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=90, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
