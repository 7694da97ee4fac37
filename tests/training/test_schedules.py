# SPDX-License-Identifier: Apache-2.0
"""Learning rates against their formulas."""

import math

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from deeplab_axial.training.schedules import WarmUp, cosine, poly


def rates(schedule, steps):
    return [float(schedule(tf.constant(step, tf.int64))) for step in steps]


def test_poly_without_warm_up():
    steps = [0, 1, 50, 99, 100, 150]
    expected = [0.1 * max(0, 1 - step / 100) ** 0.9 for step in steps]
    np.testing.assert_allclose(rates(poly(0.1, 100), steps), expected, rtol=1e-5, atol=1e-9)


def test_poly_ends_at_its_end_rate():
    schedule = poly(0.1, 100, power=2.0, end_learning_rate=0.02)
    np.testing.assert_allclose(rates(schedule, [50, 100, 1000]), [0.02 + 0.08 * 0.25, 0.02, 0.02], rtol=1e-5)


def test_warm_up_rises_from_zero_and_decay_is_not_shifted():
    steps = range(0, 101)
    expected = [0.1 * step / 20 if step < 20 else 0.1 * (1 - step / 100) ** 0.9 for step in steps]
    np.testing.assert_allclose(rates(poly(0.1, 100, warmup_steps=20), steps), expected, rtol=1e-5, atol=1e-9)


def test_cosine():
    steps = [0, 5, 10, 25, 50, 100, 200]
    expected = [0.1 * s / 10 if s < 10 else 0.05 * (1 + math.cos(math.pi * min(s, 100) / 100)) for s in steps]
    np.testing.assert_allclose(rates(cosine(0.1, 100, warmup_steps=10), steps), expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("schedule", [poly(0.1, 100, 10, 0.5, 0.01), cosine(0.1, 100, 10), poly(0.1, 100)])
def test_config_round_trip_and_graph(schedule):
    copy = tf_keras.optimizers.schedules.deserialize(tf_keras.optimizers.schedules.serialize(schedule))
    assert isinstance(copy, WarmUp)
    assert copy.get_config() == schedule.get_config()
    graph, xla = tf.function(schedule), tf.function(copy, jit_compile=True)
    for step in (0, 3, 10, 70):
        assert float(graph(tf.constant(step))) == pytest.approx(float(schedule(step)), rel=1e-6)
        assert float(xla(tf.constant(step))) == pytest.approx(float(schedule(step)), rel=1e-5)


def test_wrong_steps():
    with pytest.raises(ValueError, match="Received: warmup_steps=100, total_steps=100"):
        poly(0.1, 100, warmup_steps=100)
    with pytest.raises(ValueError, match="Received: warmup_steps=-1"):
        cosine(0.1, 100, warmup_steps=-1)
    with pytest.raises(ValueError, match="Received: -1"):
        WarmUp(poly(0.1, 100), -1)
