# SPDX-License-Identifier: Apache-2.0
"""Folders that commands write to."""

import os
import pathlib
from collections.abc import Iterable

from deeplab_axial import files
from deeplab_axial.errors import InputError


def refuse_remote(path: str, flag: str) -> None:
    """Refuses a path in a remote store, for what is read and written on this machine only.

    Raises:
      InputError: the path has "://" in it; names the flag.
    """
    if files.is_remote(path):
        raise InputError(
            f"--{flag} must be on this machine: of remote stores, records, --model_dir and --checkpoint alone are read "
            f"or written directly. Received: {path}. Name a local place, and copy from or to the store."
        )


def make(path: str, flag: str, remote: bool = False) -> None:
    """Makes a folder, unless it is there.

    Args:
      path: of the folder.
      flag: that names it.
      remote: whether it may be in a remote store.

    Raises:
      InputError: it cannot be made or written to, or must not be remote; names the flag.
    """
    if not remote:
        refuse_remote(path, flag)
    try:
        files.make_folder(path)
        if not files.is_remote(path) and not os.access(path, os.W_OK):
            raise PermissionError("no permission to write")
    except OSError as error:
        raise _cannot_be_written(path, flag, error) from error


def check(path: str, flag: str) -> None:
    """Checks that `make` will succeed, remote or not, as far as it can be told without making anything.

    Raises:
      InputError: as of `make`.
    """
    try:
        if files.is_remote(path):
            files.exists(path)  # a store that is unknown, or gives no access
            return
        place = os.path.abspath(path)
        while not os.path.lexists(place):
            place = os.path.dirname(place)
        if not os.path.isdir(place):
            raise NotADirectoryError(f"{place} is no folder")
        if not os.access(place, os.W_OK):
            raise PermissionError(f"no permission to write in {place}")
    except OSError as error:
        raise _cannot_be_written(path, flag, error) from error


def refuse_foreign(paths: Iterable[str], flag: str) -> None:
    """Refuses to write where something lies that this program may not replace.

    May be replaced: files that hold `files.MARK`, as all do that commands write again, and folders of such files.

    Args:
      paths: files that will be written or removed, and folders that will be removed.
      flag: that names the place.

    Raises:
      InputError: names the first file that is in the way.
    """
    foreign = [path for path in paths if not _is_replaceable(path)]
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise InputError(
            f"--{flag}: {foreign[0]}{more} would be replaced, but deeplab-axial did not write it (files from "
            "before it marked its own count as such). Name another place, or move it away."
        )


def refuse_inputs(inputs: Iterable[str], folder: str, places: Iterable[str], flag: str) -> None:
    """Refuses to write over inputs, and into the very folder that one lies in.

    Args:
      inputs: files that are read.
      folder: of the results.
      places: files and folders in it that will be replaced.
      flag: that names it.

    Raises:
      InputError: names the input.
    """
    folder = os.path.realpath(folder)
    taken = set(map(os.path.realpath, places))
    for path in inputs:
        real = pathlib.Path(os.path.realpath(path))
        if str(real.parent) == folder or not taken.isdisjoint(map(str, [real, *real.parents])):
            raise InputError(
                f"--{flag}={folder}: results would lie beside or in the place of the input {path}. Name a folder of "
                f"their own, as --{flag}={os.path.join(folder, 'results')}."
            )


def _is_replaceable(path: str) -> bool:
    if files.is_remote(path):
        return not files.exists(path) or files.is_marked(path)
    if os.path.isdir(path) and not os.path.islink(path):
        inside = (os.path.join(parent, name) for parent, _, names in os.walk(path) for name in names)
        return all(map(_is_replaceable, inside))
    return not os.path.lexists(path) or files.is_marked(path)


def _cannot_be_written(path: str, flag: str, error: OSError) -> InputError:
    return InputError(f"--{flag}={path} cannot be written ({error}). Name another folder.")
