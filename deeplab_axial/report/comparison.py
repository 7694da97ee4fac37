# SPDX-License-Identifier: Apache-2.0
"""The page on two runs side by side: one self-contained HTML file."""

import difflib
import os
from typing import NamedTuple

from deeplab_axial.data.label_space import LabelSpace, differences, tell
from deeplab_axial.errors import InputError
from deeplab_axial.report import curves, drawings, page, pictures, tables
from deeplab_axial.report.page import Run

# Most improved images, and as many of those that became worse.
IMAGES_IN_TABLE = 20
_CONFUSIONS = 12


class Pair(NamedTuple):
    """A figure of both runs, None where a run has none."""

    first: float | None
    second: float | None

    @property
    def difference(self) -> float | None:
        """second - first; None unless both are known."""
        return None if self.first is None or self.second is None else self.second - self.first


def write_comparison(path: str | os.PathLike, title: str, first: Run, second: Run) -> None:
    """Writes the page on two runs; differences are second minus first. It loads nothing from elsewhere.

    Args:
      path: the HTML file; one that exists is replaced, and no reader sees half of it.
      title: heading of the page.
      first: shown on the left.
      second: shown on the right; of the same label space.

    Raises:
      InputError: the label spaces differ, a history has an entry without step, or the file cannot be written.
    """
    _check_label_spaces(first, second)
    runs = (first, second)
    images = _images(first, second)
    by_difference = sorted(images, key=lambda image: image["pq"].difference)
    half = min(IMAGES_IN_TABLE, len(images) // 2 + 1)
    worse = [image for image in by_difference[:half] if image["pq"].difference < 0]
    better = [image for image in by_difference[::-1][:half] if image["pq"].difference > 0]
    everything = [[image["pq"] for image in run.details.images if page.has_segments(image)] for run in runs]
    page.render(
        path,
        "comparison.html",
        title=title,
        runs=runs,
        notes=_notes(first, second, len(images)),
        summary=_summary(first, second),
        rows=_class_rows(first, second),
        has_ap=all("average_precision" in run.details.metrics for run in runs),
        worse=worse,
        better=better,
        num_images=len(images),
        histogram=drawings.histogram(everything, drawings.NARROW) if all(everything) else None,
        scatter=_scatter(images) if images else None,
        confusions=_confusions(first, second),
        recall=page.recall_drawing([tables.recall_by_size(run.details) for run in runs]),
        samples=_figures(first, second),
        curves=curves.panels([run.history for run in runs]),
        facts=_facts(first, second),
        config_lines=_config_difference(first, second),
        classes=first.details.label_space.classes,
    )


def _check_label_spaces(first: Run, second: Run) -> None:
    spaces = [run.details.label_space for run in (first, second)]
    found = differences(*spaces)
    if found:
        told = tell(found, "in the first", "in the second")
        raise InputError(
            f"Two runs must have the same classes to be compared. Received: {first.name} of {_told(spaces[0])} and "
            f"{second.name} of {_told(spaces[1])}; {told}. Evaluate both on one data set."
        )


def _told(space: LabelSpace) -> str:
    return f"{space.name!r} with {len(space.classes)} classes"


def _notes(first: Run, second: Run, num_images: int) -> list[str]:
    """What makes the comparison less than one of two models alone."""
    notes = []
    evaluations = [run.details.metrics for run in (first, second)]
    counts = [len(run.details.images) for run in (first, second)]
    names = [{image["name"] for image in run.details.images} for run in (first, second)]
    if names[0] != names[1]:
        shared = len(names[0] & names[1])
        notes.append(
            f"The runs were evaluated on different images: {counts[0]:,} and {counts[1]:,}, of which {shared:,} have "
            "the same name. The metrics are not comparable."
        )
    if evaluations[0]["inference"] != evaluations[1]["inference"]:
        notes.append("The runs were evaluated at different scales, or one with mirrored images: see the facts.")
    return notes


def _summary(first: Run, second: Run) -> list[tuple[str, Pair]]:
    rows = [dict(tables.summary(run.details.metrics)) for run in (first, second)]
    return [(name, Pair(rows[0].get(name), rows[1].get(name))) for name in {**rows[0], **rows[1]}]


def _class_rows(first: Run, second: Run) -> list[dict]:
    rows = []
    for a, b in zip(*(tables.class_rows(run.details) for run in (first, second))):
        pairs = {name: Pair(a[name], b[name]) for name in ("pq", "sq", "rq", "iou", "ap")}
        rows.append({**{name: a[name] for name in ("name", "kind", "color")}, **pairs})
    return rows


def _images(first: Run, second: Run) -> list[dict]:
    """{"name", "pq": Pair} of the images that have a quality in both runs."""
    others = {image["name"]: image for image in second.details.images if page.has_segments(image)}
    return [
        {"name": image["name"], "pq": Pair(image["pq"], others[image["name"]]["pq"])}
        for image in first.details.images
        if page.has_segments(image) and image["name"] in others
    ]


def _scatter(images: list[dict]) -> str:
    points = [[image["pq"][i] for image in images] for i in range(2)]
    return drawings.scatter(*points, *(f"PQ of {letter}, %" for letter in "AB"))


def _confusions(first: Run, second: Run) -> list[dict]:
    """The pairs of classes whose share of the truth's pixels changed most: {"truth", "predicted", "share": Pair}."""
    names = [*(c.name for c in first.details.label_space.classes), "void"]
    shares = []
    for run in (first, second):
        pixels = run.details.confusion.sum(axis=1, keepdims=True)
        shares.append(run.details.confusion / pixels.clip(min=1))
    change = abs(shares[1] - shares[0])
    for i in range(len(change)):
        change[i, i] = 0
    found = []
    for flat in (-change).argsort(axis=None, kind="stable")[:_CONFUSIONS].tolist():
        i, j = divmod(flat, len(names))
        if change[i, j]:
            pair = Pair(float(shares[0][i, j]), float(shares[1][i, j]))
            found.append({"truth": names[i], "predicted": names[j], "share": pair})
    return found


def _figures(first: Run, second: Run) -> list[dict]:
    """{"name", "captions": of each run, "panels"} of the images that both runs kept, the largest change first."""
    kept = [{picture.name: picture for picture in run.details.pictures} for run in (first, second)]
    images = [{image["name"]: image for image in run.details.images} for run in (first, second)]
    space = first.details.label_space
    figures = []
    for name in sorted(
        kept[0].keys() & kept[1].keys(), key=lambda name: -abs(images[1][name]["pq"] - images[0][name]["pq"])
    ):
        drawn = [pictures.draw(run[name], space) for run in kept]
        panels = {title: drawn[0][title] for title in ("Image", "Ground truth")}
        panels |= {f"Prediction of {letter}": one["Prediction"] for letter, one in zip("AB", drawn)}
        captions = [page.caption(run[name], known[name]) for run, known in zip(kept, images)]
        figures.append({"name": name, "captions": captions, "panels": panels})
    return figures


def _facts(first: Run, second: Run) -> list[tuple[str, str, str]]:
    facts = [run.details.facts for run in (first, second)]
    return [(name, facts[0].get(name, ""), facts[1].get(name, "")) for name in {**facts[0], **facts[1]}]


def _config_difference(first: Run, second: Run) -> list[str]:
    """The lines of a unified diff of the configs, without its head; none if they are the same."""
    lines = [run.details.config.splitlines() for run in (first, second)]
    return list(difflib.unified_diff(*lines, lineterm="", n=2))[2:]
