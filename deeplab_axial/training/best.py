# SPDX-License-Identifier: Apache-2.0
"""The best checkpoint of a run, kept beside the newest ones, and which checkpoints were evaluated."""

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Mapping
from typing import TypedDict

from deeplab_axial import files, json_files
from deeplab_axial.choices import CLASSIFICATION_METRICS, SEGMENTATION_METRICS
from deeplab_axial.errors import InputError
from deeplab_axial.json_files import Count, Finite
from deeplab_axial.training import checkpoint_files, label_space_file, log

BEST_FOLDER = "best"
BEST_FILE = "best.json"
EVALUATIONS_FILE = "evaluations.jsonl"
_ENTRIES_REMEDY = "Remove that line, or the file, and checkpoints that are still there are evaluated again."
DEFAULT_METRIC = SEGMENTATION_METRICS[0]
METRICS = (*SEGMENTATION_METRICS, *CLASSIFICATION_METRICS)


def look_up(metrics: Mapping, name: str) -> float | None:
    """The value of one of METRICS; None where it was not measured or nothing tells."""
    value = metrics
    for key in name.split("/"):
        value = value.get(key) if isinstance(value, Mapping) else None
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if is_number and math.isfinite(value) else None


class Best(TypedDict):
    """What BEST_FILE holds: which metric decided, its value, and the step and name of the checkpoint."""

    metric: str
    value: Finite
    step: Count
    checkpoint: str


class _Entry(TypedDict):
    """A line of EVALUATIONS_FILE; beside these fields the metric that decided, under its name."""

    step: Count
    checkpoint: str


def read_best(folder: str) -> Best | None:
    """What BEST_FILE in a folder BEST_FOLDER holds; None without one.

    Raises:
      InputError: the file is damaged.
    """
    remedy = f"Remove the folder {folder}, and the best checkpoint is looked for anew, or bring the file back."
    return json_files.read(os.path.join(folder, BEST_FILE), Best, remedy)


def describe(kept: Best, folder: str) -> str:
    """A line of what BEST_FILE holds, and of the folder that it is in."""
    return f"{kept['metric']} {kept['value']:.4f} at step {kept['step']}: {folder}"


def copy_checkpoint(prefix: str, folder: str) -> str:
    """Copies a checkpoint and returns the prefix of the copy.

    The index comes last: without it no reader takes the rest for a checkpoint.

    Raises:
      FileNotFoundError: the checkpoint is gone, or goes meanwhile.
    """
    source, name = os.path.split(prefix)
    parts = [part for part in files.names(source) if part.startswith(f"{name}.data-")]
    if not parts:
        raise FileNotFoundError(f"{prefix}.data-*")
    for part in (*parts, f"{name}.index"):
        files.copy(os.path.join(source, part), os.path.join(folder, part))
    return os.path.join(folder, name)


def fingerprint(prefix: str) -> str:
    """Stands for the content of a checkpoint: its index holds a checksum of each variable.

    Raises:
      FileNotFoundError: the checkpoint is gone.
    """
    return hashlib.sha256(files.read(f"{prefix}.index")).hexdigest()[:16]


@dataclasses.dataclass
class Evaluations:
    """What a run remembers of its evaluations, also across restarts.

    EVALUATIONS_FILE gets a line for each evaluated checkpoint. The folder BEST_FOLDER gets a copy of the best one, its
    metrics and BEST_FILE, and can be used like a model's folder. BEST_FILE is written last: the checkpoint it names is
    complete.

    Attributes:
      folder: of the model.
      metric: what decides, one of METRICS.
    """

    folder: str
    metric: str = DEFAULT_METRIC

    def __post_init__(self):
        if self.metric not in METRICS:
            raise ValueError(f"metric must be one of {', '.join(METRICS)}. Received: {self.metric!r}.")

    @property
    def best_folder(self) -> str:
        """Where the best checkpoint is."""
        return os.path.join(self.folder, BEST_FOLDER)

    @property
    def _entries_file(self) -> str:
        return os.path.join(self.folder, EVALUATIONS_FILE)

    def step_of(self, prefix: str) -> int | None:
        """The step of a checkpoint that was evaluated; None if it was not.

        Raises:
          FileNotFoundError: the checkpoint is gone.
        """
        steps = {entry["checkpoint"]: entry["step"] for entry in self.read()}
        return steps.get(fingerprint(prefix))

    def read(self) -> list[dict]:
        """The entries of EVALUATIONS_FILE, oldest first; a line cut short by a kill is left out.

        Raises:
          InputError: the file is damaged.
        """
        return json_files.read_lines(self._entries_file, _Entry, _ENTRIES_REMEDY, lambda line: line.endswith(b"}"))

    def add(self, prefix: str, metrics: Mapping) -> bool:
        """Remembers an evaluation, and keeps the checkpoint if it is the best so far.

        Args:
          prefix: of the checkpoint, whose files must stay in place meanwhile.
          metrics: what `Evaluator.evaluate` returned, and "step".

        Returns:
          Whether it is the best.

        Raises:
          InputError: the files cannot be written.
        """
        value = look_up(metrics, self.metric)
        try:
            best = self.best_value()
            is_best = value is not None and (best is None or value > best)
            if is_best:
                self._keep(prefix, metrics, value)
            if self.step_of(prefix) is None:
                entry = {"step": metrics["step"], "checkpoint": fingerprint(prefix), self.metric: value}
                # On a line of its own, also after one that a kill cut short.
                content = json_files.read_bytes(self._entries_file, _ENTRIES_REMEDY, json_files.LARGEST_LINES)
                before = "\n" if content and not content.endswith(b"\n") else ""
                files.append(self._entries_file, before + json.dumps(entry) + "\n")
        except OSError as error:
            raise InputError(
                f"{self.folder} cannot keep the evaluated checkpoint ({error}). Free or change the place and run again."
            ) from error
        return is_best

    def describe_best(self) -> str:
        """Says which checkpoint is the best, and where it is."""
        kept = read_best(self.best_folder)
        return f"Best so far: {describe(kept, self.best_folder)}"

    def best_value(self) -> float | None:
        """The metric of the kept checkpoint; None without one, or where it was not measured."""
        kept = read_best(self.best_folder)
        if kept is None:
            return None
        if kept["metric"] == self.metric:
            return kept["value"]
        # Another metric decided before: the one that does now is among those that were measured.
        metrics = log.read_metrics(self.best_folder)
        return look_up(metrics, self.metric) if metrics and metrics["step"] == kept["step"] else None

    def _keep(self, prefix: str, metrics: Mapping, value: float) -> None:
        folder, name = self.best_folder, os.path.basename(prefix)
        if files.exists(os.path.join(folder, f"{name}.index")):  # of an earlier run of so many steps
            files.remove(os.path.join(folder, BEST_FILE))
        copy_checkpoint(prefix, folder)
        files.write_atomically(os.path.join(folder, log.METRICS_FILE), json.dumps(metrics, indent=1))
        classes = os.path.join(self.folder, label_space_file.FILE_NAME)
        if files.exists(classes):
            files.copy(classes, os.path.join(folder, label_space_file.FILE_NAME))
        checkpoint_files.write_list(folder, [name])
        content = {"metric": self.metric, "value": value, "step": metrics["step"], "checkpoint": name}
        files.write_atomically(os.path.join(folder, BEST_FILE), json.dumps(content, indent=1))
        for other in files.names(folder):
            # With a dot in front: a copy that was cut short.
            if other.lstrip(".").startswith(f"{checkpoint_files.NAME}-") and not other.startswith(f"{name}."):
                files.remove(os.path.join(folder, other))
