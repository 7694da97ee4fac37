# SPDX-License-Identifier: Apache-2.0
"""Parts of the network with learning rates of their own, and frozen ones."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from deeplab_axial import keys
from deeplab_axial.training import checkpoints
from deeplab_axial.training.optimizers import Lookahead, RAdam
from tests.training import mini

OPTIMIZERS = {
    "sgd": tf_keras.optimizers.SGD,
    "legacy": tf_keras.optimizers.legacy.Adam,
    "lookahead": lambda rate: Lookahead(RAdam(rate), sync_period=2),
}


def _gradients(trainer):
    """{name: gradient} of the first batch."""
    batch = next(iter(mini.dataset(0)))
    with tf.GradientTape() as tape:
        logits = trainer.model(batch[keys.IMAGE], training=True)[keys.SEMANTIC_LOGITS]
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(batch[keys.SEMANTIC_TARGET], logits))
    return [g.numpy() for g in tape.gradient(loss, trainer.model.trainable_variables)]


def _part(trainer, variable):
    found = [p for p in ("first", "last") if any(variable is v for v in getattr(trainer.model, p).variables)]
    return found[0] if found else None


def test_each_part_takes_its_own_step():
    """The norm is that of all parts together, and clips them alike."""
    sgd = tf_keras.optimizers.SGD
    trainer = mini.make_trainer(sgd(1.0), part_optimizers={"first": sgd(0.5), "last": sgd(4.0)}, clip_norm=0.01)
    before = [v.numpy() for v in trainer.model.trainable_variables]
    gradients = _gradients(trainer)
    norm = np.sqrt(sum(np.sum(g**2) for g in gradients))
    history = trainer.train(mini.iterator(trainer), 1)
    np.testing.assert_allclose(history["gradient_norm"][0], norm, rtol=1e-4)
    rates = {None: 1.0, "first": 0.5, "last": 4.0}
    for old, variable, gradient in zip(before, trainer.model.trainable_variables, gradients):
        step = rates[_part(trainer, variable)] * gradient * 0.01 / norm
        np.testing.assert_allclose(old - variable.numpy(), step, rtol=1e-2, atol=1e-6, err_msg=variable.name)
    found = {name: values.numpy()[0] for name, values in history.items() if name.startswith("learning_rate")}
    assert found == {"learning_rate": 1.0, "learning_rate/first": 0.5, "learning_rate/last": 4.0}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_parts_with_the_same_rate_train_as_one(name):
    make = OPTIMIZERS[name]
    parts = mini.make_trainer(make(0.05), part_optimizers={"first": make(0.05), "last": make(0.05)}, clip_norm=0.5)
    whole = mini.make_trainer(make(0.05), clip_norm=0.5)
    for trainer in (parts, whole):
        trainer.train(mini.iterator(trainer), 5)
    for found, expected in zip(parts.model.get_weights(), whole.model.get_weights()):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kwargs", [{}, {"use_xla": True}, {"accumulation_steps": 2}])
def test_a_frozen_part_keeps_its_weights_and_does_not_count_for_the_norm(kwargs):
    trainer = mini.make_trainer(
        tf_keras.optimizers.SGD(0.1), part_optimizers={"first": None, "norm": None}, l2=0.1, **kwargs
    )
    network = trainer.model
    frozen = [*network.first.trainable_variables, *network.norm.trainable_variables]
    before, gradients = [v.numpy() for v in frozen], _gradients(trainer)
    means = network.norm.moving_mean.numpy()
    kept = [
        g + 0.1 * v.numpy() * ("kernel" in v.name)
        for g, v in zip(gradients, network.trainable_variables)
        if not any(v is other for other in frozen)
    ]
    history = trainer.train(mini.iterator(trainer), 3)
    for variable, value in zip(frozen, before):
        np.testing.assert_array_equal(variable.numpy(), value)
    if "accumulation_steps" not in kwargs:  # there batch normalisation sees the parts
        norm = np.sqrt(sum(np.sum(g**2) for g in kept))
        np.testing.assert_allclose(history["gradient_norm"][0], norm, rtol=1e-4)
    # Statistics of batch normalisation follow the data also where the weights are frozen.
    assert (network.norm.moving_mean.numpy() != means).any()
    assert "learning_rate/first" not in history
    assert history[keys.TOTAL_LOSS][2] < history[keys.TOTAL_LOSS][0]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_run_that_resumes_equals_an_undisturbed_one(name, tmp_path):
    def make():
        rates = [tf_keras.optimizers.schedules.PolynomialDecay(rate, 5, 0.0) for rate in (0.05, 0.5)]
        main, part = map(OPTIMIZERS[name], rates)
        return mini.make_trainer(main, keep_prob=0.5, part_optimizers={"last": part, "branch": None})

    def manager(trainer, step):
        step = tf.Variable(step, dtype=tf.int64)
        return checkpoints.Manager(str(tmp_path), {"model": trainer.model, **trainer.objects}, step, max_to_keep=2)

    undisturbed, first, second = make(), make(), make()
    expected = undisturbed.train(mini.iterator(undisturbed), 5)
    first.train(mini.iterator(first), 3)
    manager(first, 3).save()
    manager(second, 0).restore_latest()
    found = second.train(mini.iterator(second, 3), 2)
    for term, values in expected.items():
        np.testing.assert_array_equal(found[term], values[3:], err_msg=term)
    np.testing.assert_allclose(expected["learning_rate/last"], 10 * expected["learning_rate"], rtol=1e-5)
    for ours, theirs in zip(second.model.get_weights(), undisturbed.model.get_weights()):
        np.testing.assert_array_equal(ours, theirs)


def test_parts_that_are_not_there_or_leave_nothing():
    sgd = tf_keras.optimizers.SGD(0.1)
    with pytest.raises(ValueError, match=r"parts of the model\. Received: 'second'"):
        mini.make_trainer(sgd, part_optimizers={"second": None})
    parts = dict.fromkeys(("first", "norm", "branch", "last"))
    with pytest.raises(ValueError, match="main optimizer must have variables"):
        mini.make_trainer(sgd, part_optimizers=parts)
