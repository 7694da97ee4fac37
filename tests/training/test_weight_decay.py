# SPDX-License-Identifier: Apache-2.0
"""Weight decay: which weights, and as a term of the loss."""

import pathlib
import re

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from deeplab_axial import builders, config, keys
from deeplab_axial.layers.normalization import LogitNormalization
from deeplab_axial.training import weight_decay
from tests.training import mini

TINY = pathlib.Path(__file__).parents[1] / "data" / "tiny.textproto"
SOLVER = "trainer_options.solver_options"


@pytest.fixture(scope="module")
def model():
    return builders.build_model(config.load(TINY, ["model_options.backbone.use_squeeze_and_excite=true"]))


def _scales_and_offsets(model) -> set[int]:
    """Found by the kinds of the layers, not by names."""
    found = set()
    for layer in model.submodules:
        if isinstance(layer, (tf_keras.layers.BatchNormalization, LogitNormalization)):
            found |= {id(layer.gamma), id(layer.beta)}
        elif getattr(layer, "bias", None) is not None:
            found.add(id(layer.bias))
    return found


def test_every_scale_offset_and_bias_of_a_network_is_excluded_and_nothing_else(model):
    excluded = _scales_and_offsets(model)
    variables = model.trainable_variables
    assert {id(v) for v in variables if not weight_decay.decays(v)} == excluded & {id(v) for v in variables}
    names = {v.name.split("/")[-1].split(":")[0] for v in variables if weight_decay.decays(v)}
    tables = {"query_table", "key_table", "value_table"}
    assert names == {"kernel", "depthwise_kernel", "qkv_kernel", *tables}
    logit_norms = [layer for layer in model.submodules if isinstance(layer, LogitNormalization)]
    assert logit_norms
    assert not any(weight_decay.decays(v) for layer in logit_norms for v in layer.trainable_variables)


@pytest.mark.parametrize("name", ["bn/gamma", "beta:0", "a/bias/replica_1:0", "bn/gamma/replica_12"])
def test_names_on_any_replica(name):
    assert re.search(weight_decay.NO_DECAY, name)
    assert not re.search(weight_decay.NO_DECAY, f"{name.split(':')[0]}/kernel/replica_1:0")


@pytest.mark.parametrize(
    "overrides",
    [
        ["optimizer=adamw", "adamw_weight_decay=0.5"],
        ["optimizer=adam", "weight_decay=0.5"],
        ["optimizer=radam", "weight_decay=0.5", "lookahead.sync_period=6"],
    ],
)
def test_decoupled_decay_of_an_optimizer_from_a_config(model, overrides):
    options = config.load(TINY, [f"{SOLVER}.{override}" for override in (*overrides, "warmup_steps=0")])
    options.model_options.backbone.flavor = "paper"
    optimizer = builders.build_optimizer(options)
    excluded = _scales_and_offsets(model)
    variables = [v for v in model.trainable_variables if len(v.shape) < 4]  # it is slow to go through all
    before = [v.numpy() for v in variables]
    optimizer.build(variables)
    # Without a gradient nothing is left but the decay.
    optimizer.apply_gradients([(tf.zeros_like(v), v) for v in variables], skip_gradients_aggregation=True)
    for variable, old in zip(variables, before):
        factor = 1.0 if id(variable) in excluded else 1 - 0.005 * 0.5
        np.testing.assert_allclose(variable.numpy(), factor * old, rtol=1e-5, atol=1e-7, err_msg=variable.name)


def _mini_trainer(*overrides):
    """Of a config, but with the mini network."""
    options = config.load(TINY, [f"{SOLVER}.{override}" for override in overrides])
    options.model_options.backbone.flavor = "paper"
    strategy = tf.distribute.get_strategy()
    made = mini.make_trainer(tf_keras.optimizers.SGD(0.1))
    return builders.build_trainer(options, strategy, made.model, made.loss)


def test_decay_of_sgd_is_a_term_of_the_loss():
    """Against Nesterov's momentum by hand: v <- 0.9 v - rate g; w <- w + 0.9 v - rate g, with g of the whole loss."""
    common = (
        "optimizer=sgd",
        "sgd_nesterov=true",
        "base_learning_rate=0.1",
        "warmup_steps=0",
        "learning_policy=cosine",
    )
    overrides = ("weight_decay=0.25", "use_gradient_clipping=true", "clip_gradient_norm=0.5")
    trainer = _mini_trainer(*common, *overrides)
    variables = trainer.model.trainable_variables
    values = [v.numpy().astype(np.float64) for v in variables]
    velocities = [np.zeros_like(value) for value in values]
    iterator, batches = mini.iterator(trainer), iter(mini.dataset(0))
    for step in range(4):
        batch = next(batches)
        with tf.GradientTape() as tape:
            logits = trainer.model(batch[keys.IMAGE], training=True)[keys.SEMANTIC_LOGITS]
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(batch[keys.SEMANTIC_TARGET], logits)
            kernels = [v for v in variables if "kernel" in v.name]
            loss = tf.reduce_mean(losses) + 0.25 / 2 * sum(tf.reduce_sum(v**2) for v in kernels)
        gradients = [g.numpy() for g in tape.gradient(loss, variables)]
        norm = np.sqrt(sum(np.sum(g**2) for g in gradients))
        history = trainer.train(iterator, 1)
        np.testing.assert_allclose(history["gradient_norm"][0], norm, rtol=1e-4)
        np.testing.assert_allclose(history["total_loss"][0], tf.reduce_mean(losses), rtol=1e-4)  # without the term
        rate = 0.1 * (1 + np.cos(np.pi * step / 6)) / 2
        for i, gradient in enumerate(gradients):
            gradient = gradient * min(1.0, 0.5 / norm)
            velocities[i] = 0.9 * velocities[i] - rate * gradient
            values[i] = values[i] + 0.9 * velocities[i] - rate * gradient
            np.testing.assert_allclose(variables[i].numpy(), values[i], rtol=1e-3, atol=1e-5)
