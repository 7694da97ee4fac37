# SPDX-License-Identifier: Apache-2.0
"""How many bundles a kernel issues, from the final schedule that the compiler of Cloud TPU dumps.

A core issues one bundle of instructions a cycle, so their number is the kernel's time as long as it never waits for
memory. Which bundles run how often only scalar instructions decide: loops, the grid's among them, and branches around
what the first or last step of a grid does. Those instructions alone are executed here, on the machine's registers; all
the others count and do nothing. So is nothing guessed of loops: what cannot be followed raises.
"""

import dataclasses
import operator
import re
from collections.abc import Callable, Iterable, Sequence

_MOST_STEPS = 100_000_000

_BUNDLE = re.compile(r"^ *(?:0x[0-9a-f]+|0) +(?:[A-Z]{2})? *:[ >]*\{", re.MULTILINE)
_COMMENT = re.compile(r"/\*.*?\*/")
_REGION = re.compile(r"Start(?:/End empty)? region (\d+)")
_OPERATION = re.compile(r"(?:%(\w+) = +)?([a-z]\w*)([\w.]*)\s*(.*)", re.DOTALL)
# Where it has a second register, that is the result's own, which then stays as it is.
_GUARD = re.compile(r"\((!?)%\w+?_(p\d+)(?:, *%\w+)?\),?\s*")
# An address, whose number is not known, stands for itself.
_OPERAND = re.compile(r"(!?)%\w+?_([sp]\d+)\b|(\[#[^\]]*\])|\b(\d+)\b")
_TARGET = re.compile(r"target = \$region(\d+)")
# Where a kernel of a chip of two halves reads which of them runs it: that with number 0 is followed.
_CORE_ID = re.compile(r"\[smem:\[([^\]]*)\]\] /\* megacore core id")
_MEMORY = re.compile(r"\[smem:\[([^\]%]*)\]\]\s*")

