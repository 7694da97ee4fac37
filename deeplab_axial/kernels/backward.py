# SPDX-License-Identifier: Apache-2.0
"""The backward kernel: computes the logits of 128 pairs of a row and a head again, and all gradients from them."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from deeplab_axial.kernels import common
from deeplab_axial.kernels.common import FLOAT
from deeplab_axial.kernels.heads import Heads, Place
from deeplab_axial.kernels.plan import LANES, SUBLANES, Plan

# Sums that are kept in registers at a time.
_AT_ONCE = 16


def _kernel(
    qkv, g, scales, log_sums, tables, dqkv, dscales, dtables, *scratch, plan: Plan, places: Sequence[Place]
) -> None:
    """One block of queries of 128 pairs; arguments as for `backward`, each of 128 lanes, and scratch."""
    keys, values, dkeys, dvalues, dkeys_of_position, logits, weights = scratch
    dq, dk, dv = dqkv
    dtype, num_sublanes = dq.dtype, plan.window // SUBLANES
    q, k, v, *g = (place.reader(ref) for place, ref in zip(places, [*qkv, *g]))
    block = pl.program_id(2)
    first_query, first_key = block * plan.num_queries, plan.first_key(block)
    num_queries = jnp.minimum(plan.num_queries, plan.length - first_query)
    is_first = (pl.program_id(0) == 0) & (pl.program_id(1) == 0) & (block == 0)

    @pl.when(is_first)
    def _():
        for x in dtables.values():
            x[...] = jnp.zeros_like(x)

    @pl.when(block == 0)
    def _():
        common.spread(k, keys, plan, plan.key_depth)
        common.spread(v, values, plan, plan.value_depth)
        for x in (dkeys, dvalues, dkeys_of_position, dscales):
            x[...] = jnp.zeros_like(x)

    if plan.key_position:
        key_scale = scales[plan.num_terms - 1 : plan.num_terms]
        common.key_position_logits(k, dtype, key_scale, tables["key"], logits, first_key, first_query, plan)

    def at(channel, b):
        start = channel * plan.size + first_key + SUBLANES * b
        return pl.ds(pl.multiple_of(start, SUBLANES), SUBLANES)

    def one(i, _):
        query = first_query + i
        start = first_key - query + plan.query_end - 1
        base = pl.multiple_of(i * plan.window, SUBLANES)
        x, dy = q(i).astype(FLOAT), g[0](i).astype(FLOAT)
        content, log_sum = x * scales[:1], log_sums[pl.ds(i, 1)]
        if plan.query_position:
            query_rows = tables["query"][pl.ds(start, plan.window), :].astype(dtype)
            scaled = (x * scales[1:2]).astype(dtype)
            position = common.dot(query_rows, scaled, 1, 0)
        if plan.value_position:
            value_rows = tables["value"][pl.ds(start, plan.window), :].astype(dtype)
            dposition = common.dot(value_rows, g[1](i), 1, 0)
        total = jnp.zeros((SUBLANES, LANES), FLOAT)
        for b in range(num_sublanes):
            rows, there = slice(SUBLANES * b, SUBLANES * (b + 1)), pl.ds(base + SUBLANES * b, SUBLANES)
            logit = content[:1] * keys[at(0, b), :]
            for c in range(1, plan.key_depth):
                logit += content[c : c + 1] * keys[at(c, b), :]
            if plan.query_position:
                logit += position[rows]
            if plan.key_position:
                logit += logits[there, :]
            weight = jnp.exp(logit - log_sum)
            visible = common.is_visible(b, first_key, query, plan)
            if visible is not None:
                weight = jnp.where(visible, weight, 0.0)
            dweight = dy[:1] * values[at(0, b), :]
            for c in range(1, plan.value_depth):
                dweight += dy[c : c + 1] * values[at(c, b), :]
            if plan.value_position:
                dweight += dposition[rows]
            weights[rows, :] = weight
            product = weight * dweight
            total += product
            logits[there, :] = product
        total = jnp.sum(total, axis=0, keepdims=True)
        for b in range(num_sublanes):
            there = pl.ds(base + SUBLANES * b, SUBLANES)
            logits[there, :] -= weights[SUBLANES * b : SUBLANES * (b + 1), :] * total
        for c in range(plan.value_depth):
            for b in range(num_sublanes):
                dvalues[at(c, b), :] += weights[SUBLANES * b : SUBLANES * (b + 1), :] * dy[c : c + 1]
        for c in range(plan.key_depth):
            for b in range(num_sublanes):
                dkeys[at(c, b), :] += logits[pl.ds(base + SUBLANES * b, SUBLANES), :] * content[c : c + 1]
        parts = []
        for first in range(0, plan.key_depth, _AT_ONCE):
            channels = range(first, min(first + _AT_ONCE, plan.key_depth))
            sums = [jnp.zeros((SUBLANES, LANES), FLOAT) for _ in channels]
            for b in range(num_sublanes):
                dlogit = logits[pl.ds(base + SUBLANES * b, SUBLANES), :]
                for n, c in enumerate(channels):
                    sums[n] += dlogit * keys[at(c, b), :]
            parts.append(common.sums_over_sublanes(sums, dtype))
        part = jnp.concatenate(parts, axis=0)
        dx = part * scales[:1]
        dscales[:1] += jnp.sum(part * x, axis=0, keepdims=True)
        dlogits = logits[pl.ds(base, plan.window), :].astype(dtype)
        if plan.query_position:
            part = common.dot(query_rows, dlogits, 0, 0)
            dx += part * scales[1:2]
            dscales[1:2] += jnp.sum(part * x, axis=0, keepdims=True)
            dtables["query"][pl.ds(start, plan.window), :] += common.dot(dlogits, scaled, 1, 1)
        if plan.value_position:
            of_rows = common.dot(weights[...].astype(dtype), g[1](i), 1, 1)
            dtables["value"][pl.ds(start, plan.window), :] += of_rows
        dq[i] = dx.astype(dtype)
        return 0

    lax.fori_loop(0, num_queries, one, 0)

    if plan.key_position:

        def clear(i, _):
            start = pl.multiple_of(i * plan.window, SUBLANES)
            logits[pl.ds(start, plan.window), :] = jnp.zeros((plan.window, LANES), FLOAT)
            return 0

        lax.fori_loop(num_queries, plan.num_queries, clear, 0)

        def of_key(j, _):
            position = jnp.minimum(first_key + j, plan.length - 1)
            key = (k(position).astype(FLOAT) * key_scale).astype(dtype)
            dlogits = logits[pl.ds(j, plan.num_queries, plan.window), :].astype(dtype)
            there = pl.ds(first_query - (first_key + j) + plan.size - 1, plan.num_queries)
            rows = tables["key"][there, :].astype(dtype)
            dkeys_of_position[position] += common.dot(rows, dlogits, 0, 0)
            dtables["key"][there, :] += common.dot(dlogits, key, 1, 1)
            return 0

        lax.fori_loop(0, plan.window, of_key, 0, unroll=2)

    @pl.when(block == plan.num_blocks - 1)
    def _():
        def gather(j, _):
            dkey = dkeys[pl.ds(j, plan.key_depth, plan.size), :]
            if plan.key_position:
                part = dkeys_of_position[j]
                dkey += part * key_scale
                last = slice(plan.num_terms - 1, plan.num_terms)
                dscales[last] += jnp.sum(part * k(j).astype(FLOAT), axis=0, keepdims=True)
            dk[j] = dkey.astype(dtype)
            dv[j] = dvalues[pl.ds(j, plan.value_depth, plan.size), :].astype(dtype)
            return 0

        lax.fori_loop(0, plan.length, gather, 0)


def backward(
    qkv: Sequence[Heads],
    g: Sequence[Heads],
    scales: jax.Array,
    log_sums: jax.Array,
    tables: dict[str, jax.Array],
    plan: Plan,
    interpret: bool,
    vmem_bytes: int,
) -> tuple[list[jax.Array], jax.Array, dict[str, jax.Array]]:
    """Gradients of `forward`.

    Args:
      qkv: as for `forward`.
      g: gradients of the retrieved content and, where it takes part, position: [L, A, e, R] each.
      scales: as for `forward`.
      log_sums: of the forward pass.
      tables: as for `forward`.
      plan: of the axis.
      interpret: whether to run in Python, without a TPU.
      vmem_bytes: that the compiler may use.

    Returns:
      Gradients of q, k and v, [L, A, d or e, R], nothing of the last R % 128; of the scales, [A, T, R - R % 128], for
      each pair its own; of the tables.
    """
    q, k, v = qkv
    groups, rows = q.num_heads, q.array.shape[3]

    def at_queries(t):
        return t

    def at_keys(t):
        return 0

    def gradient_spec(positions, depth, block):
        return pl.BlockSpec((positions, None, depth, LANES), lambda a, r, t: (block(t), a, 0, r))

    of_tables = {name: pl.BlockSpec(x.shape, lambda a, r, t: (0, 0)) for name, x in tables.items()}
    depths = (plan.key_depth, plan.key_depth, plan.value_depth)
    dtype = q.array.dtype
    scratch = [(depth * plan.size, LANES) for depth in (plan.key_depth, plan.value_depth) * 2]
    scratch += [(plan.length if plan.key_position else 1, plan.key_depth, LANES)]
    scratch += [(plan.num_queries * plan.window, LANES), (plan.window, LANES)]
    return pl.pallas_call(
        functools.partial(_kernel, plan=plan, places=[x.place for x in (*qkv, *g)]),
        grid=(groups, rows // LANES, plan.num_blocks),
        in_specs=[
            [q.spec(plan.num_queries, at_queries), k.spec(plan.length, at_keys), v.spec(plan.length, at_keys)],
            [x.spec(plan.num_queries, at_queries) for x in g],
            pl.BlockSpec((None, plan.num_terms, LANES), lambda a, r, t: (a, 0, 0)),
            pl.BlockSpec((None, plan.num_queries, LANES), lambda a, r, t: (a, t, r)),
            of_tables,
        ],
        out_specs=[
            [
                gradient_spec(plan.num_queries, plan.key_depth, at_queries),
                gradient_spec(plan.length, plan.key_depth, at_keys),
                gradient_spec(plan.length, plan.value_depth, at_keys),
            ],
            pl.BlockSpec((None, plan.num_terms, LANES), lambda a, r, t: (a, 0, r)),
            of_tables,
        ],
        out_shape=[
            [jax.ShapeDtypeStruct((plan.length, groups, depth, rows), dtype) for depth in depths],
            jax.ShapeDtypeStruct((groups, plan.num_terms, rows // LANES * LANES), FLOAT),
            {name: jax.ShapeDtypeStruct(x.shape, FLOAT) for name, x in tables.items()},
        ],
        scratch_shapes=[pltpu.VMEM(shape, FLOAT) for shape in scratch],
        compiler_params=pltpu.CompilerParams(vmem_limit_bytes=vmem_bytes),
        interpret=interpret,
        name="axial_attention_gradients",
    )([x.array for x in qkv], [x.array for x in g], scales, log_sums, tables)
