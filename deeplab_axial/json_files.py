# SPDX-License-Identifier: Apache-2.0
"""JSON files that this program wrote, read again: what they hold is checked against a schema of type hints.

A file on a disk may be cut short, edited or of another release. Whoever reads one names the type that it must hold, and
gets a value of that type or one InputError. Dataclasses and named tuples come from objects of that form, and a
TypedDict stays a dict. Fields with a default may be missing. Fields that the schema lacks are those of a newer release:
a warning names them, and they are left out; a TypedDict keeps them.
"""

import dataclasses
import functools
import json
import os
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, NewType, TypeVar

from absl import logging

from deeplab_axial import files
from deeplab_axial.errors import InputError

T = TypeVar("T")

# Far above what any data set needs, and far below what a machine cannot hold.
LARGEST = 64 * 2**20
LARGEST_LINES = 256 * 2**20
_DEEPEST = 50
_LONGEST_PLACE = 100  # in messages
# Text that may hold a file's name, and so bytes that are no UTF-8, as `os.fsdecode` makes them.
FileText = NewType("FileText", str)
_NAMES = {
    **{int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"},
    FileText: "text",
}


class Bounds(NamedTuple):
    """Behind a number's type in `Annotated`: it must lie in [low, high]; so it is no NaN, and no infinity."""

    low: float
    high: float


Count = Annotated[int, Bounds(0, 2**53)]
Finite = Annotated[float, Bounds(-1.7e308, 1.7e308)]
# A fraction; means of fractions may lie off by a rounding.
Share = Annotated[float, Bounds(-1e-6, 1 + 1e-6)]


class Problem(ValueError):
    """A value is not of its schema."""

    def __init__(self, place: str, rule: str):
        super().__init__(f"{place[:_LONGEST_PLACE]}: {rule}" if place else f"the whole {rule}")


def read(path: str | os.PathLike, kind: type[T], remedy: str, largest: int = LARGEST) -> T | None:
    """What a JSON file holds; None without one.

    Args:
      path: of the file, on this machine or in a remote store.
      kind: what it must hold, see `convert`.
      remedy: what to do about a damaged one, in a sentence.
      largest: bytes; more are taken for damage.

    Raises:
      InputError: the file cannot be read or is not of that kind; names it, and the field.
    """
    content = read_bytes(path, remedy, largest)
    return None if content is None else parse(content, kind, path, remedy)


def read_bytes(path: str | os.PathLike, remedy: str, largest: int = LARGEST) -> bytes | None:
    """The content of a file, None without one; the arguments and errors are those of `read`."""
    try:
        return files.read(path, largest)
    except FileNotFoundError:
        return None
    except OSError as error:
        reason = error.strerror or files.first_line(error)
        raise InputError(f"{os.fspath(path)} cannot be read ({reason}). {remedy}") from error


def read_lines(
    path: str | os.PathLike, kind: type[T], remedy: str, is_whole: Callable[[bytes], bool] = lambda line: True
) -> list[T]:
    """What the lines of a JSON-lines file hold, none without a file.

    A last line without an end is left out: a kill cut it short.

    Args:
      path: of the file.
      kind: what each line must hold, see `convert`.
      remedy: what to do about a damaged file.
      is_whole: whether a line was written to its end; others are left out.

    Raises:
      InputError: as of `read`; names the line.
    """
    content = read_bytes(path, remedy, LARGEST_LINES) or b""
    lines = enumerate(content.split(b"\n")[:-1], start=1)
    return [parse(line, kind, f"{os.fspath(path)}, line {n},", remedy) for n, line in lines if is_whole(line)]


def parse(content: bytes | str, kind: type[T], name: str | os.PathLike, remedy: str) -> T:
    """The value of a JSON text; `name` stands for it in messages, and the rest is as of `read`."""
    name = os.fspath(name)
    unknown: list[str] = []
    try:
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
        value = convert(json.loads(text), kind, "", unknown)
    except RecursionError as error:
        raise InputError(f"{name} is damaged (nested too deeply). {remedy}") from error
    except ValueError as error:  # of JSON, of its encoding, and Problem
        reason = str(error) if content.strip() else "it is empty"
        raise InputError(f"{name} is damaged ({reason.rstrip('.')}). {remedy}") from error
    if unknown:
        shown = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        logging.warning("%s has fields that this release does not know and leaves out: %s.", name, shown)
    return value


def convert(value: Any, kind: Any, place: str = "", unknown: list[str] | None = None) -> Any:
    """A value of a type, from what JSON makes of it.

    Args:
      value: of plain types; tuples count as lists.
      kind: bool, int, float, str, FileText, None, Any, Literal, a union, `list[T]`, `tuple[T, ...]`, `tuple[A, B]`,
        `dict[str, T]`, `dict[int, T]` (whose keys are text in JSON), a dataclass, a NamedTuple or a TypedDict;
        `Annotated` with `Bounds`, or with a second type that the value must be of, too. An int is a float; a bool is
        neither.
      place: of the value in the file, for messages.
      unknown: gets the places of fields that the schema lacks.

    Raises:
      Problem: the value is of another type.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    unknown = [] if unknown is None else unknown
    if kind is Any:
        return _plain(value, place)
    if kind in _NAMES:
        return _scalar(value, kind, place)
    if origin is Annotated:
        return _annotated(convert(value, arguments[0], place, unknown), arguments[1], place)
    if origin is typing.Literal:
        if value not in arguments or isinstance(value, bool):
            raise Problem(place, f"must be one of {', '.join(map(repr, arguments))}. Received: {_shown(value)}")
        return value
    if origin in (typing.Union, types.UnionType):
        return _one_of(value, arguments, place, unknown)
    if origin in (list, tuple):
        return _sequence(value, origin, arguments, place, unknown)
    if origin is dict:
        return _dictionary(value, arguments, place, unknown)
    return _record(value, kind, place, unknown)


def _scalar(value: Any, kind: type, place: str) -> Any:
    allowed = {float: (int, float), FileText: str}.get(kind, kind)
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
        raise Problem(place, f"must be {_NAMES[kind]}. Received: {_shown(value)}")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise Problem(place, f"must fit 64 bits. Received: {_shown(value)}")
    if kind is float:
        return float(value)
    return _text(value, place, kind) if kind in (str, FileText) else value


def _text(value: str, place: str, kind: Any = str) -> str:
    try:
        value.encode(errors="strict" if kind is str else "surrogateescape")
    except UnicodeEncodeError as error:
        raise Problem(place, f"must be text in Unicode. Received: {_shown(value)}") from error
    return value


def _annotated(value: Any, rule: Any, place: str) -> Any:
    if not isinstance(rule, Bounds):
        convert(value, rule, place)
    elif not rule.low <= value <= rule.high:
        raise Problem(place, f"must lie in [{rule.low:g}, {rule.high:g}]. Received: {_shown(value)}")
    return value


def _one_of(value: Any, kinds: tuple, place: str, unknown: list[str]) -> Any:
    if value is None and type(None) in kinds:
        return None
    others = [kind for kind in kinds if kind is not type(None)]
    if len(others) == 1:
        return convert(value, others[0], place, unknown)
    for kind in others:
        try:
            return convert(value, kind, place, unknown)
        except Problem:
            continue
    expected = " or ".join(_NAMES.get(kind, str(kind)) for kind in kinds)
    raise Problem(place, f"must be {expected}. Received: {_shown(value)}")


def _sequence(value: Any, origin: type, kinds: tuple, place: str, unknown: list[str]) -> list | tuple:
    if not isinstance(value, (list, tuple)):
        raise Problem(place, f"must be a list. Received: {_shown(value)}")
    if origin is tuple and kinds[-1] is not Ellipsis:
        if len(value) != len(kinds):
            raise Problem(place, f"must have {len(kinds)} entries. Received: {_shown(value)}")
    else:
        kinds = kinds[:1] * len(value)
    return origin(convert(entry, kind, f"{place}[{i}]", unknown) for i, (entry, kind) in enumerate(zip(value, kinds)))


def _dictionary(value: Any, kinds: tuple, place: str, unknown: list[str]) -> dict:
    _check_object(value, place)
    for key in value:
        _text(key, place)
        if kinds[0] is int and not (key.isascii() and key.isdigit() and len(key) < 16):
            raise Problem(place, f"must have whole numbers for keys. Received: {_shown(key)}")
    return {kinds[0](key): convert(entry, kinds[1], _join(place, key), unknown) for key, entry in value.items()}


def _record(value: Any, kind: type, place: str, unknown: list[str]) -> Any:
    """A dataclass, NamedTuple or TypedDict."""
    _check_object(value, place)
    hints = _hints(kind)
    is_dict = typing.is_typeddict(kind)
    for name in _required(kind):
        if name not in value:
            raise Problem(place, f"must have the field {name!r}. Received: {_shown(value)}")
    fields = {name: convert(value[name], hints[name], _join(place, name), unknown) for name in hints if name in value}
    others = {key: value[key] for key in value if key not in hints}
    if is_dict:
        return {**fields, **_plain(others, place)}
    unknown += [_join(place, ascii(key)[1:-1])[:_LONGEST_PLACE] for key in others]
    try:
        return kind(**fields)
    except Problem:
        raise
    except ValueError as error:  # what `__post_init__` refuses
        raise Problem(place, f"must be right in itself: {error}") from error


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


@functools.cache
def _required(kind: type) -> list[str]:
    if typing.is_typeddict(kind):
        return sorted(kind.__required_keys__)
    if dataclasses.is_dataclass(kind):
        missing = dataclasses.MISSING
        return [f.name for f in dataclasses.fields(kind) if f.default is missing and f.default_factory is missing]
    return [name for name in kind._fields if name not in kind._field_defaults]


def _plain(value: Any, place: str, depth: int = 0) -> Any:
    """Anything, as long as it can be written again."""
    if depth > _DEEPEST:
        raise Problem(place, f"must not be nested deeper than {_DEEPEST}")
    if isinstance(value, str | int):
        _scalar(value, type(value), place)
    elif isinstance(value, dict):
        for key, entry in value.items():
            _text(key, place)
            _plain(entry, _join(place, key), depth + 1)
    elif isinstance(value, list):
        for i, entry in enumerate(value):
            _plain(entry, f"{place}[{i}]", depth + 1)
    return value


def _check_object(value: Any, place: str) -> None:
    if not isinstance(value, dict):
        raise Problem(place, f"must be an object with fields. Received: {_shown(value)}")


def _join(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _shown(value: Any) -> str:
    """Short, and in ASCII: a damaged file may hold anything."""
    if isinstance(value, (dict, list)):
        kind = "an object" if isinstance(value, dict) else "a list"
        names = ", ".join(ascii(key)[:40] for key in list(value)[:6]) if isinstance(value, dict) else ""
        return f"{kind} of {names}" if names else f"{kind} of {len(value)} entries"
    text = json.dumps(value) if not isinstance(value, int) or abs(value) < 2**64 else "a number of too many digits"
    return text if len(text) <= 60 else f"{text[:57]}..."
