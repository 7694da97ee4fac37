# SPDX-License-Identifier: Apache-2.0
"""Features of rows in, what they retrieve out: how rows and heads get into the lanes of the kernels, and back.

Of R rows and N heads, 128 rows of one head fill the lanes as long as there are as many; of the rows left over all heads
lie side by side. Arrays are [L, R, channels], where only XLA's choice of a layout, with rows in the lanes, separates a
product of matrices from a kernel: nothing is copied in between but the rows left over.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import layout

from deeplab_axial.kernels import backward, forward, heads
from deeplab_axial.kernels.plan import LANES, Plan


class Attention(NamedTuple):
    """Both passes of attention along an axis.

    Attributes:
      plan: of the axis.
      num_heads: N.
      vmem_bytes: that a kernel may use.
      interpret: whether kernels run in Python, without a TPU.
    """

    plan: Plan
    num_heads: int
    vmem_bytes: int
    interpret: bool = False

    def forward(
        self, qkv: jax.Array, scales: jax.Array, tables: dict[str, jax.Array]
    ) -> tuple[jax.Array, list[jax.Array]]:
        """Attention along an axis.

        Args:
          qkv: [1, L, R, N (2 d + e)], queries, keys and values.
          scales: [T, N], float32, of the logit terms.
          tables: "query", "key" and "value", where they take part: [2 L - 1, d or e], the
            last of them for the largest key - query.

        Returns:
          [1, L, R, N e or 2 N e], content and position side by side; and for `backward` the logarithms of the sums of
          exponentials, of full lanes and of what is left over.
        """
        tables = self._spread_tables(tables)
        results = [
            forward.forward(*arrays, tables, self.plan, self.interpret, self.vmem_bytes)
            for arrays in zip(self._to_lanes(qkv, self._depths), self._scales_of_lanes(scales, qkv.shape[2]))
        ]
        retrieved = self._from_lanes([[y] for y, _ in results], qkv.shape[2])
        return retrieved, [log_sums for _, log_sums in results]

    def backward(
        self,
        qkv: jax.Array,
        scales: jax.Array,
        tables: dict[str, jax.Array],
        log_sums: list[jax.Array],
        gradient: jax.Array,
    ) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
        """Gradients of `forward`.

        Args:
          qkv: as for `forward`.
          scales: as for `forward`.
          tables: as for `forward`.
          log_sums: what `forward` returned.
          gradient: of what it retrieved.

        Returns:
          Gradients of qkv, of scales and of tables; the last two in float32.
        """
        spread = self._spread_tables(tables)
        results = [
            backward.backward(*arrays, spread, self.plan, self.interpret, self.vmem_bytes)
            for arrays in zip(
                self._to_lanes(qkv, self._depths),
                self._to_lanes(gradient, (self.plan.value_depth,) * self.plan.num_retrieved),
                self._scales_of_lanes(scales, qkv.shape[2]),
                log_sums,
            )
        ]
        dqkv, dscales, dtables = zip(*results)
        return (
            self._from_lanes(dqkv, qkv.shape[2]),
            self._sums_over_rows(dscales, qkv.shape[2]),
            {name: self._table_of(name, sum(each[name] for each in dtables)) for name in tables},
        )

    @property
    def _depths(self) -> tuple[int, ...]:
        """Of queries, keys and values of a head."""
        return self.plan.key_depth, self.plan.key_depth, self.plan.value_depth

    def _to_lanes(self, x: jax.Array, depths: tuple[int, ...]) -> list[list[heads.Heads]]:
        """[1, L, R, sum of N D] -> full lanes and what is left over, if there are such: for each D, all heads."""
        x = jnp.swapaxes(_rows_in_lanes(x), 2, 3)[0]
        rows, n = x.shape[2], self.num_heads
        full = rows // LANES * LANES
        parts = []
        if full:
            parts.append(heads.side_by_side(x, n, depths))
        if rows > full:
            ends = [n * sum(depths[: i + 1]) for i in range(len(depths) - 1)]
            rest = jnp.split(x[:, :, full:], ends, axis=1)
            parts.append([heads.whole(_rest_to_lanes(each, n)) for each in rest])
        return parts

    def _from_lanes(self, parts: Sequence[Sequence[jax.Array]], rows: int) -> jax.Array:
        """The reverse, of arrays [L, ..., D, R] of full lanes and of what is left over, to [1, L, R, channels]."""
        parts, left = list(parts), rows % LANES
        if not left:
            return _rows_of(_side_by_side(parts[0]))
        rest = [_rest_from_lanes(x, self.num_heads, left) for x in _terms(parts.pop())]
        rest = jnp.concatenate(rest, axis=1)
        if parts:  # Their last lanes are not written yet.
            rest = lax.dynamic_update_slice(_side_by_side(parts[0]), rest, (0, 0, rows - left))
        return _rows_of(rest)

    def _scales_of_lanes(self, scales: jax.Array, rows: int) -> list[jax.Array]:
        """[T, N] -> [N, T, 128], the same for all rows of a head, and [A, T, 128]."""
        left = rows % LANES
        parts = []
        if rows >= LANES:
            parts.append(jnp.broadcast_to(scales.T[:, :, None], (*scales.T.shape, LANES)))
        if left:
            rest = jnp.repeat(scales, left, axis=1)
            rest = jnp.pad(rest, [(0, 0), (0, -rest.shape[1] % LANES)])
            parts.append(jnp.swapaxes(rest.reshape(scales.shape[0], -1, LANES), 0, 1))
        return parts

    def _sums_over_rows(self, parts: tuple[jax.Array, ...], rows: int) -> jax.Array:
        """Up to two arrays [A, T, R] -> [T, N]."""
        left, sums = rows % LANES, 0.0
        if left:
            *parts, rest = parts
            rest = jnp.swapaxes(rest, 0, 1).reshape(rest.shape[1], -1)[:, : self.num_heads * left]
            sums = jnp.sum(rest.reshape(-1, self.num_heads, left), axis=2)
        return sums + sum(jnp.sum(x, axis=2).T for x in parts)

    def _spread_tables(self, tables: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Rows where the kernels look for them, zeros elsewhere; those of the keys' term in reverse order."""
        spread = {}
        for name, rows in tables.items():
            first, rows = self._first_row(name), rows[::-1] if name == "key" else rows
            behind = self.plan.table_rows - first - rows.shape[0]
            spread[name] = jnp.pad(rows.astype(jnp.float32), [(first, behind), (0, 0)])
        return spread

    def _table_of(self, name: str, spread: jax.Array) -> jax.Array:
        rows = spread[self._first_row(name) :][: 2 * self.plan.length - 1]
        return rows[::-1] if name == "key" else rows

    def _first_row(self, name: str) -> int:
        return (self.plan.size if name == "key" else self.plan.query_end) - self.plan.length