_Value = int | None
_ARITHMETIC: dict[str, Callable[..., int]] = {
    "sadd": operator.add,
    "ssub": operator.sub,
    "smul": operator.mul,
    "sand": operator.and_,
    "sor": operator.or_,
    "sxor": operator.xor,
    "sshll": operator.lshift,
    "sshra": operator.rshift,
    "sshrl": lambda x, bits: (x & 0xFFFFFFFF) >> bits,
    "smin": min,
    "smax": max,
    "smov": lambda x: x,
    "sphi": lambda x, *_: x,
    "pmov": lambda x: x,
    "pneg": lambda x: 1 - x,
    "por": operator.or_,
    "pand": operator.and_,
    "pxor": operator.xor,
    "pnand": lambda x, y: 1 - (x & y),
    "pnor": lambda x, y: 1 - (x | y),
    "scalar_select": lambda condition, x, y: x if condition else y,
}
_COMPARISONS = {f"scmp.{name}": getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")}


@dataclasses.dataclass(frozen=True)
class _Operation:
    """A scalar instruction.

    Attributes:
      name: "sadd", "scmp.lt", "sld", "sst" or "sbr"; others give results that are not known.
      result: register ("s3", "p0"), or place in memory of "sst"; "" for a branch.
      operands: (whether it is negated, register, or place in memory of "sld", or number).
      guard: (whether it is negated, register) of the predicate without which it does nothing.
      target: region of a branch.
    """

    name: str
    result: str
    operands: tuple[tuple[bool, str | int], ...]
    guard: tuple[bool, str] | None
    target: str

    @property
    def sources(self) -> set[str]:
        """Registers and places that are read."""
        read = {operand for _, operand in self.operands if isinstance(operand, str)}
        return read | {self.guard[1]} if self.guard else read


def count(text: str, delay: int) -> int:
    """Bundles that a kernel issues, from beginning to end.

    Args:
      text: of the dump's final_bundles.txt.
      delay: bundles behind a branch that run whether it is taken or not.

    Raises:
      ValueError: it is no such dump, or its control flow cannot be followed; says where.
    """
    bundles, regions = _parse(text)
    if not bundles:
        raise ValueError("no bundles in the dump of a kernel")
    bundles = _deciding(bundles)
    following = _following(bundles)
    state: dict[str, _Value] = {f"smem:{place}": 0 for place in _CORE_ID.findall(text)}
    issued = position = steps = 0
    jump: tuple[int, int] | None = None  # the last bundle before it, and where it goes
    while position < len(bundles):
        end = following[position]
        if jump is not None and end > jump[0]:
            issued += jump[0] + 1 - position
            position, jump = jump[1], None
            continue
        issued += end - position
        position = end
        if end == len(bundles):
            break
        target = _execute(bundles[end], state)
        if target is not None:
            if jump is not None or target not in regions:
                raise ValueError(f"cannot follow the branch to region {target} in bundle {end:#x}")
            jump = (end + delay, regions[target])
        issued += 1
        position += 1
        if jump is not None and position > jump[0]:
            position, jump = jump[1], None
        steps += 1
        if steps > _MOST_STEPS:
            raise ValueError(f"a kernel has not ended after {steps} scalar steps")
    return issued


def _parse(text: str) -> tuple[list[list[_Operation]], dict[str, int]]:
    """The scalar instructions of each bundle, and the bundle where each region begins."""
    bundles: list[list[_Operation]] = []
    regions: dict[str, int] = {}
    for bundle in _BUNDLE.split(text)[1:]:  # some go over several lines
        for region in _REGION.findall(bundle):
            regions.setdefault(region, len(bundles))
        body = _COMMENT.sub("", bundle).rpartition("}")[0]
        bundles.append([o for part in body.split(";;") if (o := _operation(part.strip())) is not None])
    return bundles, regions


def _operation(text: str) -> _Operation | None:
    """A scalar instruction; None for others."""
    found = _OPERATION.match(text)
    if found is None:
        return None
    result, name, kind, rest = found[1] or "", found[2], found[3], found[4]
    register = re.search(r"_([sp]\d+)$", result)
    if register is None and name not in ("sst", "sbr"):
        return None
    guard = _GUARD.search(rest)
    rest = _GUARD.sub("", rest, count=1)
    memory = _MEMORY.search(rest)
    place = f"smem:{memory[1]}" if memory and memory[1] else ""
    rest = _MEMORY.sub("", rest)
    target = _TARGET.search(rest)
    if name == "scmp":
        name = f"scmp.{kind.split('.')[1]}"
    operands = [] if name == "sbr" else [_operand(*parts) for parts in _OPERAND.findall(rest)]
    if name == "sld":
        operands = [(False, place)] if place else []
    return _Operation(
        name,
        place if name == "sst" else register[1] if register else "",
        tuple(operands),
        (bool(guard[1]), guard[2]) if guard else None,
        target[1] if target else "",
    )


def _operand(negated: str, register: str, address: str, number: str) -> tuple[bool, str | int]:
    return bool(negated), register or address or _signed(int(number))


def _deciding(bundles: Sequence[Sequence[_Operation]]) -> list[list[_Operation]]:
    """Branches, and the instructions whose results reach one."""
    operations = [o for bundle in bundles for o in bundle]
    needed = set().union(*(o.sources for o in operations if o.name == "sbr"))
    while True:
        more = needed.union(*(o.sources for o in operations if o.result in needed))
        if more == needed:
            return [[o for o in bundle if o.name == "sbr" or o.result in needed] for bundle in bundles]
        needed = more


def _following(bundles: Sequence[Sequence[_Operation]]) -> list[int]:
    """For each bundle the first from there on that has such an instruction; the number of bundles if there is none."""
    following = [len(bundles)] * len(bundles)
    for i in reversed(range(len(bundles))):
        following[i] = i if bundles[i] else following[i + 1] if i + 1 < len(bundles) else len(bundles)
    return following


def _execute(bundle: Iterable[_Operation], state: dict[str, _Value]) -> str | None:
    """Runs a bundle: all read before one writes. Returns the region that it branches to."""
    results: dict[str, _Value] = {}
    target = None
    for operation in bundle:
        if operation.name == "sphi":  # an operand of which has the result's register already
            continue
        runs: _Value = 1
        if operation.guard is not None:
            runs = _read(operation.guard, state)
        if operation.name == "sbr":
            if runs is None:
                raise ValueError(f"cannot tell whether the branch to region {operation.target} is taken")
            target = operation.target if runs else target
        elif runs != 0:
            results[operation.result] = _result(operation, state) if runs else None
    state.update(results)
    return target


def _read(operand: tuple[bool, str | int], state: dict[str, _Value]) -> _Value:
    negated, source = operand
    value = source if isinstance(source, int) else state.get(source)
    return 1 - value if negated and value is not None else value


def _result(operation: _Operation, state: dict[str, _Value]) -> _Value:
    values = [_read(operand, state) for operand in operation.operands]
    if operation.name in ("sld", "sst"):
        return values[0] if values else None
    if operation.name == "scalar_select" and values[0] is not None:
        return values[1] if values[0] else values[2]
    known = {value for value in values if value is not None}
    # One operand alone decides these.
    if operation.name in ("por", "pnor") and 1 in known:
        return int(operation.name == "por")
    if operation.name in ("pand", "pnand") and 0 in known:
        return int(operation.name == "pnand")
    if None in values or not values:
        return None
    compute = _COMPARISONS.get(operation.name) or _ARITHMETIC.get(operation.name)
    try:
        return None if compute is None else _signed(int(compute(*values)))
    except TypeError:
        raise ValueError(f"cannot read the operands of {operation}") from None


def _signed(number: int) -> int:
    """As in a register of 32 bits."""
    return (number + 2**31) % 2**32 - 2**31
