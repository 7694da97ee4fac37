# SPDX-License-Identifier: Apache-2.0
"""Strategies, losses, optimizers and trainers from configs."""

import tensorflow as tf
import tf_keras
from absl import logging

from deeplab_axial.data.label_space import LabelSpace
from deeplab_axial.errors import InputError
from deeplab_axial.layers import normalization
from deeplab_axial.losses.classification import ClassificationLoss
from deeplab_axial.losses.panoptic_deeplab import LossTerm, PanopticDeepLabLoss
from deeplab_axial.protos import config_pb2, trainer_pb2
from deeplab_axial.training import addons, optimizers, schedules, weight_decay
from deeplab_axial.training.loop import LoopOptions
from deeplab_axial.training.trainer import Optimizer, StepOptions, Trainer


def set_precision_and_seed(options: trainer_pb2.TrainerOptions) -> None:
    """Sets the compute type of layers made from here on, and the seed of their weights.

    What a file ~/.keras/keras.json may say of the process, the order of channels and the type of numbers, is undone.
    """
    tf_keras.backend.set_image_data_format("channels_last")
    tf_keras.backend.set_floatx("float32")
    tf_keras.mixed_precision.set_global_policy(options.precision)
    tf_keras.utils.set_random_seed(options.seed)


def build_loss(
    options: config_pb2.ExperimentOptions, label_space: LabelSpace
) -> PanopticDeepLabLoss | ClassificationLoss:
    """The loss of a config."""
    losses = options.trainer_options.loss_options
    if options.model_options.HasField("classification"):
        return ClassificationLoss(losses.classification_loss.label_smoothing)

    def term(single):
        return LossTerm(single.weight, single.top_k_percent)

    if not options.model_options.panoptic_deeplab.instance.enable:
        return PanopticDeepLabLoss(label_space.ignore_label, term(losses.semantic_loss))
    return PanopticDeepLabLoss(
        label_space.ignore_label, term(losses.semantic_loss), term(losses.center_loss), term(losses.regression_loss)
    )


def build_trainer(
    options: config_pb2.ExperimentOptions,
    strategy: tf.distribute.Strategy,
    model: tf_keras.Model,
    loss: PanopticDeepLabLoss | ClassificationLoss,
) -> Trainer:
    """The training step of a config, with its optimizers.

    Args:
      options: validated.
      strategy: under which the model was made.
      model: of `build_model`.
      loss: of `build_loss`.

    Raises:
      InputError: the optimizer cannot be made; see `build_optimizer`.
    """
    solver = options.trainer_options.solver_options
    if solver.weight_decay and options.model_options.backbone.flavor == "deeplab2":
        logging.warning(
            "solver_options.weight_decay is %g, but DeepLab2 never applied it; neither is it here, for the flavor "
            '"deeplab2". Use optimizer "adamw" with adamw_weight_decay, or flavor "paper", to decay weights.',
            solver.weight_decay,
        )
    if solver.weight_decay and solver.optimizer == "adamw":
        logging.warning(
            'solver_options.weight_decay is %g, but the optimizer "adamw" takes adamw_weight_decay, which is %g.',
            solver.weight_decay,
            solver.adamw_weight_decay,
        )
    for entry in solver.learning_rate_multiplier:
        if entry.hold_statistics:
            normalization.hold_statistics(getattr(model, entry.part))
    with strategy.scope():
        optimizer = build_optimizer(options)
        part_optimizers = {
            part: build_optimizer(options, multiplier) if multiplier else None
            for part, multiplier in _multipliers(solver).items()
        }
    step = StepOptions(
        batch_size=options.train_dataset_options.batch_size,
        clip_norm=solver.clip_gradient_norm if solver.use_gradient_clipping else None,
        accumulation_steps=solver.gradient_accumulation_steps,
        l2=(_weight_decay(options) or 0.0) if solver.optimizer == "sgd" else 0.0,
        ema_decay=solver.ema_decay,
        # On a TPU everything is compiled with XLA as it is.
        use_xla=options.trainer_options.use_xla and not isinstance(strategy, tf.distribute.TPUStrategy),
        seed=options.trainer_options.seed,
    )
    return Trainer(strategy, model, loss, optimizer, step, part_optimizers)


