# SPDX-License-Identifier: Apache-2.0
"""What training needs of RAdam and Lookahead: exact restoring, tf.function, XLA, bfloat16, replicas."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from deeplab_axial.training.optimizers import Lookahead, RAdam
from deeplab_axial.training.schedules import poly
from tests.training.test_optimizers import assert_close, assert_equal, make_problem, run

ROOT = pathlib.Path(__file__).resolve().parents[2]


def make_model(policy="float32"):
    tf_keras.utils.set_random_seed(1)
    layers = [tf_keras.layers.Dense(8, "relu", dtype=policy), tf_keras.layers.Dense(2, dtype=policy)]
    return tf_keras.Sequential([tf_keras.Input([4]), *layers])


def make_step(model, optimizer, **function_options):
    @tf.function(**function_options)
    def step(seed):
        x = tf.random.stateless_normal([16, 4], [seed, 0])
        with tf.GradientTape() as tape:
            y = tf.cast(model(x, training=True), tf.float32)
            loss = tf.reduce_mean((y - tf.stack([tf.sin(x[:, 0]), x[:, 1] * x[:, 2]], axis=1)) ** 2)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))
        return loss

    return step


def state_of(model, optimizer):
    return [v.numpy() for v in [*model.weights, *optimizer.variables]]


def make_optimizer():
    return Lookahead(RAdam(poly(1e-2, total_steps=100, warmup_steps=5), weight_decay=1e-3))


def train(steps, model, optimizer):
    step = make_step(model, optimizer)
    for seed in steps:
        step(tf.constant(seed))


@pytest.mark.parametrize("when", ["deferred", "deferred, asserted", "built"])
def test_restored_run_equals_undisturbed_run(tmp_path, when):
    model, optimizer = make_model(), make_optimizer()
    train(range(9), model, optimizer)  # not on a synchronisation: the slow copies differ from the weights
    path = tf.train.Checkpoint(model=model, optimizer=optimizer).save(str(tmp_path / "a"))
    train(range(9, 20), model, optimizer)

    model_2, optimizer_2 = make_model(), make_optimizer()
    checkpoint = tf.train.Checkpoint(model=model_2, optimizer=optimizer_2)
    if when == "built":
        optimizer_2.build(model_2.trainable_variables)
    status = checkpoint.read(path)
    if when != "deferred":
        # Looks through the objects before the optimizer is built, which must not hide what comes later.
        status.assert_existing_objects_matched()
    train(range(9, 12), model_2, optimizer_2)
    # Once more through a file, from objects restored that way.
    path = checkpoint.save(str(tmp_path / "b"))
    model_3, optimizer_3 = make_model(), make_optimizer()
    optimizer_3.build(model_3.trainable_variables)
    tf.train.Checkpoint(model=model_3, optimizer=optimizer_3).restore(path).assert_consumed()
    train(range(12, 20), model_3, optimizer_3)
    assert optimizer_3.iterations.numpy() == 20
    assert_equal(state_of(model_3, optimizer_3), state_of(model, optimizer))


def resume_and_dump(path, dump):
    """Continues from the checkpoint `path` to step 20 and writes the state to the file `dump`; for another process."""
    model, optimizer = make_model(), make_optimizer()
    tf.train.Checkpoint(model=model, optimizer=optimizer).restore(path)
    train(range(9, 20), model, optimizer)
    np.savez(dump, *state_of(model, optimizer))


def call_in_new_process(name, *arguments):
    """Calls a function of this module in a fresh Python."""
    call = f"{name}({', '.join(map(repr, arguments))})"
    code = f"from tests.training import test_optimizers_state as module; module.{call}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


def test_restored_in_another_process_equals_undisturbed_run(tmp_path):
    model, optimizer = make_model(), make_optimizer()
    train(range(9), model, optimizer)
    path = tf.train.Checkpoint(model=model, optimizer=optimizer).save(str(tmp_path / "a"))
    train(range(9, 20), model, optimizer)
    call_in_new_process("resume_and_dump", path, str(tmp_path / "state.npz"))
    with np.load(tmp_path / "state.npz") as state:
        assert_equal(list(state.values()), state_of(model, optimizer))


def test_set_weights_copies_the_whole_state():
    model, optimizer = make_model(), make_optimizer()
    train(range(9), model, optimizer)
    model_2, optimizer_2 = make_model(), make_optimizer()
    optimizer_2.build(model_2.trainable_variables)
    optimizer_2.set_weights([v.numpy() for v in optimizer.variables])
    model_2.set_weights(model.get_weights())
    for pair in ((model, optimizer), (model_2, optimizer_2)):
        train(range(9, 15), *pair)
    assert_equal(state_of(model_2, optimizer_2), state_of(model, optimizer))


def test_compile_fit_save_and_load(tmp_path):
    model = make_model()
    model.compile(make_optimizer(), "mse")
    x, y = np.random.default_rng(0).normal(size=(32, 4)), np.zeros([32, 2])
    model.fit(x, y, batch_size=4, epochs=1, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = tf_keras.models.load_model(tmp_path / "model.keras")
    assert_equal(state_of(loaded, loaded.optimizer), state_of(model, model.optimizer))


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_trains(policy, jit_compile):
    model, optimizer = make_model(policy), Lookahead(RAdam(2e-2))
    step = make_step(model, optimizer, jit_compile=jit_compile)
    losses = [float(step(tf.constant(0))) for _ in range(150)]
    assert losses[-1] < 0.5 * losses[0]
    assert all(variable.dtype == tf.float32 for variable in model.trainable_variables)
    assert {v.dtype for v in optimizer.variables} == {tf.float32, tf.int64, tf.bool}
    assert step.experimental_get_tracing_count() <= 2  # the first call, which makes variables, and all others


def compare_two_replicas_with_one():
    """Fails unless two replicas, each with a part of the gradient, take the steps of one; for another process."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    values, gradients = make_problem(steps=14)
    expected = run(make_optimizer(), [tf.Variable(value) for value in values], gradients)
    stacked = [tf.stack([step[k] for step in gradients]) for k in range(len(values))]
    for sum_outside in (False, True):
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        assert strategy.num_replicas_in_sync == 2
        with strategy.scope():
            variables, optimizer = [tf.Variable(value) for value in values], make_optimizer()
        loop = make_replica_loop(strategy, variables, optimizer, sum_outside)
        loop([tensor[:7] for tensor in stacked])
        loop([tensor[7:] for tensor in stacked])
        assert optimizer.iterations.numpy() == 14
        assert_close([[v.numpy() for v in variables]], expected[-1:], rtol=1e-6, atol=1e-7)
        for variable in [*variables, *optimizer.variables]:
            first, second = strategy.experimental_local_results(variable)
            np.testing.assert_array_equal(first.numpy(), second.numpy())


def make_replica_loop(strategy, variables, optimizer, sum_outside):
    def replica_step(gradients):
        context = tf.distribute.get_replica_context()
        share = 0.25 + 0.5 * tf.cast(context.replica_id_in_sync_group, tf.float32)  # 1/4 and 3/4
        gradients = [share * gradient for gradient in gradients]
        if sum_outside:
            gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        optimizer.apply_gradients(zip(gradients, variables), skip_gradients_aggregation=sum_outside)

    @tf.function
    def loop(stacked):
        for i in tf.range(7):
            strategy.run(replica_step, args=([tensor[i] for tensor in stacked],))

    return loop


def test_two_replicas_equal_one():
    # Virtual devices must be set before TensorFlow makes any.
    call_in_new_process("compare_two_replicas_with_one")
