# SPDX-License-Identifier: Apache-2.0
"""What a run tells as it goes: a progress line, a JSON-lines file and TensorBoard events."""

import contextlib
import datetime
import json
import os
import statistics
from collections.abc import Mapping
from typing import Annotated, TypedDict

import numpy as np
import tensorflow as tf

from deeplab_axial import files, json_files
from deeplab_axial.errors import InputError
from deeplab_axial.json_files import Count
from deeplab_axial.progress import Bar

HISTORY_FILE = "history.jsonl"
METRICS_FILE = "metrics.json"
# Key of METRICS_FILE: fields of the config that differ from the run's, by what they bear on.
DIFFERS = "differs_from_run"
NETWORK, EVALUATION = "network", "evaluation"
# One line for each image of the last evaluation.
PER_IMAGE_FILE = "per_image.jsonl"
# Values of an entry that differ between two runs which are otherwise the same.
TIME = "time"
SPEED = "images_per_second"
# Pixels. Image, ground truth and prediction of Cityscapes in a row have 6164 and 8 MB as a PNG file; shrunk, 1 MB.
MAX_PICTURE_WIDTH = 1920


class TrainingLog:
    """Reports the progress of a run; a context manager.

    Args:
      folder: of the model, made if missing; gets HISTORY_FILE and TensorBoard events under `train`.
      first_step: steps that are already done. What an earlier run logged beyond it is dropped from HISTORY_FILE, for
        those steps will be taken again.
      total_steps: steps of the whole run.
      summary_steps: steps between two entries of the files.
      show: whether there is a progress line.
    """

    def __init__(self, folder: str, first_step: int, total_steps: int, summary_steps: int, show: bool = True):
        self.path = os.path.join(folder, HISTORY_FILE)
        self.summary_steps = summary_steps
        self._folder = folder
        with files.explained(folder):
            kept = [json.dumps(entry) + "\n" for entry in read_history(folder) if entry["step"] <= first_step]
            files.write_atomically(self.path, "".join(kept))
            self._events = tf.summary.create_file_writer(os.path.join(folder, "train"))
        self._speeds: list[float] = []
        self._total_steps = total_steps
        self._first_step = first_step
        self._show = show
        self._bar: Bar | None = None

    def __enter__(self) -> "TrainingLog":
        return self

    def __exit__(self, kind: type | None, *_) -> None:
        if self._bar is not None:
            self._bar.close()
        # What came first says more than that the last events cannot be written, either.
        with contextlib.suppress(*([InputError] if kind else [])), files.explained(self._folder):
            self._events.close()

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Shows the values of a step, and files them if it is one of the summary steps.

        Args:
          step: steps done.
          values: by name; loss terms, gradient norm, learning rate. SPEED where the step was timed: an entry holds
            the mean over the timed steps since the entry before it.

        Raises:
          InputError: HISTORY_FILE cannot be written.
        """
        if self._bar is None:  # not before: the first step takes long, and would count for the speed
            self._bar = Bar(
                total=self._total_steps,
                initial=self._first_step,
                desc="Training",
                unit="step",
                dynamic_ncols=True,
                disable=not self._show,
            )
        shown = {name.removesuffix("_loss"): f"{value:.4g}" for name, value in values.items()}
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(step - self._bar.n)
        if SPEED in values:
            self._speeds.append(values[SPEED])
        if step % self.summary_steps == 0 or step == self._total_steps:
            if self._speeds:  # of steps of as many images each: all images by all seconds
                values = {**values, SPEED: statistics.harmonic_mean(self._speeds)}
                self._speeds.clear()
            self._file(step, values)

    def _file(self, step: int, values: Mapping[str, float]) -> None:
        with files.explained(self._folder):
            files.append(self.path, json.dumps({"step": step, TIME: _now(), **values}) + "\n")
            with self._events.as_default(step):
                for name, value in values.items():
                    tf.summary.scalar(f"training/{name}", value)


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")


class _OfStep(TypedDict):
    """What an entry of HISTORY_FILE and METRICS_FILE must have; the other fields are what was measured."""

    step: Count


class _Metrics(_OfStep, total=False):
    differs_from_run: dict[str, list[str]]


def read_history(folder: str) -> list[dict]:
    """The entries of HISTORY_FILE in a model's folder, oldest first; a last line cut short by a kill is left out.

    Raises:
      InputError: the file is damaged.
    """
    path = os.path.join(folder, HISTORY_FILE)
    remedy = "Remove that line, or move the file away: training goes on without it and only its curves are lost."
    entries = json_files.read_lines(path, Annotated[dict[str, int | float | str], _OfStep], remedy)
    for number, entry in enumerate(entries, start=1):
        texts = [name for name, value in entry.items() if isinstance(value, str) and name != TIME]
        if texts:
            raise InputError(f"{path}, line {number}, is damaged ({texts[0]!r} must be a number). {remedy}")
    return entries


def read_metrics(folder: str) -> dict | None:
    """What METRICS_FILE in a model's folder holds; None without one.

    Raises:
      InputError: the file is damaged.
    """
    remedy = "Remove it, or evaluate again: deeplab-axial train --mode=eval."
    return json_files.read(os.path.join(folder, METRICS_FILE), _Metrics, remedy)


def write_evaluation(
    folder: str, step: int, scalars: Mapping[str, float], pictures: Mapping[str, np.ndarray] | None = None
) -> None:
    """Writes TensorBoard events of an evaluation under `eval` in a model's folder.

    Args:
      folder: of the model.
      step: of the checkpoint that was evaluated.
      scalars: by name.
      pictures: uint8 [H, W, 3] by name; they appear as "predictions/NAME".
    """
    events = tf.summary.create_file_writer(os.path.join(folder, "eval"))
    with events.as_default(step):
        for name, value in scalars.items():
            tf.summary.scalar(name, value)
        for name, picture in (pictures or {}).items():
            tf.summary.image(f"predictions/{name}", picture[None])
    events.close()
