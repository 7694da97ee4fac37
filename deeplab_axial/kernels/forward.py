# SPDX-License-Identifier: Apache-2.0
"""The forward kernel: logits, softmax and retrieval of 128 pairs of a row and a head, all in VMEM."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from deeplab_axial.kernels import common
from deeplab_axial.kernels.common import FLOAT, MASKED
from deeplab_axial.kernels.heads import Heads, Place
from deeplab_axial.kernels.plan import LANES, SUBLANES, Plan

# Sums that are kept in registers at a time.
_AT_ONCE = 16


def _kernel(qkv, scales, tables, y, log_sums, keys, values, logits, *, plan: Plan, places: Sequence[Place]) -> None:
    """One block of queries of 128 pairs; arguments as for `forward`, each of 128 lanes, and scratch."""
    dtype, num_sublanes = y.dtype, plan.window // SUBLANES
    q, k, v = (place.reader(ref) for place, ref in zip(places, qkv))
    block = pl.program_id(2)
    first_query, first_key = block * plan.num_queries, plan.first_key(block)

    @pl.when(block == 0)
    def _():
        common.spread(k, keys, plan, plan.key_depth)
        common.spread(v, values, plan, plan.value_depth)

    if plan.key_position:
        scale = scales[plan.num_terms - 1 : plan.num_terms]
        common.key_position_logits(k, dtype, scale, tables["key"], logits, first_key, first_query, plan)

    def rows_of(scratch, channel, i):
        return scratch[pl.ds(pl.multiple_of(channel * plan.size + first_key + SUBLANES * i, SUBLANES), SUBLANES), :]

    def one(i, _):
        query = first_query + i
        start = first_key - query + plan.query_end - 1
        base = pl.multiple_of(i * plan.window, SUBLANES)
        x = q(i).astype(FLOAT)
        content = x * scales[:1]
        if plan.query_position:
            rows = tables["query"][pl.ds(start, plan.window), :].astype(dtype)
            position = common.dot(rows, (x * scales[1:2]).astype(dtype), 1, 0)
        largest = jnp.full((SUBLANES, LANES), MASKED, FLOAT)
        for b in range(num_sublanes):
            at = pl.ds(base + SUBLANES * b, SUBLANES)
            logit = content[:1] * rows_of(keys, 0, b)
            for c in range(1, plan.key_depth):
                logit += content[c : c + 1] * rows_of(keys, c, b)
            if plan.query_position:
                logit += position[SUBLANES * b : SUBLANES * (b + 1)]
            if plan.key_position:
                logit += logits[at, :]
            visible = common.is_visible(b, first_key, query, plan)
            if visible is not None:
                logit = jnp.where(visible, logit, MASKED)
            logits[at, :] = logit
            largest = jnp.maximum(largest, logit)
        largest = jnp.max(largest, axis=0, keepdims=True)
        total = jnp.zeros((SUBLANES, LANES), FLOAT)
        for b in range(num_sublanes):
            at = pl.ds(base + SUBLANES * b, SUBLANES)
            weight = jnp.exp(logits[at, :] - largest)
            total += weight
            logits[at, :] = weight
        total = jnp.sum(total, axis=0, keepdims=True)
        retrieved = []
        for first in range(0, plan.value_depth, _AT_ONCE):
            channels = range(first, min(first + _AT_ONCE, plan.value_depth))
            sums = [jnp.zeros((SUBLANES, LANES), FLOAT) for _ in channels]
            for b in range(num_sublanes):
                weight = logits[pl.ds(base + SUBLANES * b, SUBLANES), :]
                for n, c in enumerate(channels):
                    sums[n] += weight * rows_of(values, c, b)
            retrieved.append(common.sums_over_sublanes(sums, dtype))
        y[i, 0] = (jnp.concatenate(retrieved, axis=0) / total).astype(dtype)
        if plan.value_position:
            rows = tables["value"][pl.ds(start, plan.window), :].astype(dtype)
            weights = logits[pl.ds(base, plan.window), :].astype(dtype)
            y[i, 1] = (common.dot(rows, weights, 0, 0) / total).astype(dtype)
        log_sums[pl.ds(i, 1)] = largest + jnp.log(total)
        return 0

    lax.fori_loop(0, jnp.minimum(plan.num_queries, plan.length - first_query), one, 0)


def forward(
    qkv: Sequence[Heads],
    scales: jax.Array,
    tables: dict[str, jax.Array],
    plan: Plan,
    interpret: bool,
    vmem_bytes: int,
) -> tuple[jax.Array, jax.Array]:
    """Attention of A groups of R pairs.

    Args:
      qkv: queries and keys [L, A, d, R], values [L, A, e, R]; of R, the last R % 128 are not looked at.
      scales: [A, T, 128], a factor for each logit term; the same for all R, or R is 128.
      tables: "query", "key" and "value", where they take part: [plan.table_rows, d or e]. Of "query" and "value", row
        j - i + plan.query_end - 1 is that of key j and query i, of "key" it is row i - j + plan.size - 1.
      plan: of the axis.
      interpret: whether to run in Python, without a TPU.
      vmem_bytes: that the compiler may use.

    Returns:
      What is retrieved, [L, 1 or 2, A, e, R], content and position, nothing of the last R % 128; and the logarithm of
      the sum of exponentials, [A, L, R - R % 128], float32.
    """
    q, k, v = qkv
    groups, rows = q.num_heads, q.array.shape[3]
    retrieved = (plan.num_queries, plan.num_retrieved, None, plan.value_depth, LANES)
    scratch = [(plan.key_depth * plan.size, LANES), (plan.value_depth * plan.size, LANES)]
    scratch += [(plan.num_queries * plan.window, LANES)]
    return pl.pallas_call(
        functools.partial(_kernel, plan=plan, places=[heads.place for heads in qkv]),
        grid=(groups, rows // LANES, plan.num_blocks),
        in_specs=[
            [
                q.spec(plan.num_queries, lambda t: t),
                k.spec(plan.length, lambda t: 0),
                v.spec(plan.length, lambda t: 0),
            ],
            pl.BlockSpec((None, plan.num_terms, LANES), lambda a, r, t: (a, 0, 0)),
            {name: pl.BlockSpec(x.shape, lambda a, r, t: (0, 0)) for name, x in tables.items()},
        ],
        out_specs=[
            pl.BlockSpec(retrieved, lambda a, r, t: (t, 0, a, 0, r)),
            pl.BlockSpec((None, plan.num_queries, LANES), lambda a, r, t: (a, t, r)),
        ],
        out_shape=[
            jax.ShapeDtypeStruct((plan.length, plan.num_retrieved, groups, plan.value_depth, rows), q.array.dtype),
            jax.ShapeDtypeStruct((groups, plan.length, rows // LANES * LANES), FLOAT),
        ],
        scratch_shapes=[pltpu.VMEM(shape, FLOAT) for shape in scratch],
        compiler_params=pltpu.CompilerParams(vmem_limit_bytes=vmem_bytes),
        interpret=interpret,
        name="axial_attention",
    )([heads.array for heads in qkv], scales, tables)
