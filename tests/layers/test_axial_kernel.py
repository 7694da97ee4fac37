# SPDX-License-Identifier: Apache-2.0
"""The fused kernel of axial attention, run in Python, against TensorFlow's operations; and when it is taken."""

import sys

import hypothesis
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from deeplab_axial import builders
from deeplab_axial.kernels import plan
from deeplab_axial.layers import axial_attention, axial_kernel, target
from deeplab_axial.protos import config_pb2

MIB = 2**20


def _has_jax() -> bool:
    try:
        axial_kernel._import_jax()
    except axial_kernel.Unavailable:
        return False
    return True


needs_jax = pytest.mark.skipif(not _has_jax(), reason="needs JAX: the extra [tpu]")


def _results(layer, x, upstream, training):
    """The output, and the gradients of the input and of all weights that have one."""
    before = [v.numpy() for v in layer.weights]

    @tf.function(autograph=False)
    def compute():
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=training)
            total = tf.reduce_sum(tf.cast(y, tf.float32) * upstream)
        gradients = tape.gradient(total, [x, *layer.trainable_variables])
        return [tf.cast(each, tf.float32) for each in (y, *gradients) if each is not None]

    graph = compute.get_concrete_function().graph
    results = compute()
    moved = [v.numpy() for v in layer.non_trainable_weights]
    for variable, value in zip(layer.weights, before):
        variable.assign(value)
    return results, moved, sum(op.type == "XlaCallModule" for op in graph.get_operations())


def _compare(shape, axis, training=True, tolerance=2e-6, dtype="float32", key_depth=8, value_depth=16, **options):
    layer = axial_attention.AxialAttention(
        axis=axis, key_depth=key_depth, value_depth=value_depth, num_heads=2, dtype=dtype, **options
    )
    if dtype != "float32":
        layer = axial_attention.AxialAttention.from_config(
            {**layer.get_config(), "dtype": {"class_name": "Policy", "config": {"name": "mixed_bfloat16"}}}
        )
    x = tf.cast(tf.random.normal(shape), dtype)
    upstream = tf.random.normal([*shape[:3], value_depth])
    layer(x)
    # Not the fresh ones, where some gradients are 0.
    for variable in layer.trainable_variables:
        variable.assign_add(0.1 * tf.random.normal(variable.shape))
    expected, moved, modules = _results(layer, x, upstream, training)
    assert modules == 0
    with axial_kernel.interpreted():
        found, moved_by_kernel, modules = _results(layer, x, upstream, training)
    assert modules == 2
    assert len(found) == len(expected)
    for a, b in zip(found, expected):
        # The largest number is the scale: a sum of many terms that cancel is known no better.
        assert tf.reduce_max(tf.abs(a - b)) <= tolerance * max(1e-3, float(tf.reduce_max(tf.abs(b))))
    for a, b in zip(moved_by_kernel, moved):
        assert tf.reduce_max(tf.abs(a - b)) <= 1e-5


@needs_jax
@pytest.mark.parametrize(
    ("shape", "axis", "options"),
    [
        ((1, 3, 9, 6), "width", {}),
        ((2, 20, 3, 6), "height", {"span": 5}),
        pytest.param((2, 9, 3, 6), "height", {}, marks=pytest.mark.slow),
        pytest.param((1, 67, 9, 6), "width", {}, marks=pytest.mark.slow),  # rows for full lanes, and some left over
        pytest.param((2, 17, 64, 6), "height", {}, marks=pytest.mark.slow),  # full lanes alone
        pytest.param((1, 3, 70, 6), "width", {"span": 17}, marks=pytest.mark.slow),
        pytest.param((1, 3, 12, 6), "width", {"span": 5}, marks=pytest.mark.slow),  # fewer keys than d^2
        pytest.param((1, 3, 9, 6), "width", {"query_position": False}, marks=pytest.mark.slow),
        pytest.param((1, 3, 9, 6), "width", {"key_position": False}, marks=pytest.mark.slow),
        pytest.param((1, 3, 9, 6), "width", {"value_position": False}, marks=pytest.mark.slow),
        pytest.param(
            (1, 3, 9, 6),
            "width",
            {"query_position": False, "key_position": False, "value_position": False},
            marks=pytest.mark.slow,
        ),
        pytest.param((1, 3, 9, 6), "width", {"use_batch_norm": False}, marks=pytest.mark.slow),
        pytest.param((1, 3, 9, 6), "width", {"training": False}, marks=pytest.mark.slow),
        pytest.param((1, 3, 9, 6), "width", {"key_depth": 6, "value_depth": 10}, marks=pytest.mark.slow),
        pytest.param((1, 3, 9, 6), "width", {"key_depth": 32, "value_depth": 48}, marks=pytest.mark.slow),
        pytest.param((1, 1, 260, 6), "width", {}, marks=pytest.mark.slow),  # longer than the tables tell apart
        pytest.param((1, 1, 1, 6), "width", {"training": False}, marks=pytest.mark.slow),
    ],
)
def test_values_and_gradients_equal_those_of_the_operations(shape, axis, options):
    _compare(shape, axis, **options)


@needs_jax
@pytest.mark.slow
def test_bfloat16():
    # Two ways of rounding: 2^-8 of each of several steps.
    _compare((1, 3, 20, 6), "width", training=False, tolerance=0.05, dtype="bfloat16")


