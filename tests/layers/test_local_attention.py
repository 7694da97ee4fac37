# SPDX-License-Identifier: Apache-2.0
"""2D local attention against a slow reference, and by its properties."""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from deeplab_axial import multiply_adds
from deeplab_axial.layers import local_attention
from deeplab_axial.layers.axial_attention import AxialAttention
from deeplab_axial.layers.local_attention import LocalAttention, LocalAttention2D
from tests import reference
from tests.compare import assert_close, random_tensor, vary_weights

NORMS = ("qkv_norm", "logit_norm", "retrieved_norm")
SWITCHES = ("query_position", "key_position", "value_position", "use_batch_norm")


def make_layer(shape: tuple[int, ...], **kwargs) -> LocalAttention:
    """A layer of two heads, built on `shape`, with weights off their initial values."""
    tf_keras.utils.set_random_seed(1)
    layer = LocalAttention(**{"key_depth": 4, "value_depth": 8, "num_heads": 2, "span": 3, **kwargs})
    layer(tf.zeros(shape))
    vary_weights(layer)
    return layer


def weights_of(layer: LocalAttention) -> dict[str, Any]:
    """Weights in the form that the reference takes."""
    tables = {name: getattr(layer, name) for name in ("query_table", "key_table", "value_table")}
    out = {name: np.float64(table.numpy()) for name, table in tables.items() if table is not None}
    if layer.use_batch_norm:
        for name in NORMS:
            norm = getattr(layer, name)
            keys = ("gamma", "beta", "moving_mean", "moving_variance")
            out[name] = {key: np.float64(getattr(norm, key).numpy()) for key in keys}
    return {"qkv_kernel": np.float64(layer.qkv_kernel.numpy()), **out}


