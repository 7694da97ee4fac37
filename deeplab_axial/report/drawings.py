# SPDX-License-Identifier: Apache-2.0
"""Drawings of the report: SVG elements in the colours of the page, light or dark."""

import io
import math
import re
from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

# The first and the second run.
COLORS = ("#3b82f6", "#f97316")
# Stands for the text colour of the page until the drawing is inside it: Matplotlib has no word for that colour.
_PLACEHOLDER_COLOR = "#010203"
# Widths and heights, inches: a drawing stretches, its letters with it, to the page's width or to half of it.
WIDE, NARROW = (10.5, 2.6), (4.4, 3.2)
# More points than this do not fit a small panel; they are averaged in groups.
_CURVE_POINTS = 400


def svg(
    draw: Callable[[Axes], None], name: str, xlabel: str, ylabel: str = "", size: tuple[float, float] = (3.6, 2.1)
) -> str:
    """An SVG element.

    Args:
      draw: draws on the axes.
      name: makes the ids inside the drawing differ from those of the other drawings of the page.
      xlabel: of the x axis.
      ylabel: of the y axis.
      size: width and height, inches; the page stretches the drawing.

    Returns:
      The element, without anything that depends on the time or the machine.
    """
    # Without "parse_math", a dollar sign in a name would start a formula.
    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.size": 9,
        "axes.formatter.limits": (-3, 4),
        "text.parse_math": False,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        figure.patch.set_visible(False)  # The page's own background shows through, light or dark.
        axes.patch.set_visible(False)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(_PLACEHOLDER_COLOR)
        axes.tick_params(colors=_PLACEHOLDER_COLOR, length=3)
        axes.grid(color=_PLACEHOLDER_COLOR, alpha=0.12, linewidth=0.8)
        axes.set_axisbelow(True)
        draw(axes)
        axes.set_xlabel(xlabel, color=_PLACEHOLDER_COLOR)
        axes.set_ylabel(ylabel, color=_PLACEHOLDER_COLOR)
        axes.yaxis.offsetText.set_color(_PLACEHOLDER_COLOR)
        buffer = io.StringIO()
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        FigureCanvasSVG(figure).print_svg(buffer, metadata=no_metadata)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(_PLACEHOLDER_COLOR, "currentColor")
    return re.sub(r'<g id="[^"]*"', "<g", text)  # Nothing refers to groups, and their ids would repeat on the page.


def curve(name: str, lines: Sequence[tuple[np.ndarray, np.ndarray]]) -> str:
    """The values of each run over its steps, faint, under their moving mean.

    Args:
      name: of the value.
      lines: (steps, finite values) by ascending step, one for each run.
    """

    def draw(axes):
        for (steps, values), color in zip(lines, COLORS):
            steps, values = _thin(steps, values)
            # A mean would blunt the peak of the learning rate, which has no noise.
            smooth = len(values) >= 50 and name != "learning_rate"
            style = {"linewidth": 1, "alpha": 0.3} if smooth else {"linewidth": 1.6}
            axes.plot(steps, values, color=color, marker="o" if len(values) == 1 else None, **style)
            if smooth:
                axes.plot(steps, moving_mean(values, len(values) // 25), color=color, linewidth=1.6)
        axes.locator_params(nbins=5)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))

    return svg(draw, name, "step")


def histogram(values: Sequence[Sequence[float]], size: tuple[float, float] = WIDE) -> str:
    """How many images of each run have which PQ; values in [0, 1]."""

    def draw(axes):
        edges = np.linspace(0, 100, 21)
        for run, color in zip(values, COLORS):
            counts, _ = np.histogram(100 * np.asarray(run), edges)
            axes.stairs(counts, edges, color=color, fill=len(values) == 1, linewidth=1.8)
        axes.set_xlim(0, 100)
        axes.yaxis.get_major_locator().set_params(integer=True)

    return svg(draw, "histogram", "PQ of the image, %", "images", size)


def scatter(first: Sequence[float], second: Sequence[float], xlabel: str, ylabel: str) -> str:
    """PQ of each image in two runs, a point for each, and the line of equal PQ; values in [0, 1]."""

    def draw(axes):
        axes.plot([0, 100], [0, 100], color=_PLACEHOLDER_COLOR, alpha=0.4, linewidth=1)
        points = 100 * np.asarray([first, second])
        size = 22 if len(first) < 200 else 8
        axes.scatter(*points, s=size, color=COLORS[0], alpha=0.5, linewidths=0, rasterized=len(first) > 1000)
        axes.set_xlim(-2, 102)
        axes.set_ylim(-2, 102)
        axes.set_aspect("equal")

    return svg(draw, "scatter", xlabel, ylabel, (4.4, 4.2))


def recall(labels: Sequence[str], shares: Sequence[Sequence[float | None]], counts: Sequence[int]) -> str:
    """Recall by the size of instances, a bar for each run.

    Args:
      labels: of the sizes.
      shares: recall from 0 to 1 of each run and size; None where there is no instance.
      counts: instances of each size, written over the bars.
    """

    def draw(axes):
        width = 0.8 / len(shares)
        for i, (run, color) in enumerate(zip(shares, COLORS)):
            at = np.arange(len(labels)) + (i - (len(shares) - 1) / 2) * width
            axes.bar(at, [100 * (share or 0) for share in run], width * 0.94, color=color)
        for at, count in enumerate(counts):
            top = max(100 * (run[at] or 0) for run in shares)
            axes.text(at, top + 2, f"{count:,}", ha="center", color=_PLACEHOLDER_COLOR, fontsize=8)
        axes.set_xticks(range(len(labels)), labels)
        axes.grid(axis="x", visible=False)
        axes.set_ylim(0, 112)
        axes.set_yticks([0, 25, 50, 75, 100])

    return svg(draw, "recall", "side of a square of the instance's area, pixels", "recall, %", WIDE)


def moving_mean(values: np.ndarray, half: int) -> np.ndarray:
    """Means over up to 2 * half + 1 neighbours; fewer at the ends."""
    total = np.append(0, np.cumsum(values))
    i = np.arange(len(values))
    low, high = np.maximum(i - half, 0), np.minimum(i + half + 1, len(values))
    return (total[high] - total[low]) / (high - low)


def _thin(steps, values):
    group = math.ceil(len(values) / _CURVE_POINTS)
    if group <= 1:
        return steps, values
    starts = np.arange(0, len(values), group)
    counts = np.diff(np.append(starts, len(values)))
    return tuple(np.add.reduceat(v, starts) / counts for v in (steps, values))
