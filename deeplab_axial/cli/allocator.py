# SPDX-License-Identifier: Apache-2.0
"""Keeps the memory that operations free, so that the next ones need not ask the system for it again.

glibc maps every large tensor anew and gives it back when it is freed; each of its pages is then cleared and faulted in
again by the next tensor, which took up to 46 % of the processor's time in training. On Python 3.11 TensorFlow even pins
the size from which glibc does so at 128 KiB, whatever the environment says.
"""

import ctypes
import os

VARIABLE = "DEEPLAB_AXIAL_KEEP_MEMORY"
# Options of glibc's mallopt (malloc.h), and their values here.
_M_TRIM_THRESHOLD, _NEVER = -1, -1
_M_MMAP_MAX, _NONE = -4, 0
_M_ARENA_MAX, _ONE = -8, 1


class _Symbol(ctypes.Structure):
    """Dl_info of dlfcn.h."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def keep_memory() -> bool:
    """Tells glibc's malloc to keep what is freed, for this process; call it before TensorFlow makes its threads.

    Nothing is done where DEEPLAB_AXIAL_KEEP_MEMORY is 0, where the environment sets malloc's options itself
    (MALLOC_..., GLIBC_TUNABLES), where another allocator is preloaded, or where the C library is not glibc.

    Returns:
      Whether malloc was told.
    """
    if os.environ.get(VARIABLE) == "0" or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    try:
        process = ctypes.CDLL(None)
        libc = ctypes.CDLL("libc.so.6")
        libc.gnu_get_libc_version  # noqa: B018
        symbol = _Symbol()
        found = process.dladdr(ctypes.cast(process.malloc, ctypes.c_void_p), ctypes.byref(symbol))
    except (OSError, AttributeError, TypeError):  # another system, or another C library
        return False
    if not found or not os.path.basename(symbol.file or b"").startswith(b"libc.so"):
        return False
    # One arena, for others cannot hold what is larger than 64 MiB without mapping it.
    options = ((_M_ARENA_MAX, _ONE), (_M_MMAP_MAX, _NONE), (_M_TRIM_THRESHOLD, _NEVER))
    return all(libc.mallopt(option, value) for option, value in options)
