# SPDX-License-Identifier: Apache-2.0
"""Writes docs/model_zoo.md from the configs of published rows: python docs/model_zoo.py (make docs).

Counting all networks takes some minutes.
"""

import os
import pathlib
import re
import sys
from collections.abc import Mapping

ROOT = pathlib.Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
PAGE = ROOT / "docs" / "model_zoo.md"

# Folder -> its title.
_SECTIONS = {
    "coco": "COCO",
    "cityscapes": "Cityscapes",
    "mapillary": "Mapillary Vistas",
    "imagenet": "ImageNet",
}
# Field of PublishedFigures -> column.
_METRICS = {
    "pq": "PQ",
    "pq_things": "PQ things",
    "pq_stuff": "PQ stuff",
    "ap": "AP",
    "miou": "mIoU",
    "top1": "top-1",
}
_INTRODUCTION = """\
# Model zoo

One config for each row that the literature reports of these networks. **The metrics are those that the Axial-DeepLab
paper (arXiv 2003.07853) and DeepLab2's model zoo publish; nothing on this page was trained by us, and there are no
weights to download.** Parameters (millions) and multiply-adds (billions, of one image at the size that was published)
stand as ours / published: ours are counted on the graph that really runs ([what remains between the
two](multiply_adds.md)).

The paper's panoptic networks start from a training on ImageNet ([how](imagenet.md)) or from one another, DeepLab2's
from its public checkpoints ([coming from DeepLab2](deeplab2.md)).

Every config opens with its own command. In general:

    export TRAIN_SET='records/train-*.tfrecord' VAL_SET='records/val-*.tfrecord' INIT_CHECKPOINT=runs/pretrained/model
    deeplab-axial train --config_file=CONFIG --mode=train_and_eval --model_dir=runs/NAME
    deeplab-axial describe --config_file=CONFIG

Rows with multi-scale inference and rows of test sets have no training of their own; they take the folder of the model
that they evaluate. `describe` prints the network of a config, part by part, beside what is published.

This page is made by `make docs`.
"""


def main() -> None:
    """Counts every network and writes the page."""
    counts = count_all()
    PAGE.write_text(page(counts), encoding="utf-8")
    print(f"{len(counts)} configs: {PAGE}")


def load_rows() -> dict[str, object]:
    """The configs of published rows: path below configs/ -> ExperimentOptions."""
    from deeplab_axial import config
    from deeplab_axial.backbones import presets

    paths = (path for path in sorted(CONFIGS.rglob("*.textproto")) if path.parent.name in _SECTIONS)
    loaded = {path.relative_to(CONFIGS).as_posix(): config.load(path, backbone_names=presets.NAMES) for path in paths}
    return {name: options for name, options in loaded.items() if options.HasField("published")}


def count_all() -> dict[str, tuple[str, str]]:
    """Path of a row -> (parameters in millions, multiply-adds in billions), as the page shows them."""
    import tensorflow as tf

    from deeplab_axial import builders, describe

    counts, known = {}, {}
    for name, options in load_rows().items():
        variants = builders.build_multi_scale(options.evaluator_options)
        size = tuple(options.published.input_size)
        # Rows of one network differ in what they were trained on, or from.
        options.model_options.ClearField("initial_checkpoint")
        options.model_options.ClearField("restore_semantic_last_layer_from_initial_checkpoint")
        key = (options.model_options.SerializeToString(deterministic=True), size, variants)
        if key not in known:
            with tf.Graph().as_default():
                known[key] = describe.count(builders.build_symbolic_model(options), *size, variants)
        parameters, multiply_adds = known[key]
        counts[name] = (_short(parameters / 1e6), _short(multiply_adds / 1e9))
        print(name, *counts[name], file=sys.stderr, flush=True)
    return counts


def page(counts: Mapping[str, tuple[str, str]]) -> str:
    """The page.

    Args:
      counts: as `count_all` gives them.
    """
    rows = load_rows()
    parts = [_INTRODUCTION]
    for folder, title in _SECTIONS.items():
        of_folder = {name: options.published for name, options in rows.items() if name.startswith(f"{folder}/")}
        for split in sorted({p.split for p in of_folder.values()}, key=lambda split: (" val" not in split, split)):
            names = [name for name, p in of_folder.items() if p.split == split]
            parts.append(f"## {title}: {split.removeprefix(title).strip()}\n\n{_table(names, rows, counts)}")
    return "\n".join(parts)


def read_counts(text: str) -> dict[str, tuple[str, str]]:
    """The counts that a page holds, in the form of `count_all`."""
    row = re.compile(r"\| \[[^]]+\]\(\.\./configs/([^)]+)\)[^|]*\|[^|]*\| *([\d,.]+)[^|]*\| *([\d,.]+)[^|]*\|")
    return {match[1]: (match[2], match[3]) for match in row.finditer(text)}


def _table(names: list[str], rows: Mapping, counts: Mapping[str, tuple[str, str]]) -> str:
    metrics = [field for field in _METRICS if any(rows[name].published.HasField(field) for name in names)]
    head = ["config", "input", "parameters", "multiply-adds", *(_METRICS[field] for field in metrics), "published in"]
    lines = [f"| {' | '.join(head)} |", "|---|---|--:|--:|" + "--:|" * len(metrics) + "---|"]
    for name in sorted(names, key=lambda name: _order(name, rows[name].published, counts[name])):
        published = rows[name].published
        parameters, multiply_adds = counts[name]
        cells = [
            f"[{pathlib.PurePath(name).stem}](../configs/{name})",
            "{} x {}".format(*published.input_size),
            f"{parameters} / {_published(published, 'parameters')}",
            f"{multiply_adds} / {_published(published, 'multiply_adds')}",
            *(f"{getattr(published, field):.1f}" if published.HasField(field) else "" for field in metrics),
            published.source,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _order(name: str, published, count: tuple[str, str]) -> tuple:
    """The paper first, table by table; smaller networks first."""
    return ("DeepLab2" in published.source, published.source, *(float(c.replace(",", "")) for c in count), name)


def _published(published, field: str) -> str:
    return _short(getattr(published, field)) if published.HasField(field) else "-"


def _short(value: float) -> str:
    return f"{value:,.1f}" if value < 1e3 else f"{value:,.0f}"


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    main()
