# SPDX-License-Identifier: Apache-2.0
"""What is told of a run when it has ended: a few lines, and a file."""

import dataclasses
import json
import os
import resource
import statistics
import sys
from collections.abc import Mapping

import tensorflow as tf

from deeplab_axial import files, keys
from deeplab_axial.training import best, log

SUMMARY_FILE = "summary.json"
_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Summary:
    """A run at its end.

    Attributes:
      step: steps done.
      steps_taken: by this process; fewer than `step` after a resume.
      seconds: since this process began to train, evaluations included.
      images_per_second: median of the entries in log.HISTORY_FILE; None if no step was timed.
      first: first entry of log.HISTORY_FILE; empty without one.
      last: last entry.
      best: best.BEST_FILE's content; None without a best checkpoint.
      best_folder: where it is.
      checkpoint: prefix of the newest one.
      host_peak_bytes: largest memory of this process.
      device_peak_bytes: largest memory of each device, by name; of those of which TensorFlow tells.
    """

    step: int
    steps_taken: int
    seconds: float
    images_per_second: float | None
    first: Mapping
    last: Mapping
    best: best.Best | None
    best_folder: str | None
    checkpoint: str
    host_peak_bytes: int
    device_peak_bytes: Mapping[str, int]


def collect(folder: str, step: int, steps_taken: int, seconds: float, checkpoint: str) -> Summary:
    """The summary of the run in a model's folder; see `Summary` for the arguments."""
    history = log.read_history(folder)
    speeds = [entry[log.SPEED] for entry in history if log.SPEED in entry]
    best_folder = os.path.join(folder, best.BEST_FOLDER)
    kept = best.read_best(best_folder)
    return Summary(
        step=step,
        steps_taken=steps_taken,
        seconds=seconds,
        images_per_second=statistics.median(speeds) if speeds else None,
        first=history[0] if history else {},
        last=history[-1] if history else {},
        best=kept,
        best_folder=None if kept is None else best_folder,
        checkpoint=checkpoint,
        host_peak_bytes=host_peak_bytes(),
        device_peak_bytes=device_peak_bytes(),
    )


def write(folder: str, summary: Summary) -> None:
    """Writes SUMMARY_FILE into a model's folder."""
    content = json.dumps(dataclasses.asdict(summary), indent=1)
    with files.explained(folder):
        files.write_atomically(os.path.join(folder, SUMMARY_FILE), content)


def format_summary(summary: Summary) -> str:
    """The summary as lines of text."""
    taken = "" if summary.steps_taken == summary.step else f" ({summary.steps_taken} of them now)"
    lines = [f"Trained {summary.step} steps{taken} in {_duration(summary.seconds)}"]
    if summary.images_per_second is not None:
        lines[0] += f"; {summary.images_per_second:.4g} images/s (median)"
    losses = {n.removesuffix("_loss"): value for n, value in summary.last.items() if n.endswith("_loss")}
    if losses:
        shown = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
        lines.append(f"Losses at step {summary.last['step']}: {shown}")
    ends = (summary.first, summary.last)
    if summary.first.get("step") != summary.last.get("step") and all(keys.TOTAL_LOSS in entry for entry in ends):
        first, last = (f"{e[keys.TOTAL_LOSS]:.4g} (step {e['step']})" for e in ends)
        lines.append(f"Total loss: {first} -> {last}")
    if summary.best is not None:
        lines.append(f"Best: {best.describe(summary.best, summary.best_folder)}")
    lines.append(f"Newest checkpoint: {summary.checkpoint}")
    peaks = {"host": summary.host_peak_bytes, **summary.device_peak_bytes}
    lines.append("Peak memory: " + ", ".join(f"{name} {peak / _GIB:.2f} GiB" for name, peak in peaks.items()))
    return "\n".join(lines)


def host_peak_bytes() -> int:
    """The largest memory that this process has had (resident set size)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # elsewhere in KiB


def device_peak_bytes() -> dict[str, int]:
    """The largest memory that TensorFlow has had on each device, as {"GPU:0": bytes}."""
    peaks = {}
    for device in tf.config.list_logical_devices():
        if device.device_type == "CPU":  # for which TensorFlow says 0
            continue
        try:
            peak = tf.config.experimental.get_memory_info(device.name)["peak"]
        except ValueError:  # of a kind that does not count, or of another machine
            continue
        peaks[device.name.removeprefix("/device:")] = peak
    return peaks


def _duration(seconds: float) -> str:
    """As "3 h 25 min", "3 min 25 s" or "25.1 s"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
