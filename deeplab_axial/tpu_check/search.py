# SPDX-License-Identifier: Apache-2.0
"""The largest batch that fits a core, with few compilations."""

import dataclasses
from collections.abc import Callable, Mapping

# One more image is not tried where it would need this much more than there is, by the line through two batches.
_HOPELESS = 1.03
# Lanes of a vector register. Some networks need less for so many images than for half of them, presumably because the
# compiler then lays images along the lanes. Tried where an eighth of it fits.
_LANES = 128


@dataclasses.dataclass(frozen=True)
class Trial:
    """What a batch needs.

    Attributes:
      needed: bytes.
      fits: whether the compiler could place it, and it leaves room for what it does not count.
    """

    needed: int
    fits: bool


def largest_batch(
    try_batch: Callable[[int], Trial],
    available: int,
    unit: int = 1,
    most: int = 4096,
    known: Mapping[int, int] | None = None,
) -> int:
    """Finds the largest batch that fits.

    Memory nearly is a constant plus so much an image. So two batches tell what to try next, and the answer is one that
    was tried, whose successor was tried in vain or is out of reach. Where that is between 16 and 128, a batch of 128 is
    tried, which may need less.

    Args:
      try_batch: compiles a batch of so many images.
      available: bytes.
      unit: batches must be multiples of it.
      most: images at most.
      known: bytes by batch of a similar program, as the same one on another chip: they tell what to try first.

    Returns:
      The batch; 0 if `unit` images do not fit.
    """
    needed: dict[int, int] = {}
    too_many = most // unit * unit + unit

    def attempt(batch_size: int) -> bool:
        trial = try_batch(batch_size)
        needed[batch_size] = trial.needed
        return trial.fits

    def search(fits: int, fails: int) -> int:
        while fits + unit < fails and not (fits and is_out_of_reach(fits + unit, needed, available, known)):
            line = _line(needed, known or {})
            if line is None:
                guess = unit * (len(needed) + 1)
            else:
                slope, base = line
                reached = int((available - base) / slope) // unit * unit if slope > 0 else 2 * max(needed or known)
                guess = max(reached, fits + unit)
            guess = min(guess, fails - unit)
            if attempt(guess):
                fits = guess
            else:
                fails = guess
        return fits

    fits = search(0, too_many)
    if _LANES // 8 <= fits < _LANES <= most and _LANES % unit == 0 and _LANES not in needed:
        # Near what a chip has, the compiler makes do with less an image: the least is the nearest.
        at_lanes = min((_LANES / size * at for size, at in (known or {}).items() if size >= _LANES), default=0)
        if at_lanes <= _HOPELESS * available and attempt(_LANES):
            fits = search(_LANES, min([size for size in needed if size > _LANES], default=too_many))
    return fits


def is_out_of_reach(
    batch_size: int, needed: Mapping[int, int], available: int, known: Mapping[int, int] | None = None
) -> bool:
    """Whether a batch needs so much more than there is, by the line through others, that it need not be tried.

    Args:
      batch_size: images.
      needed: bytes by batch of those that were tried.
      available: bytes.
      known: see `largest_batch`.
    """
    line = _line(needed, known or {})
    return line is not None and line[1] + line[0] * batch_size > _HOPELESS * available


def _line(needed: Mapping[int, int], known: Mapping[int, int]) -> tuple[float, float] | None:
    """Slope and constant: through two batches, or as another program's, to scale where one batch was tried."""
    if len(needed) > 1:
        return _through_the_largest(needed)
    if len(known) < 2:
        return None
    slope, base = _through_the_largest(known)
    scale = 1.0
    for batch_size, at_batch in needed.items():
        scale = at_batch / (base + slope * batch_size)
    return slope * scale, base * scale


def _through_the_largest(needed: Mapping[int, int]) -> tuple[float, float]:
    (a, at_a), (b, at_b) = sorted(needed.items())[-2:]
    slope = (at_b - at_a) / (b - a)
    return slope, at_a - slope * a
