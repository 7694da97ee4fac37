# SPDX-License-Identifier: Apache-2.0
"""From a textproto on disk to a validated ExperimentOptions.

The order: this file over its `base` files, then the overrides of the command line, then `${NAME}` from the command
line or the environment, then the rules of `config_rules`. Imports no TensorFlow, so that `--help` and a typo answer at
once.
"""

import os
import pathlib
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from google.protobuf import text_format

from deeplab_axial import config_placeholders, files
from deeplab_axial.config_rules import MODES, label_space_problems, nearest, validate
from deeplab_axial.config_tables import REFUSED_PATHS
from deeplab_axial.errors import InputError
from deeplab_axial.protos import config_pb2, label_space_pb2

__all__ = ["MODES", "is_repeated", "load", "load_label_space", "save", "to_text", "validate"]

# The config of a run, in the folder of its model.
FILE_NAME = "config.textproto"
_TOKEN = re.compile(
    r"""(?P<skip>\s+|\#[^\n]*)
    |(?P<string>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')
    |(?P<word>[\w.+-]+)
    |(?P<punctuation>.)""",
    re.VERBOSE,
)


def load(
    path: str | os.PathLike,
    overrides: Sequence[str] = (),
    *,
    mode: str | None = None,
    backbone_names: Collection[str] | None = None,
    refused_backbones: Mapping[str, str] | None = None,
    placeholders: Mapping[str, str] | None = None,
) -> config_pb2.ExperimentOptions:
    """Reads a config and everything it starts from, and checks it.

    Over a base, scalars are replaced, messages merge field by field, repeated fields are replaced and a member of a
    oneof replaces the other members. A repeated field that a base set can be emptied by an override only. `published`
    is not taken from a base.

    Args:
      path: the textproto.
      overrides: "field.path=value", applied last. A repeated field takes "a,b" or "[a, b]"; "[]" empties it. Strings
        need quotes only around a comma.
      mode: one of `MODES`, which says what sections are needed; None needs the model alone (export, describe).
      backbone_names: the known backbones; None leaves `backbone.name` unchecked.
      refused_backbones: name -> why a backbone of DeepLab2 is not among them.
      placeholders: values for `${NAME}` in the config's strings; they win over the environment's. A name that the
        config does not have is a problem. So is a placeholder without a value, except in the name of the experiment,
        the initial checkpoint and the file patterns while the mode does not need them.

    Returns:
      The config, with `base` cleared.

    Raises:
      InputError: a file is missing or broken, or the config is not valid; lists every problem, one a line.
    """
    problems: list[str] = []
    options = _read_remote(str(path), problems) if files.is_remote(path) else _read(pathlib.Path(path), (), problems)
    # A placeholder that an override has replaced is no longer needed, but giving it is no mistake.
    known = config_placeholders.names(options)
    for override in overrides:
        try:
            _override(options, override)
        except InputError as e:
            problems.append(str(e))
    options.ClearField("base")
    known |= config_placeholders.names(options)
    problems += [
        f"{path}: the config has no such placeholder. Received: {name}. {nearest(name, sorted(known))}."
        for name in placeholders or ()
        if name not in known
    ]
    config_placeholders.fill(options, {**os.environ, **(placeholders or {})})
    problems += validate(options, str(path), mode, backbone_names, refused_backbones)
    if problems:
        raise InputError("\n".join(problems))
    return options


def load_label_space(path: str | os.PathLike) -> label_space_pb2.LabelSpaceOptions:
    """Reads the section `label_space` of a config, which needs no other section, and of what it starts from.

    Raises:
      InputError: a file is missing or broken, or the section is not valid; lists every problem, one a line.
    """
    problems: list[str] = []
    options = _read(pathlib.Path(path), (), problems)
    problems += label_space_problems(options, str(path))
    if problems:
        raise InputError("\n".join(problems))
    return options.label_space


def to_text(options: config_pb2.ExperimentOptions) -> str:
    """The config in text format, only what is set."""
    return text_format.MessageToString(options)


