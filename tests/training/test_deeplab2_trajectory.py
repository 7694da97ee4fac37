# SPDX-License-Identifier: Apache-2.0
"""Six training steps of DeepLab2, replayed: losses and gradient norms, with each of its optimizers."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_axial import builders, config, keys
from deeplab_axial.importing import deeplab2
from tests import golden

STEPS = 6
KEYS = {
    "image": keys.IMAGE,
    "semantic_gt": keys.SEMANTIC_TARGET,
    "semantic_loss_weight": keys.SEMANTIC_WEIGHT,
    "instance_center_gt": keys.CENTER_TARGET,
    "center_loss_weight": keys.CENTER_WEIGHT,
    "instance_regression_gt": keys.OFFSET_TARGET,
    "regression_loss_weight": keys.OFFSET_WEIGHT,
}
TERMS = {
    "total_loss": "total_loss",
    "semantic_loss": "semantic_loss",
    "center_loss": "center_loss",
    "regression_loss": "offset_loss",
}


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_a_trajectory(optimizer):
    recorded = golden.load(f"train_trajectory/steps_{optimizer}")
    arrays = golden.load("train_trajectory/batch")
    folder = golden.FOLDER / "train_trajectory"
    options = config.load(folder / f"{optimizer}.textproto", ["train_dataset_options.batch_size=2"])
    builders.set_precision_and_seed(options.trainer_options)
    model = builders.build_model(options)
    deeplab2.restore(str(folder / "checkpoint" / "ckpt-0"), model, "--checkpoint", same_function=True)
    loss = builders.build_loss(options, builders.load_label_space("cityscapes_panoptic"))
    trainer = builders.build_trainer(options, tf.distribute.get_strategy(), model, loss)
    batch = {KEYS[key]: tf.constant(value) for key, value in arrays.items()}
    history = trainer.train(iter(tf.data.Dataset.from_tensors(batch).repeat()), STEPS + 1)

    # Rounding depends on the processor, and each update multiplies it, by ten with SGD's large steps. Nesterov's
    # momentum or another decay would be off by 7 % or more from the second update on.
    exact = 4 if optimizer == "sgd" else STEPS
    for theirs, ours in TERMS.items():
        np.testing.assert_allclose(history[ours][:exact], recorded[theirs][:exact], rtol=2e-6, err_msg=theirs)
        np.testing.assert_allclose(history[ours][:STEPS], recorded[theirs], rtol=1e-3, err_msg=theirs)
    norms = history["gradient_norm"][:STEPS]
    np.testing.assert_allclose(norms[:exact], recorded["gradient_norm"][:exact], rtol=1e-3)
    np.testing.assert_allclose(norms, recorded["gradient_norm"], rtol=1e-2)
    np.testing.assert_allclose(
        history["total_loss"][STEPS], recorded["final_total_loss"], rtol=1e-3 if optimizer == "sgd" else 1e-5
    )
