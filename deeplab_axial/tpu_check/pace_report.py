# SPDX-License-Identifier: Apache-2.0
"""How long steps and layers take by the compiler's own estimate, in words and as JSON."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from deeplab_axial.tpu_check import cycles, pace
from deeplab_axial.tpu_check.layers import Layer
from deeplab_axial.tpu_check.process import Result
from deeplab_axial.tpu_check.topologies import Topology

_NOTE = "the compiler's own estimate, not a measurement"


class LayerResult(NamedTuple):
    """What a layer costs.

    Attributes:
      layer: which.
      forward: of inference, with folded batch normalisation.
      training: of both passes, with the statistics of the batch.
    """

    layer: Layer
    forward: Result
    training: Result


def pace_of(result: Result, parts: int, images: int, topology: Topology, run: pace.Run) -> pace.Pace | None:
    """The pace of a step, or None where cycles are not known.

    Args:
      result: of the compilation.
      parts: that the batch is taken in; they are passes of a loop whose operations and bytes were counted once.
      images: of a core and step.
      topology: whose chips run it.
      run: the training.
    """
    if result.expected is None:
        return None
    moved = (result.bytes_after_fusion or 0.0) * parts
    return pace.make(result.expected.total, result.flops * parts, moved, images, topology, run)


def step_lines(result: Result, parts: int, images: int, topology: Topology, run: pace.Run) -> list[str]:
    """The report on time for people; arguments as for `pace_of`."""
    of_step = pace_of(result, parts, images, topology, run)
    if of_step is None:
        return [f"time: unknown: {result.no_cycles}"]
    chip, expected = topology.chip, result.expected
    shares = ", ".join(f"{part} {number / expected.total:.0%}" for part, number in expected.parts.items())
    chips = topology.num_cores // chip.cores
    cost = "" if of_step.cost is None else f"; {of_step.cost:,.2f} at {run.price_per_chip_hour:g} a chip and hour"
    return [
        f"time: {of_step.seconds * 1e3:,.1f} ms a step, {of_step.images_per_second:,.2f} images a second and core "
        f"({_NOTE})",
        f"  {expected.total:,} cycles at {chip.clock_mhz:.0f} MHz",
        f"  floors: {of_step.flops_seconds * 1e3:,.1f} ms for the FLOPs at {chip.peak_tflops:g} TFLOPS (bfloat16), "
        f"{of_step.bytes_seconds * 1e3:,.1f} ms for the bytes of its instructions at {chip.bandwidth_gb:g} GB/s",
        f"  {shares}",
        f"  the run: {run.steps:,} steps of {images * topology.num_cores} images: {of_step.hours:,.2f} hours, "
        f"{of_step.chip_hours:,.2f} chip-hours of {chips} chips{cost}",
        "  not in it: waiting for data or other cores, evaluation, checkpoints",
        "",
        "dearest instructions:",
        *(
            f"  {i.cycles / 1e6:>9.3f} M cycles {i.cycles / expected.total:>6.1%}  {i.name}  {i.operation}"
            for i in expected.dearest
        ),
    ]


def step_json(result: Result, parts: int, images: int, topology: Topology, run: pace.Run) -> dict[str, Any]:
    """The same for scripts; null is what is not known."""
    of_step, expected = pace_of(result, parts, images, topology, run), result.expected
    values = dataclasses.asdict(of_step) if of_step else {f.name: None for f in dataclasses.fields(pace.Pace)}
    return {
        "what": _NOTE,
        "unknown": result.no_cycles,
        "cycles": expected.total if expected else None,
        "clock_mhz": topology.chip.clock_mhz,
        **values,
        "steps": run.steps,
        "price_per_chip_hour": run.price_per_chip_hour,
        "cycles_by_part": expected.parts if expected else {},
        "dearest": [dataclasses.asdict(i) for i in expected.dearest] if expected else [],
    }


def layer_lines(results: Sequence[LayerResult], topology: Topology) -> list[str]:
    """A table of single layers for people."""
    chip = topology.chip
    lines = [
        f"layers of axial attention alone, height and width, on one core of {chip.name} at {chip.clock_mhz:.0f} MHz",
        f"({_NOTE}; M cycles)",
        "",
        f"{'input':>20} {'span':>6} {'stride':>6} {'layers':>6} {'forward':>10} {'ms':>8} {'training':>10} {'ms':>8}  "
        "of them kernels",
    ]
    for layer, *passes in results:
        numbers = [_layer_cells(result, chip.clock_mhz) for result in passes]
        shares = "/".join(_share_of_kernels(result) for result in passes)
        span = layer.attention["span"] or "whole"
        lines.append(
            f"{'x'.join(map(str, layer.shape)):>20} {span:>6} {layer.stride:>6} {layer.count:>6} {' '.join(numbers)}  "
            f"{shares}"
        )
        lines += [f"{'':>20} {why}" for why in sorted({r.error or r.no_cycles for r in passes} - {""})]
    return lines


def layer_json(results: Sequence[LayerResult]) -> list[dict[str, Any]]:
    """The same for scripts."""
    return [
        {
            "count": layer.count,
            "shape": layer.shape,
            "attention": layer.attention,
            "stride": layer.stride,
            **{
                name: {
                    "cycles": result.expected.total if result.expected else None,
                    "cycles_by_part": result.expected.parts if result.expected else {},
                    "unknown": result.error or result.no_cycles,
                }
                for name, result in (("forward", forward), ("training", training))
            },
        }
        for layer, forward, training in results
    ]


def _layer_cells(result: Result, clock_mhz: float) -> str:
    if result.expected is None:
        return f"{'unknown':>10} {'':>8}"
    return f"{result.expected.total / 1e6:>10.3f} {result.expected.total / clock_mhz / 1e3:>8.2f}"


def _share_of_kernels(result: Result) -> str:
    if result.expected is None:
        return "?"
    return f"{result.expected.parts.get(cycles.KERNELS, 0) / result.expected.total:.0%}"
