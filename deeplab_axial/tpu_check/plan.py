# SPDX-License-Identifier: Apache-2.0
"""The buffers that the compiler planned, from what XLA dumps before it makes machine code."""

import dataclasses
import pathlib
import re

_REPORT = "*after_optimizations-memory-usage-report.txt"
_PROGRAM = "*.after_optimizations.txt"
# Written last, of a program that fits.
_LAST = "*after_optimizations_after_buffer_assignment.txt"
_ASSIGNMENT = "*after_optimizations-buffer-assignment.txt"
_HBM = "default (color=0)"

_TOTAL = re.compile(rf"Memory Space: {re.escape(_HBM)}\s+Total bytes: (\d+)")
_ALLOCATION = re.compile(r"^allocation \d+: size (\d+), (.*)")
_VALUE = re.compile(r"^ value: <\d+ (\S+?)(?:\{[\d,]*\})? (?:\(phi\) )?@0> \(size=(\d+),offset=(\d+)\): (\S+)")
# Copies, which have no name of TensorFlow's, name what they copy.
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%(\S+) = ")
_OPERATION = re.compile(r'op_name="([^"]*)"')
_OPERAND = re.compile(r"[(, ]%([\w.-]+)")
_MOST_COPIES = 8


@dataclasses.dataclass(frozen=True)
class Buffer:
    """Part of the memory for intermediate results.

    Attributes:
      bytes: with what the TPU fills up: channels to 128, say.
      shape: of XLA, with its layout.
      operation: TensorFlow's name of what makes it, which begins with the layers; empty if the compiler made it up.
    """

    bytes: int
    shape: str
    operation: str


@dataclasses.dataclass(frozen=True)
class Plan:
    """Memory of a program in HBM, without its machine code.

    Attributes:
      total: bytes, everything at once; what overwrites an argument in place counts once.
      arguments: bytes of the batch and of all variables.
      buffers: the largest of the rest, the largest first; of those that share memory one after the other only one.
    """

    total: int
    arguments: int
    buffers: tuple[Buffer, ...]


def is_complete(folder: pathlib.Path) -> bool:
    """Whether the compiler has dumped a plan that fits, and goes on to machine code."""
    return any(folder.glob(_LAST))


def was_made(folder: pathlib.Path) -> bool:
    """Whether there is a plan, of a compiler that has ended or of which `is_complete` holds."""
    return all(any(folder.glob(pattern)) for pattern in (_REPORT, _ASSIGNMENT, _PROGRAM))


def read(folder: pathlib.Path, num_buffers: int = 12) -> Plan:
    """Reads the dump of one module.

    Raises:
      ValueError: it is not one of this version of libtpu.
    """
    report = next(folder.glob(_REPORT)).read_text(encoding="utf-8")
    found = _TOTAL.search(report)
    if found is None:
        raise ValueError(f"{folder}: no total of HBM in the report on memory. Received: {report[:200]!r}.")
    arguments, values = _allocations(next(folder.glob(_ASSIGNMENT)).read_text(encoding="utf-8"))
    largest: list[tuple[int, int, str, str]] = []
    for size, offset, name, shape in sorted(values, reverse=True):
        if len(largest) == num_buffers:
            break
        if all(offset + size <= o or o + s <= offset for s, o, _, _ in largest):
            largest.append((size, offset, name, shape))
    names = _operations(next(folder.glob(_PROGRAM)), {name for _, _, name, _ in largest})
    buffers = tuple(Buffer(size, shape, names.get(name, "")) for size, _, name, shape in largest)
    return Plan(int(found[1]), arguments, buffers)


def _allocations(text: str) -> tuple[int, list[tuple[int, int, str, str]]]:
    """Bytes of the arguments, and (bytes, offset, instruction, shape) of the values in the memory in between."""
    arguments, values, is_temporary = 0, [], False
    for line in text.splitlines():
        if (allocation := _ALLOCATION.match(line)) is not None:
            if "parameter" in allocation[2]:
                arguments += int(allocation[1])
            is_temporary = "preallocated-temp" in allocation[2]
        elif is_temporary and (value := _VALUE.match(line)) is not None:
            values.append((int(value[2]), int(value[3]), value[1], value[4]))
    return arguments, values


def _operations(path: pathlib.Path, wanted: set[str]) -> dict[str, str]:
    """TensorFlow's names of some instructions, or of what they copy."""
    names, operands = {}, {}
    with path.open(encoding="utf-8") as file:
        for line in file:
            if (instruction := _INSTRUCTION.match(line)) is None:
                continue
            if (operation := _OPERATION.search(line)) is not None:
                names[instruction[1]] = operation[1]
            elif (operand := _OPERAND.search(line, instruction.end())) is not None:
                operands[instruction[1]] = operand[1]
    found = {}
    for name in wanted:
        source = name
        for _ in range(_MOST_COPIES):
            if source in names or source not in operands:
                break
            source = operands[source]
        found[name] = names.get(source, "")
    return found
