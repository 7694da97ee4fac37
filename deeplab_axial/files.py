# SPDX-License-Identifier: Apache-2.0
"""Small files of this machine and of remote stores: paths with "://", as "gs://bucket/run", go through TensorFlow.

Whatever the store, problems are OSErrors, FileNotFoundError among them. TensorFlow is imported for remote paths alone:
`--help` and a typo in a config answer at once.
"""

import contextlib
import errno
import json
import os
import pathlib
import re
import shutil
import stat
import sys
from collections.abc import Iterator
from typing import Any

from deeplab_axial.errors import InputError

# What a path may lead to instead of a file.
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def is_remote(path: str | os.PathLike) -> bool:
    """Whether a path names something in a store that the operating system does not know."""
    return "://" in os.fspath(path)


def write_atomically(path: str | os.PathLike, content: bytes | str) -> None:
    """Writes a file that readers see complete or not at all, and makes the folders above it; text as UTF-8."""
    content = content.encode() if isinstance(content, str) else content
    with _replacing(path) as temporary:
        if is_remote(path):
            with _remote(path) as gfile, gfile.GFile(temporary, "wb") as file:
                file.write(content)
        else:
            pathlib.Path(temporary).write_bytes(content)


def append(path: str | os.PathLike, text: str) -> None:
    """Adds text, as UTF-8, to a file of an existing folder; makes the file. A remote store writes all of it again."""
    if is_remote(path):
        with _remote(path) as gfile, gfile.GFile(os.fspath(path), "ab") as file:
            file.write(text.encode())
        return
    with open(path, "a", encoding="utf-8") as file:
        file.write(text)


def copy(source: str | os.PathLike, target: str | os.PathLike) -> None:
    """Copies a file; the copy is complete or absent, and replaces what was there. Makes the folders above it."""
    with _replacing(target) as temporary:
        if is_remote(source) or is_remote(target):
            with _remote(source) as gfile:
                gfile.copy(os.fspath(source), temporary, overwrite=True)
        else:
            shutil.copyfile(source, temporary)


def move(source: str | os.PathLike, target: str | os.PathLike) -> None:
    """Gives a file another name in its folder."""
    if is_remote(source):
        with _remote(source) as gfile:
            gfile.rename(os.fspath(source), os.fspath(target))
        return
    os.rename(source, target)


def read(path: str | os.PathLike, largest: int | None = None) -> bytes:
    """The content of a file.

    Args:
      path: of the file.
      largest: most bytes that it may have; None for no limit.

    Raises:
      FileNotFoundError: there is none.
      OSError: it is no regular file, see `check_regular`, or larger; errno.EFBIG then.
    """
    check_regular(path)
    if is_remote(path):
        with _remote(path) as gfile, gfile.GFile(os.fspath(path), "rb") as file:
            content = file.read(-1 if largest is None else largest + 1)
    else:
        with open(path, "rb") as file:
            content = file.read(-1 if largest is None else largest + 1)
    if largest is not None and len(content) > largest:
        raise OSError(errno.EFBIG, f"larger than {largest:,} bytes", os.fspath(path))
    return content


def check_regular(path: str | os.PathLike) -> None:
    """Checks that a path leads to a file whose bytes can be read to an end; nothing is opened.

    A FIFO waits for ever for who writes to it, and a device such as /dev/zero never ends. What is in a remote store
    counts as regular.

    Raises:
      FileNotFoundError: there is nothing.
      OSError: there is a folder, FIFO, device or socket; says which.
    """
    if is_remote(path):
        return
    mode = os.stat(path).st_mode
    if stat.S_ISREG(mode):
        return
    kind = next(name for is_kind, name in _KINDS if is_kind(mode))
    raise OSError(errno.EINVAL, f"{kind}, where a file is expected", os.fspath(path))


def read_json(path: str | os.PathLike) -> Any:
    """The content of a JSON file; None without one."""
    try:
        return json.loads(read(path))
    except FileNotFoundError:
        return None


def exists(path: str | os.PathLike) -> bool:
    """Whether there is a file or folder."""
    if is_remote(path):
        with _remote(path) as gfile:
            return gfile.exists(os.fspath(path))
    return os.path.exists(path)


def is_folder(path: str | os.PathLike) -> bool:
    """Whether there is a folder; in a store of objects, whether there is something under the name."""
    if is_remote(path):
        with _remote(path) as gfile:
            return gfile.isdir(os.fspath(path))
    return os.path.isdir(path)


def names(folder: str | os.PathLike) -> list[str]:
    """The names of the files and folders in a folder, sorted; none if there is no folder."""
    try:
        if is_remote(folder):
            with _remote(folder) as gfile:
                return sorted(name.rstrip("/") for name in gfile.listdir(os.fspath(folder)))
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []


def make_folder(path: str | os.PathLike) -> None:
    """Makes a folder and those above it, unless it is there."""
    if is_remote(path):
        with _remote(path) as gfile:
            gfile.makedirs(os.fspath(path))
        return
    os.makedirs(path, exist_ok=True)


def remove(path: str | os.PathLike) -> None:
    """Removes a file or a folder with all that is in it, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        if is_remote(path):
            with _remote(path) as gfile:
                (gfile.rmtree if gfile.isdir(os.fspath(path)) else gfile.remove)(os.fspath(path))
        elif os.path.isdir(path):
            shutil.rmtree(path)
        else:
            os.remove(path)


@contextlib.contextmanager
def explained(folder: str | os.PathLike) -> Iterator[None]:
    """Around writes into a model's folder: what goes wrong becomes an InputError that says what to do.

    Raises:
      InputError: an OSError came, or an error of TensorFlow's operations; what was written before is untouched.
    """
    try:
        yield
    except Exception as error:  # TensorFlow's kinds are known only if it was imported; the others go on
        tensorflow = sys.modules.get("tensorflow")
        if not isinstance(error, OSError) and not (tensorflow and isinstance(error, tensorflow.errors.OpError)):
            raise
        place = getattr(error, "filename", None) or os.fspath(folder)
        reason = getattr(error, "strerror", None) or first_line(error)
        raise InputError(
            f"{place} cannot be written ({reason}). Free or change the place and run the command again: what was "
            "written before is kept."
        ) from error


def first_line(error: Exception) -> str:
    """The first line of an error's message, without the names of TensorFlow's own functions."""
    line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return re.sub(r"\{\{function_node [^}]*\}\} ?| \[Op:\w+\].*", "", line).strip()


@contextlib.contextmanager
def _replacing(path: str | os.PathLike) -> Iterator[str]:
    """Yields the name to write under, in the same folder, which is made; the file gets its own name at the end."""
    path = os.fspath(path)
    folder, name = os.path.split(path)
    if folder:
        make_folder(folder)
    temporary = os.path.join(folder, f".{name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if is_remote(path):
            # Stores of objects copy here, but the new object appears when it is complete.
            with _remote(path) as gfile:
                gfile.rename(temporary, path, overwrite=True)
        else:
            os.replace(temporary, path)
    finally:
        remove(temporary)


@contextlib.contextmanager
def _remote(path: str | os.PathLike) -> Iterator[Any]:
    """Yields tf.io.gfile, whose errors become OSErrors that name the path."""
    import tensorflow as tf

    try:
        yield tf.io.gfile
    except tf.errors.OpError as error:
        missing = isinstance(error, tf.errors.NotFoundError)
        reason = "no such file" if missing else str(error.message) or type(error).__name__
        raise OSError(errno.ENOENT if missing else errno.EIO, reason, os.fspath(path)) from error
