# SPDX-License-Identifier: Apache-2.0
"""Panels of what training logged, one for each value."""

import dataclasses
import numbers
from collections.abc import Sequence

import numpy as np

from deeplab_axial import keys
from deeplab_axial.errors import InputError
from deeplab_axial.report import drawings

_STEP = "step"
_FIRST = (keys.TOTAL_LOSS, keys.SEMANTIC_LOSS, keys.CENTER_LOSS, keys.OFFSET_LOSS)
_LAST = ("learning_rate", "images_per_second")


@dataclasses.dataclass(frozen=True)
class Curve:
    """One panel.

    Attributes:
      name: of the value.
      last: its last number in each run, or a dash.
      notes: what is wrong with the numbers.
      drawing: an SVG element.
    """

    name: str
    last: list[str]
    notes: list[str]
    drawing: str


def panels(histories: Sequence[list[dict]]) -> list[Curve]:
    """One panel for each number that was logged.

    Args:
      histories: of each run, one dict per logged step: "step" and any numbers. Of two entries with one step the later
        one counts.

    Raises:
      InputError: an entry has no step.
    """
    runs = [_entries(history) for history in histories]
    names = {
        name: None
        for entries in runs
        for entry in entries
        for name, value in entry.items()
        if name != _STEP and isinstance(value, numbers.Real) and not isinstance(value, bool)
    }
    ordered = [n for n in _FIRST if n in names]
    ordered += [n for n in names if n not in _FIRST + _LAST]
    ordered += [n for n in _LAST if n in names]
    return [_curve(name, runs) for name in ordered]


def _entries(history):
    by_step = {}
    for number, entry in enumerate(history):
        if _STEP not in entry:
            raise InputError(
                f"Each entry of the history must have {_STEP!r}. Received: entry {number} with {sorted(entry)}. "
                "Remove that entry from the file."
            )
        by_step[entry[_STEP]] = entry
    return [by_step[step] for step in sorted(by_step)]


def _curve(name, runs):
    last, notes, lines = [], [], []
    for entries in runs:
        points = [(entry[_STEP], entry[name]) for entry in entries if entry.get(name) is not None]
        steps, values = np.asarray(points, float).reshape(-1, 2).T
        finite = np.isfinite(values)
        lost = int((~finite).sum())
        if lost:
            notes.append(f"{lost} of {len(values)} values are not finite, the first at step {steps[~finite][0]:g}")
        last.append(f"{values[-1]:.4g}" if len(values) else "\u2013")
        lines.append((steps[finite], values[finite]))
    return Curve(name.replace("_", " "), last, notes, drawings.curve(name, lines))
