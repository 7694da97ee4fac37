# SPDX-License-Identifier: Apache-2.0
"""Small files of this machine and of remote stores: paths with "://", as "gs://bucket/run", go through TensorFlow.

Whatever the store, problems are OSErrors, FileNotFoundError among them. TensorFlow is imported for remote paths alone:
`--help` and a typo in a config answer at once.
"""

import contextlib
import errno
import functools
import mmap
import os
import pathlib
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from deeplab_axial import processes
from deeplab_axial.errors import InputError

# In each file that may be replaced: pages, pictures, videos, predictions. What lacks it is never written over.
MARK = "written by deeplab-axial"
# Of a remote file, so many bytes are searched for MARK, which lies near the start.
_MARKED_BYTES = 4096
# What TensorFlow takes for a pattern, also where it reads one file.
_GLOB = re.compile(r"[*?\[\]\\]")
_LONGEST_NAME = 255  # bytes, on almost all file systems

# What a path may lead to instead of a file.
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)

# A file of `temporary_name`: machine, process.
_TEMPORARY = re.compile(r"\..+\.([0-9a-f]{8})?-(\d+)\.tmp", re.DOTALL)
_LONGEST_WRITE = 3600.0  # seconds that a file may take


def is_remote(path: str | os.PathLike) -> bool:
    """Whether a path names something in a store that the operating system does not know."""
    return "://" in os.fspath(path)


def real_path(path: str | os.PathLike) -> str:
    """One spelling for all that lead to the same place: absolute, without links; a remote path as it is."""
    return os.fspath(path) if is_remote(path) else os.path.realpath(path)


def write_atomically(path: str | os.PathLike, content: bytes | str) -> None:
    """Writes a file that readers see complete or not at all, and makes the folders above it; text as UTF-8."""
    content = content.encode() if isinstance(content, str) else content
    with replacing(path) as temporary:
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
    with replacing(target) as temporary:
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


def is_marked(path: str | os.PathLike) -> bool:
    """Whether a file holds MARK, and so may be replaced; False for what is no regular file."""
    try:
        check_regular(path)
        if is_remote(path):
            with _remote(path) as gfile, gfile.GFile(os.fspath(path), "rb") as file:
                return MARK.encode() in file.read(_MARKED_BYTES)
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(MARK.encode()) >= 0
    except (OSError, ValueError):  # ValueError: an empty file
        return False


def without_glob(path: str | os.PathLike) -> str:
    """A path to the same local files without characters of patterns, which TensorFlow would expand.

    TensorFlow looks for the files of a checkpoint or SavedModel with its glob function, and does not find those in a
    folder named "run[1]". The path leads through a link in a temporary folder, which is there until this process ends.

    Args:
      path: of a folder, or the prefix of a checkpoint.

    Raises:
      InputError: a path in a remote store has such a character.
    """
    path = os.fspath(path)
    if not _GLOB.search(path):
        return path
    if is_remote(path):
        raise InputError(f"Paths in remote stores must be free of * ? [ ] and \\. Received: {path}. Rename the folder.")
    folder, name = os.path.split(os.path.abspath(path))
    if not _GLOB.search(name):
        return os.path.join(_link(folder), name)
    plain = os.path.join(tempfile.mkdtemp(dir=_links().name), _GLOB.sub("_", name))
    for other in names(folder):
        if other == name or other.startswith(f"{name}."):
            os.symlink(os.path.join(folder, other), plain + other.removeprefix(name))
    return plain


@functools.cache
def _links() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="deeplab_axial.")


@functools.cache
def _link(folder: str) -> str:
    link = os.path.join(tempfile.mkdtemp(dir=_links().name), "folder")
    os.symlink(folder, link)
    return link


def check_parts(prefix: str) -> None:
    """`check_regular` for all files that are named like a prefix and a dot, as PREFIX.index of a checkpoint."""
    folder, name = os.path.split(prefix)
    for other in [] if is_remote(prefix) else names(folder or "."):
        if other.startswith(f"{name}."):
            check_regular(os.path.join(folder, other))


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
def replacing(path: str | os.PathLike) -> Iterator[str]:
    """Yields the name to write under, in the same folder, which is made; the file gets its own name at the end."""
    path = os.fspath(path)
    folder = os.path.dirname(path)
    if folder:
        make_folder(folder)
    temporary = temporary_name(path)
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


def temporary_name(path: str | os.PathLike) -> str:
    """A name for a file until it is complete; what a killed process left under such names in the folder is removed."""
    folder, name = os.path.split(os.fspath(path))
    _remove_leftovers(folder)
    end = f".{processes.machine()}-{os.getpid()}.tmp"
    start = os.fsencode(f".{name}")[: _LONGEST_NAME - len(end)].decode(errors="ignore")
    return os.path.join(folder, f"{start}{end}")


@functools.cache  # what is left is from before this process
def _remove_leftovers(folder: str) -> None:
    """Removes files of `temporary_name` whose process is gone, or, on another machine, which are an hour old."""
    with contextlib.suppress(OSError):
        for name in names(folder or os.curdir):
            match = _TEMPORARY.fullmatch(name)
            if match is None:
                continue
            path = os.path.join(folder, name)
            if match[1] and match[1] == processes.machine():
                is_left = not processes.is_alive(int(match[2]))
            else:
                is_left = time.time() - _modified(path) > _LONGEST_WRITE
            if is_left:
                remove(path)


def _modified(path: str) -> float:
    """When a file was written to, in seconds since 1970; now, where a store does not tell."""
    if is_remote(path):
        with _remote(path) as gfile:
            return gfile.stat(path).mtime_nsec / 1e9 or time.time()
    return os.stat(path).st_mtime


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