def _terms(arrays: Sequence[jax.Array]) -> list[jax.Array]:
    """[L, terms, A, D, R] or [L, A, D, R] -> [L, A, D, R] each."""
    return [y for x in arrays for y in (jnp.unstack(x, axis=1) if x.ndim == 5 else [x])]


def _rows_of(x: jax.Array) -> jax.Array:
    """[L, channels, R] -> [1, L, R, channels]."""
    return _rows_in_lanes(jnp.swapaxes(x[None], 2, 3))


def _rows_in_lanes(x: jax.Array) -> jax.Array:
    """[1, L, R, channels], where XLA must lay out rows innermost; left alone, it takes channels and copies twice."""
    return layout.with_layout_constraint(x, layout.Layout(major_to_minor=(0, 1, 3, 2)))


def _side_by_side(arrays: Sequence[jax.Array]) -> jax.Array:
    """[L, ..., D, R] -> [L, channels, R]."""
    return jnp.concatenate([x.reshape(x.shape[0], -1, x.shape[-1]) for x in arrays], axis=1)


def _rest_to_lanes(x: jax.Array, num_heads: int) -> jax.Array:
    """[L, N D, R] -> [L, A, D, 128], heads one after the other, zeros behind the last."""
    length, channels, rows = x.shape
    x = jnp.swapaxes(x.reshape(length, num_heads, -1, rows), 1, 2).reshape(length, channels // num_heads, -1)
    x = jnp.pad(x, [(0, 0), (0, 0), (0, -x.shape[2] % LANES)])
    return jnp.swapaxes(x.reshape(*x.shape[:2], -1, LANES), 1, 2)


def _rest_from_lanes(x: jax.Array, num_heads: int, rows: int) -> jax.Array:
    """[L, A, D, 128] -> [L, N D, R]."""
    x = jnp.swapaxes(x, 1, 2).reshape(x.shape[0], x.shape[2], -1)[..., : num_heads * rows]
    x = x.reshape(*x.shape[:2], num_heads, rows)
    return jnp.swapaxes(x, 1, 2).reshape(x.shape[0], -1, rows)
