# SPDX-License-Identifier: Apache-2.0
"""What the forward and the backward kernel share."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from deeplab_axial.kernels.plan import LANES, SUBLANES, Plan

FLOAT = jnp.float32
# Of what is masked; finite, as everywhere in the library.
MASKED = -1e30


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


def spread(read, target, plan: Plan, depth: int) -> None:
    """[D, 128] of each position -> [D size, 128] in float32, positions side by side, zeros behind the last."""

    def one(j, _):
        target[pl.ds(j, depth, plan.size), :] = read(j).astype(FLOAT)
        return 0

    lax.fori_loop(0, plan.length, one, 0)
    for j in range(plan.length, plan.size):
        target[pl.ds(j, depth, plan.size), :] = jnp.zeros((depth, LANES), FLOAT)


def key_position_logits(read, dtype, scale, table, logits, first_key, first_query, plan: Plan) -> None:
    """Fills `logits` [Q window, 128], query by query, with k . rk of one block."""

    def one(j, _):
        key = (read(jnp.minimum(first_key + j, plan.length - 1)).astype(FLOAT) * scale).astype(dtype)
        start = first_query - (first_key + j) + plan.size - 1
        rows = table[pl.ds(start, plan.num_queries), :].astype(dtype)
        logits[pl.ds(j, plan.num_queries, plan.window), :] = dot(rows, key, 1, 0)
        return 0

    lax.fori_loop(0, plan.window, one, 0, unroll=2)


def is_visible(block: int, first_key, query, plan: Plan) -> jax.Array | None:
    """[8, 128]: whether the query sees the keys of eight sublanes of its window; None if it surely sees all.

    Args:
      block: which eight of the window.
      first_key: of the window.
      query: its position.
    """
    offset = SUBLANES * block
    whole = plan.window == plan.size
    near_end = offset + SUBLANES > plan.length if whole else plan.length < plan.size
    if not near_end and plan.half is None:
        return None
    key = lax.broadcasted_iota(jnp.int32, (SUBLANES, LANES), 0) + (first_key + offset)
    visible = key < plan.length
    if plan.half is not None:
        visible &= (key <= query + plan.half) & (key >= query - plan.half)
    return visible
