# SPDX-License-Identifier: Apache-2.0
"""Training steps from configs, of the mini network in place of the config's."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from deeplab_axial import builders, config, keys
from deeplab_axial.errors import InputError
from deeplab_axial.training.trainer import StepOptions
from tests.training import mini

TINY = pathlib.Path(__file__).parent / "data" / "tiny.textproto"
SOLVER = "trainer_options.solver_options"


def _options(*overrides: str, flavor: str = "paper"):
    options = config.load(TINY, [f"{SOLVER}.{override}" for override in overrides])
    options.model_options.backbone.flavor = flavor
    return options


def _trainer(options):
    made = mini.make_trainer(tf_keras.optimizers.SGD(0.1))
    network = made.model
    network.backbone, network.semantic_head = network.first, network.last
    return builders.build_trainer(options, tf.distribute.get_strategy(), network, made.loss)


def test_a_plain_config():
    trainer = _trainer(_options())
    assert trainer.options == StepOptions(batch_size=4)
    assert list(trainer.objects) == ["optimizer"]
    assert trainer.names == list(mini.TERMS)


def test_every_option_arrives():
    overrides = ["gradient_accumulation_steps=2", "ema_decay=0.5", "optimizer=sgd", "weight_decay=0.25"]
    options = _options(*overrides, "use_gradient_clipping=true", "clip_gradient_norm=3")
    options.trainer_options.seed, options.trainer_options.use_xla = 7, True
    trainer = _trainer(options)
    assert trainer.options == StepOptions(4, 3.0, 2, 0.25, 0.5, True, 7)
    assert list(trainer.objects) == ["optimizer", "average"]


@pytest.mark.parametrize("policy", ["learning_policy=poly", "learning_policy=cosine"])
def test_multipliers_scale_the_whole_schedule(policy):
    options = _options(policy, "base_learning_rate=0.5", "warmup_steps=2", "poly_end_learning_rate=0.1")
    solver = options.trainer_options.solver_options
    solver.backbone_learning_rate_multiplier = 0.25
    solver.learning_rate_multiplier.add(part="semantic_head", multiplier=4)
    trainer = _trainer(options)
    history = trainer.train(mini.iterator(trainer), 7)
    rates = {name: values.numpy() for name, values in history.items() if name.startswith("learning_rate")}
    assert set(rates) == {"learning_rate", "learning_rate/backbone", "learning_rate/semantic_head"}
    np.testing.assert_allclose(rates["learning_rate/backbone"], rates["learning_rate"] / 4, rtol=1e-5)
    np.testing.assert_allclose(rates["learning_rate/semantic_head"], rates["learning_rate"] * 4, rtol=1e-5)
    assert rates["learning_rate"][0] == 0.0
    assert rates["learning_rate"][2] > rates["learning_rate"][6]


def test_a_multiplier_of_zero_freezes():
    options = _options()
    options.trainer_options.solver_options.learning_rate_multiplier.add(part="backbone", multiplier=0)
    trainer = _trainer(options)
    before = trainer.model.backbone.kernel.numpy()
    trainer.train(mini.iterator(trainer), 3)
    np.testing.assert_array_equal(trainer.model.backbone.kernel.numpy(), before)
    assert list(trainer.objects) == ["optimizer"]


@pytest.mark.slow
@pytest.mark.parametrize("hold", [False, True])
def test_a_frozen_part_whose_statistics_are_held_stays_what_it_was(hold):
    options = config.load(TINY)
    entry = options.trainer_options.solver_options.learning_rate_multiplier.add(part="backbone", multiplier=0)
    entry.hold_statistics = hold
    model = builders.build_model(options)
    space = builders.load_label_space("cityscapes_panoptic")
    trainer = builders.build_trainer(options, tf.distribute.get_strategy(), model, builders.build_loss(options, space))
    before = [variable.numpy() for variable in model.backbone.variables]
    rng = np.random.default_rng(0)
    h, w = options.train_dataset_options.crop_size
    batch = {
        keys.IMAGE: tf.constant(rng.uniform(0, 255, [4, h, w, 3]), tf.float32),
        keys.SEMANTIC_TARGET: tf.constant(rng.integers(0, 8, [4, h, w]), tf.int32),
        keys.OFFSET_TARGET: tf.zeros([4, h, w, 2]),
        **{key: tf.ones([4, h, w]) for key in (keys.SEMANTIC_WEIGHT, keys.CENTER_WEIGHT, keys.OFFSET_WEIGHT)},
        keys.CENTER_TARGET: tf.zeros([4, h, w]),
    }
    trainer.train(iter(tf.data.Dataset.from_tensors(batch).repeat()), 2)
    same = [np.array_equal(variable, value) for variable, value in zip(model.backbone.variables, before)]
    moving = ["moving" in variable.name for variable in model.backbone.variables]
    assert all(same) if hold else [not s for s in same] == moving


def test_sgd_is_that_of_deeplab2_unless_the_config_says_otherwise():
    def momentum(*overrides):
        options = _options("optimizer=sgd", *overrides)
        options.trainer_options.solver_options.ClearField("lookahead")
        optimizer = builders.build_optimizer(options)
        return optimizer.momentum, optimizer.nesterov

    assert momentum() == (pytest.approx(0.9), False)
    assert momentum("sgd_momentum=0.5", "sgd_nesterov=true") == (0.5, True)
    assert momentum("sgd_momentum=0") == (0, False)
    with pytest.raises(InputError, match="sgd_nesterov: must be false without sgd_momentum"):
        _options("optimizer=sgd", "sgd_momentum=0", "sgd_nesterov=true")


def test_the_flavor_of_deeplab2_does_not_decay_and_says_so(caplog):
    with caplog.at_level("WARNING"):
        trainer = _trainer(_options("optimizer=sgd", "weight_decay=0.25", flavor="deeplab2"))
    assert trainer.options.l2 == 0.0
    assert "weight_decay is 0.25, but DeepLab2 never applied it" in caplog.text
    for flavor, decay in (("deeplab2", 0.0), ("paper", 0.25)):
        optimizer = builders.build_optimizer(_options("optimizer=adam", "weight_decay=0.25", flavor=flavor))
        assert (optimizer.optimizer.weight_decay or 0.0) == decay


@pytest.mark.addons
def test_an_optimizer_of_the_addons():
    options = _options("optimizer=tfa.RectifiedAdam", "ema_decay=0.5", "gradient_accumulation_steps=2")
    solver = options.trainer_options.solver_options
    solver.ClearField("lookahead")
    solver.backbone_learning_rate_multiplier = 0.5
    solver.learning_rate_multiplier.add(part="semantic_head", multiplier=0)
    trainer = _trainer(options)
    weights = [v.numpy() for v in (trainer.model.backbone.kernel, trainer.model.semantic_head.kernel)]
    history = trainer.train(mini.iterator(trainer), 4)
    np.testing.assert_allclose(history["learning_rate/backbone"], history["learning_rate"] / 2, rtol=1e-5)
    assert (trainer.model.backbone.kernel.numpy() != weights[0]).any()
    np.testing.assert_array_equal(trainer.model.semantic_head.kernel.numpy(), weights[1])
    assert [int(v) for v in (trainer.optimizer.iterations, trainer.objects["part_optimizers"].backbone.iterations)] == [
        4,
        4,
    ]


@pytest.mark.parametrize("override", ["weight_decay=0.25", "lookahead.sync_period=5"])
def test_what_optimizers_of_the_addons_cannot_do_is_refused(override):
    options = _options("optimizer=tfa.RectifiedAdam", override)
    name = override.split("=")[0].split(".")[0]
    if name != "lookahead":
        options.trainer_options.solver_options.ClearField("lookahead")
    with pytest.raises(InputError, match=rf'{name} is for the optimizers of tf_keras only.*"tfa\.RectifiedAdam"'):
        builders.build_optimizer(options)


def test_statistics_of_their_own_are_not_evaluated_amid_training():
    options = config.load(TINY, [f"{SOLVER}.use_sync_batchnorm=false"])
    builders.check_statistics(options, 1)
    with pytest.raises(InputError, match=r"use_sync_batchnorm must be true .* Received: false and 2 devices"):
        builders.check_statistics(options, 2)
    builders.check_statistics(config.load(TINY, [f"{SOLVER}.use_sync_batchnorm=true"]), 2)


def test_adamw_with_the_other_weight_decay_is_told(caplog):
    with caplog.at_level("WARNING", logger="absl"):
        _trainer(_options("optimizer=adamw", "weight_decay=0.1"))
    assert 'weight_decay is 0.1, but the optimizer "adamw" takes adamw_weight_decay' in caplog.text
