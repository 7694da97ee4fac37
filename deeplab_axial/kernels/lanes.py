# SPDX-License-Identifier: Apache-2.0
"""Maps of features in, retrieved maps out: how rows and heads get into the lanes of the kernels, and back.

Of R rows and N heads, 128 rows of one head fill the lanes as long as there are as many; of the rows left over all heads
lie side by side.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from deeplab_axial.kernels import backward, forward, heads
from deeplab_axial.kernels.plan import LANES, Plan


class Attention(NamedTuple):
    """Both passes of attention along one axis of a map.

    Attributes:
      plan: of the axis.
      axis: "height" or "width".
      num_heads: N.
      vmem_bytes: that a kernel may use.
      interpret: whether kernels run in Python, without a TPU.
    """

    plan: Plan
    axis: str
    num_heads: int
    vmem_bytes: int
    interpret: bool = False

    def forward(
        self, qkv: jax.Array, scales: jax.Array, tables: dict[str, jax.Array]
    ) -> tuple[jax.Array, list[jax.Array]]:
        """Attention along an axis.

        Args:
          qkv: [B, H, W, N (2 d + e)], queries, keys and values.
          scales: [T, N], float32, of the logit terms.
          tables: "query", "key" and "value", where they take part: [2 L - 1, d or e], the
            last of them for the largest key - query.

        Returns:
          [B, H, W, N e or 2 N e], content and position side by side; and for `backward` the logarithms of the sums of
          exponentials, of full lanes and of what is left over.
        """
        tables = self._spread_tables(tables)
        results = [
            forward.forward(*arrays, tables, self.plan, self.interpret, self.vmem_bytes)
            for arrays in zip(self._to_lanes(qkv, self._depths), self._scales_of_lanes(scales, qkv.shape))
        ]
        retrieved = self._from_lanes([[y] for y, _ in results], qkv.shape)
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
                self._scales_of_lanes(scales, qkv.shape),
                log_sums,
            )
        ]
        dqkv, dscales, dtables = zip(*results)
        return (
            self._from_lanes(dqkv, qkv.shape),
            self._sums_over_rows(dscales, qkv.shape),
            {name: self._table_of(name, sum(each[name] for each in dtables)) for name in tables},
        )

    @property
    def _depths(self) -> tuple[int, ...]:
        """Of queries, keys and values of a head."""
        return self.plan.key_depth, self.plan.key_depth, self.plan.value_depth

    def _num_rows(self, shape: tuple[int, ...]) -> int:
        return shape[0] * shape[2 if self.axis == "height" else 1]

    def _to_lanes(self, x: jax.Array, depths: tuple[int, ...]) -> list[list[heads.Heads]]:
        """[B, H, W, sum of N D] -> full lanes and what is left over, if there are such: for each D, all heads."""
        x = jnp.swapaxes(x, 1, 2) if self.axis == "height" else x
        x = x.reshape(-1, *x.shape[2:])  # [R, L, C]
        full, n = x.shape[0] // LANES * LANES, self.num_heads
        parts = []
        if full:
            parts.append(heads.side_by_side(jnp.transpose(x, (1, 2, 0)), n, depths))
        if x.shape[0] > full:
            ends = [n * sum(depths[: i + 1]) for i in range(len(depths) - 1)]
            rest = jnp.split(x[full:], ends, axis=2)
            parts.append([heads.whole(_rest_to_lanes(each.reshape(*each.shape[:2], n, -1))) for each in rest])
        return parts

    def _from_lanes(self, parts: Sequence[Sequence[jax.Array]], shape: tuple[int, ...]) -> jax.Array:
        """The reverse, of arrays [L, ..., D, R] of full lanes and of what is left over, to [B, H, W, channels]."""
        rows, parts = self._num_rows(shape), list(parts)
        left = []
        if rows % LANES:
            rest = [_rest_from_lanes(x, self.num_heads, rows % LANES) for x in _terms(parts.pop())]
            left.append(jnp.concatenate(rest, axis=2))
        for arrays in parts:  # of full lanes, one or none
            channels = [x.reshape(self.plan.length, -1, x.shape[-1]) for x in arrays]
            left.insert(0, jnp.transpose(jnp.concatenate(channels, axis=1), (2, 0, 1)))
        x = jnp.concatenate(left, axis=0)  # [R, L, C]
        x = x.reshape(shape[0], rows // shape[0], *x.shape[1:])
        return jnp.swapaxes(x, 1, 2) if self.axis == "height" else x

    def _scales_of_lanes(self, scales: jax.Array, shape: tuple[int, ...]) -> list[jax.Array]:
        """[T, N] -> [N, T, 128], the same for all rows of a head, and [A, T, 128]."""
        left = self._num_rows(shape) % LANES
        parts = []
        if self._num_rows(shape) >= LANES:
            parts.append(jnp.broadcast_to(scales.T[:, :, None], (*scales.T.shape, LANES)))
        if left:
            rest = jnp.repeat(scales, left, axis=1)
            rest = jnp.pad(rest, [(0, 0), (0, -rest.shape[1] % LANES)])
            parts.append(jnp.swapaxes(rest.reshape(scales.shape[0], -1, LANES), 0, 1))
        return parts

    def _sums_over_rows(self, parts: tuple[jax.Array, ...], shape: tuple[int, ...]) -> jax.Array:
        """Up to two arrays [A, T, R] -> [T, N]."""
        left, sums = self._num_rows(shape) % LANES, 0.0
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


def _rest_to_lanes(x: jax.Array) -> jax.Array:
    """[R, L, N, D] -> [L, A, D, 128], heads one after the other, zeros behind the last."""
    x = jnp.transpose(x, (1, 3, 2, 0)).reshape(x.shape[1], x.shape[3], -1)
    x = jnp.pad(x, [(0, 0), (0, 0), (0, -x.shape[2] % LANES)])
    return jnp.swapaxes(x.reshape(*x.shape[:2], -1, LANES), 1, 2)


def _rest_from_lanes(x: jax.Array, num_heads: int, rows: int) -> jax.Array:
    """[L, A, D, 128] -> [R, L, N D]."""
    x = jnp.swapaxes(x, 1, 2).reshape(x.shape[0], x.shape[2], -1)[..., : num_heads * rows]
    x = x.reshape(*x.shape[:2], num_heads, rows)
    return jnp.transpose(x, (3, 0, 2, 1)).reshape(rows, x.shape[0], -1)
