# SPDX-License-Identifier: Apache-2.0
"""Whether a run may go on with the present config: what differs from the one that it began with."""

import hashlib
import math
import os
from typing import Any

from absl import logging

from deeplab_axial import builders, config, files
from deeplab_axial.cli import config_differences
from deeplab_axial.data import label_space
from deeplab_axial.errors import InputError
from deeplab_axial.protos import config_pb2
from deeplab_axial.training import best, checkpoint_files, label_space_file

# Harmless where the schedule of the learning rate does not depend on it.
STEPS = "trainer_options.solver_options.training_number_of_steps"


def check(options: config_pb2.ExperimentOptions, model_dir: str, are_allowed: bool = False) -> None:
    """Compares the config with the one in the model's folder, if there is a checkpoint to go on from.

    Args:
      options: the present config.
      model_dir: with config.FILE_NAME of the run, if it has one.
      are_allowed: whether the run goes on whatever has changed, as --allow_config_change says.

    Raises:
      InputError: there is a best checkpoint but none to go on from; or fields differ that are not in
        config_differences.HARMLESS, of which STEPS is one under a constant learning rate, or config.FILE_NAME is
        damaged, and changes are not allowed.
    """
    kept = os.path.join(model_dir, best.BEST_FOLDER, best.BEST_FILE)
    if not checkpoint_files.any_there(model_dir) and files.exists(kept):
        raise InputError(
            f"--model_dir={model_dir} has no checkpoint to go on from, but {kept} of an earlier run, which this one "
            f"would be measured against. Remove or move the folder `{best.BEST_FOLDER}` and {best.EVALUATIONS_FILE}, "
            "or name another --model_dir."
        )
    path = os.path.join(model_dir, config.FILE_NAME)
    if not (checkpoint_files.any_there(model_dir) and files.exists(path)):
        return
    try:
        before = config.read_alone(path)
    except InputError as error:
        problem = f"{path} cannot be read, so nothing tells the config that the run began with ({error})"
        remedy = "Bring the file back"
    else:
        found = config_differences.differences(before, options)
        changes = _with_schedule(found, before, options, model_dir)
        if not changes:
            return
        problem = f"The config has changed since the run in {model_dir} was last started:\n  " + "\n  ".join(changes)
        remedy = f"Undo the change ({path} is the config of the run), name another --model_dir"
    if not are_allowed:
        raise InputError(f"{problem}\n{remedy}, or go on as it is with --allow_config_change.")
    logging.warning("%s\nGoing on as --allow_config_change says.", problem)


def _with_schedule(changes: list[str], before: Any, now: Any, model_dir: str) -> list[str]:
    """The changes, that of STEPS with what becomes of the learning rate, or without it where that stays the same."""
    step = checkpoint_files.newest_step(model_dir)
    if step is None or not any(change.startswith(f"{STEPS}: ") for change in changes):
        return changes
    old, new = before.trainer_options.solver_options, now.trainer_options.solver_options
    if _is_constant(old) and _is_constant(new) and new.training_number_of_steps >= step:
        return [change for change in changes if not change.startswith(f"{STEPS}: ")]
    was, would_be = builders.learning_rate(old, step), builders.learning_rate(new, step)
    if math.isclose(was, would_be, rel_tol=1e-5):
        told = f"the learning rate would be another one after step {step}"
    else:
        times = f", {would_be / was:.3g} times as much" if was else ""
        told = f"the learning rate would jump from {was:.3g} to {would_be:.3g}{times}, at step {step}"
    told += f', for learning_policy "{new.learning_policy}" ends at the last step'
    return [f"{change}; {told}" if change.startswith(f"{STEPS}: ") else change for change in changes]


def _is_constant(solver: Any) -> bool:
    """Whether the learning rate is, from the warm-up on, however many steps there are."""
    return solver.learning_policy == "poly" and solver.poly_end_learning_rate == solver.base_learning_rate


def check_classes(space: label_space.LabelSpace, model_dir: str, are_allowed: bool = False) -> None:
    """Compares the classes of the training data with those of the run, if there is a checkpoint to go on from.

    Raises:
      InputError: ids stand for other classes, and changes are not allowed.
    """
    trained = label_space_file.read(model_dir) if checkpoint_files.any_there(model_dir) else None
    found = trained and label_space.differences(trained, space)
    if not found:
        return
    problem = (
        f"The records of train_dataset_options number the classes differently from those that the run in {model_dir} "
        f"began with: {label_space.tell(found, 'in the run', 'in the records')}."
    )
    if not are_allowed:
        path = os.path.join(model_dir, label_space_file.FILE_NAME)
        raise InputError(
            f"{problem} Convert them again with --label_space={path}, name another --model_dir, or go on as it is with "
            "--allow_config_change."
        )
    logging.warning("%s Going on as --allow_config_change says.", problem)


def fingerprint(options: config_pb2.ExperimentOptions) -> int:
    """48 bits that stand for what workers that train together must share: all but the places of their data."""
    shared = config_pb2.ExperimentOptions()
    shared.CopyFrom(options)
    shared.train_dataset_options.ClearField("file_pattern")
    shared.train_dataset_options.ClearField("data_service_address")
    shared.ClearField("eval_dataset_options")
    return int(hashlib.sha256(shared.SerializeToString(deterministic=True)).hexdigest()[:12], 16)
