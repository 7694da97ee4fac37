# SPDX-License-Identifier: Apache-2.0
"""The largest batch that fits a core, with few compilations."""

import dataclasses
from collections.abc import Callable

# One more image is not tried where it would need this much more than there is, by the line through two batches.
_HOPELESS = 1.03


@dataclasses.dataclass(frozen=True)
class Trial:
    """What a batch needs.

    Attributes:
      needed: bytes.
      fits: whether the compiler could place it, and it leaves room for what it does not count.
    """

    needed: int
    fits: bool


def largest_batch(try_batch: Callable[[int], Trial], available: int, unit: int = 1, most: int = 4096) -> int:
    """Finds the largest batch that fits.

    Memory nearly is a constant plus so much an image. So two batches tell what to try next, and the answer is one that
    was tried, whose successor was tried in vain or is out of reach.

    Args:
      try_batch: compiles a batch of so many images.
      available: bytes.
      unit: batches must be multiples of it.
      most: images at most.

    Returns:
      The batch; 0 if `unit` images do not fit.
    """
    needed: dict[int, int] = {}
    fits, fails = 0, most // unit + 1  # in units
    guess = 1
    while fits + 1 < fails:
        trial = try_batch(guess * unit)
        needed[guess] = trial.needed
        if trial.fits:
            fits = guess
        else:
            fails = guess
        if len(needed) == 1:
            guess = 2
            continue
        slope, base = _line(needed)
        if fits + 1 < fails and base + slope * (fits + 1) > _HOPELESS * available:
            break
        reached = int((available - base) / slope) if slope > 0 else fails - 1
        guess = min(max(reached, fits + 1), fails - 1)
    return fits * unit


def _line(needed: dict[int, int]) -> tuple[float, float]:
    """Slope and constant through the two largest batches that were tried."""
    (a, at_a), (b, at_b) = sorted(needed.items())[-2:]
    slope = (at_b - at_a) / (b - a)
    return slope, at_a - slope * a
