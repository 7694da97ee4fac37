# SPDX-License-Identifier: Apache-2.0
"""Measures the training steps of the paper's configs for Cloud TPU and writes docs/tpu_memory.md.

  python docs/tpu.py [--only=TEXT] [--chips=v5e,v6e] [--page]

Needs the extra [tpu-check], no TPU. Every compilation adds a row to docs/tpu_memory.csv at once, and what is there is
not compiled again: so the script can be stopped and started again. It takes many hours on two cores. --only takes the
configs whose path has TEXT in it; --page only writes the page from the rows that are there.
"""

import argparse
import csv
import os
import pathlib
import sys
from collections.abc import Callable, Iterable, Mapping

ROOT = pathlib.Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
PAGE = ROOT / "docs" / "tpu_memory.md"
TRIALS = ROOT / "docs" / "tpu_memory.csv"
COLUMNS = ["config", "topology", "setting", "batch_size", "hbm", "fits", "flops", "seconds", "largest"]
# The rows of the paper's main tables come first.
_FIRST = [
    *(f"cityscapes/axial_deeplab_{size}" for size in ("l", "xl", "s", "m")),
    *(f"coco/axial_deeplab_{size}" for size in "lsm"),
    *(f"mapillary/axial_deeplab_{size}" for size in ("l", "xl")),
    *(f"imagenet/axial_resnet_{size}" for size in ("s", "m", "l", "xl")),
]
_FOLDERS = ["cityscapes", "coco", "mapillary", "imagenet"]
# Beside those whose first line says that they are DeepLab2's.
_NOT_OF_THE_PAPER = ("imagenet/axial_deeplab_", "coco/sample_")
# What is added to a config: the second is for chips on which not one image fits as the config says.
SETTINGS = {
    "as it is": [],
    "small": [
        "trainer_options.precision=mixed_bfloat16",
        "trainer_options.recompute=true",
        "model_options.backbone.attention_logits_at_once=33554432",
    ],
}
# Where a batch of another chip needs this many times what a chip has, it is not compiled for it.
_FAR_TOO_MUCH = 1.3
_INTRODUCTION = """\
# Training steps on Cloud TPU

The largest batch of one core, the memory (HBM) that the step then needs, and the floating-point operations of one
image. All of it comes from the compiler of Cloud TPU, not from a TPU: `deeplab-axial tpu_check --plan_only`, see
[tpu_check](tpu_check.md), with one copy of the gradients for the sum over cores counted, machine code not, and
attention by TensorFlow's operations (`attention_kernel: "XLA"`), which every chip and installation can run.

Each cell reads *images a core: GiB*. Plain cells are the configs as they are, in float32. Cells with a star are for
where not one image fits that way, with

    --set=trainer_options.precision=mixed_bfloat16 --set=trainer_options.recompute=true
    --set=model_options.backbone.attention_logits_at_once=33554432

"At least" stands where a search was not finished, "0 (1: GiB)" where one image does not fit, with what it would need.
Batches of ImageNet go in steps of 16. An empty cell was not measured. Configs that train the same step share a row.

Memory is no straight line: near what a chip has, the compiler makes do with less an image, and some networks need less
for 128 images than for 48. So the largest batch is one whose successor does not fit or was out of reach, and 128 were
tried as well where they seemed possible; others were not.
"""
_MISSING = (
    "\n{missing} of {total} cells are missing. `python docs/tpu.py` goes on where it stopped; "
    "it needs the extra `[tpu-check]`."
)


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="")
    parser.add_argument("--chips", default="v5e,v6e,v3,v4,v5p")
    parser.add_argument("--page", action="store_true")
    arguments = parser.parse_args()
    groups = training_steps()
    if not arguments.page:
        for name in sorted(groups, key=_order):
            if any(arguments.only in member for member in groups[name]):
                measure(name, arguments.chips.split(","), lambda row: _add(row, groups))
    PAGE.write_text(page(groups, read_trials()), encoding="utf-8")


