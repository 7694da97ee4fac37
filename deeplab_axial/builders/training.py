# SPDX-License-Identifier: Apache-2.0
"""Strategies, losses and optimizers from configs."""

import tensorflow as tf
import tf_keras
from absl import logging

from deeplab_axial.data.label_space import LabelSpace
from deeplab_axial.errors import InputError
from deeplab_axial.losses.panoptic_deeplab import LossTerm, PanopticDeepLabLoss
from deeplab_axial.protos import config_pb2, trainer_pb2
from deeplab_axial.training import addons, optimizers, schedules
from deeplab_axial.training.loop import LoopOptions

# Momentum of "sgd" (Ramachandran et al. 2019, the protocol of the paper's ImageNet training).
_SGD_MOMENTUM = 0.9
# Batch normalisation and biases do not decay.
_NO_DECAY = ["gamma", "beta", "bias"]


def build_strategy(num_gpus: int, master: str) -> tf.distribute.Strategy:
    """Where to train: a TPU named by `master`, this machine's GPUs, or its CPU.

    Raises:
      InputError: there are fewer GPUs than asked for, or the TPU does not answer.
    """
    if master:
        try:
            resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=master)
            tf.config.experimental_connect_to_cluster(resolver)
            tf.tpu.experimental.initialize_tpu_system(resolver)
        except (ValueError, tf.errors.OpError) as error:
            raise InputError(f"--master={master}: no TPU answers there ({error}). Check its name and zone.") from error
        return tf.distribute.TPUStrategy(resolver)
    gpus = tf.config.list_physical_devices("GPU")
    if num_gpus > len(gpus):
        raise InputError(
            f"--num_gpus={num_gpus}: TensorFlow sees {len(gpus)} GPUs here. Lower it, or mend the drivers."
        )
    if num_gpus > 1:
        return tf.distribute.MirroredStrategy([f"/gpu:{i}" for i in range(num_gpus)])
    return tf.distribute.OneDeviceStrategy("/gpu:0" if num_gpus else "/cpu:0")


def set_precision_and_seed(options: trainer_pb2.TrainerOptions) -> None:
    """Sets the compute type of layers made from here on, and the seed of their weights."""
    tf_keras.mixed_precision.set_global_policy(options.precision)
    tf_keras.utils.set_random_seed(options.seed)


def build_loss(options: config_pb2.ExperimentOptions, label_space: LabelSpace) -> PanopticDeepLabLoss:
    """The loss of a config."""
    losses = options.trainer_options.loss_options

    def term(single):
        return LossTerm(single.weight, single.top_k_percent)

    if not options.model_options.panoptic_deeplab.instance.enable:
        return PanopticDeepLabLoss(label_space.ignore_label, term(losses.semantic_loss))
    return PanopticDeepLabLoss(
        label_space.ignore_label, term(losses.semantic_loss), term(losses.center_loss), term(losses.regression_loss)
    )


def build_optimizer(options: config_pb2.ExperimentOptions) -> tf_keras.optimizers.Optimizer:
    """The optimizer of a config, with its learning rate schedule."""
    solver = options.trainer_options.solver_options
    steps, warmup = solver.training_number_of_steps, solver.warmup_steps
    if solver.learning_policy == "poly":
        rate = schedules.poly(
            solver.base_learning_rate, steps, warmup, solver.poly_learning_power, solver.poly_end_learning_rate
        )
    else:
        rate = schedules.cosine(solver.base_learning_rate, steps, warmup)
    decay = solver.weight_decay or None
    if decay and options.model_options.backbone.flavor == "deeplab2":
        logging.warning(
            "solver_options.weight_decay is %g, but DeepLab2 never applied it; neither is it here, for the flavor "
            '"deeplab2". Use optimizer "adamw" with adamw_weight_decay, or flavor "paper", to decay weights.',
            decay,
        )
        decay = None
    if solver.optimizer.startswith("tfa."):
        if solver.HasField("lookahead"):
            raise InputError(
                "trainer_options.solver_options.lookahead wraps the optimizers of tf_keras only. Received: "
                f'optimizer "{solver.optimizer}". Remove lookahead, or use optimizer "radam".'
            )
        optimizer = addons.tfa_optimizer(solver.optimizer.removeprefix("tfa."), learning_rate=rate)
    elif solver.optimizer == "adam":
        optimizer = tf_keras.optimizers.Adam(rate, weight_decay=decay)
    elif solver.optimizer == "adamw":
        optimizer = tf_keras.optimizers.AdamW(rate, weight_decay=solver.adamw_weight_decay)
    elif solver.optimizer == "sgd":
        optimizer = tf_keras.optimizers.SGD(rate, momentum=_SGD_MOMENTUM, nesterov=True, weight_decay=decay)
    else:
        optimizer = optimizers.RAdam(rate, weight_decay=decay)
    if decay or solver.optimizer == "adamw":
        optimizer.exclude_from_weight_decay(var_names=_NO_DECAY)
    if solver.HasField("lookahead"):
        optimizer = optimizers.Lookahead(
            optimizer, sync_period=solver.lookahead.sync_period, slow_step_size=solver.lookahead.slow_step_size
        )
    return optimizer


def build_loop_options(options: trainer_pb2.TrainerOptions, on_tpu: bool) -> LoopOptions:
    """When the training run saves, logs and returns to the host."""
    return LoopOptions(
        total_steps=options.solver_options.training_number_of_steps,
        save_steps=options.save_checkpoints_steps,
        summary_steps=options.save_summaries_steps,
        steps_per_loop=options.steps_per_loop if on_tpu else 1,
    )
