# SPDX-License-Identifier: Apache-2.0
"""Folders that commands write to."""

import os

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


def _cannot_be_written(path: str, flag: str, error: OSError) -> InputError:
    return InputError(f"--{flag}={path} cannot be written ({error}). Name another folder.")
