# SPDX-License-Identifier: Apache-2.0
"""What a training run tells: a progress line, a JSON-lines file and TensorBoard events."""

import json
import os
import sys
from collections.abc import Mapping

import tensorflow as tf
import tqdm

from deeplab_axial import files

HISTORY_FILE = "history.jsonl"
METRICS_FILE = "metrics.json"
# One line for each image of the last evaluation.
PER_IMAGE_FILE = "per_image.jsonl"


class TrainingLog:
    """Reports the progress of a run; a context manager.

    Args:
      folder: of the model, made if missing; gets HISTORY_FILE and TensorBoard events under `train`.
      first_step: steps that are already done. What an earlier run logged beyond it is dropped from HISTORY_FILE, for
        those steps will be taken again.
      total_steps: steps of the whole run.
      summary_steps: steps between two entries of the files.
    """

    def __init__(self, folder: str, first_step: int, total_steps: int, summary_steps: int):
        self.path = os.path.join(folder, HISTORY_FILE)
        self.summary_steps = summary_steps
        os.makedirs(folder, exist_ok=True)
        self._forget_beyond(first_step)
        self._events = tf.summary.create_file_writer(os.path.join(folder, "train"))
        self._bar = tqdm.tqdm(
            total=total_steps, initial=first_step, desc="Training", unit="step", dynamic_ncols=True, file=sys.stderr
        )

    def __enter__(self) -> "TrainingLog":
        return self

    def __exit__(self, *exception) -> None:
        self._bar.close()
        self._events.close()

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Shows the values of a step, and files them if it is one of the summary steps.

        Args:
          step: steps done.
          values: by name; loss terms, learning rate, images per second.
        """
        shown = {name.removesuffix("_loss"): f"{value:.4g}" for name, value in values.items()}
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(step - self._bar.n)
        if step % self.summary_steps == 0 or step == self._bar.total:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
            with self._events.as_default(step):
                for name, value in values.items():
                    tf.summary.scalar(f"training/{name}", value)

    def _forget_beyond(self, step: int) -> None:
        kept = [json.dumps(entry) + "\n" for entry in read_history(os.path.dirname(self.path)) if entry["step"] <= step]
        files.write_atomically(self.path, "".join(kept))


def read_history(folder: str) -> list[dict]:
    """The entries of HISTORY_FILE in a model's folder, oldest first; a last line cut short by a kill is left out."""
    path = os.path.join(folder, HISTORY_FILE)
    if not os.path.exists(path):
        return []
    entries = []
    with open(path, encoding="utf-8") as file:
        for line in file:
            try:
                entries.append(json.loads(line))
            except ValueError:
                break
    return entries


def write_scalars(folder: str, step: int, scalars: Mapping[str, float]) -> None:
    """Writes TensorBoard scalars of an evaluation under `eval` in a model's folder."""
    events = tf.summary.create_file_writer(os.path.join(folder, "eval"))
    with events.as_default(step):
        for name, value in scalars.items():
            tf.summary.scalar(name, value)
    events.close()
