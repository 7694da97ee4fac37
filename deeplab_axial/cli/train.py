# SPDX-License-Identifier: Apache-2.0
"""Trains and evaluates the model of a config.

  deeplab-axial train --config_file=CONFIG --mode=train_and_eval --model_dir=FOLDER

The folder gets the config as it was read, checkpoints, TensorBoard events and history.jsonl; evaluation adds
metrics.json. A run that was interrupted goes on from its last checkpoint when the same command is given again.

Modes: train; eval (the newest checkpoint, once); train_and_eval (in turns, every evaluator_options.eval_interval
steps); continuous_eval (each new checkpoint, until training ends or none comes for
evaluator_options.continuous_eval_timeout seconds).
"""

import os

import tensorflow as tf
from absl import flags

from deeplab_axial import builders, config
from deeplab_axial.cli import experiment, folders
from deeplab_axial.data import diagnosis
from deeplab_axial.errors import InputError
from deeplab_axial.protos import config_pb2
from deeplab_axial.training import checkpoints, loop, trainer

FLAGS = flags.FLAGS

flags.DEFINE_enum("mode", "train_and_eval", config.MODES, "What to do.")
flags.DEFINE_string("model_dir", None, "Folder of the checkpoints and logs.", required=True)
flags.DEFINE_integer("num_gpus", 0, "GPUs to train on; 0 for the CPU.", lower_bound=0)
flags.DEFINE_string("master", "", "Name or address of a TPU; empty for this machine.")
flags.declare_key_flag("config_file")
flags.declare_key_flag("set")
flags.declare_key_flag("placeholder")


def main() -> None:
    """Runs the mode."""
    options = experiment.load_config(FLAGS.mode)
    strategy = builders.build_strategy(FLAGS.num_gpus, FLAGS.master)
    trains = FLAGS.mode in ("train", "train_and_eval")
    train_source = builders.open_source(options, "train") if trains else None
    eval_source = builders.open_source(options, "eval") if FLAGS.mode != "train" else None
    _check_batch(options, strategy.num_replicas_in_sync if trains else 1)
    folders.make(FLAGS.model_dir, "model_dir")
    builders.set_precision_and_seed(options.trainer_options)
    with strategy.scope():
        model = builders.build_model(options, strategy.num_replicas_in_sync)
    evaluation = experiment.Evaluation(options, model, eval_source, FLAGS.model_dir) if eval_source else None
    if trains:
        _train(options, strategy, model, train_source, evaluation)
    elif FLAGS.mode == "eval":
        evaluation.run(experiment.restore_for_inference(model, FLAGS.model_dir))
    else:
        _evaluate_continuously(options, model, evaluation)


def _check_batch(options: config_pb2.ExperimentOptions, num_replicas: int) -> None:
    batch_size = options.train_dataset_options.batch_size
    if batch_size % num_replicas:
        raise InputError(
            f"{FLAGS.config_file}: train_dataset_options.batch_size must be a multiple of the {num_replicas} replicas. "
            f"Received: {batch_size}."
        )


def _train(options, strategy, model, source, evaluation: experiment.Evaluation | None) -> None:
    config.save(options, os.path.join(FLAGS.model_dir, "config.textproto"))
    trainer_options = options.trainer_options
    solver = trainer_options.solver_options
    with strategy.scope():
        optimizer = builders.build_optimizer(options)
        step = tf.Variable(0, dtype=tf.int64, trainable=False, name="step")
    on_tpu = isinstance(strategy, tf.distribute.TPUStrategy)
    runner = trainer.Trainer(
        strategy,
        model,
        builders.build_loss(options, source.info.label_space),
        optimizer,
        options.train_dataset_options.batch_size,
        solver.clip_gradient_norm if solver.use_gradient_clipping else None,
        trainer_options.use_xla and not on_tpu,
        trainer_options.seed,
    )
    objects = {"model": model, "optimizer": optimizer}
    manager = checkpoints.Manager(FLAGS.model_dir, objects, step, trainer_options.num_checkpoints_to_keep)
    path = manager.restore_latest()
    if path is not None:
        print(f"Resuming from {path}", flush=True)
    elif options.model_options.initial_checkpoint:
        report = checkpoints.restore_initial(
            options.model_options.initial_checkpoint,
            model,
            options.model_options.restore_semantic_last_layer_from_initial_checkpoint,
            options.model_options.restore_instance_last_layer_from_initial_checkpoint,
        )
        print(f"Starting from another checkpoint. {report}", flush=True)
    loop_options = builders.build_loop_options(trainer_options, on_tpu)
    interval = options.evaluator_options.eval_interval if evaluation else loop_options.total_steps

    def make_dataset(first_step):
        return builders.build_training_dataset(options.train_dataset_options, source, first_step)

    while True:
        done = int(step.numpy())
        until = min((done // interval + 1) * interval, loop_options.total_steps)
        with diagnosis.explain_errors(source):
            loop.train(runner, make_dataset, step, manager, FLAGS.model_dir, loop_options, until)
        if evaluation:
            evaluation.run(until)
        if until == loop_options.total_steps:
            return


def _evaluate_continuously(options, model, evaluation: experiment.Evaluation) -> None:
    last = options.trainer_options.solver_options.training_number_of_steps
    timeout = options.evaluator_options.continuous_eval_timeout
    for path in tf.train.checkpoints_iterator(FLAGS.model_dir, timeout=None if timeout < 0 else timeout):
        step = experiment.restore_for_inference(model, FLAGS.model_dir, path)
        evaluation.run(step)
        if step >= last:
            return
    raise InputError(
        f"--model_dir={FLAGS.model_dir}: no new checkpoint came for {timeout} seconds "
        "(evaluator_options.continuous_eval_timeout)."
    )
