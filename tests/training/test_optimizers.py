# SPDX-License-Identifier: Apache-2.0
"""RAdam and Lookahead against numpy, and their arguments."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from deeplab_axial.training.optimizers import Lookahead, RAdam, first_rectified_step
from deeplab_axial.training.schedules import poly

SHAPES = [(4, 3), (3,), ()]
INNER = {
    "radam": lambda: RAdam(1e-2),
    "adam": lambda: tf_keras.optimizers.Adam(1e-2),
    "adamw": lambda: tf_keras.optimizers.AdamW(1e-2),
    "sgd": lambda: tf_keras.optimizers.SGD(1e-2, momentum=0.9, nesterov=True),
}


def numpy_reference(
    values,
    gradients,
    learning_rate,
    beta_1=0.9,
    beta_2=0.999,
    epsilon=1e-7,
    threshold=5.0,
    decay=0.0,
    sync_period=None,
    slow_step_size=0.5,
):
    """Returns the values after each step of the papers' algorithms, in float64; `sync_period` None is RAdam alone."""
    values = [np.array(value, np.float64) for value in values]
    slow = [value.copy() for value in values]
    m = [np.zeros_like(value) for value in values]
    v = [np.zeros_like(value) for value in values]
    longest = 2 / (1 - beta_2) - 1
    history = []
    for t, step_gradients in enumerate(gradients, start=1):
        length = longest - 2 * t * beta_2**t / (1 - beta_2**t)
        for i, gradient in enumerate(step_gradients):
            m[i] = beta_1 * m[i] + (1 - beta_1) * gradient
            v[i] = beta_2 * v[i] + (1 - beta_2) * gradient**2
            step = m[i] / (1 - beta_1**t)
            if length >= threshold:
                r = np.sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))
                step = r * step / (np.sqrt(v[i] / (1 - beta_2**t)) + epsilon)
            values[i] = values[i] - learning_rate(t - 1) * (step + decay * values[i])
            if sync_period is not None and t % sync_period == 0:
                slow[i] = slow[i] + slow_step_size * (values[i] - slow[i])
                values[i] = slow[i]
        history.append(list(values))
    return history


def make_problem(steps=50, seed=0):
    rng = np.random.default_rng(seed)
    values = [rng.normal(size=shape).astype(np.float32) for shape in SHAPES]
    gradients = [[rng.normal(size=shape).astype(np.float32) for shape in SHAPES] for _ in range(steps)]
    return values, gradients


def run(optimizer, variables, gradients, **function_options):
    """Returns the values after each step, in one tf.function with gradients as its arguments."""

    @tf.function(**function_options)
    def step(*step_gradients):
        optimizer.apply_gradients(zip(step_gradients, variables))

    history = []
    for step_gradients in gradients:
        step(*[tf.constant(gradient) for gradient in step_gradients])
        history.append([variable.numpy() for variable in variables])
    assert step.experimental_get_tracing_count() <= 2  # the first call, which makes variables, and all others
    return history


def assert_close(history, expected, rtol=1e-5, atol=1e-6):
    assert len(history) == len(expected)
    for step, (actual_values, expected_values) in enumerate(zip(history, expected), start=1):
        for actual, value in zip(actual_values, expected_values):
            np.testing.assert_allclose(actual, value, rtol, atol, err_msg=f"step {step}")


