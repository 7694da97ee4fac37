# SPDX-License-Identifier: Apache-2.0
"""From textprotos on disk to one message: each file over its `base` files, within limits of size and depth."""

import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from google.protobuf import text_format

from deeplab_axial import files
from deeplab_axial.config_messages import MOST_PROBLEMS, is_repeated, nearest, shorten
from deeplab_axial.config_tables import REFUSED_PATHS
from deeplab_axial.errors import InputError
from deeplab_axial.protos import config_pb2

# Bytes of one file. The largest config that is shipped has 6 thousand, the largest label space 90 thousand.
LARGEST_FILE = 4_000_000
# Sections inside each other; the schema has seven.
DEEPEST = 100
# Names, values and signs of one file. ImageNet's 21,841 classes with name and id are 240 thousand; the parser takes 3 s
# for twice as many.
MOST_WORDS = 500_000
# Files that one config may be made of.
MOST_FILES = 100
_TOKEN = re.compile(
    r"""(?P<skip>\s+|\#[^\n]*)
    |(?P<string>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')
    |(?P<broken>["'][^\n]*)  # takes its line at once: looking for the end again at each quote would take for ever
    |(?P<word>[\w.+-]+)
    |(?P<punctuation>.)""",
    re.VERBOSE,
)


class Reader:
    """Reads a config and what it starts from, each file once.

    Attributes:
      problems: what is wrong but does not hinder reading, one a line: unknown fields.
    """

    def __init__(self):
        self.problems: list[str] = []
        self._read: dict[tuple[str, str], config_pb2.ExperimentOptions] = {}

    def read(self, path: str | os.PathLike) -> config_pb2.ExperimentOptions:
        """The file over its bases, with `base` cleared and without their `published`.

        Raises:
          InputError: a file is missing, broken, too large or no file, or the bases go in a circle or are too many.
        """
        if files.is_remote(path):
            return self._read_remote(os.fspath(path))
        return self._read_local(pathlib.Path(path), ())

    def _read_local(
        self, path: pathlib.Path, chain: tuple[tuple[tuple[str, str], pathlib.Path], ...]
    ) -> config_pb2.ExperimentOptions:
        """Reads `path`; `chain` holds keys and paths of the files that led here."""
        named_by = chain[-1][1] if chain else None
        try:
            # Two names of one file in one folder have the same bases; in two folders they may not.
            key = os.path.realpath(path), os.path.realpath(path.parent)
        except (OSError, ValueError) as e:
            raise _unreadable(path, named_by, e) from e
        if key in self._read:
            return self._read[key]
        if any(key == other for other, _ in chain):
            cycle = " -> ".join(str(p) for _, p in (*chain, (key, path)))
            raise InputError(f"{path}: base: a config must not start from itself. Received: {cycle}. Remove one base.")
        if len(self._read) + len(chain) >= MOST_FILES:
            raise InputError(
                f"{path}: base: a config may be made of {MOST_FILES} files. Received: more, this one among them. "
                "Put some of them together."
            )
        try:
            text = _decode(files.read(path, LARGEST_FILE))
        except (OSError, ValueError) as e:
            raise _unreadable(path, named_by, e) from e
        own = parse(text, str(path), self.problems)
        merged = config_pb2.ExperimentOptions()
        for base in own.base:
            overlay(merged, self._read_local(path.parent / base, (*chain, (key, path))))
        # What the literature reports of another model does not hold for this one.
        merged.ClearField("published")
        overlay(merged, own)
        merged.ClearField("base")
        self._read[key] = merged
        return merged

    def _read_remote(self, path: str) -> config_pb2.ExperimentOptions:
        """Reads a config of a remote store, which must stand alone, as those do that runs leave in their folders."""
        options = read_alone(path, self.problems)
        if options.base:
            bases = ", ".join(options.base)
            raise InputError(
                f"{path}: base: a config of a remote store must stand alone. Received: {shorten(bases)}. Copy it to "
                "this machine."
            )
        return options


def read_alone(path: str | os.PathLike, problems: list[str]) -> config_pb2.ExperimentOptions:
    """One file without its bases; unknown fields are added to `problems`.

    Raises:
      InputError: it cannot be read, or is no textproto of a config.
    """
    try:
        text = _decode(files.read(path, LARGEST_FILE))
    except (OSError, ValueError) as e:
        raise InputError(
            f"{path}: must be a textproto that can be read. Received: {_reason(e)}. Check the path."
        ) from e
    return parse(text, os.fspath(path), problems)