def reference_attention(x, weights: Mapping[str, Any], layer: LocalAttention, training: bool):
    """[B, H, W, C] -> [B, H, W, V] pair by pair in float64, and the moments of this batch by norm."""
    batch, height, width, _ = x.shape
    heads, key_depth, half = layer.num_heads, layer.key_depth, layer.span // 2
    moments = {}
    qkv = np.float64(x) @ weights["qkv_kernel"]
    if "qkv_norm" in weights:
        qkv, moments["qkv_norm"] = reference.normalize(qkv, weights["qkv_norm"], (0, 1, 2), training)
    q, k, v = (
        part.reshape(batch, height, width, heads, -1) for part in np.split(qkv, [key_depth, 2 * key_depth], axis=-1)
    )
    names = [name for name in ("query_table", "key_table") if name in weights]
    places = list(itertools.product(range(height), range(width)))
    offsets = list(itertools.product(range(-half, half + 1), repeat=2))
    logits = np.full((1 + len(names), batch, heads, height, width, len(offsets)), np.nan)  # NaN outside the image
    for (y, x_), (i, (dy, dx)) in itertools.product(places, enumerate(offsets)):
        if (y + dy, x_ + dx) in places:
            query, key = q[:, y, x_], k[:, y + dy, x_ + dx]
            logits[0, :, :, y, x_, i] = np.sum(query * key, -1)
            for term, name in enumerate(names, start=1):
                factor = query if name == "query_table" else key
                logits[term, :, :, y, x_, i] = factor @ weights[name][dy + half, dx + half]
    if "logit_norm" in weights:
        norm = {key: value[:, None, :, None, None, None] for key, value in weights["logit_norm"].items()}
        logits, moments["logit_norm"] = reference.normalize(logits, norm, (1, 3, 4, 5), training)
    logits = np.exp(logits.sum(axis=0))
    attention = np.nan_to_num(logits / np.nansum(logits, axis=-1, keepdims=True))
    content, position = np.zeros((2, *v.shape))
    for (y, x_), (i, (dy, dx)) in itertools.product(places, enumerate(offsets)):
        if (y + dy, x_ + dx) in places:
            weight = attention[:, :, y, x_, i, None]
            content[:, y, x_] += weight * v[:, y + dy, x_ + dx]
            if "value_table" in weights:
                position[:, y, x_] += weight * weights["value_table"][dy + half, dx + half]
    retrieved = [content, position] if "value_table" in weights else [content]
    retrieved = np.concatenate([t.reshape(batch, height, width, -1) for t in retrieved], -1)
    if "retrieved_norm" in weights:
        norm = weights["retrieved_norm"]
        retrieved, moments["retrieved_norm"] = reference.normalize(retrieved, norm, (0, 1, 2), training)
    return sum(np.split(retrieved, len(retrieved[0, 0, 0]) // layer.value_depth, axis=-1)), moments


def run_reference(layer: LocalAttention, x: tf.Tensor, training: bool = False):
    return reference_attention(x.numpy(), weights_of(layer), layer, training)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("values", list(itertools.product([False, True], repeat=4)))
def test_equals_the_reference(values, training):
    layer = make_layer((2, 5, 4, 6), **dict(zip(SWITCHES, values)))
    x = random_tensor((2, 5, 4, 6))
    assert_close(layer(x, training=training), run_reference(layer, x, training)[0])


@pytest.mark.parametrize("span", [3, 5, 7])
@pytest.mark.parametrize("size", [(1, 1), (1, 6), (2, 2), (3, 8), (6, 7), (9, 5)])
def test_sizes_and_spans(size, span):
    shape = (1, *size, 5)
    layer = make_layer(shape, span=span)
    x = random_tensor(shape)
    for training in (False, True):
        if training and size == (1, 1):
            continue  # no variance
        assert_close(layer(x, training=training), run_reference(layer, x, training)[0])


@pytest.mark.parametrize("training", [False, True])
def test_unknown_size_equals_known(training):
    layer = make_layer((1, 2, 3, 5), span=5)
    initial = layer.get_weights()
    function = tf.function(
        lambda x: layer(x, training=training), input_signature=[tf.TensorSpec([None, None, None, 5])], autograph=False
    )
    for size in ((1, 2), (7, 4), (8, 13)):
        x = random_tensor((2, *size, 5))
        layer.set_weights(initial)
        expected = layer(x, training=training)
        layer.set_weights(initial)
        assert_close(function(x), expected)


def test_moving_statistics():
    shape = (2, 5, 6, 5)
    layer = make_layer(shape, norm={"momentum": 0.9})
    x = random_tensor(shape)
    before = weights_of(layer)
    _, moments = run_reference(layer, x, training=True)
    layer(x, training=True)
    for name, of_batch in moments.items():
        # Keras' fused normalisation stores the unbiased variance, ours of the logits the biased one.
        bessel = 1.0 if name == "logit_norm" else of_batch.count / (of_batch.count - 1)
        for key, value in (("moving_mean", of_batch.mean), ("moving_variance", of_batch.variance * bessel)):
            expected = 0.9 * before[name][key] + 0.1 * value.reshape(before[name][key].shape)
            assert_close(getattr(getattr(layer, name), key), expected)


def test_on_one_row_it_is_axial_attention():
    shape = (2, 1, 9, 5)
    layer = make_layer(shape, span=5)
    axial = AxialAttention("width", 4, 8, num_heads=2, span=5)
    axial(tf.zeros(shape))
    by_name = {w.name.split("/", 1)[1]: w for w in layer.weights}
    for weight in axial.weights:
        value = by_name[weight.name.split("/", 1)[1]]
        if "table" in weight.name:
            # The row of dy = 0, in the middle of a table that holds every distance.
            beyond = weight.shape[0] // 2 - 2
            value = tf.pad(value[2], [[beyond, beyond], [0, 0]])
        weight.assign(value)
    x = random_tensor(shape)
    for training in (False, True):
        assert_close(layer(x, training=training), axial(x, training=training), 1e-5)


def test_a_shifted_image_gives_a_shifted_output():
    layer = make_layer((1, 4, 4, 5), span=5)
    x = random_tensor((1, 12, 13, 5))
    whole, part = layer(x), layer(x[:, 1:, 3:])
    # Positions whose window lies inside both images.
    assert_close(part[:, 2:-2, 2:-2], whole[:, 3:-2, 5:-2], 1e-5)


def test_order_inside_the_window_does_not_matter_without_positions():
    layer = make_layer((1, 3, 3, 5), query_position=False, key_position=False, value_position=False)
    x = random_tensor((1, 3, 3, 5)).numpy()
    shuffled = x.reshape(9, 5)[[8, 3, 0, 5, 4, 7, 2, 1, 6]].reshape(1, 3, 3, 5)  # the middle stays
    assert_close(layer(shuffled)[0, 1, 1], layer(x)[0, 1, 1], 1e-5)
    with_positions = make_layer((1, 3, 3, 5))
    assert np.abs(with_positions(shuffled) - with_positions(x))[0, 1, 1].max() > 0.01


def test_transposed_image_and_tables():
    layer, other = (make_layer((1, 3, 3, 5), span=5) for _ in range(2))
    for weight in other.weights:
        if "table" in weight.name:
            weight.assign(tf.transpose(weight, [1, 0, 2]))
    x = random_tensor((2, 6, 9, 5))
    assert_close(tf.transpose(other(tf.transpose(x, [0, 2, 1, 3])), [0, 2, 1, 3]), layer(x), 1e-5)


@pytest.mark.parametrize("place", [(6, 7), (5, 4), (0, 1), (11, 12)])
def test_a_position_reaches_as_far_as_the_window(place):
    layer = make_layer((1, 4, 4, 5), span=7)
    x = random_tensor((1, 12, 13, 5)).numpy()
    before = layer(x).numpy()
    x[0, place[0], place[1]] += 3
    changed = np.abs(layer(x).numpy() - before).max(axis=-1)[0] > 1e-6
    rows, columns = np.mgrid[:12, :13]
    np.testing.assert_array_equal(changed, np.maximum(abs(rows - place[0]), abs(columns - place[1])) <= 3)


def _cost(side: int, span: int, **kwargs) -> int:
    layer = make_layer((1, 4, 4, 16), key_depth=16, value_depth=32, span=span, **kwargs)
    graph = tf.function(layer, autograph=False).get_concrete_function(tf.TensorSpec([1, side, side, 16])).graph
    return sum(multiply_adds.by_operation(graph).values())


@pytest.mark.parametrize(
    ("switches", "depths"),
    [
        ({}, 3 * 16 + 2 * 32),
        ({"key_position": False, "value_position": False}, 2 * 16 + 32),
        ({"query_position": False, "key_position": False, "value_position": False}, 16 + 32),
    ],
)
def test_cost_is_that_of_the_windows(switches, depths):
    # Blocks of 2 x 2 queries share (span + 1)^2 keys.
    positions = 64 * 64
    assert _cost(64, 7, **switches) == positions * (16 * 64 + 8**2 * depths)
    assert _cost(64, 3, **switches) == positions * (16 * 64 + 4**2 * depths)


def test_gradients_equal_differences_of_values():
    shape = (1, 5, 4, 4)
    layer = make_layer(shape)
    x = random_tensor(shape)
    weight = random_tensor((*shape[:3], 8), 7)

    def loss():
        return tf.reduce_sum(layer(x, training=True) * weight)

    with tf.GradientTape() as tape:
        value = loss()
    variables = [layer.qkv_kernel, layer.query_table, layer.key_table, layer.value_table, layer.logit_norm.gamma]
    for variable, gradient in zip(variables, tape.gradient(value, variables)):
        direction = tf.math.l2_normalize(tf.convert_to_tensor(gradient))
        step = 1e-2
        variable.assign_add(step * direction)
        above = loss()
        variable.assign_sub(2 * step * direction)
        below = loss()
        variable.assign_add(step * direction)
        slope = tf.reduce_sum(direction * gradient)
        np.testing.assert_allclose((above - below) / (2 * step), slope, rtol=0.02)


def test_training_step_is_alike_in_eager_graph_and_xla():
    shape = (2, 5, 7, 6)
    x = random_tensor(shape)
    layer = make_layer(shape, span=5)
    weights = [w for w in layer.trainable_weights if w is not layer.logit_norm.beta]
    initial = layer.get_weights()

    def run(x):
        with tf.GradientTape() as tape:
            y = layer(x, training=True)
            loss = tf.reduce_sum(tf.square(y) * random_tensor(y.shape, 5))
        return [y, *tape.gradient(loss, weights)]

    results = []
    for jit_compile in (None, False, True):
        layer.set_weights(initial)
        function = run if jit_compile is None else tf.function(run, jit_compile=jit_compile, autograph=False)
        results.append([*function(x), *(tf.identity(w) for w in layer.non_trainable_weights)])
    for other in results[1:]:
        for actual, expected in zip(other, results[0]):
            assert_close(actual, expected)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_images_a_few_at_a_time(policy, monkeypatch):
    shape = (5, 6, 7, 6)
    x = random_tensor(shape)
    results = []
    tf_keras.mixed_precision.set_global_policy(policy)
    try:
        for at_once in (1 << 27, 2 * 12 * 4 * 16 * 2):  # heads, blocks, queries and keys of a block, two images
            monkeypatch.setattr(local_attention, "LOGITS_AT_ONCE", at_once)
            layer = make_layer(shape)
            weights = [w for w in layer.trainable_weights if w is not layer.logit_norm.beta]
            with tf.GradientTape() as tape:
                y = tf.cast(layer(x, training=True), tf.float32)
                loss = tf.reduce_sum(tf.square(y) * random_tensor(y.shape, 5))
            results.append([y, *tape.gradient(loss, weights), *layer.non_trainable_weights])
    finally:
        tf_keras.mixed_precision.set_global_policy("float32")
    for whole, part in zip(*results):
        assert_close(part, whole, 1e-4 if policy == "float32" else 0.05)


@pytest.mark.parametrize("shape", [(2, 8, 6, 4), (2, 7, 5, 4)])
@pytest.mark.parametrize("striding", ["average_pool", "subsample"])
def test_2d_is_the_window_then_the_stride(striding, shape):
    layer = LocalAttention2D({"key_depth": 4, "value_depth": 8, "num_heads": 2, "span": 3}, 2, striding)
    x = random_tensor(shape)
    layer(x)
    vary_weights(layer)
    y, full = layer(x).numpy(), layer.window(x).numpy()
    assert y.shape == (2, (shape[1] + 1) // 2, (shape[2] + 1) // 2, 8)
    for i, j in itertools.product(range(y.shape[1]), range(y.shape[2])):
        cell = full[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        assert_close(y[:, i, j], cell[:, 0, 0] if striding == "subsample" else cell.mean(axis=(1, 2)))


def test_stride_one_changes_no_size():
    layer = LocalAttention2D({"key_depth": 4, "value_depth": 8, "num_heads": 2, "span": 7})
    assert layer(tf.zeros([1, 5, 4, 3])).shape == (1, 5, 4, 8)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"key_depth": 12}, "key_depth must be a positive multiple of num_heads=8. Received: 12."),
        ({"value_depth": 0}, "value_depth must be a positive multiple of num_heads=8. Received: 0."),
        ({"span": 4}, "odd and at least 3; a local window is never the whole map. Received: 4"),
        ({"span": 1}, "Received: 1"),
        ({"span": None}, "Received: None"),
        ({"num_heads": 0}, "num_heads must be at least 1. Received: 0"),
    ],
)
def test_refuses_bad_arguments(arguments, said):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        LocalAttention(**{"key_depth": 16, "value_depth": 32, **arguments})
    assert said in str(error.value)


def test_needs_known_channels():
    with pytest.raises(ValueError, match="channels of the input must be known"):
        LocalAttention(16, 32).build([None, None, None, None])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [({"stride": 0}, "stride must be at least 1. Received: 0"), ({"striding": "max"}, "Received: 'max'")],
)
def test_2d_refuses_bad_arguments(arguments, said):
    with pytest.raises(ValueError, match=said):
        LocalAttention2D({"key_depth": 16, "value_depth": 32}, **arguments)
