# SPDX-License-Identifier: Apache-2.0
"""What is known of a training step on a TPU, in words and as JSON."""

import dataclasses
import re
from typing import Any

from deeplab_axial.tpu_check import pace, pace_report, topologies
from deeplab_axial.tpu_check.process import Result
from deeplab_axial.tpu_check.step import Program

_OPERATION = re.compile(r'op_name="([^"]+)"')
_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Setting:
    """What was compiled, besides the program itself.

    Attributes:
      name: of the experiment.
      crop_size: (height, width), pixels.
      precision: "float32" or "mixed_bfloat16".
      recompute: whether the backward pass computes blocks again.
      accumulation_steps: parts that the batch is taken in.
      limits_logits: whether the config itself says how many attention logits are held at a time.
    """

    name: str
    crop_size: tuple[int, int]
    precision: str
    recompute: bool
    accumulation_steps: int
    limits_logits: bool


def between_cores(program: Program, topology: topologies.Topology) -> int:
    """Bytes, at most, for sums over the cores, which are not in the program of one core.

    They are one copy of the gradients and the statistics of synchronised batch normalisation.
    """
    return program.gradient_bytes + program.statistics_bytes if topology.num_cores > 1 else 0


def available(topology: topologies.Topology) -> int:
    """Bytes of HBM that the compiler gives a program."""
    return int(topology.chip.usable_gib * _GIB)


def fits(program: Program, topology: topologies.Topology, result: Result) -> bool:
    """Whether a core has the memory."""
    return result.fits and result.needed + between_cores(program, topology) <= available(topology)


def as_json(
    setting: Setting, program: Program, topology: topologies.Topology, result: Result, run: pace.Run
) -> dict[str, Any]:
    """The report for scripts; sizes are in bytes, and null is what is not known."""
    return {
        **dataclasses.asdict(setting),
        "topology": topology.name,
        "cores": topology.num_cores,
        "batch_size_per_core": program.batch_size,
        "compiles": not result.error,
        "error": result.error,
        "fits": fits(program, topology, result),
        "hbm_available": available(topology),
        "hbm_needed": result.needed + between_cores(program, topology) if result.plan else None,
        "arguments": result.plan.arguments if result.plan else None,
        "temporaries": result.plan.total - result.plan.arguments if result.plan else None,
        "code": result.code,
        "between_cores": between_cores(program, topology),
        "flops": result.flops * setting.accumulation_steps,
        "bytes_accessed": result.bytes_accessed * setting.accumulation_steps,
        "loops": _uncounted_loops(setting, result),
        "largest_buffers": [dataclasses.asdict(buffer) for buffer in result.plan.buffers] if result.plan else [],
        "time": pace_report.step_json(result, setting.accumulation_steps, program.batch_size, topology, run),
        "seconds": round(result.seconds, 1),
    }


def as_text(setting: Setting, program: Program, topology: topologies.Topology, result: Result, run: pace.Run) -> str:
    """The report for people."""
    height, width = setting.crop_size
    cores, images = topology.num_cores, program.batch_size
    parts = f" in {setting.accumulation_steps} parts" if setting.accumulation_steps > 1 else ""
    lines = [
        f"{setting.name}: training step on {topology.name} ({topology.accelerator_type}, {cores} cores)",
        f"batch: {images} a core{parts}, {images * cores} a step; crop {height} x {width}; {setting.precision}, "
        f"{'with' if setting.recompute else 'without'} recompute",
        "",
    ]
    if result.error:
        operation = _OPERATION.search(result.error)
        where = f" at {operation[1]}" if operation else ""
        return "\n".join([*lines, f"does not compile{where}:", result.error])
    extra, room = between_cores(program, topology), available(topology)
    needed = result.needed + extra
    verdict = "fits" if fits(program, topology, result) else "DOES NOT FIT"
    lines.append(f"compiles: {_how_far(result)} ({result.seconds:.0f} s)")
    lines.append(f"HBM: {_gib(needed)} of {_gib(room)} GiB a core: {verdict}")
    lines.append(f"  {_gib(result.plan.arguments):>7} GiB  variables, overwritten in place, and the batch")
    lines.append(f"  {_gib(result.plan.total - result.plan.arguments):>7} GiB  what lies in between, outputs included")
    lines.append(f"  {_gib(result.code) if result.code is not None else '?':>7} GiB  machine code")
    if extra:
        lines.append(f"  {_gib(extra):>7} GiB  at most, to sum gradients and statistics over cores; not compiled here")
    loops = _uncounted_loops(setting, result)
    at_least = "at least " if loops else ""
    # The loop over the parts counts once, too; beside it, the optimizer's share is small.
    flops, accessed = (number / 1e9 * setting.accumulation_steps for number in (result.flops, result.bytes_accessed))
    lines.append(f"FLOPs: {at_least}{flops:,.1f} G a step, {flops / images:,.1f} G an image")
    lines.append(f"bytes accessed: {at_least}{accessed:,.0f} GB a step before fusion")
    if loops:
        lines.append(f"  {loops} loops (over parts of attention, for one) count as if they ran once")
    lines += ["", *pace_report.step_lines(result, setting.accumulation_steps, images, topology, run)]
    lines += ["", "largest buffers:"]
    for buffer in result.plan.buffers:
        lines.append(f"  {buffer.bytes / 2**20:>7.1f} MiB  {buffer.shape.partition('{')[0]}  {buffer.operation}")
    if not fits(program, topology, result):
        lines += ["", "to make it fit:", *(f"  {advice}" for advice in _advice(setting, program))]
    return "\n".join(lines)


def _uncounted_loops(setting: Setting, result: Result) -> int:
    """Loops of which one pass is counted, other than that over the parts of the batch."""
    return max(result.loops - (setting.accumulation_steps > 1), 0)


def _how_far(result: Result) -> str:
    if result.code is not None:
        return "yes"
    return "the memory is planned; no machine code was made"


def _advice(setting: Setting, program: Program) -> list[str]:
    lines = []
    if not setting.recompute:
        lines.append("--set=trainer_options.recompute=true: computes blocks again in the backward pass; same results")
    if setting.precision == "float32":
        lines.append("--set=trainer_options.precision=mixed_bfloat16: halves what lies in between")
    if not setting.limits_logits:
        field = "--set=model_options.backbone.attention_logits_at_once"
        lines.append(f"{field}=33554432: attention in parts a quarter as large; same results")
    part = program.batch_size // setting.accumulation_steps
    if part > 1:
        steps = "--set=trainer_options.solver_options.gradient_accumulation_steps"
        lines.append(f"{steps}={program.batch_size}: the same batch in parts; batch normalisation sees the parts")
        lines.append("--batch_size=auto: finds the largest batch that fits")
    lines.append("another chip: v4 and v6e have 32 GiB a core, v5p 95")
    lines.append("--set=train_dataset_options.crop_size=HEIGHT,WIDTH: smaller crops")
    return lines


def _gib(number: int) -> str:
    return f"{number / _GIB:.2f}"
