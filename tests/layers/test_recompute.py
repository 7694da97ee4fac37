# SPDX-License-Identifier: Apache-2.0
"""Parts that are computed again in the backward pass: the same numbers, no second update, and really computed again."""

import functools
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from deeplab_axial.layers import convolution, normalization, recompute, row_chunks, target
from tests.compare import assert_nest_close, random_tensor, vary_weights

RUNNERS = {
    "eager": lambda f: f,
    "graph": lambda f: tf.function(f, autograph=False),
    "xla": lambda f: tf.function(f, autograph=False, jit_compile=True),
}


def _layer(**kwargs) -> convolution.ConvBN:
    layer = convolution.ConvBN(4, 3, norm={"momentum": 0.5}, **kwargs)
    layer(tf.zeros([1, 5, 5, 4]))
    vary_weights(layer)
    layer.conv.kernel.assign(random_tensor(layer.conv.kernel.shape, 1))
    return layer


def _step(layer, x, recomputed):
    """Loss and gradients of two rounds through a layer."""

    def function(x):
        return layer(x, training=True)

    with tf.GradientTape() as tape:
        tape.watch(x)
        y = x
        for _ in range(2):
            y = recompute.recompute(function, y) if recomputed else function(y)
        loss = tf.reduce_sum(tf.square(y))
    return loss, tape.gradient(loss, [x, *layer.trainable_variables])


@pytest.mark.parametrize("runner", RUNNERS)
def test_same_loss_and_gradients_and_one_update(runner):
    x = random_tensor((2, 5, 6, 4))
    results, moving = [], []
    for recomputed in (False, True):
        layer = _layer()
        results.append(RUNNERS[runner](functools.partial(_step, layer, recomputed=recomputed))(x))
        moving.append([v.numpy() for v in layer.non_trainable_variables])
    assert_nest_close(results[1], results[0], 1e-5)
    assert_nest_close(moving[1], moving[0], 1e-6)


def test_logit_normalization_updates_once():
    layer = normalization.LogitNormalization(2, 3, {"momentum": 0.5})
    mean, second_moment = random_tensor((2, 3)), 3.0 + tf.abs(random_tensor((2, 3), 1))
    layer(mean, second_moment)
    with tf.GradientTape() as tape:
        tape.watch(mean)
        y = recompute.recompute(lambda *moments: layer(*moments, training=True), mean, second_moment)
    assert tape.gradient(y, mean) is not None
    np.testing.assert_allclose(layer.moving_mean, 0.5 * mean, rtol=1e-6)
    np.testing.assert_allclose(layer.moving_variance, 0.5 + 0.5 * (second_moment - mean**2), rtol=1e-5)


def test_the_function_can_tell_the_two_passes_apart():
    seen = []

    def function(x):
        seen.append(recompute.is_recomputing())
        return 2.0 * x

    with tf.GradientTape() as tape:
        x = tf.constant(1.0)
        tape.watch(x)
        y = recompute.recompute(function, x)
    assert seen == [False]
    assert tape.gradient(y, x) == 2.0
    assert seen == [False, True]
    assert not recompute.is_recomputing()


def test_an_error_in_the_second_pass_leaves_no_trace():
    def function(x):
        if recompute.is_recomputing():
            raise RuntimeError("second pass")
        return x

    with tf.GradientTape() as tape:
        x = tf.constant(1.0)
        tape.watch(x)
        y = recompute.recompute(function, x)
    with pytest.raises(RuntimeError, match="second pass"):
        tape.gradient(y, x)
    assert not recompute.is_recomputing()


def test_several_inputs_slices_and_a_variable_that_is_not_used():
    table, unused = tf.Variable(random_tensor((5, 3))), tf.Variable(1.0)

    def function(a, b):
        return tf.gather(table, [1, 1, 4]) * a + b + 0.0 * tf.stop_gradient(unused)

    with tf.GradientTape() as tape:
        a, b = random_tensor((3, 3), 1), random_tensor((3,), 2)
        tape.watch([a, b])
        y = recompute.recompute(function, a, b)
    of_a, of_b, of_table = tape.gradient(y, [a, b, table])
    np.testing.assert_allclose(of_a, tf.gather(table, [1, 1, 4]))
    np.testing.assert_allclose(of_b, [3, 3, 3])
    expected = np.zeros((5, 3))
    expected[1], expected[4] = a[0] + a[1], a[2]
    np.testing.assert_allclose(of_table, expected, rtol=1e-6)


def test_recomputations_nest():
    layer = _layer()

    def inner(x):
        return recompute.recompute(lambda x: tf.tanh(layer(x, training=True)), x)

    def gradients(function):
        layer.batch_norm.moving_mean.assign(tf.zeros([4]))
        with tf.GradientTape() as tape:
            x = random_tensor((2, 5, 6, 4))
            tape.watch(x)
            loss = tf.reduce_sum(tf.square(function(x)))
        return tape.gradient(loss, [x, *layer.trainable_variables]), layer.batch_norm.moving_mean.numpy()

    assert_nest_close(gradients(lambda x: recompute.recompute(inner, x)), gradients(inner), 1e-5)


