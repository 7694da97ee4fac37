# SPDX-License-Identifier: Apache-2.0
"""Trains on one device, on two virtual ones, or as one of several processes.

The last two need a process of their own: its devices cannot be chosen any more once TensorFlow has run something.
"""

import contextlib
import pathlib
import re

import numpy as np
import tensorflow as tf
import tf_keras

from deeplab_axial import builders, config
from deeplab_axial.training import optimizers
from deeplab_axial.training.trainer import StepOptions, Trainer
from tests.training import mini

TINY = pathlib.Path(__file__).parents[1] / "data" / "tiny.textproto"
# Less than any gradient norm below: clipping is always at work.
CLIP_NORM = 0.1


def make_optimizer(name: str, learning_rate: float) -> tf_keras.optimizers.Optimizer:
    """ "sgd", or "lookahead" of RAdam. The epsilon is large: Adam turns rounding errors of zeros into whole steps."""
    if name == "sgd":
        return tf_keras.optimizers.SGD(learning_rate, momentum=0.9)
    return optimizers.Lookahead(optimizers.RAdam(learning_rate, epsilon=0.01), sync_period=3)


def mini_dataset(first_step: int, context: tf.distribute.InputContext) -> tf.data.Dataset:
    """A worker's part of the mini data set, in batches for one replica."""
    part = mini.BATCH_SIZE // context.num_input_pipelines
    own = slice(context.input_pipeline_id * part, (context.input_pipeline_id + 1) * part)
    parts = mini.dataset(first_step).map(lambda batch: {key: value[own] for key, value in batch.items()})
    return parts.unbatch().batch(mini.BATCH_SIZE // context.num_replicas_in_sync, drop_remainder=True)


def mini_trainer(strategy: tf.distribute.Strategy, optimizer: str):
    """A trainer of the mini network, and its batches."""
    with strategy.scope():
        made = make_optimizer(optimizer, 0.1)
    trainer = mini.make_trainer(made, strategy=strategy, clip_norm=CLIP_NORM, ema_decay=0.9)

    return trainer, iter(strategy.distribute_datasets_from_function(lambda context: mini_dataset(0, context)))


def tiny_trainer(strategy: tf.distribute.Strategy, optimizer: str, records: str):
    """A trainer of the tiny axial network, batch and logit normalisation synchronised, and its batches."""
    overrides = [
        f"train_dataset_options.file_pattern={records}",
        "trainer_options.solver_options.use_sync_batchnorm=true",
        "model_options.backbone.drop_path_keep_prob=1",
    ]
    options = config.load(TINY, overrides)
    source = builders.open_source(options, "train")
    builders.set_precision_and_seed(options.trainer_options)
    with strategy.scope():
        model = builders.build_model(options, strategy.num_replicas_in_sync)
        made = make_optimizer(optimizer, 0.0001)
    loss = builders.build_loss(options, source.info.label_space)
    data = options.train_dataset_options
    trainer = Trainer(strategy, model, loss, made, StepOptions(data.batch_size, clip_norm=CLIP_NORM, ema_decay=0.9))

    def make_dataset(context):
        return builders.build_training_dataset(data, source, 0, context)

    return trainer, iter(strategy.distribute_datasets_from_function(make_dataset))


def train(strategy: tf.distribute.Strategy, num_steps: int, optimizer: str, records: str = "") -> dict[str, np.ndarray]:
    """Trains the tiny network if there are records, else the mini one.

    Returns:
      {"history/NAME": [num_steps], "weights/NAME" and "averages/NAME": [local replicas, ...]}, the moving statistics of
      batch normalisation among the weights.
    """
    make = [tiny_trainer, mini_trainer][not records]
    trainer, iterator = make(strategy, optimizer, *filter(None, [records]))
    history = trainer.train(iterator, num_steps)
    result = {f"history/{name}": values.numpy() for name, values in history.items()}
    for root, inside in (("weights", contextlib.nullcontext()), ("averages", trainer.averaged())):
        with inside:
            for number, weight in enumerate(trainer.model.weights):
                values = [value.numpy() for value in strategy.experimental_local_results(weight)]
                # Without the numbers in its name, which tell what else this process has made.
                name = re.sub(r"_\d+(?=/)", "", weight.name)
                result[f"{root}/{number:03d} {name}"] = np.stack(values)
    return result


def two_devices(path: str, *arguments) -> None:
    """Writes what `train` returns on two virtual devices."""
    device = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(device, [tf.config.LogicalDeviceConfiguration()] * 2)
    np.savez(path, **train(tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"]), *arguments))


def one_of_several_workers(path: str, *arguments) -> None:
    """Writes what `train` returns as a worker of the cluster that TF_CONFIG names."""
    np.savez(path, **train(builders.build_strategy(), *arguments))