def _multipliers(solver: trainer_pb2.SolverOptions) -> dict[str, float]:
    """Part of the model -> multiplier of its learning rate, where it is not 1."""
    multipliers = {"backbone": solver.backbone_learning_rate_multiplier}
    multipliers |= {entry.part: entry.multiplier for entry in solver.learning_rate_multiplier}
    return {part: multiplier for part, multiplier in multipliers.items() if multiplier != 1}


def check_statistics(options: config_pb2.ExperimentOptions, num_replicas: int) -> None:
    """Refuses to evaluate amid a training whose replicas have moving statistics of their own.

    Checkpoints hold their mean, the network that trains does not.

    Raises:
      InputError: batch normalisation is not synchronised, and there are several replicas.
    """
    if num_replicas > 1 and not options.trainer_options.solver_options.use_sync_batchnorm:
        raise InputError(
            "trainer_options.solver_options.use_sync_batchnorm must be true to evaluate amid a training on several "
            f"devices, for checkpoints hold the mean of their statistics. Received: false and {num_replicas} devices. "
            "Set it to true, or give --mode=train, and --mode=continuous_eval in another process."
        )


def build_optimizer(options: config_pb2.ExperimentOptions, multiplier: float = 1.0) -> Optimizer:
    """The optimizer of a config, with its learning rate schedule.

    The weight decay of "sgd" is not its own but the training step's.

    Args:
      options: validated.
      multiplier: of the learning rate.

    Raises:
      InputError: an optimizer of tensorflow-addons is not there, or cannot do what the config asks for.
    """
    solver = options.trainer_options.solver_options
    rate = _schedule(solver, multiplier)
    decay = solver.adamw_weight_decay if solver.optimizer == "adamw" else _weight_decay(options)
    if solver.optimizer.startswith("tfa."):
        return _addons_optimizer(solver, rate, decay)
    if solver.optimizer == "adam":
        optimizer = tf_keras.optimizers.Adam(rate, weight_decay=decay)
    elif solver.optimizer == "adamw":
        optimizer = tf_keras.optimizers.AdamW(rate, weight_decay=decay)
    elif solver.optimizer == "sgd":
        optimizer = tf_keras.optimizers.SGD(rate, momentum=solver.sgd_momentum, nesterov=solver.sgd_nesterov)
    else:
        optimizer = optimizers.RAdam(rate, weight_decay=decay)
    optimizer.exclude_from_weight_decay(var_names=[weight_decay.NO_DECAY])
    if solver.HasField("lookahead"):
        optimizer = optimizers.Lookahead(
            optimizer, sync_period=solver.lookahead.sync_period, slow_step_size=solver.lookahead.slow_step_size
        )
    return optimizer


def learning_rate(solver: trainer_pb2.SolverOptions, step: int) -> float:
    """The learning rate of a config at a step, that of parts with a multiplier aside."""
    return float(_schedule(solver, 1.0)(step))


def _schedule(solver: trainer_pb2.SolverOptions, multiplier: float) -> schedules.Schedule:
    steps, warmup, rate = solver.training_number_of_steps, solver.warmup_steps, multiplier * solver.base_learning_rate
    if solver.learning_policy == "cosine":
        return schedules.cosine(rate, steps, warmup)
    return schedules.poly(rate, steps, warmup, solver.poly_learning_power, multiplier * solver.poly_end_learning_rate)


def _weight_decay(options: config_pb2.ExperimentOptions) -> float | None:
    """solver_options.weight_decay where it counts."""
    decay = options.trainer_options.solver_options.weight_decay
    return decay if decay and options.model_options.backbone.flavor != "deeplab2" else None


def _addons_optimizer(solver: trainer_pb2.SolverOptions, rate: schedules.Schedule, decay: float | None) -> Optimizer:
    for name, is_set in (("lookahead", solver.HasField("lookahead")), ("weight_decay", bool(decay))):
        if is_set:
            raise InputError(
                f"trainer_options.solver_options.{name} is for the optimizers of tf_keras only. Received: "
                f'optimizer "{solver.optimizer}". Remove {name}, or use optimizer "radam".'
            )
    return addons.tfa_optimizer(solver.optimizer.removeprefix("tfa."), learning_rate=rate)


def build_loop_options(options: trainer_pb2.TrainerOptions, on_tpu: bool) -> LoopOptions:
    """When the training run saves, logs and returns to the host."""
    return LoopOptions(
        total_steps=options.solver_options.training_number_of_steps,
        save_steps=options.save_checkpoints_steps,
        summary_steps=options.save_summaries_steps,
        steps_per_loop=options.steps_per_loop if on_tpu else 1,
    )