@needs_jax
@pytest.mark.slow
@hypothesis.settings(max_examples=8, deadline=None)
@hypothesis.given(
    length=st.integers(2, 96), rows=st.integers(1, 3), span=st.sampled_from([None, 3, 9, 65]), training=st.booleans()
)
def test_any_length(length, rows, span, training):
    _compare((1, rows, length, 4), "width", training=training, span=span, tolerance=1e-5)


@needs_jax
@pytest.mark.slow
def test_queries_in_blocks_for_little_memory(monkeypatch):
    # 61 positions in one block take 4.4 MiB, in blocks of 8 queries less.
    axial_kernel._exported.cache_clear()
    monkeypatch.setitem(axial_kernel._VMEM, "v5e", 5)
    _compare((1, 3, 61, 6), "width")
    axial_kernel._exported.cache_clear()


@pytest.mark.parametrize("span", [None, 3, 17, 65, 129])
@pytest.mark.parametrize("length", [1, 7, 8, 65, 129, 257, 513, 1025])
@pytest.mark.parametrize("vmem", [16, 128])
def test_a_plan_covers_every_pair_and_fits(length, span, vmem):
    try:
        cut = plan.make(length, 8, 16, span, (True, True, True), vmem * MIB, 2)
    except ValueError:
        assert vmem == 16
        assert length >= 257  # not even eight queries fit
        return
    assert cut.vmem_bytes(2) <= vmem * MIB
    assert cut.num_blocks * cut.num_queries >= length > (cut.num_blocks - 1) * cut.num_queries
    half = length if span is None else span // 2
    for block in range(cut.num_blocks):
        first = cut.first_key(block)
        assert first % 8 == 0
        assert 0 <= first <= cut.size - cut.window
        queries = range(block * cut.num_queries, min(length, (block + 1) * cut.num_queries))
        assert first <= max(0, queries[0] - half)
        assert first + cut.window > min(length - 1, queries[-1] + half)
        for query in queries:  # rows of the tables that are read
            assert first - query + cut.query_end - 1 >= 0
            assert first - query + cut.query_end - 1 + cut.window <= cut.table_rows


def test_the_cost_follows_the_span():
    whole, near = (plan.make(257, 4, 8, span, (True,) * 3, 128 * MIB, 2) for span in (None, 65))
    assert whole.window == whole.size
    assert near.window < 0.4 * near.size


def _layer(**options):
    return axial_kernel.Layer((1, 9, 2, 32), "float32", 2, 8, 16, None, (True, True, True))._replace(**options)


def test_without_a_tpu_it_is_not_taken():
    assert not axial_kernel.is_built("AUTO", _layer())
    assert not axial_kernel.is_built("XLA", _layer())
    with pytest.raises(axial_kernel.Unavailable, match="for TPUs, and none is used here: take AUTO or XLA"):
        axial_kernel.is_built("PALLAS", _layer())


def test_old_chips_take_operations():
    with target.assume_accelerator("v3"):
        assert not axial_kernel.is_built("AUTO", _layer())
        with pytest.raises(axial_kernel.Unavailable, match="v4 and later, and this is a v3"):
            axial_kernel.is_built("PALLAS", _layer())


def test_without_jax_it_says_so_once(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "jax", None)
    axial_kernel._say_once.cache_clear()
    layer = _layer(shape=(1, 10, 2, 32))
    with target.assume_accelerator("v5e"), caplog.at_level("WARNING", "absl"):
        assert not axial_kernel.is_built("AUTO", layer)
        assert not axial_kernel.is_built("AUTO", layer)
        with pytest.raises(axial_kernel.Unavailable, match="needs JAX"):
            axial_kernel.is_built("PALLAS", layer)
    assert caplog.text.count("takes XLA's operations instead of its kernel: it needs JAX") == 1


@needs_jax
def test_what_does_not_fit_takes_operations(caplog):
    axial_kernel._say_once.cache_clear()
    layer = _layer(shape=(1, 4097, 2, 32))
    with target.assume_accelerator("v4"), caplog.at_level("WARNING", "absl"):
        assert not axial_kernel.is_built("AUTO", layer)
    assert "MiB of VMEM are needed for an axis of 4097" in caplog.text


def test_the_kernel_must_have_a_name_that_exists():
    with pytest.raises(ValueError, match="kernel must be one of AUTO, XLA, PALLAS"):
        axial_attention.AxialAttention(axis="width", key_depth=8, value_depth=16, num_heads=2, kernel="pallas")


@needs_jax
def test_its_operations_are_counted():
    layer = axial_attention.AxialAttention(axis="width", key_depth=8, value_depth=16, num_heads=2)
    x = tf.TensorSpec([1, 3, 16, 6])
    layer.build(x.shape)
    with axial_kernel.interpreted():
        graph = tf.function(lambda x: layer(layer(x)[..., :6]), autograph=False).get_concrete_function(x).graph
    # Two operations x (rows x heads x pairs x (three terms of logits, two retrieved ones)) x two layers.
    assert axial_kernel.flops_in(graph) == 2 * (3 * 2 * 16 * 16 * (3 * 4 + 2 * 8)) * 2


@pytest.mark.parametrize(("asked", "exported"), [("AUTO", "XLA"), ("XLA", "XLA"), ("PALLAS", "PALLAS")])
def test_exports_run_everywhere_unless_asked_otherwise(asked, exported):
    options = config_pb2.ExperimentOptions()
    options.model_options.backbone.attention_kernel = asked
    assert builders.portable(options).model_options.backbone.attention_kernel == exported
    assert options.model_options.backbone.attention_kernel == asked
