# SPDX-License-Identifier: Apache-2.0
"""Training on several devices is training on one with the joint batch.

Synchronised batch normalisation, clipping by the norm of the summed gradients, Lookahead and averaged weights included:
losses, gradient norms, weights and moving statistics.
"""

import contextlib
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from deeplab_axial import builders, config
from deeplab_axial.layers.normalization import LogitNormalization
from tests import cluster
from tests.training import replicas

TOLERANCE = 1e-5
# On one device TensorFlow's fused batch normalisation multiplies the variance by n / (n - 1), where n is the number of
# pixels of a batch, before it moves; where it is synchronised it does not. The smallest n here is 4 * 4 * 5.
BIAS = 0.02


@contextlib.contextmanager
def _two_devices(folder, *arguments):
    """Trains on two virtual devices meanwhile."""
    path = str(folder / "result.npz")
    process = cluster.Process(replicas.two_devices, (path, *arguments), folder, {"CUDA_VISIBLE_DEVICES": "-1"})
    try:
        yield [process]
    finally:
        process.kill()


def _two_workers(folder, *arguments):
    """Trains in two processes meanwhile."""

    def of(index):
        return (str(folder / f"worker{index}" / "result.npz"), *arguments)

    return cluster.workers(replicas.one_of_several_workers, of, folder)


def _results(processes, seconds):
    for result in cluster.finish(processes, seconds):
        assert result.status == 0, result.err[-3000:]
    return [dict(np.load(process.folder / "result.npz")) for process in processes]


def _assert_same(found: dict, expected: dict, num_replicas: int, is_biased: Callable[[str], bool] = lambda name: False):
    assert set(found) == set(expected)
    assert (expected["history/gradient_norm"] > 2 * replicas.CLIP_NORM).all()
    for name, values in expected.items():
        if name.startswith("history/"):
            np.testing.assert_allclose(found[name], values, rtol=TOLERANCE, err_msg=name)
            continue
        assert found[name].shape == (num_replicas, *values.shape[1:])
        # Of a tensor the largest value counts: the small ones are differences of large ones. A bias in front of a batch
        # normalisation holds nothing but rounding errors, for its gradient is zero. A moving mean near 0 is of values
        # of the order of 1.
        scale = max(np.abs(values).max(), 0.1 if "/moving_mean" in name else 0.01)
        tolerance = BIAS if is_biased(name) else TOLERANCE
        assert np.abs(found[name] - values).max() < tolerance * scale, name


def _is_biased(name: str) -> bool:
    """Whether it is a moving variance of Keras' batch normalisation."""
    return name.endswith("/moving_variance:0") and "/logit_norm/" not in name


def test_two_devices_and_two_workers_are_one_with_the_joint_batch(tmp_path):
    arguments = (7, "lookahead")
    with _two_devices(tmp_path / "two", *arguments) as devices, _two_workers(tmp_path, *arguments) as workers:
        expected = replicas.train(tf.distribute.get_strategy(), *arguments)
        _assert_same(*_results(devices, 90), expected, num_replicas=2)
        for found in _results(workers, 90):
            _assert_same(found, expected, num_replicas=1)


@pytest.mark.slow
def test_an_axial_network_on_two_devices_and_on_two_workers(tmp_path, scene_records):
    arguments = (7, "lookahead", scene_records.train)
    expected = replicas.train(tf.distribute.get_strategy(), *arguments)
    with _two_devices(tmp_path / "two", *arguments) as devices:
        (on_devices,) = _results(devices, 900)
    _assert_same(on_devices, expected, 2, _is_biased)
    with _two_workers(tmp_path, *arguments) as workers:
        on_workers = _results(workers, 900)
    for found in on_workers:
        _assert_same(found, expected, 1, _is_biased)
        first = {name: values[:1] if name.split("/")[0] != "history" else values for name, values in on_devices.items()}
        _assert_same(found, first, 1)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        (
            "model_options.backbone.name=swidernet",
            "model_options.backbone.flavor=deeplab2",
            "model_options.backbone.use_sac_beyond_stride=32",
        ),
    ],
)
def test_every_normalisation_is_synchronised_where_there_are_replicas(overrides):
    options = config.load(replicas.TINY, ["train_dataset_options.file_pattern=unused", *overrides])
    kinds = (tf_keras.layers.BatchNormalization, LogitNormalization)
    for num_replicas in (1, 2):
        model = builders.build_model(options, num_replicas)
        layers = [layer for layer in model.submodules if isinstance(layer, kinds)]
        assert len(layers) > 30
        assert any(isinstance(layer, LogitNormalization) for layer in layers) == (not overrides)
        assert [layer.name for layer in layers if layer.synchronized != (num_replicas > 1)] == []
