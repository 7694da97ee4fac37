# SPDX-License-Identifier: Apache-2.0
"""Which images and videos are meant by files, folders and globs, and what their results are called."""

import collections
import dataclasses
import fnmatch
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from deeplab_axial.errors import InputError

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".avif")
VIDEO_EXTENSIONS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".gif")
_KNOWN = (*IMAGE_EXTENSIONS, *VIDEO_EXTENSIONS)
# Why something is left out, beside other extensions.
_HIDDEN, _IS_FOLDER, _NO_FILE = "hidden", "folders that match", "no regular files"
_IN_OUTPUT = "below the folder of the results"


class Input(NamedTuple):
    """A file to segment.

    Attributes:
      path: of the file.
      relative: the path below the folder that was named, or below the part of a glob without wildcards.
    """

    path: str
    relative: str


@dataclasses.dataclass(frozen=True)
class Found:
    """What patterns lead to.

    Attributes:
      inputs: each file once, in the order of the patterns and sorted within each.
      skipped: how many files were left out, by the reason.
    """

    inputs: list[Input]
    skipped: Mapping[str, int]

    def describe_skipped(self) -> str:
        """ "3 .txt, 1 hidden"; empty if nothing was left out."""
        return ", ".join(f"{count} {reason}" for reason, count in sorted(self.skipped.items()))


def is_video(path: str) -> bool:
    """Whether the file's name says that it is a video; GIFs count as videos."""
    return path.lower().endswith(VIDEO_EXTENSIONS)


def find_inputs(patterns: Sequence[str]) -> list[str]:
    """The paths of `find`."""
    return [found.path for found in find(patterns).inputs]


def find(patterns: Sequence[str], output_dir: str | None = None) -> Found:
    """Finds the images and videos behind files, folders and globs ("**" for any depth).

    Of folders, at any depth, those files count whose names end as IMAGE_EXTENSIONS or VIDEO_EXTENSIONS; a file or glob
    is taken at its word. What exists under the very name is no glob, and the folders that a glob starts with are taken
    literally where they exist.

    Args:
      patterns: what to search.
      output_dir: is left out, with all below it.

    Raises:
      InputError: a pattern leads to no image.
    """
    skipped: collections.Counter[str] = collections.Counter()
    inputs: dict[str, Input] = {}
    for pattern in patterns:
        known = sum(skipped.values())
        root, paths = _candidates(pattern, skipped, output_dir and os.path.realpath(output_dir))
        found = [Input(path, _relative(path, root)) for path in paths]
        if not found:
            more = sum(skipped.values()) - known
            left_out = f"; left out: {Found([], skipped).describe_skipped()}" if more else ""
            raise InputError(f"--input={pattern} leads to no image ({', '.join(_KNOWN)}{left_out}). Correct the path.")
        for one in found:
            inputs.setdefault(os.path.abspath(one.path), one)
    return Found(list(inputs.values()), skipped)


def _candidates(pattern: str, skipped: collections.Counter[str], output_dir: str | None) -> tuple[str, list[str]]:
    """The folder that names are relative to, and the files; counts what is left out."""
    if os.path.isdir(pattern):
        return pattern, list(_walk(pattern, skipped, output_dir))
    if os.path.isfile(pattern):
        return os.path.dirname(pattern), [pattern]
    root, rest = split_glob(pattern)
    paths = []
    # A folder of results that the glob starts in, or below, is no reason to leave its images out.
    starts_outside = output_dir and not _is_below(os.path.realpath(root or "."), output_dir)
    for path in _matching(root or ".", rest.split(os.sep)):
        path = path if root else os.path.relpath(path)
        if starts_outside and _is_below(os.path.realpath(path), output_dir):
            skipped[_IN_OUTPUT] += 1
        elif os.path.isfile(path):
            paths.append(path)
        elif os.path.exists(path) and "**" not in rest:
            skipped[_IS_FOLDER if os.path.isdir(path) else _NO_FILE] += 1
    return root, paths


def _is_below(path: str, folder: str) -> bool:
    """Whether a path is a folder or something in it; both without links."""
    return os.path.join(path, "").startswith(os.path.join(folder, ""))


