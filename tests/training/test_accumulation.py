# SPDX-License-Identifier: Apache-2.0
"""A batch that is taken in parts."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from deeplab_axial import keys
from deeplab_axial.training.optimizers import Lookahead, RAdam
from tests import cluster
from tests.training import mini


def _momentum():
    return tf_keras.optimizers.SGD(0.1, momentum=0.9)


def _train(num_steps=4, optimizer=_momentum, **kwargs):
    trainer = mini.make_trainer(optimizer(), **kwargs)
    history = trainer.train(mini.iterator(trainer), num_steps)
    return trainer, {name: values.numpy() for name, values in history.items()}


def _assert_same(found, expected, tolerance=1e-5):
    (trainer, history), (other, other_history) = found, expected
    for name, values in other_history.items():
        np.testing.assert_allclose(history[name], values, rtol=tolerance, err_msg=name)
    for weight, value in zip(trainer.model.weights, other.model.get_weights(), strict=True):
        np.testing.assert_allclose(weight.numpy(), value, rtol=tolerance, atol=tolerance, err_msg=weight.name)


@pytest.mark.parametrize(
    ("parts", "kwargs"),
    [
        (2, {}),
        (4, {"clip_norm": 0.1, "l2": 0.1, "ema_decay": 0.5}),
        (4, {"optimizer": lambda: Lookahead(RAdam(0.05, epsilon=0.01), sync_period=2)}),
        (2, {"optimizer": lambda: tf_keras.optimizers.legacy.SGD(0.1, momentum=0.9)}),
    ],
)
def test_without_batch_normalisation_parts_are_one_batch(parts, kwargs):
    expected = _train(with_norm=False, **kwargs)
    found = _train(with_norm=False, accumulation_steps=parts, **kwargs)
    _assert_same(found, expected)


def test_xla_computes_the_same():
    kwargs = {"accumulation_steps": 2, "ema_decay": 0.5}
    _assert_same(_train(use_xla=True, **kwargs), _train(**kwargs), tolerance=1e-4)


def test_batch_normalisation_sees_the_parts():
    trainer = mini.make_trainer(_momentum(), accumulation_steps=2)
    norm, first = trainer.model.norm, trainer.model.first
    images = next(iter(mini.dataset(0)))[keys.IMAGE]
    features = first(images / 127.5 - 1.0).numpy()
    mean, variance = np.zeros(8), np.ones(8)
    for part in (features[:2], features[2:]):
        mean = norm.momentum * mean + (1 - norm.momentum) * part.mean((0, 1, 2))
        variance = norm.momentum * variance + (1 - norm.momentum) * part.var((0, 1, 2))
    trainer.train(mini.iterator(trainer), 1)
    np.testing.assert_allclose(norm.moving_mean.numpy(), mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(norm.moving_variance.numpy(), variance, rtol=1e-4)


def test_drop_path_draws_anew_for_each_part():
    def losses(**kwargs):
        trainer = mini.make_trainer(tf_keras.optimizers.SGD(0.0), keep_prob=0.5, with_norm=False, **kwargs)
        batch = next(iter(mini.dataset(0)))
        same_images = {key: tf.repeat(value[:1], mini.BATCH_SIZE, axis=0) for key, value in batch.items()}
        history = trainer.train(iter(tf.data.Dataset.from_tensors(same_images).repeat()), 12)
        return history[keys.TOTAL_LOSS].numpy()

    drawn = losses(accumulation_steps=mini.BATCH_SIZE)
    # An image has one of two losses. Were the draws of all parts the same, so would be the mean of each step.
    assert len(set(np.round(drawn, 5))) > 2
    np.testing.assert_array_equal(drawn, losses(accumulation_steps=mini.BATCH_SIZE))
    assert (drawn != losses(accumulation_steps=mini.BATCH_SIZE, seed=1)).any()


def test_a_batch_that_cannot_be_shared_out():
    with pytest.raises(ValueError, match=r"replicas x accumulation_steps \(3\).*Received: 4"):
        mini.make_trainer(_momentum(), accumulation_steps=3)


def _two_devices(path: str) -> None:
    device = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(device, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
    with strategy.scope():
        optimizer = _momentum()
    trainer = mini.make_trainer(optimizer, strategy=strategy, accumulation_steps=2)
    losses = trainer.train(mini.iterator(trainer), 4)[keys.TOTAL_LOSS].numpy()
    np.savez(path, losses, *(strategy.experimental_local_results(v)[0].numpy() for v in trainer.model.weights))


def test_two_devices_with_synchronised_normalisation(tmp_path):
    path = str(tmp_path / "result.npz")
    process = cluster.Process(_two_devices, (path,), tmp_path, {"CUDA_VISIBLE_DEVICES": "-1"})
    trainer = mini.make_trainer(_momentum(), accumulation_steps=2)
    # The devices take images 0, 1 and 2, 3; so the first part of the joint batch is 0, 2.
    order = [0, 2, 1, 3]
    batches = mini.dataset(0).map(lambda batch: {key: tf.gather(value, order) for key, value in batch.items()})
    losses = trainer.train(iter(batches), 4)[keys.TOTAL_LOSS].numpy()
    result = process.finish(60)
    assert result.status == 0, result.err[-3000:]
    found = list(np.load(path).values())
    for value, expected in zip(found, [losses, *trainer.model.get_weights()], strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)