def assert_equal(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_radam_equals_numpy(jit_compile):
    values, gradients = make_problem()
    variables = [tf.Variable(value) for value in values]
    history = run(RAdam(1e-2), variables, gradients, jit_compile=jit_compile)
    assert_close(history, numpy_reference(values, gradients, lambda step: 1e-2))


def test_radam_with_other_options_equals_numpy():
    values, gradients = make_problem()
    options = {"beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3}
    optimizer = RAdam(1e-2, sma_threshold=6.0, weight_decay=0.1, **options)
    history = run(optimizer, [tf.Variable(value) for value in values], gradients)
    assert_close(history, numpy_reference(values, gradients, lambda step: 1e-2, threshold=6.0, decay=0.1, **options))


def test_radam_stays_exact_for_long_runs():
    optimizer = RAdam()
    for step in (1, 2, 5, 6, 7, 100, 10_000, 1_000_000):
        scale, offset, zero = optimizer._step_coefficients(tf.constant(step, tf.int64)).numpy()
        powers = 1 - 0.9**step, 1 - 0.999**step
        assert zero == 0
        if step <= 5:
            assert np.float32(0.125) * scale / (np.float32(1e6) + offset) == pytest.approx(0.125 / powers[0], rel=1e-6)
            continue
        length = 1999 - 2 * step * 0.999**step / powers[1]
        r = np.sqrt((length - 4) * (length - 2) * 1999 / (1995 * 1997 * length))
        assert scale == pytest.approx(r * powers[1] ** 0.5 / powers[0], rel=1e-4)
        assert offset == pytest.approx(1e-7 * powers[1] ** 0.5, rel=1e-6)


def test_first_rectified_step():
    assert first_rectified_step(0.999, 5.0) == 6
    assert first_rectified_step(0.5, 5.0) > 10**9  # the average is never longer than 3


def test_radam_equals_momentum_sgd_when_never_rectified():
    values, gradients = make_problem(steps=20)
    variables = [tf.Variable(value) for value in values]
    history = run(RAdam(1e-2, beta_1=0.0, beta_2=0.5), variables, gradients)
    expected = np.cumsum([[-1e-2 * g[0]] for g in gradients], axis=0)[:, 0] + values[0]
    np.testing.assert_allclose([values[0] for values in history], expected, rtol=1e-5, atol=1e-6)


def test_radam_takes_indexed_slices():
    variables = [tf.Variable(tf.ones([4, 2])) for _ in range(2)]
    optimizers = [RAdam(0.1), RAdam(0.1)]
    values, indices = tf.constant([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), tf.constant([1, 3, 1])
    dense = tf.constant([[0, 0], [6, 8], [0, 0], [3, 4]], tf.float32)
    for _ in range(8):
        optimizers[0].apply_gradients([(tf.IndexedSlices(values, indices, tf.constant([4, 2])), variables[0])])
        optimizers[1].apply_gradients([(dense, variables[1])])
    np.testing.assert_array_equal(variables[0], variables[1])


def test_weight_decay_leaves_excluded_variables_alone():
    kernel, gamma = tf.Variable(tf.ones([3]), name="kernel"), tf.Variable(tf.ones([3]), name="gamma")
    optimizer = Lookahead(RAdam(0.1, weight_decay=0.5), sync_period=100)
    optimizer.exclude_from_weight_decay(var_names=["gamma"])
    optimizer.apply_gradients([(tf.zeros([3]), kernel), (tf.zeros([3]), gamma)])
    np.testing.assert_allclose(kernel, 1 - 0.1 * 0.5)
    np.testing.assert_array_equal(gamma, 1)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_lookahead_equals_numpy_with_schedule(jit_compile):
    values, gradients = make_problem()
    schedule = poly(1e-2, total_steps=60, warmup_steps=10)
    variables = [tf.Variable(value) for value in values]
    history = run(Lookahead(RAdam(schedule)), variables, gradients, jit_compile=jit_compile)
    rates = [float(schedule(step)) for step in range(50)]
    assert_close(history, numpy_reference(values, gradients, lambda step: rates[step], sync_period=6))


@pytest.mark.parametrize("name", INNER)
def test_lookahead_is_its_inner_optimizer_between_synchronisations(name):
    values, gradients = make_problem(steps=7)
    plain, wrapped = ([tf.Variable(value) for value in values] for _ in range(2))
    expected = run(INNER[name](), plain, gradients)
    history = run(Lookahead(INNER[name](), sync_period=6, slow_step_size=0.3), wrapped, gradients)
    for step in range(5):
        assert_equal(history[step], expected[step])
    assert_close([history[5]], [[v + 0.3 * (e - v) for v, e in zip(values, expected[5])]])
    assert_equal(
        [np.sign(history[6][0] - history[5][0])], [np.sign(expected[6][0] - expected[5][0])]
    )  # the moments go on


def test_eager_equals_graph():
    values, gradients = make_problem(steps=15)
    graph = [tf.Variable(value) for value in values]
    history = run(Lookahead(RAdam(1e-2)), graph, gradients)
    eager = [tf.Variable(value) for value in values]
    optimizer = Lookahead(RAdam(1e-2))
    for step_gradients, expected in zip(gradients, history):
        optimizer.apply_gradients(zip(map(tf.constant, step_gradients), eager))
        assert_close([[v.numpy() for v in eager]], [expected], rtol=1e-6, atol=1e-7)


def test_slow_weights_start_from_values_loaded_after_build():
    variable = tf.Variable([100.0])
    optimizer = Lookahead(tf_keras.optimizers.SGD(1.0), sync_period=2)
    optimizer.build([variable])

    @tf.function
    def step():
        optimizer.apply_gradients([(tf.constant([1.0]), variable)])

    step.get_concrete_function()
    variable.assign([10.0])  # as a pretrained checkpoint would
    step()
    step()
    np.testing.assert_array_equal(variable, [9.0])  # half of the way from 10 to 8


def test_none_gradients_and_wrong_variables():
    used, unused = tf.Variable([1.0]), tf.Variable([1.0])
    optimizer = Lookahead(tf_keras.optimizers.SGD(1.0), sync_period=1)
    optimizer.apply_gradients([(tf.constant([1.0]), used), (None, unused)])
    np.testing.assert_array_equal([used, unused], [[0.5], [1.0]])
    with pytest.raises(ValueError, match=r"needs the 2 variables.*Received: 1 variables"):
        optimizer.apply_gradients([(tf.constant([1.0]), used)])
    with pytest.raises(ValueError, match=r"unknown among them: .*other"):
        optimizer.apply_gradients([(tf.constant([1.0]), used), (None, tf.Variable([1.0], name="other"))])


def test_learning_rate_and_iterations_are_the_inner_ones():
    variable = tf.Variable([1.0])
    optimizer = Lookahead(RAdam(0.25))
    assert optimizer.learning_rate.numpy() == 0.25
    optimizer.learning_rate = 0.5
    assert optimizer.optimizer.learning_rate.numpy() == 0.5
    for _ in range(3):
        optimizer.minimize(lambda: variable**2, [variable])
    assert optimizer.iterations.numpy() == 3
    scheduled = Lookahead(RAdam(poly(1.0, total_steps=10, power=1.0)))
    for _ in range(3):
        scheduled.minimize(lambda: variable**2, [variable])
    assert scheduled.learning_rate.numpy() == pytest.approx(0.8)  # of the third step, step number 2


def test_clipping_belongs_to_the_inner_optimizer():
    variable = tf.Variable([3.0, 4.0])
    optimizer = Lookahead(tf_keras.optimizers.SGD(1.0, global_clipnorm=1.0))
    optimizer.apply_gradients([(tf.constant([30.0, 40.0]), variable)])
    np.testing.assert_allclose(variable, [2.4, 3.2], rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: RAdam(beta_1=1.0), ValueError, r"Received: beta_1=1\.0"),
        (lambda: RAdam(beta_2=0.0), ValueError, r"beta_2=0\.0"),
        (lambda: RAdam(sma_threshold=4.0), ValueError, r"Received: 4\.0"),
        (lambda: Lookahead("adam"), TypeError, "Received: 'adam'"),
        (lambda: Lookahead(tf_keras.optimizers.legacy.SGD()), TypeError, "legacy"),
        (lambda: Lookahead(RAdam(), sync_period=0), ValueError, "Received: 0"),
        (lambda: Lookahead(RAdam(), slow_step_size=1.5), ValueError, r"Received: 1\.5"),
    ],
)
def test_wrong_arguments(make, error, match):
    with pytest.raises(error, match=match):
        make()


@pytest.mark.parametrize("name", INNER)
def test_config_round_trip(name):
    inner = INNER[name]()
    if isinstance(tf_keras.optimizers.deserialize(tf_keras.optimizers.serialize(inner)), str):
        pytest.skip("tf_keras 2.15 makes the string 'AdamW' of the config of its own AdamW")
    optimizer = Lookahead(inner, sync_period=4, slow_step_size=0.25)
    copy = tf_keras.optimizers.deserialize(tf_keras.optimizers.serialize(optimizer))
    assert isinstance(copy, Lookahead)
    assert type(copy.optimizer) is type(optimizer.optimizer)
    assert copy.get_config() == optimizer.get_config()
    assert (copy.sync_period, copy.slow_step_size) == (4, 0.25)


def test_radam_config_round_trip_with_schedule():
    optimizer = RAdam(poly(0.1, 10, 2), beta_1=0.8, sma_threshold=6.0, weight_decay=0.1, global_clipnorm=1.0)
    copy = tf_keras.optimizers.deserialize(tf_keras.optimizers.serialize(optimizer))
    assert isinstance(copy, RAdam)
    assert copy.get_config() == optimizer.get_config()
    assert copy.sma_threshold == 6.0
