# SPDX-License-Identifier: Apache-2.0
"""Segments of a map, and how two maps overlap: what the metrics of segments start from."""

import dataclasses
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

# Both ids of a pixel are packed into one uint64.
_ID_BITS = 32


@dataclasses.dataclass(frozen=True, eq=False)
class Segments:
    """The segments of one map, in the order of its annotation; sequences become arrays.

    Attributes:
      ids: [S] int64, distinct.
      categories: [S] int64.
      is_crowd: [S] bool. None: no segment is a crowd. Ignored for predictions.
      areas: [S] int64, pixels. None: counted from the map. The official tool reads those of the ground truth from its
        JSON file, which counts where file and map disagree. Ignored for predictions.

    Raises:
      ValueError: wrong type or length, repeated ids, negative ids or areas.
    """

    ids: ArrayLike
    categories: ArrayLike
    is_crowd: ArrayLike | None = None
    areas: ArrayLike | None = None

    def __post_init__(self):
        ids = integer_vector("ids", self.ids)
        is_crowd = np.zeros(ids.size, bool) if self.is_crowd is None else np.asarray(self.is_crowd).astype(bool)
        fields = {"ids": ids, "categories": integer_vector("categories", self.categories), "is_crowd": is_crowd}
        if self.areas is not None:
            fields["areas"] = integer_vector("areas", self.areas)
        for name, array in fields.items():
            if array.shape != ids.shape:
                raise ValueError(f"{name} must have one entry a segment, shape {ids.shape}. Received: {array.shape}")
            if name in ("ids", "areas") and (array < 0).any():
                raise ValueError(f"{name} must not be negative. Received: {some(array[array < 0])}")
            object.__setattr__(self, name, array)
        values, counts = np.unique(ids, return_counts=True)
        if (counts > 1).any():
            raise ValueError(
                f"ids must be distinct within one map. Received more than once: {some(values[counts > 1])}"
            )


class Overlaps(NamedTuple):
    """[P] int64 each: the pairs of ids that share pixels, and how many."""

    gt: np.ndarray
    pred: np.ndarray
    pixels: np.ndarray


def find_overlaps(gt: ArrayLike, pred: ArrayLike, where: str) -> Overlaps:
    """The overlaps of two maps.

    Args:
      gt: [H, W] integers, ids from 0 to 2^32 - 1.
      pred: [H, W] integers, likewise.
      where: names the image in errors.

    Returns:
      Overlaps, ordered by `gt`, then `pred`.

    Raises:
      ValueError: the maps are not integers of one shape, or an id lies outside the range.
    """
    gt, pred = np.asarray(gt), np.asarray(pred)
    if gt.shape != pred.shape or gt.ndim != 2:
        raise ValueError(f"{where}: both maps must be [H, W], of one shape. Received: {gt.shape} and {pred.shape}")
    for name, ids in (("ground truth", gt), ("prediction", pred)):
        if ids.dtype.kind not in "iu":
            raise ValueError(f"{where}: the map of the {name} must hold integers. Received: {ids.dtype}")
        if ids.size and (ids.min() < 0 or ids.max() >= 2**_ID_BITS):
            raise ValueError(
                f"{where}: ids of the {name} must lie in [0, 2^{_ID_BITS}). Received: {ids.min()} to {ids.max()}"
            )
    shift, low = np.uint64(_ID_BITS), np.uint64(2**_ID_BITS - 1)
    flat = ((gt.astype(np.uint64) << shift) | pred.astype(np.uint64)).ravel()
    # Runs are far fewer than pixels, so there is little to sort.
    starts, lengths = find_runs(flat)
    packed, inverse = np.unique(flat[starts], return_inverse=True)
    pixels = sum_at(inverse, lengths, packed.size)
    return Overlaps((packed >> shift).astype(np.int64), (packed & low).astype(np.int64), pixels)


def find_runs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the runs of equal values of a vector start, and how long they are."""
    if not values.size:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    starts = np.concatenate([[0], np.flatnonzero(values[1:] != values[:-1]) + 1])
    return starts, np.diff(np.append(starts, values.size))


def positions(ids: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Where each value stands in `ids`, which are distinct; -1 where it does not."""
    if not ids.size:
        return np.full(values.shape, -1)
    order = np.argsort(ids)
    at = order[np.minimum(np.searchsorted(ids, values, sorter=order), ids.size - 1)]
    return np.where(ids[at] == values, at, -1)


def sum_at(index: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
    """[size] int64: the sum of the values of each index; negative indices are left out."""
    total = np.zeros(size, np.int64)
    np.add.at(total, index[index >= 0], values[index >= 0])
    return total


def integer_vector(name: str, values: ArrayLike) -> np.ndarray:
    """The values as int64 [N]; a ValueError that says the name if they are no such thing."""
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(f"{name} must be a vector of integers. Received: {array.dtype} of shape {array.shape}")
    return array.astype(np.int64)


def some(values: np.ndarray) -> str:
    """The first few, for a message."""
    return ", ".join(map(str, values[:8].tolist())) + (", ..." if len(values) > 8 else "")
