# SPDX-License-Identifier: Apache-2.0
"""The page on one run: one self-contained HTML file."""

import base64
import hashlib
import os
from collections.abc import Mapping
from typing import NamedTuple

import jinja2

from deeplab_axial import files
from deeplab_axial.errors import InputError
from deeplab_axial.report import curves, drawings, pictures, tables
from deeplab_axial.report.details import Details, Picture

# Images in the table of a page; a large data set has more.
IMAGES_IN_TABLE = 200
_NO_VALUE = "\u2013"


class Run(NamedTuple):
    """A run that was evaluated.

    Attributes:
      name: for people.
      details: of its last evaluation.
      history: one dict per logged step of its training; "step" and any numbers.
    """

    name: str
    details: Details
    history: list[dict]


def write_report(path: str | os.PathLike, title: str, run: Run, facts: Mapping[str, str] | None = None) -> None:
    """Writes the page on one run; it loads nothing from elsewhere.

    Args:
      path: the HTML file; one that exists is replaced, and no reader sees half of it.
      title: heading of the page.
      run: what it tells.
      facts: more facts than those of the run.

    Raises:
      InputError: the history has an entry without step, or the file cannot be written.
    """
    details = run.details
    images = sorted((image for image in details.images if has_segments(image)), key=lambda image: image["pq"])
    sizes = tables.recall_by_size(details)
    render(
        path,
        "report.html",
        title=title,
        metrics=details.metrics,
        summary=tables.summary(details.metrics),
        groups=tables.groups(details.metrics),
        rows=tables.class_rows(details),
        has_ap="average_precision" in details.metrics,
        images=images[:IMAGES_IN_TABLE],
        num_images=len(images),
        histogram=drawings.histogram([[image["pq"] for image in images]]) if images else None,
        worst=_figures(details, "worst"),
        best=_figures(details, "best", but="worst"),
        confusion=tables.confusion_table(details),
        confusions=tables.largest_confusions(details),
        recall=recall_drawing([sizes]),
        recall_rows=tables.recall_by_class(details),
        samples=_figures(details, "sample", heads=True),
        legend=pictures.legend(),
        curves=curves.panels([run.history]),
        facts={**details.facts, **(facts or {})},
        config=details.config,
        classes=details.label_space.classes,
    )


def render(path: str | os.PathLike, template: str, **values) -> None:
    """Fills a template and writes the page.

    Raises:
      InputError: the file cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("deeplab_axial"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=_percent, signed=_signed, images=_images)
    script, _, _ = environment.loader.get_source(environment, "script.html")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    text = environment.get_template(template).render(
        script=script, script_hash=digest, colors=drawings.COLORS, **values
    )
    try:
        files.write_atomically(path, text)
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be written ({error}). Name another file with --output.") from error


def _images(metrics: Mapping) -> str:
    """Of how many images metrics are: "50 images", or "50 of 5,000 images" if the data set has more."""
    number = metrics["num_images"]
    of = metrics.get("num_images_in_data_set", number)
    return f"{number:,} images" if number == of else f"{number:,} of {of:,} images"


def has_segments(image: Mapping) -> bool:
    """Whether an image has a quality: one without any segment, true or predicted, has none."""
    return image["tp"] + image["fp"] + image["fn"] > 0


def recall_drawing(runs: list[list[tables.Recall]]) -> str | None:
    """The drawing of recall by size, without the sizes at both ends that no instance has; None without instances."""
    counts = [max(sizes[i].count for sizes in runs) for i in range(len(runs[0]))]
    present = [i for i, count in enumerate(counts) if count]
    if not present:
        return None
    kept = range(present[0], present[-1] + 1)
    shares = [[sizes[i].share for i in kept] for sizes in runs]
    return drawings.recall([runs[0][i].label for i in kept], shares, [counts[i] for i in kept])


def caption(picture: Picture, image: Mapping | None) -> str:
    """The figures of an image in words."""
    if image is None or not has_segments(image):
        return "no segments"
    counts = f"{image['tp']} matched, {image['fp']} wrong, {image['fn']} missed"
    return f"PQ {_percent(image['pq'])} %, SQ {_percent(image['sq'])} %, RQ {_percent(image['rq'])} %: {counts}"


def _figures(details: Details, kind: str, heads: bool = False, but: str | None = None) -> list[dict]:
    """{"name", "caption", "longest_offset", "panels": title -> data URL} of the pictures of a kind, in their order."""
    by_name = {image["name"]: image for image in details.images}
    return [
        {
            "name": picture.name,
            "caption": caption(picture, by_name.get(picture.name)),
            "longest_offset": picture.longest_offset,
            "panels": pictures.draw(picture, details.label_space, heads),
        }
        for picture in details.pictures
        if kind in picture.kinds and but not in picture.kinds
    ]


def _percent(share: float | None) -> str:
    """0.1234 -> "12.3"; None -> a dash."""
    return _NO_VALUE if share is None else f"{100 * share:.1f}"


def _signed(difference: float | None) -> str:
    """0.0123 -> "+1.2"; None -> a dash."""
    return _NO_VALUE if difference is None else f"{100 * difference:+.1f}".replace("-", "\u2212")
