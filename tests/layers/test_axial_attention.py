# SPDX-License-Identifier: Apache-2.0
"""Axial attention against a slow reference, against DeepLab2, and by its properties."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from deeplab_axial import multiply_adds
from deeplab_axial.importing import deeplab2, deeplab2_names
from deeplab_axial.layers import axial_attention, axial_core, normalization, relative_position
from deeplab_axial.layers.axial_attention import AxialAttention, AxialAttention2D
from tests import golden, graph_sizes, reference
from tests.compare import assert_close, random_tensor, vary_weights

NORM_NAMES = ("gamma", "beta", "moving_mean", "moving_variance")
ABLATIONS = {
    "all": {},
    "content_only": {"query_position": False, "key_position": False, "value_position": False},
    "query": {"key_position": False, "value_position": False},
    "key": {"query_position": False, "value_position": False},
    "value": {"query_position": False, "key_position": False},
    "no_norm": {"use_batch_norm": False},
    "bare": {"use_batch_norm": False, "query_position": False, "key_position": False, "value_position": False},
}


def make_layer(shape: tuple[int, ...], axis: str = "width", **kwargs) -> AxialAttention:
    """A layer of two heads, built on `shape`, with weights off their initial values."""
    tf_keras.utils.set_random_seed(1)
    layer = AxialAttention(axis, **{"key_depth": 4, "value_depth": 8, "num_heads": 2, **kwargs})
    layer(tf.zeros(shape))
    vary_weights(layer)
    return layer


def weights_of(layer: AxialAttention) -> dict:
    """Weights in the form that the reference takes."""
    tables = {name: getattr(layer, name) for name in ("query_table", "key_table", "value_table")}
    out = {name: table.numpy() for name, table in tables.items() if table is not None}
    if layer.use_batch_norm:
        for name in ("qkv_norm", "logit_norm", "retrieved_norm"):
            norm = getattr(layer, name)
            out[name] = {key: np.float64(getattr(norm, key).numpy()) for key in NORM_NAMES}
    return {"qkv_kernel": layer.qkv_kernel.numpy(), "key_depth": layer.key_depth, **out}


def run_reference(layer: AxialAttention, x: tf.Tensor, training: bool = False):
    """The reference on [B, R, L, C], along the width."""
    batch, rows, length, channels = x.shape
    y, moments = reference.axial_attention(
        x.numpy().reshape(-1, length, channels), weights_of(layer), layer.num_heads, layer.span, training
    )
    return y.reshape(batch, rows, length, -1), moments


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_equals_the_reference(ablation, training):
    shape = (2, 3, 7, 6)
    layer = make_layer(shape, **ABLATIONS[ablation])
    x = random_tensor(shape)
    expected, _ = run_reference(layer, x, training)
    assert_close(layer(x, training=training), expected)


def test_several_images_of_one_row():
    # TensorFlow 2.21's matmul corrupts memory for such inputs on CPUs (tensorflow/tensorflow issue 117700).
    layer = make_layer((2, 1, 13, 6))
    for seed in range(20):
        x = random_tensor((2, 1, 13, 6), seed)
        assert_close(layer(x), tf.concat([layer(x[:1]), layer(x[1:])], 0))


# A span of 3 has blocks of 1, 5 of 1, 7 of 3, 9 of 2, 17 of 4. Lengths: inside half the span, one block against a
# masked axis, and windows whose last block is full, one short and one over.
SPANS = [(1, 3), (2, 3), (3, 3), (4, 3), (5, 3), (9, 3), (3, 5), (6, 5), (7, 5), (11, 5), (4, 7), (5, 7), (9, 7)]
SPANS += [(10, 7), (12, 7), (13, 7), (14, 7), (3, 9), (5, 9), (10, 9), (11, 9), (12, 9), (23, 9), (9, 17), (10, 17)]
SPANS += [(20, 17), (21, 17), (24, 17), (30, 17), (12, 25)]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("length", "span"), SPANS)
def test_span_equals_masked_computation(length, span, training):
    shape = (1, 2, length, 5)
    layer = make_layer(shape, span=span)
    x = random_tensor(shape, length)
    expected, _ = run_reference(layer, x, training)
    assert_close(layer(x, training=training), expected)


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_span_with_ablations(ablation):
    shape = (2, 1, 13, 6)
    layer = make_layer(shape, span=5, **ABLATIONS[ablation])
    x = random_tensor(shape)
    for training in (False, True):
        expected, _ = run_reference(layer, x, training)
        assert_close(layer(x, training=training), expected)


def test_spans_take_all_three_paths():
    layer = make_layer((1, 1, 4, 5), span=9)
    short, masked, windowed = (layer._windows(length) for length in (5, 10, 11))
    assert short.mask is None
    assert masked.flange == 0
    assert masked.mask is not None
    assert windowed.flange == 2
    assert windowed.num_keys == 10


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("span", [None, 5, 9])
@pytest.mark.parametrize("axis", ["height", "width"])
def test_unknown_length_equals_known(axis, span, training):
    layer = make_layer((1, 2, 3, 5), axis, span=span)
    initial = layer.get_weights()
    function = tf.function(
        lambda x: layer(x, training=training), input_signature=[tf.TensorSpec([None, None, None, 5])], autograph=False
    )
    for height, width in ((1, 2), (2, 3), (7, 4), (13, 20)):
        x = random_tensor((2, height, width, 5), height)
        layer.set_weights(initial)
        expected = layer(x, training=training)
        layer.set_weights(initial)
        assert_close(function(x), expected)


def test_distances_beyond_the_table_take_its_last_row(monkeypatch):
    monkeypatch.setattr(axial_attention, "LARGEST_DISTANCE", 3)
    shape = (1, 2, 9, 5)
    layer = make_layer(shape)
    assert layer.query_table.shape[0] == 7
    x = random_tensor(shape)
    assert_close(layer(x), run_reference(layer, x)[0])


def test_one_layer_serves_every_length():
    layer = make_layer((1, 1, 5, 4))
    count = len(layer.weights)
    for length in (1, 2, 9, 30):
        x = random_tensor((1, 1, length, 4), length)
        assert_close(layer(x), run_reference(layer, x)[0])
    assert len(layer.weights) == count


@pytest.mark.parametrize("span", [None, 5])
def test_moving_statistics(span):
    shape = (2, 3, 13, 5)
    layer = make_layer(shape, span=span, norm={"momentum": 0.9})
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


@pytest.mark.parametrize("fixture", ["default", "content_only"])
def test_equals_deeplab2(fixture):
    arrays = golden.load(f"axial_attention_{fixture}")
    positions = fixture == "default"
    layer = AxialAttention(
        "width",
        key_depth=32,
        value_depth=64,
        num_heads=8 if positions else 4,
        query_position=positions,
        key_position=positions,
        value_position=positions,
    )
    x = tf.constant(arrays["input"][None])  # [N, L, C] -> [1, N, L, C]
    layer(x)
    deeplab2.assign(deeplab2_names.attention(layer, "layer"), golden.weights(arrays))
    assert_close(layer(x)[0], arrays["output"])
    initial = {entry.key: entry.variable.numpy() for entry in deeplab2_names.attention(layer, "layer")}
    assert_close(layer(x, training=True)[0], arrays["output_training"])

    expected = golden.weights(arrays, "after_train_step:")
    assert len(expected) == 6
    variables = {entry.key: entry.variable for entry in deeplab2_names.attention(layer, "layer")}
    count = arrays["input"].shape[0] * arrays["input"].shape[1]
    for name, value in expected.items():
        value = value.reshape(variables[name].shape)
        if name.endswith("retrieved_output/moving_variance"):
            # DeepLab2's normalisation here is not the fused one of Keras, ours is: it stores the unbiased variance.
            momentum = layer.retrieved_norm.momentum
            of_batch = (value - momentum * initial[name]) / (1 - momentum)
            value = value + (1 - momentum) * of_batch / (count - 1)
        assert_close(variables[name], value)


def test_relative_distances_equal_deeplab2():
    arrays = golden.load("relative_distance_index")
    table = tf.range(509.0)[:, None]
    for name, queries in (("q5k5", 5), ("q300k300_corner", 300)):
        rows = relative_position.clipped_rows(table, queries)
        index = relative_position.toeplitz(rows, queries, queries)[..., 0]
        np.testing.assert_array_equal(index[: len(arrays[name])], arrays[name])


@pytest.mark.parametrize("span", [None, 5])
@pytest.mark.parametrize("training", [False, True])
def test_height_pass_is_the_width_pass_of_the_transposed_map(span, training):
    x = random_tensor((2, 11, 6, 5))
    of_height, of_width = (make_layer((1, 2, 2, 5), axis, span=span) for axis in ("height", "width"))
    of_height.set_weights(of_width.get_weights())
    transposed = tf.transpose(x, [0, 2, 1, 3])
    expected = tf.transpose(of_width(transposed, training=training), [0, 2, 1, 3])
    assert_close(of_height(x, training=training), expected, 1e-5)


@pytest.mark.parametrize("span", [None, 5])
def test_one_row_leaves_the_others_width_pass_alone(span):
    layer = make_layer((1, 4, 11, 5), span=span)
    x = random_tensor((1, 4, 11, 5)).numpy()
    before = layer(x).numpy()
    x[0, 2] += 1
    after = layer(x).numpy()
    np.testing.assert_allclose(after[:, [0, 1, 3]], before[:, [0, 1, 3]], rtol=1e-6, atol=1e-6)
    assert np.abs(after[:, 2] - before[:, 2]).max() > 0.1


def test_a_position_reaches_as_far_as_the_span():
    layer = make_layer((1, 1, 20, 5), span=7)
    x = random_tensor((1, 1, 20, 5)).numpy()
    before = layer(x).numpy()
    x[0, 0, 10] += 3
    changed = np.abs(layer(x).numpy() - before).max(axis=-1)[0, 0] > 1e-5
    np.testing.assert_array_equal(np.nonzero(changed)[0], range(7, 14))


def _cost(length: int, span: int | None) -> int:
    """Multiply-adds of a layer on a map of 2 x length positions."""
    layer = make_layer((1, 2, 4, 16), key_depth=16, value_depth=32, span=span)
    graph = tf.function(layer, autograph=False).get_concrete_function(tf.TensorSpec([1, 2, length, 16])).graph
    return sum(multiply_adds.by_operation(graph).values())


@pytest.mark.parametrize("span", [9, 33])
def test_cost_grows_linearly_at_a_fixed_span(span):
    lengths = [128, 256, 512, 1024]
    costs = [_cost(length, span) for length in lengths]
    per_position = np.diff(costs) / np.diff(lengths)
    np.testing.assert_allclose(per_position, per_position[0], rtol=1e-3)
    assert costs[-1] < 0.2 * _cost(lengths[-1], None)


def test_cost_of_the_whole_axis_grows_with_its_square():
    # Twice the length: four times the pairs, twice the projections.
    short, long = _cost(256, None), _cost(512, None)
    assert 3.5 < long / short < 4


@pytest.mark.parametrize("ablation", ["all", "content_only", "no_norm"])
@pytest.mark.parametrize(("span", "length"), [(None, 9), (5, 13), (9, 9)])
def test_rows_in_chunks_equal_all_at_once(ablation, span, length):
    shape = (2, 3, length, 6)
    x = random_tensor(shape)
    results = []
    # All 6 rows at once; one by one; two and two; four, and two filled up with two of zeros.
    logits_in_row = 2 * length * (length if span != 5 else 6)
    for rows in (6, 1, 2, 4):
        layer = make_layer(shape, span=span, logits_at_once=rows * logits_in_row, **ABLATIONS[ablation])
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
            loss = tf.reduce_sum(tf.square(y) * random_tensor(y.shape, 5))
        weights = [w for w in layer.trainable_weights if not layer.use_batch_norm or w is not layer.logit_norm.beta]
        results.append([y, *tape.gradient(loss, [x, *weights]), *layer.non_trainable_weights, layer(x)])
    for other in results[1:]:
        for actual, expected in zip(other, results[0]):
            assert_close(tf.convert_to_tensor(actual), tf.convert_to_tensor(expected))


@pytest.mark.parametrize("logits_at_once", [1, 200, 2**62])
def test_rows_in_chunks_of_unknown_size(logits_at_once):
    layer = make_layer((1, 2, 5, 6), logits_at_once=logits_at_once)
    function = tf.function(layer, input_signature=[tf.TensorSpec([None, None, None, 6])], autograph=False)
    for shape in ((1, 1, 1, 6), (2, 3, 8, 6), (1, 7, 4, 6)):
        x = random_tensor(shape)
        assert_close(function(x), run_reference(layer, x)[0])


@pytest.mark.parametrize(
    ("ablation", "queries_at_once"),
    [("all", 1), ("all", 3), ("all", 4), ("all", 12), ("content_only", 4), ("key", 4), ("value", 4), ("bare", 3)],
)
def test_queries_in_blocks_equal_the_reference(ablation, queries_at_once):
    # 13 positions: blocks of one, of three and one over, of four and three over, of seven and one short.
    shape = (2, 3, 13, 6)
    x = random_tensor(shape)
    for axis in ("width", "height"):
        layer = make_layer(shape, axis, logits_at_once=queries_at_once * 2 * 13, **ABLATIONS[ablation])
        turned = x if axis == "width" else tf.transpose(x, [0, 2, 1, 3])
        found = layer(turned) if axis == "width" else tf.transpose(layer(turned), [0, 2, 1, 3])
        assert_close(found, run_reference(layer, x)[0])


def test_queries_in_blocks_reach_beyond_the_table(monkeypatch):
    monkeypatch.setattr(axial_attention, "LARGEST_DISTANCE", 3)
    shape = (1, 2, 11, 5)
    layer = make_layer(shape, logits_at_once=3 * 2 * 11)
    x = random_tensor(shape)
    assert_close(layer(x), run_reference(layer, x)[0])


def test_queries_in_blocks_compile_and_have_gradients():
    shape = (1, 2, 13, 6)
    x = random_tensor(shape)
    whole, blocks = (make_layer(shape, logits_at_once=n * 2 * 13) for n in (13, 4))

    def gradients(layer, x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
            loss = tf.reduce_sum(tf.square(y) * random_tensor(y.shape, 5))
        return [y, *tape.gradient(loss, [x, layer.qkv_kernel, layer.query_table, layer.value_table])]

    expected = gradients(whole, x)
    for xla in (False, True):
        function = tf.function(lambda x: gradients(blocks, x), autograph=False, jit_compile=xla)
        for actual, right in zip(function(x), expected):
            assert_close(tf.convert_to_tensor(actual), tf.convert_to_tensor(right))


@pytest.mark.parametrize("length", [64, 512])
def test_memory_of_a_long_axis_grows_with_its_length(length):
    # Neither logits nor pairs of positions are ever there for all queries: the largest tensors are those of 8 queries.
    layer = make_layer((1, 1, 4, 4), logits_at_once=8 * 2 * length)
    graph = tf.function(layer, autograph=False).get_concrete_function(tf.TensorSpec([1, 1, length, 4]))
    assert max(graph_sizes.tensor_sizes(graph)) <= 8 * 8 * length


def test_memory_of_training_does_not_grow_with_the_rows():
    # The largest tensor of the traced step is that of one chunk, not that of all rows.
    layer = make_layer((1, 64, 32, 4), logits_at_once=2 * 32 * 32)

    @tf.function(autograph=False)
    def step(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(x, training=True))
        return tape.gradient(loss, layer.qkv_kernel)

    definition = step.get_concrete_function(tf.TensorSpec([1, 64, 32, 4])).graph.as_graph_def(add_shapes=True)
    sizes = [
        np.prod([d.size for d in shape.dim])
        for function in definition.library.function
        for node in function.node_def
        for shape in node.attr["_output_shapes"].list.shape
        if not shape.unknown_rank
    ]
    assert max(sizes) < 64 * 32 * 32  # half of the logits


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("span", [None, 5])
def test_folded_equals_normalised(ablation, span):
    shape = (2, 3, 9, 6)
    layer = make_layer(shape, span=span, **ABLATIONS[ablation])
    x = random_tensor(shape)
    expected = layer(x)
    normalization.fold_batch_norm(layer)
    assert_close(layer(x), expected, 1e-5)
    names = [weight.name for weight in layer.weights]
    assert not any("gamma" in name or "moving" in name for name in names)
    if layer.use_batch_norm:
        with pytest.raises(ValueError, match="inference only"):
            layer(x, training=True)


@pytest.mark.parametrize("ablation", ["all", "content_only", "query", "key"])
def test_moments_from_factors_equal_moments_from_logits(ablation):
    rows, length, heads, depth = 3, 9, 2, 4
    tables = {"query": random_tensor((length, length, depth), 3), "key": random_tensor((length, depth, length), 4)}
    absent = {"all": (), "content_only": ("query", "key"), "query": ("key",), "key": ("query",)}[ablation]
    q, k = (random_tensor((rows, 1, length, heads, depth), seed) for seed in (1, 2))
    factors = axial_core.Factors(q, k, {name: table for name, table in tables.items() if name not in absent})
    sums = axial_core.moments_in_rows(factors, tf.ones([1, length, length], tf.bool))
    expected = tf.unstack(tf.reduce_sum(sums, axis=0) / (rows * length**2))
    for actual, from_logits in zip(axial_core.moments_from_factors(factors), expected):
        assert_close(actual, from_logits)


@pytest.mark.parametrize("span", [None, 5])
def test_gradients_equal_differences_of_values(span):
    shape = (1, 2, 8, 4)
    layer = make_layer(shape, span=span)
    x = random_tensor(shape)
    weight = random_tensor((*shape[:3], 8), 7)

    def loss():
        return tf.reduce_sum(layer(x, training=True) * weight)

    with tf.GradientTape() as tape:
        value = loss()
    variables = [layer.qkv_kernel, layer.key_table, layer.value_table, layer.logit_norm.gamma]
    for variable, gradient in zip(variables, tape.gradient(value, variables)):
        direction = tf.math.l2_normalize(tf.convert_to_tensor(gradient))
        step = 1e-2
        variable.assign_add(step * direction)
        above = loss()
        variable.assign_sub(2 * step * direction)
        below = loss()
        variable.assign_add(step * direction)
        slope = tf.reduce_sum(direction * tf.convert_to_tensor(gradient))
        np.testing.assert_allclose((above - below) / (2 * step), slope, rtol=0.02)


def test_training_is_alike_in_eager_graph_and_xla():
    shape = (2, 3, 13, 6)
    x = random_tensor(shape)
    for span in (None, 5):
        layer = make_layer(shape, span=span)
        initial = layer.get_weights()
        results = []
        for jit_compile in (None, False, True):
            layer.set_weights(initial)
            run = lambda x: layer(x, training=True)  # noqa: B023, E731
            function = run if jit_compile is None else tf.function(run, jit_compile=jit_compile, autograph=False)
            results.append([function(x), *(tf.identity(w) for w in layer.non_trainable_weights)])
        for other in results[1:]:
            for actual, expected in zip(other, results[0]):
                assert_close(actual, expected)


@pytest.mark.parametrize("shape", [(2, 8, 6, 4), (2, 7, 5, 4)])
@pytest.mark.parametrize("striding", ["average_pool", "subsample"])
def test_2d_is_height_then_width_each_followed_by_its_stride(striding, shape):
    layer = AxialAttention2D({"key_depth": 4, "value_depth": 8, "num_heads": 2}, 2, striding)
    x = random_tensor(shape)
    y = layer(x)
    vary_weights(layer)
    y = layer(x)

    def shrink(x, axis):
        x = np.moveaxis(x, axis, 0)
        pairs = [x[i : i + 2] for i in range(0, len(x), 2)]
        x = np.stack([p[0] if striding == "subsample" else p.mean(axis=0) for p in pairs])
        return np.moveaxis(x, 0, axis)

    expected = shrink(layer.height_axis(x).numpy(), 1)
    expected = shrink(layer.width_axis(tf.constant(expected)).numpy(), 2)
    assert y.shape == (2, (shape[1] + 1) // 2, (shape[2] + 1) // 2, 8)
    assert_close(y, expected)


def test_stride_one_changes_no_size():
    layer = AxialAttention2D({"key_depth": 4, "value_depth": 8, "num_heads": 2})
    assert layer(tf.zeros([1, 5, 4, 3])).shape == (1, 5, 4, 8)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"axis": "depth"}, 'axis must be "height" or "width". Received: \'depth\''),
        ({"key_depth": 12}, "key_depth must be a positive multiple of num_heads=8. Received: 12."),
        ({"key_depth": 0}, "key_depth must be a positive multiple of num_heads=8. Received: 0."),
        ({"value_depth": 20}, "value_depth must be a positive multiple of num_heads=8. Received: 20."),
        ({"span": 4}, "odd and at least 3. Received: 4"),
        ({"span": 1}, "odd and at least 3. Received: 1"),
        ({"span": -5}, "odd and at least 3. Received: -5"),
        ({"num_heads": 0}, "num_heads must be at least 1. Received: 0"),
    ],
)
def test_refuses_bad_arguments(arguments, said):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        AxialAttention(**{"axis": "width", "key_depth": 16, "value_depth": 32, **arguments})
    assert said in str(error.value)


def test_needs_known_channels():
    layer = AxialAttention("width", 16, 32)
    with pytest.raises(ValueError, match="channels of the input must be known"):
        layer.build([None, None, None, None])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [({"stride": 0}, "stride must be at least 1. Received: 0"), ({"striding": "max"}, "Received: 'max'")],
)
def test_2d_refuses_bad_arguments(arguments, said):
    with pytest.raises(ValueError, match=said):
        AxialAttention2D({"key_depth": 16, "value_depth": 32}, **arguments)
