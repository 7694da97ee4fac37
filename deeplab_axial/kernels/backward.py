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
from deeplab_axial.kernels.common import FLOAT, MASKED, Columns, Window
from deeplab_axial.kernels.heads import Heads, Place
from deeplab_axial.kernels.plan import LANES, SUBLANES, Plan


def _kernel(
    qkv, g, scales, log_sums, tables, dqkv, dscales, dtables, *scratch, plan: Plan, places: Sequence[Place]
) -> None:
    """One block of queries of 128 pairs; arguments as for `backward`, each of 128 lanes, and scratch."""
    keys, values, dkeys, dvalues, dkeys_of_position, logits, weights = scratch
    dq, dk, dv = dqkv
    q, k, v, *g = (place.reader(ref) for place, ref in zip(places, [*qkv, *g]))
    block = pl.program_id(2)
    window = Window.of_block(plan, block)
    keys, dkeys = (Columns(x, plan.key_depth, window) for x in (keys, dkeys))
    values, dvalues = (Columns(x, plan.value_depth, window) for x in (values, dvalues))
    key_scale = scales[plan.num_terms - 1 :]

    @pl.when((pl.program_id(0) == 0) & (pl.program_id(1) == 0) & (block == 0))
    def _():
        for x in dtables.values():
            x[...] = jnp.zeros_like(x)

    @pl.when(block == 0)
    def _():
        keys.fill(k)
        values.fill(v)
        for x in (dkeys.scratch, dvalues.scratch, dkeys_of_position, dscales):
            x[...] = jnp.zeros_like(x)

    if plan.key_position:
        common.key_position_logits(k, key_scale, tables["key"], logits, window)

    def pair(queries):
        # One behind the last query is that again, with weights of 0.
        last = window.num_queries - 1
        x = [q(jnp.minimum(i, last)) for i in queries]
        dy = [[each(jnp.minimum(i, last)) for i in queries] for each in g]
        sums = [jnp.where(i <= last, log_sums[pl.ds(jnp.minimum(i, last), 1)], -MASKED) for i in queries]
        _fill_weights(x, dy, sums, queries, scales, tables, keys, values, logits, weights)
        _of_values(queries, dy, dvalues, weights, dtables)
        _of_queries(x, queries, scales, tables, keys, dkeys, logits, dq, dscales, dtables)

    window.for_pairs(pair)
    if plan.key_position:
        _of_key_positions(k, key_scale, tables, logits, dkeys_of_position, dtables, window)

    @pl.when(block == plan.num_blocks - 1)
    def _():
        def gather(j, _):
            dkey = dkeys.at(j)
            if plan.key_position:
                part = dkeys_of_position[j]
                dkey += part * key_scale
                dscales[plan.num_terms - 1 :] += jnp.sum(part * k(j).astype(FLOAT), axis=0, keepdims=True)
            dk[j] = dkey.astype(dk.dtype)
            dv[j] = dvalues.at(j).astype(dv.dtype)
            return 0

        lax.fori_loop(0, plan.length, gather, 0)


