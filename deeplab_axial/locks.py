# SPDX-License-Identifier: Apache-2.0
"""Locks on folders: of two processes that would write the same files, the second ends with an error.

A lock is a small file that names its owner. Whoever finds one asks whether the owner is there: a process of this
machine is looked up; one of another machine has to show, by touching the file every BEAT seconds, that it lives. So a
lock needs nothing but files (NFS and buckets will do), and that of a killed process stops nobody for long.
"""

import contextlib
import dataclasses
import datetime
import json
import os
import re
import shutil
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator

from absl import logging

from deeplab_axial import files, processes
from deeplab_axial.errors import InputError

# Seconds between two signs of life, and without one until the owner counts as dead.
BEAT = 10.0
PATIENCE = 60.0
# Seconds after which a lock in a store must still be ours: stores know no "make this file unless it is there".
_SETTLE = 1.0
_LARGEST = 4096  # bytes
_held: set[tuple[str, int]] = set()  # path, thread


@dataclasses.dataclass(frozen=True)
class Owner:
    """Who holds a lock.

    Attributes:
      command: of `deeplab-axial`.
      host: name of the machine, for people.
      pid: number of the process.
      start: `processes.start_of` it.
      machine: `processes.machine`.
      since: time and date of taking it, UTC.
      token: tells this holding from any other.
    """

    command: str
    host: str
    pid: int
    start: str
    machine: str
    since: str
    token: str

    @classmethod
    def this(cls, command: str) -> "Owner":
        """This process."""
        since = datetime.datetime.now(datetime.timezone.utc).isoformat(" ", "seconds").replace("+00:00", " UTC")
        pid = os.getpid()
        start, machine = processes.start_of(pid) or "", processes.machine()
        return cls(command, socket.gethostname(), pid, start, machine, since, uuid.uuid4().hex)

    @classmethod
    def parse(cls, content: bytes) -> "Owner | None":
        """Whom a lock file names; None if it is cut short or something else."""
        try:
            values = json.loads(content)["owner"]
            owner = cls(**values)
        except (ValueError, TypeError, LookupError, RecursionError):
            return None
        is_sound = all(isinstance(getattr(owner, f.name), f.type) for f in dataclasses.fields(cls))
        return owner if is_sound else None

    def __str__(self) -> str:
        return f"`deeplab-axial {self.command}`, process {self.pid} on {self.host}, since {self.since}"

    @property
    def is_here(self) -> bool:
        """Whether it is a process of this machine, which can be looked up."""
        return bool(self.machine) and self.machine == processes.machine()


@contextlib.contextmanager
def in_folder(folder: str | os.PathLike, command: str, name: str = "") -> Iterator[None]:
    """Locks a folder whose files a command writes, and makes it; another process with the same lock is refused.

    The lock is the file `.NAME.lock` in it, after the command where no name is given. A folder that is still empty in
    the end and was made here is removed.
    Where no file can be made, nothing is locked: the command will say why it cannot write.

    Raises:
      InputError: another process holds it; names host, process and start.
    """
    folder = os.fspath(folder)
    with _making(folder), _hold(os.path.join(folder, f".{name or command}.lock"), folder, command):
        yield


@contextlib.contextmanager
def beside(target: str | os.PathLike, command: str) -> Iterator[None]:
    """Locks what a command puts in place when it is complete: a file, or a folder that must not be there before.

    The lock is the file `.NAME.lock` beside it; otherwise as `in_folder`.
    """
    target = os.path.abspath(target)
    parent, name = os.path.split(target)
    with _making(parent), _hold(os.path.join(parent, f".{name}.lock"), target, command):
        yield


@contextlib.contextmanager
def partial_folder(target: str | os.PathLike, command: str) -> Iterator[str]:
    """Yields a new folder beside `target`, to be filled, checked and renamed, and locks the target meanwhile.

    Its name begins with a dot and ends in `.partial`. It is removed at the end, and so is first what a killed process
    left of that name.

    Raises:
      InputError: as of `beside`.
      OSError: it cannot be made.
    """
    target = os.path.abspath(target)
    parent, name = os.path.split(target)
    with beside(target, command):
        # What `mkdtemp` makes of it, not what it makes of another target, as "m.int8" beside "m".
        left = re.compile(rf"\.{re.escape(name)}\.\w+\.partial")
        for other in files.names(parent):
            if left.fullmatch(other):
                shutil.rmtree(os.path.join(parent, other), ignore_errors=True)
        os.makedirs(parent, exist_ok=True)
        partial = tempfile.mkdtemp(prefix=f".{name}.", suffix=".partial", dir=parent)
        try:
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def _making(folder: str) -> Iterator[None]:
    """Makes a folder and those above it, if that can be; those that are empty in the end are removed again."""
    made = []
    with contextlib.suppress(OSError):
        if not files.is_remote(folder):
            place = os.path.abspath(folder)
            while not os.path.lexists(place):
                made.append(place)
                place = os.path.dirname(place)
        files.make_folder(folder)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            for place in made:
                os.rmdir(place)


