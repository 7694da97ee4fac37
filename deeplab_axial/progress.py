# SPDX-License-Identifier: Apache-2.0
"""Progress bars, and a word about what takes long before they move; both on stderr.

In a terminal a bar is one line that is written over. Elsewhere (a file, a batch system's log) it is a line every
SECONDS, and one at the end.
"""

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any, TextIO

import tqdm

SECONDS = 10.0


class Bar(tqdm.tqdm):
    """`tqdm.tqdm` on stderr, in lines where that is no terminal; takes the same arguments."""

    def __init__(self, *args: Any, **kwargs: Any):
        if sys.stderr.isatty():
            super().__init__(*args, file=sys.stderr, **kwargs)
        else:
            super().__init__(*args, file=_Lines(sys.stderr), mininterval=SECONDS, miniters=1, **kwargs)


class _Lines:
    """A file that ends with a line break what is written to be written over."""

    def __init__(self, file: TextIO):
        self._file = file
        self._last = ""
        self.encoding = file.encoding

    def write(self, text: str) -> None:
        line = text.strip("\r\n ")
        if line and line != self._last:
            self._file.write(f"{line}\n")
            self._last = line

    def flush(self) -> None:
        self._file.flush()


@contextlib.contextmanager
def task(what: str, show: bool = True) -> Iterator[None]:
    """Around what takes long and shows nothing by itself: prints "WHAT ... SECONDS s".

    Args:
      what: in words, e.g. "Building the network".
      show: whether to print.
    """
    started = time.perf_counter()
    if show:
        print(f"{what} ...", end="", file=sys.stderr, flush=True)
    took = ""
    try:
        yield
        took = f" {time.perf_counter() - started:.0f} s"
    finally:
        if show:
            print(took, file=sys.stderr, flush=True)
