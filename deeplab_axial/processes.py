# SPDX-License-Identifier: Apache-2.0
"""Which process wrote something, and whether it is still there.

A process is told from a later one with the same number by the time of its start, and from one of another machine or
container by `machine`. What cannot be told on this system (outside of Linux) is said to be of an unknown machine.
"""

import functools
import hashlib
import os


@functools.cache
def machine() -> str:
    """Eight characters that stand for the numbering of processes that this one is in; "" if the system does not tell.

    It is another one after each start of the machine, and in each container.
    """
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()
        return hashlib.sha256(f"{boot} {os.readlink('/proc/self/ns/pid')}".encode()).hexdigest()[:8]
    except OSError:
        return ""


def start_of(pid: int) -> str | None:
    """When a process of this machine began, in the kernel's own count; None if there is none, or it is a zombie."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def is_alive(pid: int, start: str | None = None) -> bool:
    """Whether a process of this machine is there.

    Args:
      pid: its number.
      start: what `start_of` said when it was there; None if nobody asked: a later process of that number counts, too.
    """
    found = start_of(pid)
    if found is not None:
        return start in (None, found)
    try:
        with open(f"/proc/{pid}/stat", "rb"):
            return False  # a zombie
    except FileNotFoundError:
        pass
    except OSError:
        return True
    try:
        os.kill(pid, 0)  # a process of another user, where /proc shows one's own alone
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True