def training_steps() -> dict[str, list[str]]:
    """Paths below configs/ by training step, under the first of each: those that differ in evaluation share one."""
    from deeplab_axial import config
    from deeplab_axial.backbones import presets

    groups: dict[bytes, list[str]] = {}
    for path in sorted(CONFIGS.rglob("*.textproto"), key=lambda path: (len(path.stem), path)):
        if path.parent.name not in _FOLDERS:
            continue
        options = config.load(path, backbone_names=presets.NAMES)
        model, trainer = options.model_options, options.trainer_options
        for field in ("initial_checkpoint", "restore_semantic_last_layer_from_initial_checkpoint"):
            model.ClearField(field)
        for field in ("training_number_of_steps", "base_learning_rate", "warmup_steps"):
            trainer.solver_options.ClearField(field)
        parts = [model.SerializeToString(deterministic=True), trainer.SerializeToString(deterministic=True)]
        key = b"|".join([*parts, str(options.train_dataset_options.crop_size).encode()])
        groups.setdefault(key, []).append(path.relative_to(CONFIGS).as_posix())
    return {members[0]: members for members in groups.values()}


def measure(name: str, chips: list[str], add: Callable[[dict[str, str]], None]) -> None:
    """Finds the largest batch of a config for each chip; rows that are there are taken from the file."""
    from deeplab_axial import builders, config
    from deeplab_axial.backbones import presets
    from deeplab_axial.tpu_check import process, report, search, topologies

    process.check_installed()
    programs: dict[tuple, object] = {}

    def compile_batch(topology, setting, batch_size):
        key = (setting, batch_size)
        if key not in programs:
            options = config.load(CONFIGS / name, SETTINGS[setting], backbone_names=presets.NAMES)
            programs[key] = builders.build_step_program(options, batch_size)
        program = programs[key]
        result = process.compile_program(program, topology, makes_code=False)
        if result.error:
            raise SystemExit(f"{name} does not compile for {topology.name}: {result.error}")
        return {
            "config": name,
            "topology": topology.name,
            "setting": setting,
            "batch_size": str(batch_size),
            "hbm": str(result.needed + report.between_cores(program, topology)),
            "fits": str(report.fits(program, topology, result)),
            "flops": f"{result.flops:.0f}",
            "seconds": f"{result.seconds:.0f}",
            "largest": next((buffer.operation for buffer in result.plan.buffers if buffer.operation), ""),
        }

    unit = unit_of(name)
    for chip in chips:
        topology = topologies.parse(chip)
        available = report.available(topology)
        for setting in SETTINGS:
            elsewhere = needed_elsewhere(read_trials(), name, topology.name, setting)
            known = max(elsewhere, key=lambda needed: (len(needed) > 1, max(needed, default=0)), default={})
            if setting == "as it is" and known.get(unit, 0) > _FAR_TOO_MUCH * available:
                continue

            def try_batch(batch_size, topology=topology, setting=setting):
                row = find(read_trials(), name, topology.name, setting).get(batch_size)
                if row is None:
                    row = compile_batch(topology, setting, batch_size)
                    add(row)
                return search.Trial(int(row["hbm"]), row["fits"] == "True")

            if search.largest_batch(try_batch, available, unit, known=known):
                break


def read_trials() -> list[dict[str, str]]:
    """All rows of the file."""
    if not TRIALS.exists():
        return []
    with TRIALS.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def find(trials: list[dict[str, str]], name: str, topology: str, setting: str) -> dict[int, dict[str, str]]:
    """Batch size -> row."""
    key = ("config", "topology", "setting")
    wanted = (name, topology, setting)
    return {int(row["batch_size"]): row for row in trials if tuple(row[field] for field in key) == wanted}


def unit_of(name: str) -> int:
    """Images by which batches are tried: near the limit the compiler finds room for a few more small ones, slowly."""
    return 16 if name.startswith("imagenet/") else 1


def needed_elsewhere(trials: list[dict[str, str]], name: str, topology: str, setting: str) -> list[dict[int, int]]:
    """Bytes by batch on each of the other chips."""
    others = {row["topology"]: None for row in trials if row["config"] == name and row["topology"] != topology}
    return [_bytes(find(trials, name, other, setting)) for other in others]


