# SPDX-License-Identifier: Apache-2.0
"""The moving average of the weights: its values, and where they are used."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from deeplab_axial.errors import InputError
from deeplab_axial.training import averaging, checkpoints
from deeplab_axial.training.optimizers import Lookahead, RAdam
from tests.training import mini

DECAY = 0.8


def _lookahead():
    return Lookahead(RAdam(0.05), sync_period=2)


def _weights(trainer):
    return [variable.numpy() for variable in trainer.model.trainable_variables]


def _averages(trainer):
    with trainer.averaged():
        return _weights(trainer)


def _assert_equal(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("make_optimizer", "kwargs"),
    [
        (_lookahead, {}),
        (_lookahead, {"accumulation_steps": 2, "use_xla": True}),
        (lambda: tf_keras.optimizers.legacy.Adam(0.05), {}),
    ],
)
def test_the_average_follows_the_weights_after_each_step(make_optimizer, kwargs):
    trainer = mini.make_trainer(make_optimizer(), ema_decay=DECAY, **kwargs)
    for variable in trainer.model.trainable_variables:  # as an initial checkpoint does, after the trainer was made
        variable.assign_add(tf.ones_like(variable) / 8)
    _assert_equal(_averages(trainer), _weights(trainer))  # nothing to evaluate yet but the weights
    expected = _weights(trainer)
    iterator = mini.iterator(trainer)
    for _ in range(5):
        trainer.train(iterator, 1)
        expected = [DECAY * mean + (1 - DECAY) * value for mean, value in zip(expected, _weights(trainer))]
        for found, value in zip(_averages(trainer), expected, strict=True):
            np.testing.assert_allclose(found, value, rtol=1e-5, atol=1e-6)


def test_training_does_not_notice_the_average():
    trainers = [mini.make_trainer(_lookahead(), **kwargs) for kwargs in ({}, {"ema_decay": DECAY})]
    for trainer in trainers:
        iterator = mini.iterator(trainer)
        trainer.train(iterator, 3)
        with trainer.averaged():
            pass
        trainer.train(iterator, 2)
    _assert_equal(*([v.numpy() for v in trainer.model.variables] for trainer in trainers))
    with trainers[0].averaged():  # has none
        _assert_equal(*map(_weights, trainers))


def test_the_weights_come_back_bit_for_bit_also_after_an_error():
    trainer = mini.make_trainer(_lookahead(), ema_decay=DECAY)
    trainer.train(mini.iterator(trainer), 3)
    weights, averages = _weights(trainer), _averages(trainer)
    assert any((ours != theirs).any() for ours, theirs in zip(weights, averages))

    def evaluate():
        with trainer.averaged():
            _assert_equal(_weights(trainer), averages)
            raise InputError("evaluation")

    with pytest.raises(InputError, match="evaluation"):
        evaluate()
    _assert_equal(_weights(trainer), weights)
    _assert_equal(_averages(trainer), averages)


def test_frozen_weights_are_their_own_average():
    trainer = mini.make_trainer(_lookahead(), part_optimizers={"first": None}, ema_decay=DECAY)
    trainer.train(mini.iterator(trainer), 3)
    kernel = trainer.model.first.kernel.numpy()
    with trainer.averaged():
        np.testing.assert_array_equal(trainer.model.first.kernel.numpy(), kernel)


def _manager(folder, trainer, step=0):
    step = tf.Variable(step, dtype=tf.int64)
    return checkpoints.Manager(str(folder), {"model": trainer.model, **trainer.objects}, step, max_to_keep=2)


def test_a_run_that_resumes_averages_on(tmp_path):
    undisturbed = mini.make_trainer(_lookahead(), keep_prob=0.5, ema_decay=DECAY)
    undisturbed.train(mini.iterator(undisturbed), 5)
    first = mini.make_trainer(_lookahead(), keep_prob=0.5, ema_decay=DECAY)
    first.train(mini.iterator(first), 3)
    _manager(tmp_path, first, 3).save()
    second = mini.make_trainer(_lookahead(), keep_prob=0.5, ema_decay=DECAY)
    _manager(tmp_path, second).restore_latest()
    second.train(mini.iterator(second, 3), 2)
    _assert_equal(_weights(second), _weights(undisturbed))
    _assert_equal(_averages(second), _averages(undisturbed))


@pytest.mark.parametrize("ema_decay", [0.0, DECAY])
def test_inference_gets_the_averages_of_a_checkpoint_that_has_them(ema_decay, tmp_path):
    trainer = mini.make_trainer(_lookahead(), ema_decay=ema_decay)
    trainer.train(mini.iterator(trainer), 3)
    path = _manager(tmp_path, trainer, 3).save()
    model = mini.MiniNetwork()
    assert averaging.restore_for_inference(path, model, "--checkpoint") == 3
    with trainer.averaged():
        _assert_equal([v.numpy() for v in model.variables], [v.numpy() for v in trainer.model.variables])


def test_a_checkpoint_from_before_the_first_step_gives_its_weights(tmp_path):
    trainer = mini.make_trainer(_lookahead(), ema_decay=DECAY)
    path = _manager(tmp_path, trainer).save()
    model = mini.MiniNetwork()
    averaging.restore_for_inference(path, model, "--checkpoint")
    _assert_equal([v.numpy() for v in model.trainable_variables], _weights(trainer))


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    trainer = mini.make_trainer(_lookahead(), ema_decay=DECAY)
    path = _manager(tmp_path, trainer).save()
    other = tf_keras.Sequential([tf_keras.layers.Dense(1, input_shape=(2,))])
    with pytest.raises(InputError, match=r"--checkpoint: .* does not fit this config"):
        averaging.restore_for_inference(path, other, "--checkpoint")


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.1])
def test_decays_out_of_range(decay):
    with pytest.raises(ValueError, match=rf"decay must lie in \(0, 1\). Received: {decay}"):
        averaging.Average([tf.Variable(1.0)], decay)