def parse(text: str, source: str, problems: list[str]) -> config_pb2.ExperimentOptions:
    """Parses one file.

    Args:
      text: its content.
      source: its name in messages.
      problems: unknown fields are added to it.

    Raises:
      InputError: the syntax is broken, a value is of another type than its field, or sections lie too deep.
    """
    unknown, inside_refused = _unknown_fields(text, source)
    if len(unknown) >= MOST_PROBLEMS:
        raise InputError("\n".join([*problems, *unknown]))
    options = config_pb2.ExperimentOptions()
    try:
        # What is tolerated here has been reported, or stands in a section that is refused as a whole.
        text_format.Parse(text, options, allow_unknown_field=bool(unknown) or inside_refused)
    except (text_format.ParseError, ValueError) as e:
        reason = shorten(str(e).replace(" : ", ": ", 1).rstrip("."))
        message = f"{source}:{reason}. Correct the text format at this line and column."
        raise InputError("\n".join([*problems, *unknown, message])) from e
    problems += unknown
    return options


def overlay(below: Any, above: Any) -> None:
    """Lays what is set in the message `above` over the message `below`."""
    for field, value in above.ListFields():
        if is_repeated(field):
            below.ClearField(field.name)
            getattr(below, field.name).extend(value)
        elif field.message_type is not None:
            section = getattr(below, field.name)
            section.SetInParent()
            overlay(section, value)
        else:
            setattr(below, field.name, value)


def join(prefix: str, name: str) -> str:
    """The path of a field inside a section."""
    return f"{prefix}.{name}" if prefix else name


def no_field(section: Any, prefix: str, name: str) -> str:
    """What to say of a name that a section, a message descriptor, does not have."""
    names = [f.name for f in section.fields if join(prefix, f.name) not in REFUSED_PATHS]
    return f"{section.name} has no such field. Received: {shorten(name)}. {nearest(name, names)}."


def _decode(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as e:
        raise ValueError("not UTF-8 text") from e


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or files.first_line(error)


def _unreadable(path: pathlib.Path, named_by: pathlib.Path | None, error: OSError | ValueError) -> InputError:
    """The error of a file that cannot be read; names files of the folder whose names are near."""
    near = []
    if isinstance(error, FileNotFoundError) and path.parent.is_dir():
        near = sorted(p.name for p in path.parent.glob("*.textproto"))
    by = f" (base of {named_by})" if named_by else ""
    return InputError(
        f"{shorten(str(path))}{by}: must be a textproto that can be read. Received: {_reason(error)}. "
        f"In {shorten(str(path.parent))}: {nearest(path.name, near)}."
    )


def _unknown_fields(text: str, source: str) -> tuple[list[str], bool]:
    """Finds field names that the schema lacks, up to MOST_PROBLEMS, where the library's parser stops at the first.

    Returns:
      The problems, and whether there is a section of a refused family, whose inside is not looked at.

    Raises:
      InputError: sections lie deeper than DEEPEST, or there are more than MOST_WORDS names, values and signs.
    """
    problems, inside_refused, words = [], False, 0
    # (message type, path) of the sections around a token, and last of the field named last among its neighbours. The
    # type is None where names are not looked at.
    stack: list[tuple[Any, str]] = [(config_pb2.ExperimentOptions.DESCRIPTOR, ""), (None, "")]
    lists = 0
    for token, after in _tokens(text):
        words += 1
        if token[0] in "{<":
            stack.append((None, ""))
        elif token[0] == "[":
            lists += 1
        elif token[0] in "}>":
            if len(stack) == 2:
                break  # Unbalanced; the parser says so better.
            stack.pop()
        elif token[0] == "]":
            lists = max(lists - 1, 0)
        elif token.lastgroup == "word" and after is not None and after[0] in ":{<" and stack[-2][0] is not None:
            section, prefix = stack[-2]
            field = section.fields_by_name.get(token[0])
            stack[-1] = (None, "")
            if field is None and len(problems) < MOST_PROBLEMS:
                place = f"{source}:{_line_column(text, token.start())}"
                path = shorten(join(prefix, token[0]))
                problems.append(f"{place}: {path}: {no_field(section, prefix, token[0])}")
            elif field is None:
                continue
            elif field.message_type is not None and join(prefix, field.name) in REFUSED_PATHS:
                inside_refused = True
            else:
                stack[-1] = (field.message_type, join(prefix, field.name))
        if words > MOST_WORDS:
            raise InputError(
                f"{source}: a config may have {MOST_WORDS:,} names, values and signs. Received: more. Name files by "
                "globs, and leave out what is not needed."
            )
        if len(stack) + lists > DEEPEST + 2:
            place = f"{source}:{_line_column(text, token.start())}"
            raise InputError(
                f"{place}: sections may lie {DEEPEST} deep. Received: more. Close the sections that are complete."
            )
    return problems, inside_refused


def _tokens(text: str) -> Iterator[tuple[re.Match, re.Match | None]]:
    """Each token with the one after it, blanks and comments left out."""
    token = None
    for after in _TOKEN.finditer(text):
        if after.lastgroup == "skip":
            continue
        if token is not None:
            yield token, after
        token = after
    if token is not None:
        yield token, None


def _line_column(text: str, position: int) -> str:
    return f"{text.count(chr(10), 0, position) + 1}:{position - text.rfind(chr(10), 0, position)}"