def _matching(folder: str, parts: Sequence[str]) -> Iterator[str]:
    """Yields what the parts of a glob match below a folder, sorted. "**" comes once to each folder, links included."""
    first, *rest = parts
    if first == "**":
        seen = set()
        for parent, folders, _ in os.walk(folder, followlinks=True):
            real = os.path.realpath(parent)
            folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
            if real not in seen:
                yield from _matching(parent, rest or ["*"])
            seen.add(real)
        return
    try:
        names = [first] if os.path.lexists(os.path.join(folder, first)) else sorted(os.listdir(folder))
    except OSError:  # no folder, or none that can be read
        return
    for name in names:
        if name == first or (fnmatch.fnmatchcase(name, first) and name.startswith(".") <= first.startswith(".")):
            path = os.path.join(folder, name)
            yield from _matching(path, rest) if rest else [path]


def split_glob(pattern: str) -> tuple[str, str]:
    """The longest leading folder of a glob that exists under this very name or has no wildcards, and the rest."""
    parts = pattern.split(os.sep)
    for count in range(len(parts) - 1, 0, -1):
        root = os.sep.join(parts[:count]) or os.sep
        if os.path.isdir(root):
            return root, os.sep.join(parts[count:])
    return "", pattern


def _walk(folder: str, skipped: collections.Counter[str], output_dir: str | None) -> Iterator[str]:
    """Yields the files in a folder, then those in the folders below it, links included; each folder once."""
    seen = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        if os.path.realpath(parent) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(parent))
        for name in sorted(names):
            path = os.path.join(parent, name)
            extension = os.path.splitext(name)[1].lower()
            if name.startswith("."):
                skipped[_HIDDEN] += 1
            elif not name.lower().endswith(_KNOWN):
                skipped[extension if re.fullmatch(r"\.\w+", extension) else "without extension"] += 1
            elif not os.path.isfile(path):
                skipped[_NO_FILE] += 1
            else:
                yield path
        kept = []
        for name in sorted(folders):
            real = os.path.realpath(os.path.join(parent, name))
            if real == output_dir:
                skipped[_IN_OUTPUT] += sum(len(names) for _, _, names in os.walk(real))
            elif name.startswith("."):
                skipped[_HIDDEN] += 1
            elif real not in seen:
                kept.append(name)
        folders[:] = kept


def _relative(path: str, root: str) -> str:
    relative = os.path.relpath(path, root or ".")
    return os.path.basename(path) if relative.startswith(os.pardir) else relative


class Names:
    """Gives results names that do not collide, and remembers them.

    "a/b.jpg" is called "a/b"; where several files would be, each keeps its extension ("a/b.jpg"), and where that does
    not help a number is added ("a-2/b.jpg"). Upper and lower case count as the same, as some file systems have it. What
    is no UTF-8 becomes U+FFFD.

    Args:
      inputs: all that will be named.
      reserved: files in the folder of results that are none.
      places: an input's name, and whether it is a video -> the files and folders that it takes, relative to the folder
        of results; nothing else may be there or below.
    """

    def __init__(
        self, inputs: Sequence[Input], reserved: Collection[str], places: Callable[[str, bool], Collection[str]]
    ):
        self._places = places
        self._files = set(reserved)
        self._folders: set[str] = set()
        self._stems = collections.Counter(_stem(one.relative).casefold() for one in inputs)

    def give(self, one: Input) -> str:
        """The name of an input's results; each is asked for once."""
        stem, full = _stem(one.relative), _readable(one.relative)
        video = is_video(one.path)
        if self._stems[stem.casefold()] == 1 and self.take(stem, video):
            return stem
        top, slash, rest = full.partition(os.sep)
        name, number = full, 1
        while not self.take(name, video):
            number += 1
            name = f"{top}-{number}{slash}{rest}"  # in front: a folder as a whole may be taken
        return name

    def take(self, name: str, video: bool) -> bool:
        """Reserves the places of a name; False, and nothing is done, if one is taken."""
        places = [place.casefold() for place in self._places(name, video)]
        above = {parent for place in places for parent in _parents(place)}
        if not self._files.isdisjoint([*places, *above]) or not self._folders.isdisjoint(places):
            return False
        self._files.update(places)
        self._folders |= above
        return True


def _parents(place: str) -> Iterator[str]:
    while place := os.path.dirname(place):
        yield place


def _stem(relative: str) -> str:
    return os.path.splitext(_readable(relative))[0]


def _readable(relative: str) -> str:
    return os.fsencode(relative).decode(errors="replace")
