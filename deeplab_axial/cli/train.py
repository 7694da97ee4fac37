# SPDX-License-Identifier: Apache-2.0
"""Trains and evaluates the model of a config.

  deeplab-axial train --config_file=CONFIG --mode=train_and_eval --model_dir=FOLDER

The folder gets the config as it was read, checkpoints, TensorBoard events and history.jsonl; evaluation adds
metrics.json. A run that was interrupted goes on from its last checkpoint when the same command is given again.

Modes: train; eval (the newest checkpoint, once); train_and_eval (in turns, every evaluator_options.eval_interval
steps); continuous_eval (each checkpoint once, until training ends or none comes for
evaluator_options.continuous_eval_timeout seconds). The last two keep a copy of the best checkpoint in the folder
`best`.
"""

import os

import tensorflow as tf
from absl import flags

from deeplab_axial import builders, config
from deeplab_axial.cli import experiment, folders
from deeplab_axial.data import diagnosis
from deeplab_axial.data.source import Source
from deeplab_axial.errors import InputError
from deeplab_axial.protos import config_pb2
from deeplab_axial.training import best, checkpoints, continuous, loop, trainer

FLAGS = flags.FLAGS

flags.DEFINE_enum("mode", "train_and_eval", config.MODES, "What to do.")
flags.DEFINE_string("model_dir", None, "Folder of the checkpoints and logs.", required=True)
flags.DEFINE_integer("num_gpus", 0, "GPUs to train on; 0 for the CPU.", lower_bound=0)
flags.DEFINE_string("master", "", "Name or address of a TPU; empty for this machine.")
# No DEFINE_enum, whose help would have all values on one line.
flags.DEFINE_string("best_metric", best.DEFAULT_METRIC, "What decides which checkpoint is kept as the best.")
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
    _check_best_metric(options, eval_source)
    folders.make(FLAGS.model_dir, "model_dir")
    builders.set_precision_and_seed(options.trainer_options)
    with strategy.scope():
        model = builders.build_model(options, strategy.num_replicas_in_sync)
    evaluation = None
    if eval_source:
        evaluation = experiment.Evaluation(options, model, eval_source, FLAGS.model_dir, strategy)
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


def _check_best_metric(options: config_pb2.ExperimentOptions, source: Source | None) -> None:
    if FLAGS["best_metric"].present and FLAGS.mode not in ("train_and_eval", "continuous_eval"):
        raise InputError(
            "--best_metric goes with --mode=train_and_eval and --mode=continuous_eval. "
            f"Received: --mode={FLAGS.mode}. Remove it."
        )
    if FLAGS.best_metric not in best.METRICS:
        raise InputError(f"--best_metric must be one of {', '.join(best.METRICS)}. Received: {FLAGS.best_metric}.")
    if not FLAGS.best_metric.startswith("average_precision"):
        return
    rules, things = builders.build_metric_options(options).instance_ap, source.info.label_space.thing_ids
    if rules == "none" or not things:
        raise InputError(
            f"--best_metric={FLAGS.best_metric} needs average precision to be measured. Received: rules {rules!r} and "
            f"{len(things)} thing classes. Set evaluator_options.instance_ap to 'coco' or 'cityscapes' for a network "
            "with instance heads, or choose another metric."
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
    path = _restore(options, manager, model)
    loop_options = builders.build_loop_options(trainer_options, on_tpu)
    interval = options.evaluator_options.eval_interval if evaluation else loop_options.total_steps
    evaluations = best.Evaluations(FLAGS.model_dir, FLAGS.best_metric)

    def evaluate():
        if evaluations.add(manager.save(), evaluation.run(int(step.numpy()))):
            print(evaluations.describe_best(), flush=True)

    done = int(step.numpy())
    is_due = 0 < done < loop_options.total_steps and done % interval == 0
    if evaluation and is_due and evaluations.step_of(path) is None:
        evaluate()  # an earlier run was stopped before or amid it

    def make_dataset(first_step, context):
        return builders.build_training_dataset(options.train_dataset_options, source, first_step, context)

    while True:
        done = int(step.numpy())
        until = min((done // interval + 1) * interval, loop_options.total_steps)
        with diagnosis.explain_errors(source):
            loop.train(runner, make_dataset, step, manager, FLAGS.model_dir, loop_options, until)
        if evaluation:
            evaluate()
        if until == loop_options.total_steps:
            return


def _restore(options: config_pb2.ExperimentOptions, manager: checkpoints.Manager, model) -> str | None:
    """Goes on from the newest checkpoint, whose prefix it returns, or starts as the config says."""
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
    return path


def _evaluate_continuously(options, model, evaluation: experiment.Evaluation) -> None:
    timeout = options.evaluator_options.continuous_eval_timeout
    finished = continuous.follow(
        best.Evaluations(FLAGS.model_dir, FLAGS.best_metric),
        options.trainer_options.solver_options.training_number_of_steps,
        lambda path: evaluation.run(experiment.restore_for_inference(model, FLAGS.model_dir, path)),
        None if timeout < 0 else timeout,
        lambda text: print(text, flush=True),
    )
    if not finished:
        raise InputError(
            f"--model_dir={FLAGS.model_dir}: no new checkpoint came for {timeout} seconds "
            "(evaluator_options.continuous_eval_timeout)."
        )