@pytest.mark.parametrize("runner", ["graph", "xla"])
def test_inside_a_loop(runner):
    layer, images = _layer(), random_tensor((3, 2, 5, 6, 4))

    def accumulate(images):
        def body(i, sums):
            _, gradients = _step(layer, images[i], True)
            return i + 1, [a + b for a, b in zip(sums, gradients[1:])]

        start = [tf.zeros(v.shape) for v in layer.trainable_variables]
        return tf.while_loop(lambda i, _: i < 3, body, (tf.constant(0), start))[1]

    found = RUNNERS[runner](accumulate)(images)
    parts = [_step(layer, image, False)[1][1:] for image in images]
    assert_nest_close(found, [tf.add_n(part) for part in zip(*parts)], 1e-5)


def test_not_finite_gradients_stay_not_finite_and_others_finite():
    for value in (np.inf, -np.inf, np.nan, 3e38, 0.0):
        with tf.GradientTape() as tape:
            x = tf.constant([1.0, 2.0])
            tape.watch(x)
            y = recompute.recompute(lambda x: tf.identity(x), x)
        upstream = tf.constant([value, 1.0])
        np.testing.assert_array_equal(tape.gradient(y, x, output_gradients=upstream), upstream)


def test_xla_does_not_merge_the_two_passes():
    def chain(x):
        for _ in range(4):
            x = tf.tanh(1.1 * x)
        return x

    def gradient(x, recomputed):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = recompute.recompute(chain, x) if recomputed else chain(x)
            loss = tf.reduce_sum(tf.sin(y))
        return tape.gradient(loss, x)

    def count(recomputed):
        function = tf.function(lambda x: gradient(x, recomputed), autograph=False, jit_compile=True)
        program = function.experimental_get_compiler_ir(tf.zeros([8, 8]))(stage="optimized_hlo")
        return program.count(" tanh(")

    assert count(recomputed=False) == 4
    assert count(recomputed=True) == 8


def test_a_single_chunk_of_rows_is_recomputed_on_accelerators_alone():
    passes = []

    def function(rows, shared):
        passes.append(recompute.is_recomputing())
        return tf.tanh(rows["x"]) * shared["scale"]

    def gradients():
        with tf.GradientTape() as tape:
            x, scale = random_tensor((4, 3)), tf.constant(2.0)
            tape.watch([x, scale])
            y = row_chunks.map_rows(function, {"x": x}, {"scale": scale}, 8, tf.float32)
        return tape.gradient(y, [x, scale])

    expected = gradients()
    assert passes == [False]
    with target.assume_accelerator():
        assert_nest_close(gradients(), expected, 1e-6)
    assert passes == [False, False, True]


REPLICAS = """
import numpy as np
import tensorflow as tf
from deeplab_axial.layers import recompute
from deeplab_axial.layers.residual_block import BottleneckBlock
from tests.compare import assert_nest_close, random_tensor, vary_weights

device = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(device, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
ATTENTION = {"key_depth": 8, "value_depth": 16, "num_heads": 2}
images = random_tensor((4, 5, 6, 6))

def make(synchronized):
    block = BottleneckBlock(4, attention=ATTENTION, norm={"momentum": 0.5, "synchronized": synchronized})
    block(images)
    vary_weights(block)
    return block

def gradients(block, x, recomputed):
    run = lambda x: block(x, training=True)
    with tf.GradientTape() as tape:
        y = recompute.recompute(run, x) if recomputed else run(x)
        loss = tf.reduce_sum(tf.square(y))
    return tape.gradient(loss, block.trainable_variables, unconnected_gradients="zero")

with strategy.scope():
    replicated = make(True)
joint = make(False)
for weight, other in zip(replicated.weights, joint.weights):
    weight.assign(other)

@tf.function(autograph=False)
def step():
    def replica(x):
        context = tf.distribute.get_replica_context()
        return context.all_reduce("SUM", gradients(replicated, x, True))
    halves = strategy.experimental_distribute_values_from_function(
        lambda context: images[2 * context.replica_id_in_sync_group :][:2]
    )
    return [strategy.experimental_local_results(g)[0] for g in strategy.run(replica, args=(halves,))]

found = step()
for ours, theirs in zip(found, gradients(joint, images, False), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3)
moving = [v.numpy() for v in replicated.non_trainable_variables]
expected = [v.numpy() for v in joint.non_trainable_variables]
assert_nest_close(moving, expected, 1e-2)
print("done")
"""


def test_replicas_with_synchronised_normalisation():
    result = subprocess.run([sys.executable, "-c", REPLICAS], capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.strip() == "done"
