# SPDX-License-Identifier: Apache-2.0
"""The training step: what it computes, clips and draws."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from deeplab_axial import keys
from tests.training import mini


def test_the_loss_falls():
    trainer = mini.make_trainer(tf_keras.optimizers.Adam(0.05))
    history = trainer.train(mini.iterator(trainer), 30)
    assert set(history) == set(mini.TERMS)
    losses = history[keys.TOTAL_LOSS].numpy()
    assert losses.shape == (30,)
    assert losses[-1] < 0.1 * losses[0]
    np.testing.assert_array_equal(losses, history[keys.SEMANTIC_LOSS])


def test_many_steps_at_a_time_are_the_same_as_one_by_one():
    together = mini.make_trainer(tf_keras.optimizers.SGD(0.1), keep_prob=0.5)
    history = together.train(mini.iterator(together), 4)
    alone = mini.make_trainer(tf_keras.optimizers.SGD(0.1), keep_prob=0.5)
    iterator = mini.iterator(alone)
    singly = [alone.train(iterator, 1)[keys.TOTAL_LOSS].numpy()[0] for _ in range(4)]
    np.testing.assert_array_equal(history[keys.TOTAL_LOSS], singly)
    for ours, theirs in zip(together.model.get_weights(), alone.model.get_weights()):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("clip_norm", [None, 1e-3, 1e3])
def test_one_step_of_gradient_descent(clip_norm):
    trainer = mini.make_trainer(tf_keras.optimizers.SGD(1.0), clip_norm=clip_norm)
    before = [v.numpy() for v in trainer.model.trainable_variables]
    batch = next(iter(mini.dataset(0)))
    with tf.GradientTape() as tape:
        logits = trainer.model(batch[keys.IMAGE], training=True)[keys.SEMANTIC_LOGITS]
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(batch[keys.SEMANTIC_TARGET], logits))
    gradients = [g.numpy() for g in tape.gradient(loss, trainer.model.trainable_variables)]
    norm = np.sqrt(sum(np.sum(g**2) for g in gradients))

    history = trainer.train(mini.iterator(trainer), 1)
    np.testing.assert_allclose(history[keys.TOTAL_LOSS][0], loss, rtol=1e-5)
    # The norm that is reported is the one before clipping: a jump in it must show.
    np.testing.assert_allclose(history["gradient_norm"][0], norm, rtol=1e-4)
    factor = 1.0 if clip_norm is None else min(1.0, clip_norm / norm)
    for old, new, gradient in zip(before, trainer.model.trainable_variables, gradients):
        np.testing.assert_allclose(old - new.numpy(), factor * gradient, rtol=1e-3, atol=1e-6)


def test_xla_computes_the_same():
    plain = mini.make_trainer(tf_keras.optimizers.SGD(0.1))
    compiled = mini.make_trainer(tf_keras.optimizers.SGD(0.1), use_xla=True)
    expected = plain.train(mini.iterator(plain), 3)
    found = compiled.train(mini.iterator(compiled), 3)
    for name in mini.TERMS:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-3)


def test_what_drop_path_draws_depends_on_seed_and_step_alone():
    def losses(seed):
        trainer = mini.make_trainer(tf_keras.optimizers.SGD(0.0), keep_prob=0.5, seed=seed)
        same_batch = iter(mini.dataset(0).take(1).repeat())
        return trainer.train(same_batch, 8)[keys.TOTAL_LOSS].numpy()

    drawn = losses(seed=3)
    np.testing.assert_array_equal(drawn, losses(seed=3))
    assert len(set(drawn)) > 2  # weights and images stay the same: only the masks change with the step
    assert (drawn != losses(seed=4)).any()


def test_a_step_can_be_compiled_without_any_data():
    parts = {"first": tf_keras.optimizers.SGD(0.1), "branch": None}
    trainer = mini.make_trainer(
        tf_keras.optimizers.SGD(0.1), part_optimizers=parts, accumulation_steps=2, ema_decay=0.5, clip_norm=1.0
    )
    specs = {key: tf.TensorSpec(x.shape, x.dtype) for key, x in next(iter(mini.dataset(0))).items()}
    step = tf.function(lambda *x: trainer.replica_step(dict(zip(specs, x))), jit_compile=True, autograph=False)
    module = step.experimental_get_compiler_ir(*specs.values())(stage="hlo")
    assert "ENTRY" in module
    assert "while" in module
    assert trainer.optimizer.iterations.numpy() == 0
    assert set(step.get_concrete_function(*specs.values()).structured_outputs) == {*trainer.names}
