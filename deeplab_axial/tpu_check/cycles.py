# SPDX-License-Identifier: Apache-2.0
"""How many cycles the compiler expects a program to take, from what it dumps when it has made machine code.

XLA writes an estimate at every instruction of its own. Of a kernel it knows nothing: there the bundles of its final
schedule are counted (`bundles`). Both are estimates of the compiler, of a core that runs one instruction after the
other; nothing was measured.
"""

import dataclasses
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping

from deeplab_axial.tpu_check import bundles

_PROGRAM = "*.after_codegen.txt"
_SCHEDULE = "*-{name}-*[0-9]-final_bundles.txt"

# Parts of a step, in the order in which an instruction is tried: by what it does, then by TensorFlow's name.
KERNELS, COPIES = "attention's kernels", "copies and transposes"
PARTS = (KERNELS, COPIES, "normalization", "attention", "convolution", "other")

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) .*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%([\w.-]+) = (?:\(.*?\)|\S+) ([\w-]+)\(")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_PASSES = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_OPERATION = re.compile(r'op_name="([^"]*)"')
_TARGET = re.compile(r'custom_call_target="tpu_custom_call"')
_BODY = re.compile(r'"body":"([^"]*)"')
_CALLED = re.compile(r"(?:body|condition|to_apply)=%?([\w.-]+)")
_BRANCHES = re.compile(r"(?:branch_computations=\{([^}]*)\}|true_computation=(\S+), false_computation=(\S+?),)")
_COPIES = ("copy", "copy-start", "copy-done", "transpose", "reshape", "bitcast")
_CALLS = ("while", "call")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """An instruction of the compiled program, all its runs in a step together.

    Attributes:
      name: in the program.
      part: one of `PARTS`.
      operation: TensorFlow's name of what it computes, which begins with the layers; empty if the compiler made it up.
      cycles: of all runs.
    """

    name: str
    part: str
    operation: str
    cycles: int


@dataclasses.dataclass(frozen=True)
class Cycles:
    """Cycles of a program, by the compiler's own estimate.

    Attributes:
      total: of one core, for one run of the program.
      parts: of `PARTS`, the same by what is computed; those of no cycles are left out.
      dearest: the instructions that take the most, the dearest first.
    """

    total: int
    parts: dict[str, int]
    dearest: tuple[Instruction, ...]


def read(dump: pathlib.Path, schedules: pathlib.Path, branch_delay: int, num_dearest: int = 5) -> Cycles:
    """Reads the cycles of a program that was compiled to the end.

    Args:
      dump: folder of XLA's dump.
      schedules: folder of those of kernels.
      branch_delay: of the chip.
      num_dearest: instructions to name.

    Raises:
      ValueError: the compiler left no estimate, or one that cannot be summed up; says why.
    """
    path = next(dump.glob(_PROGRAM), None)
    if path is None:
        raise ValueError("the compiler left no program with estimates")
    text = path.read_text(encoding="utf-8")
    bodies = dict(_kernels(text))
    counted: dict[str, int] = {}

    def of_kernel(name: str) -> int:
        body = bodies[name]
        if body not in counted:
            # Kernels that are the same are scheduled once, under the name of one of them.
            same = [other for other, its_body in bodies.items() if its_body == body]
            files = [file for other in same for file in schedules.glob(_SCHEDULE.format(name=other))]
            if not files:
                raise ValueError(f"the compiler left no schedule of the kernel {name}")
            try:
                counted[body] = bundles.count(files[0].read_text(encoding="utf-8"), branch_delay)
            except ValueError as error:
                raise ValueError(f"kernel {name}: {error}") from error
        return counted[body]

    return summarize(instructions(text, of_kernel), num_dearest)


def _kernels(text: str) -> Iterator[tuple[str, str]]:
    """Names of kernels, and what they are."""
    for line in text.splitlines():
        if _TARGET.search(line) and (instruction := _INSTRUCTION.match(line)) and (body := _BODY.search(line)):
            yield instruction[1], body[1]


def summarize(found: list[Instruction], num_dearest: int = 5) -> Cycles:
    """Sums up.

    Raises:
      ValueError: not one instruction has an estimate.
    """
    total = sum(i.cycles for i in found)
    if not total:
        raise ValueError("no instruction of the compiled program has an estimate")
    parts = {part: sum(i.cycles for i in found if i.part == part) for part in PARTS}
    dearest = sorted(found, key=lambda i: i.cycles, reverse=True)[:num_dearest]
    return Cycles(total, {part: number for part, number in parts.items() if number}, tuple(dearest))


def instructions(text: str, of_kernel: Callable[[str], int]) -> list[Instruction]:
    """The instructions that a program runs, those in loops times their passes.

    Args:
      text: of the optimised HLO.
      of_kernel: name of a custom call -> cycles of one run.

    Raises:
      ValueError: a loop does not say how often it runs, or no program is in the text.
    """
    computations, entry = _computations(text)
    if entry not in computations:
        raise ValueError("no entry in the compiled program")
    found: list[Instruction] = []
    _walk(entry, 1, computations, of_kernel, found)
    return found


def _computations(text: str) -> tuple[Mapping[str, list[str]], str]:
    computations: dict[str, list[str]] = {}
    entry = name = ""
    for line in text.splitlines():
        if (header := _COMPUTATION.match(line)) is not None and not line.startswith(" "):
            name = header[2]
            computations[name] = []
            entry = name if header[1] else entry
        elif name and line.startswith(" "):
            computations[name].append(line)
    return computations, entry


def _walk(name: str, times: int, computations, of_kernel, found: list[Instruction]) -> None:
    for line in computations.get(name, ()):
        instruction = _INSTRUCTION.match(line)
        if instruction is None:
            continue
        label, kind = instruction[1], instruction[2]
        is_kernel = kind == "custom-call" and _TARGET.search(line) is not None
        estimate = _CYCLES.search(line)
        cycles = of_kernel(label) if is_kernel else int(estimate[1]) if estimate else 0
        if cycles:
            operation = _OPERATION.search(line)
            of = operation[1] if operation else ""
            found.append(Instruction(label, part_of(label, kind, of, is_kernel), of, cycles * times))
        if kind == "conditional":
            _walk_dearest_branch(line, times, computations, of_kernel, found)
        elif kind in _CALLS:
            passes = 1
            if kind == "while":
                said = _PASSES.search(line)
                if said is None:
                    raise ValueError(f"the loop {label} does not say how often it runs")
                passes = int(said[1])
            for called in _CALLED.findall(line):
                _walk(called, times * passes, computations, of_kernel, found)


def _walk_dearest_branch(line: str, times: int, computations, of_kernel, found: list[Instruction]) -> None:
    branches = _BRANCHES.search(line)
    names = branches[1].split(",") if branches and branches[1] else list(branches.groups()[1:]) if branches else []
    each: list[list[Instruction]] = []
    for name in names:
        each.append([])
        _walk(name.strip().lstrip("%"), times, computations, of_kernel, each[-1])
    found += max(each, key=lambda branch: sum(i.cycles for i in branch), default=[])


def part_of(name: str, kind: str, operation: str, is_kernel: bool = False) -> str:
    """Which of `PARTS` an instruction belongs to.

    Args:
      name: in the program; fusions are called after what is in them.
      kind: "fusion", "copy" and so on.
      operation: TensorFlow's name.
      is_kernel: whether it is a kernel.
    """
    last = operation.rpartition("/")[2].lower()
    if is_kernel:
        return KERNELS
    if kind in _COPIES or name.startswith(("copy", "transpose")) or last.startswith("transpose"):
        return COPIES
    if "FusedBatchNorm" in operation or "norm/" in operation:
        return PARTS[2]
    if "attention" in operation or "_axis/" in operation:
        return PARTS[3]
    if "conv" in last or "conv" in name.replace("convert", ""):
        return PARTS[4]
    return PARTS[5]