def save(options: config_pb2.ExperimentOptions, path: str | os.PathLike) -> None:
    """Writes the config so that `path` holds either all of it or what it held before; makes its folder."""
    files.write_atomically(path, to_text(options))


def _read(path: pathlib.Path, chain: tuple[pathlib.Path, ...], problems: list[str]) -> config_pb2.ExperimentOptions:
    """Reads `path` over its bases; `chain` holds the files that led here."""
    resolved = path.resolve()
    if resolved in (p.resolve() for p in chain):
        cycle = " -> ".join(str(p) for p in (*chain, path))
        raise InputError(f"{path}: base: a config must not start from itself. Received: {cycle}. Remove one base")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        named_by = f" (base of {chain[-1]})" if chain else ""
        reason = e.strerror if isinstance(e, OSError) else "not UTF-8 text"
        near = sorted(p.name for p in path.parent.glob("*.textproto")) if path.parent.is_dir() else []
        raise InputError(
            f"{path}{named_by}: must be a textproto that can be read. Received: {reason}. "
            f"In {path.parent}: {nearest(path.name, near)}."
        ) from e
    own = _parse(text, str(path), problems)
    merged = config_pb2.ExperimentOptions()
    for base in own.base:
        _overlay(merged, _read(path.parent / base, (*chain, path), problems))
    # What the literature reports of another model does not hold for this one.
    merged.ClearField("published")
    _overlay(merged, own)
    merged.ClearField("base")
    return merged


def _read_remote(path: str, problems: list[str]) -> config_pb2.ExperimentOptions:
    """Reads a config of a remote store, which must stand alone, as those do that runs leave in their folders."""
    try:
        text = files.read(path).decode()
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"{path}: must be a textproto that can be read. Received: {e}. Check the path.") from e
    options = _parse(text, path, problems)
    if options.base:
        bases = ", ".join(options.base)
        raise InputError(
            f"{path}: base: a config of a remote store must stand alone. Received: {bases}. Copy it to this machine."
        )
    return options


def _parse(text: str, source: str, problems: list[str]) -> config_pb2.ExperimentOptions:
    """Parses one file; unknown fields become problems, broken syntax or values raise."""
    unknown, inside_refused = _unknown_fields(text, source)
    options = config_pb2.ExperimentOptions()
    try:
        # What is tolerated here has been reported, or stands in a section that is refused as a whole.
        text_format.Parse(text, options, allow_unknown_field=bool(unknown) or inside_refused)
    except text_format.ParseError as e:
        reason = str(e).replace(" : ", ": ", 1).rstrip(".")
        message = f"{source}:{reason}. Correct the text format at this line and column."
        raise InputError("\n".join([*problems, *unknown, message])) from e
    problems += unknown
    return options


def _unknown_fields(text: str, source: str) -> tuple[list[str], bool]:
    """Finds all field names that the schema lacks, where the library's parser stops at the first.

    Returns:
      The problems, and whether there is a section of a refused family, whose inside is not looked at.
    """
    problems, inside_refused = [], False
    # (message type, path) of the sections around a token, and last of the field named last among its neighbours. The
    # type is None where names are not looked at.
    stack: list[tuple[Any, str]] = [(config_pb2.ExperimentOptions.DESCRIPTOR, ""), (None, "")]
    tokens = [m for m in _TOKEN.finditer(text) if m.lastgroup != "skip"]
    for token, after in zip(tokens, [*tokens[1:], None]):
        if token[0] in "{<":
            stack.append((None, ""))
        elif token[0] in "}>":
            if len(stack) == 2:
                break  # Unbalanced; the parser says so better.
            stack.pop()
        elif token.lastgroup == "word" and after is not None and after[0] in ":{<":
            section, prefix = stack[-2]
            path = _join(prefix, token[0])
            stack[-1] = (None, path)
            if section is None:
                continue
            field = section.fields_by_name.get(token[0])
            if field is None:
                place = f"{source}:{_line_column(text, token.start())}"
                problems.append(f"{place}: {path}: {_no_field(section, prefix, token[0])}")
            elif field.message_type is not None and path in REFUSED_PATHS:
                inside_refused = True
            else:
                stack[-1] = (field.message_type, path)
    return problems, inside_refused


