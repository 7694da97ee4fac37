# SPDX-License-Identifier: Apache-2.0
"""What tests of layers share: comparison relative to the largest value, and weights that are not all 0 or 1."""

from typing import Any

import numpy as np
import tensorflow as tf


def assert_close(actual: Any, expected: Any, relative: float = 1e-4) -> None:
    """Asserts that two arrays differ by at most `relative` times the largest magnitude in `expected`."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    assert np.isfinite(actual).all()
    difference = np.abs(actual - expected).max(initial=0) / max(np.abs(expected).max(initial=0), 1e-30)
    assert difference <= relative, f"differs by {difference:.2e} of the largest value"


def assert_nest_close(actual: Any, expected: Any, relative: float = 1e-4) -> None:
    """`assert_close` for each tensor of two nests."""
    tf.nest.assert_same_structure(actual, expected)
    for a, b in zip(tf.nest.flatten(actual), tf.nest.flatten(expected)):
        assert_close(a, b, relative)


def vary_weights(layer: tf.Module, seed: int = 0) -> None:
    """Moves normalisations and biases off their initial values, which would hide much; kernels stay random."""
    rng = np.random.default_rng(seed)
    for weight in layer.weights:
        name = weight.name.split("/")[-1].split(":")[0]
        if name in ("gamma", "moving_variance"):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        elif name in ("beta", "moving_mean", "bias"):
            weight.assign(0.2 * rng.standard_normal(weight.shape))


def random_tensor(shape: tuple[int, ...], seed: int = 0) -> tf.Tensor:
    """Standard normal float32."""
    return tf.constant(np.random.default_rng(seed).standard_normal(shape), tf.float32)
