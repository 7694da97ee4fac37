# SPDX-License-Identifier: Apache-2.0
"""The command `train`: what it does. Its flags are in `options`."""

import contextlib
import dataclasses
import functools
import os
import time
from collections.abc import Iterator
from typing import NamedTuple

import tensorflow as tf
from absl import flags, logging

from deeplab_axial import builders, config, files, locks, progress
from deeplab_axial.cli import config_changes, config_differences, experiment, folders, graph_optimizers, run_end
from deeplab_axial.cli.options.experiment import load_config
from deeplab_axial.data import diagnosis
from deeplab_axial.data.label_space import LabelSpace, differences, tell
from deeplab_axial.data.source import Source
from deeplab_axial.errors import InputError
from deeplab_axial.importing.report import Report
from deeplab_axial.protos import config_pb2, model_pb2
from deeplab_axial.training import (
    best,
    checkpoint_files,
    checkpoints,
    continuous,
    label_space_file,
    log,
    loop,
    loss_watch,
    profiler,
    summary,
    trainer,
)
from deeplab_axial.training.workers import Workers

FLAGS = flags.FLAGS
# So an evaluation may run beside a training that has none of its own.
_WRITES = {
    "train": ("train",),
    "eval": ("evaluation",),
    "train_and_eval": ("train", "evaluation"),
    "continuous_eval": ("evaluation",),
}
# Gets the names of all that an initial checkpoint gave, did not give, and kept.
_INITIAL_FILE = "initial_checkpoint.txt"


def main() -> None:
    """Runs the mode."""
    options = load_config(FLAGS.mode)
    trains = FLAGS.mode in ("train", "train_and_eval")
    profile = _parse_profile(options, trains)
    builders.check_tpu(options, FLAGS.mode, FLAGS.model_dir, FLAGS.tpu)
    strategy = builders.build_strategy(FLAGS.num_gpus, FLAGS.tpu, trains)
    if trains and not (FLAGS.num_gpus or FLAGS.tpu or options.trainer_options.use_xla):
        graph_optimizers.leave_out_slow_ones()
    workers = Workers(strategy)
    with workers.job(FLAGS.model_dir) as folder, _locked(workers):
        _run(options, strategy, workers, folder, profile)


@contextlib.contextmanager
def _locked(workers: Workers) -> Iterator[None]:
    """Keeps other processes from writing what this mode writes: the run itself, or its evaluations, or both."""
    with contextlib.ExitStack() as stack:
        if workers.is_chief:
            folders.check(FLAGS.model_dir, "model_dir")
            for what in _WRITES[FLAGS.mode]:
                stack.enter_context(locks.in_folder(FLAGS.model_dir, f"train --mode={FLAGS.mode}", what))
        yield


def _run(
    options: config_pb2.ExperimentOptions,
    strategy: tf.distribute.Strategy,
    workers: Workers,
    folder: str,
    profile: profiler.StepRange | None,
) -> None:
    """Runs the mode, alone or as one of several workers, which has its own folder to write to."""
    trains = FLAGS.mode in ("train", "train_and_eval")
    train_source = builders.open_source(options, "train") if trains else None
    eval_source = builders.open_source(options, "eval") if FLAGS.mode != "train" else None
    if train_source and eval_source:
        builders.check_same_classes(train_source, eval_source)
    _check_batch(options, strategy.num_replicas_in_sync if trains else 1)
    _check_xla(options, strategy.num_replicas_in_sync if trains else 1)
    if trains:
        builders.check_batch_statistics(options, strategy.num_replicas_in_sync)
    if FLAGS.mode == "train_and_eval":
        builders.check_statistics(options, strategy.num_replicas_in_sync)
    _check_best_metric(options, eval_source)
    if trains:
        config_changes.check(options, FLAGS.model_dir, FLAGS.allow_config_change)
        config_changes.check_classes(train_source.info.label_space, FLAGS.model_dir, FLAGS.allow_config_change)
        _check_same_config(options, workers)
    elif FLAGS.mode == "eval":
        experiment.check_classes(FLAGS.model_dir, eval_source)
    if workers.is_chief:
        _warn(options, train_source, eval_source)
    differs = {} if trains else config_differences.since_run(options, FLAGS.model_dir)
    config_differences.tell(differs, FLAGS.model_dir)
    builders.set_precision_and_seed(options.trainer_options)
    with strategy.scope(), progress.task("Building the network", workers.is_chief):
        model = builders.build_model(options, strategy.num_replicas_in_sync)
    evaluation = None
    if eval_source:
        evaluation = experiment.make_evaluation(options, model, eval_source, FLAGS.model_dir, strategy, differs)
    if trains:
        _train(options, strategy, workers, folder, model, train_source, evaluation, profile)
    elif FLAGS.mode == "eval":
        evaluation.run(experiment.restore_for_inference(model, FLAGS.model_dir))
    else:
        _evaluate_continuously(options, model, evaluation)