def _bytes(rows: Mapping[int, Mapping[str, str]]) -> dict[int, int]:
    return {size: int(row["hbm"]) for size, row in rows.items()}


def page(groups: Mapping[str, list[str]], trials: list[dict[str, str]]) -> str:
    """The page.

    Args:
      groups: of `training_steps`.
      trials: of `read_trials`.
    """
    parts = [_INTRODUCTION]
    paper = {name for name, members in groups.items() if any(map(is_of_the_paper, members))}
    parts += _table(paper, groups, trials)
    parts += ["\n## Further configs\n", *_table(groups.keys() - paper, groups, trials)]
    return "\n".join([*parts, ""])


def is_of_the_paper(path: str) -> bool:
    """Whether a config below configs/ is a row of the paper's tables, or the pretraining of one."""
    first_line, _, _ = (CONFIGS / path).read_text(encoding="utf-8").partition("\n")
    return not ("as DeepLab2 has it" in first_line or path.startswith(_NOT_OF_THE_PAPER))


def _table(names: Iterable[str], groups: Mapping[str, list[str]], trials: list[dict[str, str]]) -> list[str]:
    """Lines of a table, and of what it lacks."""
    from deeplab_axial.tpu_check import report, topologies

    chips = topologies.CHIPS.values()
    head = [f"{chip.name} ({chip.hbm_gib} GiB)" for chip in chips]
    lines = [f"| training step | {' | '.join(head)} | TFLOPs an image, at least |", "|---|" + "--:|" * (len(head) + 1)]
    missing = 0
    # Loops over parts of attention, which large batches have, count one pass only: the largest figure is the nearest.
    for name in sorted(names, key=_order):
        cells = []
        for chip in chips:
            topology = topologies.parse(chip.name)
            cells.append(_cell(trials, name, topology.name, report.available(topology)))
            missing += not cells[-1]
        mine = [row for row in trials if row["config"] == name]
        flops = {float(row["flops"]) / int(row["batch_size"]) for row in mine if row["setting"] == "as it is"}
        others = f" (+ {len(groups[name]) - 1})" if len(groups[name]) > 1 else ""
        link = f"[{name.removesuffix('.textproto')}](../configs/{name}){others}"
        lines.append(f"| {link} | {' | '.join(cells)} | {f'{max(flops) / 1e12:.3g}' if flops else ''} |")
    if missing:
        lines.append(_MISSING.format(missing=missing, total=(len(lines) - 2) * len(head)))
    return lines


def _cell(trials: list[dict[str, str]], name: str, topology: str, available: int) -> str:
    """What is known of a config on a chip; empty if nothing."""
    from deeplab_axial.tpu_check import search

    unit = unit_of(name)
    cell = ""
    for star, setting in zip(("", "*"), SETTINGS):
        rows = find(trials, name, topology, setting)
        fitting = [size for size, row in rows.items() if row["fits"] == "True"]
        if fitting:
            best = max(fitting)
            is_largest = any(best < size <= best + unit for size in rows) or any(
                search.is_out_of_reach(best + unit, _bytes(rows), available, needed)
                for needed in ({}, *needed_elsewhere(trials, name, topology, setting))
            )
            known = "" if is_largest else "at least "
            return f"{known}{best}{star}: {int(rows[best]['hbm']) / 2**30:.1f}"
        if rows:
            cell = f"0{star} ({min(rows)}: {int(rows[min(rows)]['hbm']) / 2**30:.1f})"
    return cell


def _add(row: dict[str, str], groups: Mapping[str, list[str]]) -> None:
    """Writes a new row and the page."""
    is_new = not TRIALS.exists()
    with TRIALS.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(row)
    PAGE.write_text(page(groups, read_trials()), encoding="utf-8")
    print(*row.values(), file=sys.stderr, flush=True)


def _order(name: str) -> tuple:
    stem = name.removesuffix(".textproto")
    return (
        not is_of_the_paper(name),
        stem not in _FIRST,
        _FIRST.index(stem) if stem in _FIRST else 0,
        _FOLDERS.index(name.split("/")[0]),
        name,
    )


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    main()