def _line_column(text: str, position: int) -> str:
    return f"{text.count(chr(10), 0, position) + 1}:{position - text.rfind(chr(10), 0, position)}"


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _no_field(section: Any, prefix: str, name: str) -> str:
    names = [f.name for f in section.fields if _join(prefix, f.name) not in REFUSED_PATHS]
    return f"{section.name} has no such field. Received: {name}. {nearest(name, names)}."


def _overlay(below: Any, above: Any) -> None:
    """Lays what is set in the message `above` over the message `below`."""
    for field, value in above.ListFields():
        if is_repeated(field):
            below.ClearField(field.name)
            getattr(below, field.name).extend(value)
        elif field.message_type is not None:
            section = getattr(below, field.name)
            section.SetInParent()
            _overlay(section, value)
        else:
            setattr(below, field.name, value)


def is_repeated(field: Any) -> bool:
    """Whether a field of a message, a FieldDescriptor, is repeated."""
    # protobuf 4 and 5 have label alone, 7 has is_repeated alone.
    return field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED


def _override(options: config_pb2.ExperimentOptions, override: str) -> None:
    """Applies one "field.path=value"; an InputError names the override."""
    path, equals, text = (part.strip() for part in override.partition("="))
    where = f'override "{override}"'
    if not equals or not path:
        raise InputError(f'{where}: must be "field.path=value". Received: {path}. Write the path, = and the value.')
    if path == "base":
        raise InputError(f"{where}: base cannot be overridden. Received: {text}. Name it in the config file.")
    message: Any = options
    prefix = ""
    *sections, name = path.split(".")
    for section in sections:
        field = _field(message, prefix, section, where)
        prefix = _join(prefix, section)
        if field.message_type is None or is_repeated(field):
            remedy = "Override fields of single sections; set this one in the config file"
            raise InputError(f"{where}: {prefix} is not a single section. Received: {path}. {remedy}.")
        if prefix in REFUSED_PATHS:
            raise InputError(f"{where}: {prefix}: {REFUSED_PATHS[prefix]}. Received: {text}. Remove the override.")
        message = getattr(message, section)
    field = _field(message, prefix, name, where)
    if field.message_type is not None:
        raise InputError(f"{where}: {path} is a section. Received: {text}. Name a field inside it.")
    _set_from_text(message, field, text, where)


def _field(message: Any, prefix: str, name: str, where: str) -> Any:
    field = message.DESCRIPTOR.fields_by_name.get(name)
    if field is None:
        raise InputError(f"{where}: {_no_field(message.DESCRIPTOR, prefix, name)}")
    return field


def _set_from_text(message: Any, field: Any, text: str, where: str) -> None:
    try:
        if is_repeated(field):
            values = [_scalar(field, item) for item in _items(text)]
            message.ClearField(field.name)
            getattr(message, field.name).extend(values)
        else:
            setattr(message, field.name, _scalar(field, _unquoted(text)))
    except ValueError as e:
        kinds = {field.CPPTYPE_BOOL: "true or false", field.CPPTYPE_STRING: "text", field.CPPTYPE_FLOAT: "a number"}
        kind = kinds.get(field.cpp_type, "a whole number")
        raise InputError(f"{where}: {field.name} takes {kind}. Received: {text} ({e}). Correct the value.") from e


def _scalar(field: Any, text: str) -> Any:
    if field.cpp_type == field.CPPTYPE_STRING:
        return text
    if field.cpp_type == field.CPPTYPE_BOOL:
        if text.lower() not in ("true", "false", "1", "0"):
            raise ValueError("neither true nor false")
        return text.lower() in ("true", "1")
    return float(text) if field.cpp_type == field.CPPTYPE_FLOAT else int(text)


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'" else text


def _items(text: str) -> list[str]:
    """Splits "a,b" or "[a, b]" at the commas outside quotes."""
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    if not text.strip():
        return []
    lexer = shlex.shlex(text, posix=True)
    lexer.whitespace, lexer.whitespace_split, lexer.commenters, lexer.escape = ",", True, "", ""
    return [item.strip() for item in lexer]