def _check_batch(options: config_pb2.ExperimentOptions, num_replicas: int) -> None:
    batch_size = options.train_dataset_options.batch_size
    parts = options.trainer_options.solver_options.gradient_accumulation_steps
    if batch_size % (num_replicas * parts):
        rule = f"{num_replicas} replicas" + (f" x {parts} gradient_accumulation_steps" if parts > 1 else "")
        raise InputError(
            f"{FLAGS.config_file}: train_dataset_options.batch_size must be a multiple of {rule}. "
            f"Received: {batch_size}. Choose a multiple of {num_replicas * parts}."
        )


def _warn(options: config_pb2.ExperimentOptions, train: Source | None, evaluation: Source | None) -> None:
    """Tells what to know of the data before the results count."""
    for split, source in (("train", train), ("eval", evaluation)):
        for message in builders.data_warnings(options, split, source) if source else ():
            logging.warning("%s", message)


def _check_xla(options: config_pb2.ExperimentOptions, num_replicas: int) -> None:
    if options.trainer_options.use_xla and num_replicas > 1 and not FLAGS.num_gpus and not FLAGS.tpu:
        raise InputError(
            f"{FLAGS.config_file}: trainer_options.use_xla does not go with training on several CPUs: XLA has no "
            f"collective operations for them. Received: true and {num_replicas} replicas. Set it to false, or give "
            "--num_gpus."
        )


def _check_same_config(options: config_pb2.ExperimentOptions, workers: Workers) -> None:
    if not workers.agree(config_changes.fingerprint(options)):
        raise InputError(
            "The workers must all have the same config; only the places of their data may differ. Received: configs "
            f"that differ, {FLAGS.config_file} on this one. Copy one to all machines, and give all the same --set."
        )


def _parse_profile(options: config_pb2.ExperimentOptions, trains: bool) -> profiler.StepRange | None:
    if not FLAGS.profile:
        return None
    if not trains:
        raise InputError(
            "--profile goes with --mode=train and --mode=train_and_eval, whose training steps it names. "
            f"Received: --mode={FLAGS.mode}. Remove it."
        )
    return profiler.parse_range(FLAGS.profile, options.trainer_options.solver_options.training_number_of_steps)


def _check_best_metric(options: config_pb2.ExperimentOptions, source: Source | None) -> None:
    if FLAGS.best_metric is None:
        return
    if FLAGS.mode not in ("train_and_eval", "continuous_eval"):
        raise InputError(
            "--best_metric goes with --mode=train_and_eval and --mode=continuous_eval. "
            f"Received: --mode={FLAGS.mode}. Remove it."
        )
    if FLAGS.best_metric not in _metrics(options):
        names = ", ".join(_metrics(options))
        raise InputError(f"--best_metric must be one of {names} for this model. Received: {FLAGS.best_metric}.")
    if FLAGS.best_metric == "accuracy/top5" and options.model_options.classification.num_classes <= 5:
        raise InputError(
            f"--best_metric={FLAGS.best_metric} needs more than five classes: among five the right one always is. "
            f"Received: model_options.classification.num_classes: {options.model_options.classification.num_classes}. "
            "Use accuracy/top1."
        )
    if not FLAGS.best_metric.startswith("average_precision"):
        return
    rules, things = builders.build_metric_options(options).instance_ap, source.info.label_space.thing_ids
    if rules == "none" or not things:
        raise InputError(
            f"--best_metric={FLAGS.best_metric} needs average precision to be measured. Received: rules {rules!r} and "
            f"{len(things)} thing classes. Set evaluator_options.instance_ap to 'coco' or 'cityscapes' for a network "
            "with instance heads, or choose another metric."
        )


