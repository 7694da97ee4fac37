# SPDX-License-Identifier: Apache-2.0
"""A run with averaged weights, multipliers and accumulated gradients: what evaluates, and what goes on training."""

import numpy as np
import pytest
import tensorflow as tf

import deeplab_axial
from deeplab_axial import builders, config
from deeplab_axial.training import averaging, checkpoints
from tests.cli import commands
from tests.cli.conftest import experiment_flags

SOLVER = "trainer_options.solver_options"
OVERRIDES = (
    f"{SOLVER}.ema_decay=0.5",
    f"{SOLVER}.gradient_accumulation_steps=2",
    f"{SOLVER}.backbone_learning_rate_multiplier=0.5",
    f"{SOLVER}.training_number_of_steps=4",
    "trainer_options.save_checkpoints_steps=2",
    "evaluator_options.eval_interval=2",
)


def _values(path):
    reader = tf.train.load_checkpoint(path)
    names = [name for name in reader.get_variable_to_shape_map() if not name.startswith(("_", "save_counter"))]
    return {name: reader.get_tensor(name) for name in names}


@pytest.mark.slow
def test_averages_are_evaluated_and_do_not_touch_the_training(tmp_path, scene_records):
    experiment = experiment_flags(scene_records.train, scene_records.val, *OVERRIDES)
    results = {}
    for name, mode, folder in (("both", "train_and_eval", "a"), ("eval", "eval", "a"), ("train", "train", "b")):
        results[name] = commands.run("train", f"--mode={mode}", *experiment, f"--model_dir={tmp_path / folder}")
        assert results[name].status == 0, results[name].err[-3000:]
    trained, alone = results["both"].out, results["eval"].out
    assert alone.startswith("Panoptic quality")
    assert alone in trained[trained.rindex("Panoptic quality") :]

    with_evaluation, without = _values(str(tmp_path / "a" / "ckpt-4")), _values(str(tmp_path / "b" / "ckpt-4"))
    assert set(with_evaluation) == set(without)
    for name, value in with_evaluation.items():
        np.testing.assert_array_equal(value, without[name], err_msg=name)
    assert {name.split("/")[0] for name in without} == {"model", "optimizer", "part_optimizers", "average", "step"}


def test_load_takes_the_averages(tmp_path, scene_records):
    flags = experiment_flags(scene_records.train, scene_records.val)
    options = config.load(commands.TINY, [flag.removeprefix("--set=") for flag in flags[1:]])
    builders.set_precision_and_seed(options.trainer_options)
    model = builders.build_model(options)
    average = averaging.Average(model.trainable_variables, 0.5)
    image = np.random.default_rng(0).integers(0, 256, [49, 65, 3], np.uint8)

    def predict(folder, **roots):
        config.save(options, tmp_path / folder / "config.textproto")
        step = tf.Variable(3, dtype=tf.int64)
        checkpoints.Manager(str(tmp_path / folder), {"model": model, **roots}, step, 1).save()
        return deeplab_axial.load(tmp_path / folder).predict(image).semantic

    expected = predict("plain")
    average.start()
    for variable in model.trainable_variables:
        variable.assign(tf.zeros_like(variable))
    assert len(np.unique(predict("zeros"))) == 1
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(predict("averaged", average=average.state), expected)
