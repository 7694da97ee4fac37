# SPDX-License-Identifier: Apache-2.0
"""What the forward and the backward kernel share."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from deeplab_axial.kernels.plan import LANES, SUBLANES, Plan

FLOAT = jnp.float32
# Of what is masked; finite, as everywhere in the library.
MASKED = -1e30
# That a kernel takes at a time, so that each key and value is loaded for both.
QUERIES = 2
# Sums over keys that are kept in registers at a time.
_SUMS = 16


def dot(a: jax.Array, b: jax.Array, axis_a: int, axis_b: int) -> jax.Array:
    """Sum over one axis of each of two matrices, in float32."""
    precision = lax.Precision.HIGHEST if a.dtype == FLOAT else None
    return lax.dot_general(a, b, (((axis_a,), (axis_b,)), ((), ())), precision=precision, preferred_element_type=FLOAT)


def sums_over_sublanes(x: list[jax.Array], dtype: jnp.dtype) -> jax.Array:
    """n arrays [8, 128] -> [n, 128]."""
    if dtype == FLOAT:
        return jnp.concatenate([jnp.sum(each, axis=0, keepdims=True) for each in x], axis=0)
    # By the matrix unit, which has time: each row of `ones` picks the eight sublanes of one array.
    shape = (len(x), SUBLANES * len(x))
    row, column = (lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))
    ones = ((column >= SUBLANES * row) & (column < SUBLANES * (row + 1))).astype(FLOAT).astype(dtype)
    return dot(ones, jnp.concatenate(x, axis=0).astype(dtype), 1, 0)


class Window(NamedTuple):
    """A block of queries, and the window of keys that they see.

    Attributes:
      plan: of the axis.
      first_query: its position.
      first_key: its position.
    """

    plan: Plan
    first_query: jax.Array
    first_key: jax.Array

    @classmethod
    def of_block(cls, plan: Plan, block: jax.Array) -> "Window":
        return cls(plan, block * plan.num_queries, plan.first_key(block))

    @property
    def num_queries(self) -> jax.Array:
        """Queries of the block that the axis has."""
        return jnp.minimum(self.plan.num_queries, self.plan.length - self.first_query)

    @property
    def blocks(self) -> range:
        """Numbers of eight keys each."""
        return range(self.plan.window // SUBLANES)

    def table_rows(self, query: jax.Array) -> pl.Slice:
        """Rows of a table, "query" or "value", for all keys and a query of the block."""
        return pl.ds(self.first_key - self.first_query - query + self.plan.query_end - 1, self.plan.window)

    def key_table_rows(self, key: jax.Array) -> pl.Slice:
        """Rows of the table "key" for all queries and a key of the window."""
        return pl.ds(self.first_query - self.first_key - key + self.plan.size - 1, self.plan.num_queries)

    def position(self, key: jax.Array) -> jax.Array:
        """Of a key of the window, or the last of the axis."""
        return jnp.minimum(self.first_key + key, self.plan.length - 1)

    def logits_of(self, query: jax.Array) -> pl.Slice:
        """Where the logits of a query are, in an array [Q window, 128]."""
        return pl.ds(self.logits_at(query, 0).start, self.plan.window)

    def logits_at(self, query: jax.Array, block: int) -> pl.Slice:
        """Where those of eight keys are."""
        return pl.ds(pl.multiple_of(query * self.plan.window + SUBLANES * block, SUBLANES), SUBLANES)

    def for_pairs(self, body: Callable[[list[jax.Array]], None]) -> None:
        """Calls `body` for the queries of the block, by twos; behind the last there may be one that is none."""

        def step(i, _):
            body([QUERIES * i + u for u in range(QUERIES)])
            return 0

        lax.fori_loop(0, (self.num_queries + 1) >> 1, step, 0)

    def is_visible(self, query: jax.Array, block: int) -> jax.Array | None:
        """[8, 128]: whether a query sees eight keys of the window; None if it surely sees all."""
        plan, offset = self.plan, SUBLANES * block
        whole = plan.window == plan.size
        near_end = offset + SUBLANES > plan.length if whole else plan.length < plan.size
        if not near_end and plan.half is None:
            return None
        key = lax.broadcasted_iota(jnp.int32, (SUBLANES, LANES), 0) + (self.first_key + offset)
        visible = key < plan.length
        if plan.half is not None:
            offset = key - (self.first_query + query)
            visible &= (offset <= plan.half) & (offset >= -plan.half)
        return visible


class Columns(NamedTuple):
    """Keys, values or their gradients: for each channel the positions of the axis side by side.

    Attributes:
      scratch: [D size, 128], float32.
      depth: D.
      window: of keys.
    """

    scratch: jax.Array
    depth: int
    window: Window

    def fill(self, read: Callable[[jax.Array], jax.Array]) -> None:
        """Takes [D, 128] of each position, and zeros behind the last."""

        def one(j, _):
            self.scratch[pl.ds(j, self.depth, self.window.plan.size), :] = read(j).astype(FLOAT)
            return 0

        lax.fori_loop(0, self.window.plan.length, one, 0)
        for j in range(self.window.plan.length, self.window.plan.size):
            self.scratch[pl.ds(j, self.depth, self.window.plan.size), :] = jnp.zeros((self.depth, LANES), FLOAT)

    def at(self, position: jax.Array) -> jax.Array:
        """[D, 128]."""
        return self.scratch[pl.ds(position, self.depth, self.window.plan.size), :]

    def products(self, x: Sequence[jax.Array], block: int) -> list[jax.Array]:
        """Sums over channels: of each [D, 128] in x with eight positions of the window, [8, 128]."""
        sums = [jnp.zeros((SUBLANES, LANES), FLOAT) for _ in x]
        for c in range(self.depth):
            row = self.scratch[self._rows(c, block), :]
            for u, each in enumerate(x):
                sums[u] += each[c : c + 1] * row
        return sums

    def weighted_sums(self, weights: Callable[[int, int], jax.Array], count: int, dtype: jnp.dtype) -> list[jax.Array]:
        """Sums over the window, [D, 128] for each of `count` queries.

        Args:
          weights: number of the query, which eight of the window -> [8, 128].
          count: of queries.
          dtype: in whose precision sublanes are added.
        """
        parts = [[] for _ in range(count)]
        at_once = _SUMS // count
        for first in range(0, self.depth, at_once):
            channels = range(first, min(first + at_once, self.depth))
            sums = [[jnp.zeros((SUBLANES, LANES), FLOAT) for _ in channels] for _ in range(count)]
            for b in self.window.blocks:
                factors = [weights(u, b) for u in range(count)]
                for n, c in enumerate(channels):
                    row = self.scratch[self._rows(c, b), :]
                    for u in range(count):
                        sums[u][n] += factors[u] * row
            for u in range(count):
                parts[u].append(sums_over_sublanes(sums[u], dtype))
        return [jnp.concatenate(each, axis=0) for each in parts]

    def add_products(self, weights: Callable[[int, int], jax.Array], x: Sequence[jax.Array]) -> None:
        """Adds weight x channel of each query to the positions of the window; the reverse of both methods above.

        Args:
          weights: as for `weighted_sums`.
          x: [D, 128] of each query.
        """
        for c in range(self.depth):
            factors = [each[c : c + 1] for each in x]
            for b in self.window.blocks:
                rows = self._rows(c, b)
                total = self.scratch[rows, :]
                for u, factor in enumerate(factors):
                    total += weights(u, b) * factor
                self.scratch[rows, :] = total

    def _rows(self, channel: int, block: int) -> pl.Slice:
        start = channel * self.window.plan.size + self.window.first_key + SUBLANES * block
        return pl.ds(pl.multiple_of(start, SUBLANES), SUBLANES)


def key_position_logits(read, scale, table, logits, window: Window) -> None:
    """Fills `logits` [Q window, 128], query by query, with k . rk of one block."""
    plan = window.plan

    def one(j, _):
        key = read(window.position(j))
        rows = table[window.key_table_rows(j), :].astype(key.dtype)
        scaled = (key.astype(FLOAT) * scale).astype(key.dtype)
        logits[pl.ds(j, plan.num_queries, plan.window), :] = dot(rows, scaled, 1, 0)
        return 0

    lax.fori_loop(0, plan.window, one, 0, unroll=2)