def _metrics(options: config_pb2.ExperimentOptions) -> tuple[str, ...]:
    """What may decide which checkpoint is the best, the default first."""
    is_classifier = options.model_options.HasField("classification")
    return best.CLASSIFICATION_METRICS if is_classifier else best.SEGMENTATION_METRICS


def _build_run(
    options: config_pb2.ExperimentOptions, strategy: tf.distribute.Strategy, workers: Workers, model, source: Source
) -> tuple[trainer.Trainer, tf.Variable, checkpoints.Manager]:
    """What takes the steps, what counts them, and what saves both."""
    with strategy.scope():
        step = tf.Variable(0, dtype=tf.int64, trainable=False, name="step")
    loss = builders.build_loss(options, source.info.label_space)
    runner = builders.build_trainer(options, strategy, model, loss)
    objects = {"model": model, **runner.objects}
    max_to_keep = options.trainer_options.num_checkpoints_to_keep
    return runner, step, checkpoints.Manager(FLAGS.model_dir, objects, step, max_to_keep, workers)


def _train(
    options,
    strategy,
    workers: Workers,
    folder: str,
    model,
    source,
    evaluation: experiment.AnyEvaluation | None,
    profile: profiler.StepRange | None,
) -> None:
    started = time.perf_counter()
    runner, step, manager = _build_run(options, strategy, workers, model, source)
    path, report = _restore(options, manager, model, source.info.label_space)
    # Not before: what is refused leaves the folder as it was.
    folders.make(FLAGS.model_dir, "model_dir", remote=True)
    _check_config_file(options, folder)
    with files.explained(folder):
        config.save(options, os.path.join(folder, config.FILE_NAME))
        label_space_file.write(folder, source.info.label_space)
        if report is not None:
            files.write_atomically(os.path.join(folder, _INITIAL_FILE), report.all_names())
    first_step = int(step.numpy())
    if not workers.is_chief:
        profile = None
    if profile is not None:
        profile = profiler.still_to_come(profile, first_step, print)
    on_tpu = isinstance(strategy, tf.distribute.TPUStrategy)
    loop_options = dataclasses.replace(builders.build_loop_options(options.trainer_options, on_tpu), profile=profile)
    interval = options.evaluator_options.eval_interval if evaluation else loop_options.total_steps
    evaluations = best.Evaluations(FLAGS.model_dir, FLAGS.best_metric or _metrics(options)[0])

    def evaluate():
        path = manager.save()
        if workers.is_chief:
            with runner.averaged():
                metrics = evaluation.run(int(step.numpy()))
            if evaluations.add(path, metrics):
                print(evaluations.describe_best(), flush=True)
        workers.wait()

    done = int(step.numpy())
    is_due = 0 < done < loop_options.total_steps and done % interval == 0
    if evaluation and workers.any(workers.is_chief and is_due and evaluations.step_of(path) is None):
        evaluate()  # an earlier run was stopped before or amid it

    def make_dataset(first_step, context):
        return builders.build_training_dataset(options.train_dataset_options, source, first_step, context)

    is_classifier = options.model_options.HasField("classification")
    explain_errors = functools.partial(diagnosis.explain_errors, source, with_panoptic=not is_classifier)
    watch = loss_watch.LossWatch(folder, loop_options.total_steps)
    while True:
        done = int(step.numpy())
        until = min((done // interval + 1) * interval, loop_options.total_steps)
        loop.train(runner, make_dataset, step, manager, folder, loop_options, until, explain_errors, watch)
        if evaluation:
            evaluate()
        if until == loop_options.total_steps:
            break
    taken, seconds = until - first_step, time.perf_counter() - started
    told = summary.collect(folder, until, taken, seconds, manager.save())
    run_end.tell(folder, told, evaluation is not None, is_classifier)


def _check_config_file(options: config_pb2.ExperimentOptions, folder: str) -> None:
    """Refuses to write over a config that no training wrote, as one that a user keeps in the model's folder."""
    path = os.path.join(folder, config.FILE_NAME)
    marks = (log.HISTORY_FILE, label_space_file.FILE_NAME)
    began = checkpoint_files.any_there(folder) or any(files.exists(os.path.join(folder, name)) for name in marks)
    if not began and files.exists(path) and files.read(path) != config.to_text(options).encode():
        raise InputError(
            f"{path} would be replaced by the config as it was read, and nothing else of a training is there. Give the "
            "config another name or place, or remove it if it is of a training that was stopped early."
        )


def _restore(
    options: config_pb2.ExperimentOptions, manager: checkpoints.Manager, model, space: LabelSpace
) -> tuple[str | None, Report | None]:
    """Goes on from the newest checkpoint, whose prefix it returns, or starts as the config says.

    Where it starts from another training's checkpoint, it returns what that gave, too.
    """
    path = manager.restore_latest()
    report = None
    if path is not None:
        print(f"Resuming from {path}", flush=True)
    elif options.model_options.initial_checkpoint:
        names = _InitialClasses.of(options.model_options, space)
        report = checkpoints.restore_initial(
            options.model_options.initial_checkpoint,
            model,
            names.restored,
            options.model_options.restore_instance_last_layer_from_initial_checkpoint,
            names.reason,
        )
        if names.note and set(report.restored) & set(checkpoints.SEMANTIC_LAST_LAYERS):
            report.notes.append(names.note)
        lines = [f"Starting from another checkpoint. {report}", report.first_names()]
        print(*filter(None, lines), f"All names: {os.path.join(FLAGS.model_dir, _INITIAL_FILE)}", sep="\n", flush=True)
    return path, report


class _InitialClasses(NamedTuple):
    """Whether the last layer of the semantic head (or classifier) comes from the initial checkpoint.

    Attributes:
      restored: whether it does.
      reason: if not, why.
      note: if it does, what to know of it; "" for nothing.
    """

    restored: bool
    reason: str = checkpoints.AS_THE_CONFIG_SAYS
    note: str = ""

    @classmethod
    def of(cls, options: model_pb2.ModelOptions, space: LabelSpace) -> "_InitialClasses":
        """Compares the classes beside the checkpoint with those of the data; the config may ask for others' classes."""
        field = "restore_semantic_last_layer_from_initial_checkpoint"
        if not getattr(options, field):
            return cls(False)
        theirs = label_space_file.read_beside(options.initial_checkpoint)
        if theirs is None:
            return cls(True, note="nothing tells the classes of this checkpoint. They are taken for those of the data.")
        found = differences(theirs, space, kinds=False)
        if not found:
            return cls(True)
        told = tell(found, "in the checkpoint", "in the data")
        if options.HasField(field):
            return cls(True, note=f"the classes are others, and taken as model_options.{field} asks: {told}.")
        return cls(False, f"its classes are others: {told}; model_options.{field}: true takes it all the same")


def _evaluate_continuously(options, model, evaluation: experiment.AnyEvaluation) -> None:
    timeout = options.evaluator_options.continuous_eval_timeout

    def evaluate(path: str) -> dict:
        experiment.check_classes(FLAGS.model_dir, evaluation.source)
        # Training may have begun, or begun anew, since the last one.
        differs = config_differences.since_run(evaluation.options, FLAGS.model_dir)
        if differs != evaluation.differs:
            config_differences.tell(differs, FLAGS.model_dir)
            evaluation.differs = differs
        return evaluation.run(experiment.restore_for_inference(model, FLAGS.model_dir, path, "--model_dir"))

    finished = continuous.follow(
        best.Evaluations(FLAGS.model_dir, FLAGS.best_metric or _metrics(options)[0]),
        options.trainer_options.solver_options.training_number_of_steps,
        evaluate,
        None if timeout < 0 else timeout,
        lambda text: print(text, flush=True),
    )
    if not finished:
        raise InputError(
            f"--model_dir={FLAGS.model_dir}: no new checkpoint came for {timeout} seconds "
            "(evaluator_options.continuous_eval_timeout)."
        )
