# SPDX-License-Identifier: Apache-2.0
"""Axial attention on TPUs: the fused kernels of `deeplab_axial.kernels` in TensorFlow's graphs.

JAX builds them while a graph is traced; the graph then holds them as a module of XLA, forward and backward.
"""

import contextlib
import functools
import importlib.metadata
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import tensorflow as tf
from absl import logging

from deeplab_axial.errors import InputError
from deeplab_axial.layers import target

KERNELS = ("AUTO", "XLA", "PALLAS")
# MiB of a core's fast memory (VMEM), and the share that is planned with; the compiler needs some for itself.
_VMEM = {"v4": 16, "v5e": 128, "v5p": 64, "v6e": 128, "": 16}
_PLANNED = 0.85
_NAMES = ("query", "key", "value")
# Floating-point operations of the modules that were made in this process, by what is in them.
_flops: dict[bytes, float] = {}

_OPERATION = "XlaCallModule"

_interpreted = False


class Unavailable(InputError):
    """The kernel cannot be had here; says why and what to do."""


class Layer(NamedTuple):
    """What a kernel is built for.

    Attributes:
      shape: of qkv, [1, L, R, N (2 d + e)].
      dtype: of qkv, by name.
      num_heads: N.
      key_depth: of a head.
      value_depth: of a head.
      span: positions that a query sees, or None for all.
      terms: whether q . rq, k . rk and rv take part.
    """

    shape: tuple[int, ...]
    dtype: str
    num_heads: int
    key_depth: int
    value_depth: int
    span: int | None
    terms: tuple[bool, bool, bool]


@contextlib.contextmanager
def interpreted() -> Iterator[None]:
    """Inside, kernels are traced for the CPU, where they take thousands of times as long: for tests."""
    global _interpreted
    before, _interpreted = _interpreted, True
    try:
        yield
    finally:
        _interpreted = before


def is_built(kernel: str, layer: Layer) -> bool:
    """Whether a layer takes the kernel where it is being traced.

    Args:
      kernel: "AUTO": if this is a TPU, v4 or later, and the kernel can be had; "XLA": never; "PALLAS": always.
      layer: shape and options.

    Raises:
      Unavailable: "PALLAS", and it cannot be had.
    """
    if kernel == "XLA":
        return False
    chip = target.tpu_chip()
    if kernel == "AUTO" and not _interpreted and (chip is None or chip in ("v2", "v3")):
        return False
    try:
        _exported(layer, chip, _interpreted)
    except Unavailable as error:
        if kernel == "PALLAS":
            raise
        _say_once(str(error))
        return False
    return True


@functools.cache
def _say_once(reason: str) -> None:
    logging.warning("Attention takes XLA's operations instead of its kernel: %s", reason)