@contextlib.contextmanager
def _hold(path: str, place: str, command: str) -> Iterator[None]:
    """Holds a lock file; does nothing inside of another holding of it by the same thread.

    Args:
      path: of the lock file.
      place: what it locks, for messages.
      command: that holds it.
    """
    path = path if files.is_remote(path) else os.path.abspath(path)
    key = (path, threading.get_ident())
    owner = Owner.this(command)
    if key in _held or not _can_acquire(path, place, owner):
        yield
        return
    done = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, place, owner, done), daemon=True)
    beat.start()
    _held.add(key)
    try:
        yield
    finally:
        _held.discard(key)
        done.set()
        beat.join()
        with contextlib.suppress(OSError):
            if _is_of(path, owner):
                files.remove(path)


def _can_acquire(path: str, place: str, owner: Owner) -> bool:
    """Takes a lock; False if no file can be made there.

    Raises:
      InputError: another process holds it.
    """
    try:
        _acquire(path, place, owner)
    except OSError as error:
        # A store may let files be made and not be replaced; another user's lock file may not be for us to read.
        if files.is_remote(path) or os.path.lexists(path):
            logging.warning("%s cannot be locked (%s): nothing keeps another process from it.", place, error)
        return False
    return True


def _acquire(path: str, place: str, owner: Owner) -> None:
    """Makes the lock file, in the place of one whose owner is dead if need be.

    Raises:
      InputError: its owner lives.
      OSError: it cannot be made.
    """
    seen, since, took_over = None, time.monotonic(), False
    while True:
        if _make(path, owner):
            # Who was about to remove the dead one, too, may have removed ours.
            time.sleep(_SETTLE if took_over or files.is_remote(path) else 0)
            if _is_of(path, owner):
                return
            continue
        found = _look(path)
        if found is None:
            continue
        other = Owner.parse(found[0])
        if other is not None and other.is_here:
            is_dead = not processes.is_alive(other.pid, other.start)
        elif found == seen:
            is_dead = time.monotonic() - since > PATIENCE
        else:
            is_dead = False
            if seen is not None and other is not None:
                raise _refusal(path, place, other)
            seen, since = found, time.monotonic()
            logging.warning(
                "%s is locked by %s. Waiting up to %.0f seconds for a sign that it lives.",
                *(place, other or f"the file {path}", PATIENCE),
            )
        if is_dead:
            _remove_dead(path, found[0])
            seen, took_over = None, True
        elif other is not None and other.is_here:
            raise _refusal(path, place, other)
        else:
            time.sleep(min(0.5, BEAT / 4))


def _refusal(path: str, place: str, owner: Owner) -> InputError:
    return InputError(
        f"{place} is in use by {owner}. Wait until it has ended, stop it, or name another place. If there is no such "
        f"process any more, remove {path}."
    )


def _make(path: str, owner: Owner) -> bool:
    """Makes the lock file; whether there was none."""
    if files.is_remote(path):
        if files.exists(path):
            return False
        files.write_atomically(path, _content(owner, 0))
        return True
    os.makedirs(os.path.dirname(path), exist_ok=True)  # another process may just have removed it
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(_content(owner, 0))
    except OSError:
        files.remove(path)
        raise
    return True


def _content(owner: Owner, beats: int) -> str:
    return json.dumps({"owner": dataclasses.asdict(owner), "beats": beats})


def _look(path: str) -> tuple[bytes, int] | None:
    """Content and time of a lock file, both of which change with a sign of life; None if there is none."""
    try:
        content = files.read(path, _LARGEST)
        return content, 0 if files.is_remote(path) else os.stat(path).st_mtime_ns
    except FileNotFoundError:
        return None


def _is_of(path: str, owner: Owner) -> bool:
    found = _look(path)
    other = Owner.parse(found[0]) if found else None
    return other is not None and other.token == owner.token


def _remove_dead(path: str, content: bytes) -> None:
    """Removes the lock file of a dead process, unless another process was faster; its new one stays."""
    if files.is_remote(path):
        files.remove(path)
        return
    aside = f"{path}.{uuid.uuid4().hex}"
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return
    found = _look(aside)
    is_the_dead = found is not None and _token(found[0]) == _token(content)
    if not is_the_dead:
        with contextlib.suppress(OSError):  # there is a third one already
            os.link(aside, path)
    files.remove(aside)


def _token(content: bytes) -> str | bytes:
    owner = Owner.parse(content)
    return owner.token if owner else content


def _beat(path: str, place: str, owner: Owner, done: threading.Event) -> None:
    """Shows that the owner lives until it is done."""
    beats = 0
    while not done.wait(BEAT):
        beats += 1
        with contextlib.suppress(OSError):  # a network that is down for a moment
            if not _is_of(path, owner):
                logging.error(
                    "%s: the lock of this process is gone: it was still for so long (a machine asleep, a network down) "
                    "that another may have taken it for dead. Stop one of the two.",
                    place,
                )
                return
            if files.is_remote(path):
                files.write_atomically(path, _content(owner, beats))
            else:
                os.utime(path)
