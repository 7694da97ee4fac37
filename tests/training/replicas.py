# SPDX-License-Identifier: Apache-2.0
"""Trains on two replicas, both on the CPU, and prints the losses; a process of its own.

The devices of a process cannot be split any more once TensorFlow has run something.
"""

import json
import pathlib
import sys

import tensorflow as tf
import tf_keras

from deeplab_axial import builders, config
from deeplab_axial.training.trainer import Trainer
from tests.training import mini

TINY = pathlib.Path(__file__).parents[1] / "data" / "tiny.textproto"


def mini_trainer(strategy: tf.distribute.Strategy):
    """A trainer of the mini network, and its batches."""
    with strategy.scope():
        optimizer = tf_keras.optimizers.SGD(0.1)
    trainer = mini.make_trainer(optimizer, strategy=strategy, clip_norm=0.5)
    return trainer, mini.iterator(trainer)


def tiny_trainer(strategy: tf.distribute.Strategy, records: str):
    """A trainer of the tiny axial network, batch and logit normalisation synchronised, and its batches."""
    overrides = [
        f"train_dataset_options.file_pattern={records}",
        "trainer_options.solver_options.use_sync_batchnorm=true",
        "trainer_options.solver_options.optimizer=sgd",
        "trainer_options.solver_options.base_learning_rate=0.0001",
        "model_options.backbone.drop_path_keep_prob=1",
    ]
    options = config.load(TINY, overrides)
    options.trainer_options.solver_options.ClearField("lookahead")
    source = builders.open_source(options, "train")
    builders.set_precision_and_seed(options.trainer_options)
    with strategy.scope():
        model = builders.build_model(options, strategy.num_replicas_in_sync)
        optimizer = builders.build_optimizer(options)
    loss = builders.build_loss(options, source.info.label_space)
    trainer = Trainer(strategy, model, loss, optimizer, options.train_dataset_options.batch_size)

    def make_dataset(context):
        return builders.build_training_dataset(options.train_dataset_options, source, 0, context)

    return trainer, iter(strategy.distribute_datasets_from_function(make_dataset))


def main(num_steps: str, records: str = "") -> None:
    """Prints {term: losses of the steps} as JSON; of the tiny network if there are records, else of the mini one."""
    device = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(device, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
    trainer, iterator = tiny_trainer(strategy, records) if records else mini_trainer(strategy)
    history = trainer.train(iterator, int(num_steps))
    result = {name: values.numpy().tolist() for name, values in history.items()}
    result["replicas"] = [
        [v.numpy().tolist() for v in strategy.experimental_local_results(weight)]
        for weight in trainer.model.trainable_variables
    ]
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
