# SPDX-License-Identifier: Apache-2.0
"""Folders that commands write to."""

import os

from deeplab_axial.errors import InputError


def make(path: str, flag: str) -> None:
    """Makes a folder, unless it is there.

    Raises:
      InputError: it cannot be made or written to; names the flag.
    """
    try:
        os.makedirs(path, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise PermissionError("no permission to write")
    except OSError as error:
        raise InputError(f"--{flag}={path} cannot be written ({error}). Name another folder.") from error