def _fill_weights(x, dy, log_sums, queries, scales, tables, keys: Columns, values: Columns, logits, weights) -> None:
    """Of queries [d, 128]: `weights` [2 window, 128], and the gradients of the logits in the place of the keys' term.

    Args:
      x: queries.
      dy: for content and, where it takes part, position: gradients of what each query retrieved, [e, 128].
      log_sums: of each query, [1, 128].
      queries: their numbers in the block.
      scales: of the terms.
      tables: of positions.
      keys: of the axis.
      values: of the axis.
      logits: of the block.
      weights: are written.
    """
    window, plan, dtype = keys.window, keys.window.plan, x[0].dtype
    x = [each.astype(FLOAT) for each in x]
    content, dcontent = [each * scales[:1] for each in x], [each.astype(FLOAT) for each in dy[0]]

    def of_positions(name, factors):
        return [
            common.dot(tables[name][window.table_rows(i), :].astype(dtype), each.astype(dtype), 1, 0)
            for i, each in zip(queries, factors)
        ]

    if plan.query_position:
        position = of_positions("query", [each * scales[1:2] for each in x])
    if plan.value_position:
        dposition = of_positions("value", dy[1])
    totals = [jnp.zeros((SUBLANES, LANES), FLOAT) for _ in x]
    for b in window.blocks:
        rows = slice(SUBLANES * b, SUBLANES * (b + 1))
        products = zip(keys.products(content, b), values.products(dcontent, b))
        for u, (logit, dweight) in enumerate(products):
            at = window.logits_at(queries[u], b)
            if plan.query_position:
                logit += position[u][rows]
            if plan.key_position:
                logit += logits[at, :]
            weight = jnp.exp(logit - log_sums[u])
            visible = window.is_visible(queries[u], b)
            if visible is not None:
                weight = jnp.where(visible, weight, 0.0)
            if plan.value_position:
                dweight += dposition[u][rows]
            weights[window.logits_at(u, b), :] = weight
            product = weight * dweight
            totals[u] += product
            logits[at, :] = product
    for u, total in enumerate(totals):
        total = jnp.sum(total, axis=0, keepdims=True)
        for b in window.blocks:
            logits[window.logits_at(queries[u], b), :] -= weights[window.logits_at(u, b), :] * total


def _of_values(queries, dy, dvalues: Columns, weights, dtables) -> None:
    """Gradients of values and of the table of their positions."""
    window = dvalues.window
    dvalues.add_products(lambda u, b: weights[window.logits_at(u, b), :], [each.astype(FLOAT) for each in dy[0]])
    if window.plan.value_position:
        for u, (i, each) in enumerate(zip(queries, dy[1])):
            of_rows = common.dot(weights[window.logits_of(u), :].astype(each.dtype), each, 1, 1)
            dtables["value"][window.table_rows(i), :] += of_rows


def _of_queries(x, queries, scales, tables, keys: Columns, dkeys: Columns, dlogits, dq, dscales, dtables) -> None:
    """Gradients of queries, of keys by their products with queries, of two scales and of the queries' table."""
    window, dtype = keys.window, dq.dtype

    def of_block(u, b):
        return dlogits[window.logits_at(queries[u], b), :]

    x = [each.astype(FLOAT) for each in x]
    dkeys.add_products(of_block, [each * scales[:1] for each in x])
    for i, each, part in zip(queries, x, keys.weighted_sums(of_block, len(x), dtype)):
        dx = part * scales[:1]
        dscales[:1] += jnp.sum(part * each, axis=0, keepdims=True)
        if window.plan.query_position:
            rows = window.table_rows(i)
            of_query = dlogits[window.logits_of(i), :].astype(dtype)
            part = common.dot(tables["query"][rows, :].astype(dtype), of_query, 0, 0)
            dx += part * scales[1:2]
            dscales[1:2] += jnp.sum(part * each, axis=0, keepdims=True)
            dtables["query"][rows, :] += common.dot(of_query, (each * scales[1:2]).astype(dtype), 1, 1)
        dq[i] = dx.astype(dtype)


def _of_key_positions(k, scale, tables, dlogits, dkeys, dtables, window: Window) -> None:
    """Gradients of k . rk: of keys, [L, d, 128], before their scale, and of the table."""
    plan = window.plan

    def clear(i, _):
        dlogits[window.logits_of(i), :] = jnp.zeros((plan.window, LANES), FLOAT)
        return 0

    lax.fori_loop(window.num_queries, plan.num_queries, clear, 0)

    def of_key(j, _):
        position, rows = window.position(j), window.key_table_rows(j)
        key = k(position)
        of_queries = dlogits[pl.ds(j, plan.num_queries, plan.window), :].astype(key.dtype)
        dkeys[position] += common.dot(tables["key"][rows, :].astype(key.dtype), of_queries, 0, 0)
        scaled = (key.astype(FLOAT) * scale).astype(key.dtype)
        dtables["key"][rows, :] += common.dot(of_queries, scaled, 1, 1)
        return 0

    lax.fori_loop(0, plan.window, of_key, 0, unroll=2)


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
    scratch += [(plan.num_queries * plan.window, LANES), (common.QUERIES * plan.window, LANES)]
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
