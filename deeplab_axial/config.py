# SPDX-License-Identifier: Apache-2.0
"""From a textproto on disk to a validated ExperimentOptions.

The order: this file over its `base` files, then the overrides of the command line, then `${NAME}` from the command
line or the environment, then the rules of `config_rules`. Imports no TensorFlow, so that `--help` and a typo answer at
once.
"""

import os
import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from google.protobuf import text_format

from deeplab_axial import config_placeholders, config_text, files
from deeplab_axial.config_messages import is_repeated, nearest, summarise
from deeplab_axial.config_rules import MODES, label_space_problems, validate
from deeplab_axial.config_tables import REFUSED_PATHS
from deeplab_axial.errors import InputError
from deeplab_axial.protos import config_pb2, label_space_pb2

__all__ = ["MODES", "is_repeated", "load", "load_label_space", "read_alone", "save", "to_text", "validate"]

# The config of a run, in the folder of its model.
FILE_NAME = "config.textproto"


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
    reader = config_text.Reader()
    options = reader.read(path)
    problems = reader.problems
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
    problems += [
        f"{path}: {problem}" for problem in config_placeholders.fill(options, {**os.environ, **(placeholders or {})})
    ]
    problems += validate(options, str(path), mode, backbone_names, refused_backbones)
    if problems:
        raise InputError(summarise(problems))
    return options


def load_label_space(path: str | os.PathLike) -> label_space_pb2.LabelSpaceOptions:
    """Reads the section `label_space` of a config, which needs no other section, and of what it starts from.

    Raises:
      InputError: a file is missing or broken, or the section is not valid; lists every problem, one a line.
    """
    reader = config_text.Reader()
    options = reader.read(path)
    problems = reader.problems + label_space_problems(options, str(path))
    if problems:
        raise InputError(summarise(problems))
    return options.label_space


def read_alone(path: str | os.PathLike) -> config_pb2.ExperimentOptions:
    """A config that a run or an export left, which has no bases: read, but not checked against the rules.

    Raises:
      InputError: it cannot be read, or is no textproto of a config.
    """
    problems: list[str] = []
    options = config_text.read_alone(path, problems)
    if problems:
        raise InputError(summarise(problems))
    return options


def to_text(options: config_pb2.ExperimentOptions) -> str:
    """The config in text format, only what is set."""
    return text_format.MessageToString(options)


def save(options: config_pb2.ExperimentOptions, path: str | os.PathLike) -> None:
    """Writes the config so that `path` holds either all of it or what it held before; makes its folder."""
    files.write_atomically(path, to_text(options))


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
        prefix = config_text.join(prefix, section)
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
        raise InputError(f"{where}: {config_text.no_field(message.DESCRIPTOR, prefix, name)}")
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