def attend(layer: Layer, qkv: tf.Tensor, scales: tf.Tensor, tables: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Attention of R rows of L positions.

    Args:
      layer: for which `is_built` is true.
      qkv: [1, L, R, N (2 d + e)], queries, keys and values.
      scales: [T, N], float32, a factor for each logit term and head.
      tables: "query", "key" and "value", where they take part: [2 L - 1, d or e], float32; row i is for
        key - query = i - (L - 1).

    Returns:
      [1, L, R, N e or 2 N e], the retrieved content and, where it takes part, position.
    """
    forward, backward = _exported(layer, target.tpu_chip(), _interpreted)

    @tf.custom_gradient
    def call(qkv, scales, *tables):
        retrieved, *log_sums = forward([qkv, scales, *tables])

        def gradient(upstream):
            return backward([qkv, scales, *tables, *log_sums, upstream])

        return retrieved, gradient

    return call(qkv, scales, *(tables[name] for name in _NAMES if name in tables))


@functools.cache
def _exported(layer: Layer, chip: str | None, interpret: bool) -> tuple[Callable, Callable]:
    """Both passes as functions of a list of tensors that return a list of tensors."""
    if chip is None and not interpret:
        raise Unavailable("attention_kernel PALLAS is for TPUs, and none is used here: take AUTO or XLA")
    if chip in ("v2", "v3"):
        raise Unavailable(f"attention_kernel PALLAS is for TPU v4 and later, and this is a {chip}: take AUTO or XLA")
    jax = _import_jax()
    import jax.numpy as jnp

    from deeplab_axial.kernels import lanes, plan

    _, length, rows, _ = layer.shape
    depths = layer.key_depth, layer.value_depth
    vmem = _VMEM["v5e" if interpret else chip] * 2**20
    try:
        cut = plan.make(length, *depths, layer.span, layer.terms, int(_PLANNED * vmem), jnp.dtype(layer.dtype).itemsize)
    except ValueError as error:
        raise Unavailable(str(error)) from error
    attention = lanes.Attention(cut, layer.num_heads, vmem, interpret)
    table_depths = dict(zip(_NAMES, (layer.key_depth, layer.key_depth, layer.value_depth)))
    names = [name for name, takes_part in zip(_NAMES, layer.terms) if takes_part]
    count = len(names)

    def forward(qkv, scales, *tables):
        retrieved, log_sums = attention.forward(qkv, scales, dict(zip(names, tables)))
        return [retrieved, *log_sums]

    def backward(qkv, scales, *rest):
        *log_sums, upstream = rest[count:]
        tables = dict(zip(names, rest[:count]))
        dqkv, dscales, dtables = attention.backward(qkv, scales, tables, log_sums, upstream)
        return [dqkv, dscales, *(dtables[name] for name in names)]

    arguments = [
        jax.ShapeDtypeStruct(layer.shape, layer.dtype),
        jax.ShapeDtypeStruct((cut.num_terms, layer.num_heads), jnp.float32),
        *(jax.ShapeDtypeStruct((2 * length - 1, table_depths[name]), jnp.float32) for name in names),
    ]
    retrieved, *log_sums = jax.eval_shape(forward, *arguments)
    platform = "cpu" if interpret else "tpu"
    # Of the gradients: the logits once more and two products for each of their terms; two for what is retrieved.
    key_products, value_products = layer.key_depth * cut.num_terms, layer.value_depth * cut.num_retrieved
    pairs = length * rows * layer.num_heads * min(cut.size, cut.window)
    return (
        _export(forward, arguments, platform, 2.0 * pairs * (key_products + value_products)),
        _export(
            backward,
            [*arguments, *log_sums, retrieved],
            platform,
            2.0 * pairs * (3 * key_products + 2 * value_products),
        ),
    )


def flops_in(graph: tf.Graph) -> float:
    """Floating-point operations of all kernels in a graph and the functions it calls, each of them once.

    What XLA counts of a program knows nothing of them.
    """
    definition = graph.as_graph_def()
    bodies = [definition.node, *(function.node_def for function in definition.library.function)]
    return sum(_flops.get(node.attr["module"].s, 0.0) for nodes in bodies for node in nodes if node.op == _OPERATION)


def _export(function: Callable, arguments: Sequence, platform: str, flops: float) -> Callable:
    import jax
    from jax import export
    from tensorflow.compiler.tf2xla.python import xla

    # Plain in XLA, though JAX promises nothing of it to other versions: the module is compiled by who traced it.
    layouts = export.DisabledSafetyCheck.custom_call("LayoutConstraint")
    exported = export.export(jax.jit(function), platforms=[platform], disabled_checks=[layouts])(*arguments)
    results = exported.out_avals
    _flops[exported.mlir_module_serialized] = flops

    def call(tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        return xla.call_module(
            list(tensors),
            version=exported.calling_convention_version,
            module=exported.mlir_module_serialized,
            Sout=[x.shape for x in results],
            Tout=[tf.as_dtype(x.dtype) for x in results],
            platforms=[platform.upper()],
            disabled_checks=["platform"],  # traced on the host, or without any TPU
        )

    return call


def _import_jax():
    """JAX, held to the host: TensorFlow has the TPU."""
    if "jax" not in sys.modules:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    try:
        import jax
        import jax.experimental.pallas.tpu
        from jax import export  # noqa: F401
    except ImportError as error:
        raise Unavailable(f"it needs JAX: pip install 'deeplab-axial[tpu]' ({_jax_version()}: {error})") from error
    return jax


def _jax_version() -> str:
    try:
        return f"JAX {importlib.metadata.version('jax')}"
    except importlib.metadata.PackageNotFoundError:
        return "JAX is not installed"
