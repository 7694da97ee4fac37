# SPDX-License-Identifier: Apache-2.0
"""The forward kernel: logits, softmax and retrieval of 128 pairs of a row and a head, all in VMEM."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from deeplab_axial.kernels import common
from deeplab_axial.kernels.common import FLOAT, MASKED, Columns, Window
from deeplab_axial.kernels.heads import Heads, Place
from deeplab_axial.kernels.plan import LANES, SUBLANES, Plan


def _kernel(qkv, scales, tables, y, log_sums, keys, values, logits, *, plan: Plan, places: Sequence[Place]) -> None:
    """One block of queries of 128 pairs; arguments as for `forward`, each of 128 lanes, and scratch."""
    q, k, v = (place.reader(ref) for place, ref in zip(places, qkv))
    block = pl.program_id(2)
    window = Window.of_block(plan, block)
    keys, values = Columns(keys, plan.key_depth, window), Columns(values, plan.value_depth, window)

    @pl.when(block == 0)
    def _():
        keys.fill(k)
        values.fill(v)

    if plan.key_position:
        common.key_position_logits(k, scales[plan.num_terms - 1 :], tables["key"], logits, window)

    def pair(queries):
        # One behind the last query is that again; nobody reads what it retrieves.
        x = [q(jnp.minimum(i, window.num_queries - 1)) for i in queries]
        largest = _fill_logits(x, queries, scales, tables, keys, logits)
        totals = [_exponentials(i, most, logits, window) for i, most in zip(queries, largest)]
        _retrieve(queries, totals, tables, values, logits, y)
        for i, most, total in zip(queries, largest, totals):
            log_sums[pl.ds(i, 1)] = most + jnp.log(total)

    window.for_pairs(pair)


def _fill_logits(x, queries, scales, tables, keys: Columns, logits) -> list[jax.Array]:
    """Adds the terms of queries [d, 128] to the keys' term, if there is; returns the largest logits, [1, 128]."""
    window, plan, dtype = keys.window, keys.window.plan, x[0].dtype
    x = [each.astype(FLOAT) for each in x]
    content = [each * scales[:1] for each in x]
    if plan.query_position:
        position = [
            common.dot(tables["query"][window.table_rows(i), :].astype(dtype), (each * scales[1:2]).astype(dtype), 1, 0)
            for i, each in zip(queries, x)
        ]
    largest = [jnp.full((SUBLANES, LANES), MASKED, FLOAT) for _ in x]
    for b in window.blocks:
        for u, logit in enumerate(keys.products(content, b)):
            at = window.logits_at(queries[u], b)
            if plan.query_position:
                logit += position[u][SUBLANES * b : SUBLANES * (b + 1)]
            if plan.key_position:
                logit += logits[at, :]
            visible = window.is_visible(queries[u], b)
            if visible is not None:
                logit = jnp.where(visible, logit, MASKED)
            logits[at, :] = logit
            largest[u] = jnp.maximum(largest[u], logit)
    return [jnp.max(each, axis=0, keepdims=True) for each in largest]


def _exponentials(query, largest, logits, window: Window) -> jax.Array:
    """Turns the logits of a query into weights; returns their sum, [1, 128]."""
    total = jnp.zeros((SUBLANES, LANES), FLOAT)
    for b in window.blocks:
        at = window.logits_at(query, b)
        weight = jnp.exp(logits[at, :] - largest)
        total += weight
        logits[at, :] = weight
    return jnp.sum(total, axis=0, keepdims=True)


def _retrieve(queries, totals, tables, values: Columns, weights, y) -> None:
    """Writes what queries retrieve: values and, where they take part, their positions."""
    window = values.window
    sums = values.weighted_sums(lambda u, b: weights[window.logits_at(queries[u], b), :], len(queries), y.dtype)
    for i, content, total in zip(queries, sums, totals):
        y[i, 0] = (content / total).astype(y.dtype)
        if window.plan.value_position:
            rows = tables["value"][window.table_rows(i), :].astype(y.dtype)
            position = common.dot(rows, weights[window.logits_of(i), :].astype(y.dtype), 0, 0)
            y[i, 1] = (position / total).astype(y.dtype)


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
