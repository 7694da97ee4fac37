# SPDX-License-Identifier: Apache-2.0
"""Seconds from typing a command to its answer, or to the end of the first step.

  python benchmarks/startup.py --demo_dir=demo [--rounds=2]

Works with what `deeplab-axial demo` has made. "demo" trains the demo's network, "S 2x321x321" Axial-DeepLab-S of
configs/coco on the demo's records, with two images of 321 x 321 a step; "plain" is the same with all of TensorFlow's
graph optimisers (see cli/graph_optimizers.py). Each command runs --rounds times; the fastest counts. Writes
benchmarks/results/startup-cpu.csv: seconds, and of a training those of its parts (what comes before the network is
built: imports and checks; building the network; tracing and the first step).
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time

import measure
from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_string("demo_dir", "demo", "What `deeplab-axial demo` has made.")
flags.DEFINE_integer("rounds", 2, "Runs of each command.", lower_bound=1)
flags.DEFINE_string("case", "", "One case, as JSON; for the script itself.")

_COMMAND = (sys.executable, "-m", "deeplab_axial.cli.main")
_DEMO = "--config_file=configs/demo/axial_deeplab_tiny.textproto"
_COCO_S = (
    "--config_file=configs/coco/axial_deeplab_s.textproto",
    "--set=model_options.panoptic_deeplab.semantic_head.output_channels=8",
    "--set=model_options.initial_checkpoint=",
    "--set=train_dataset_options.dataset=scenes",
    "--set=train_dataset_options.crop_size=321,321",
    "--set=train_dataset_options.batch_size=2",
)
_CASES = ("help", "wrong config", "train demo", "train demo, plain", "train S 2x321x321", "eval", "predict")
_PLAIN = (
    "import tensorflow as tf; from deeplab_axial.cli import graph_optimizers, main; "
    "graph_optimizers.leave_out_slow_ones = lambda: None; raise SystemExit(main.main())"
)
_PARTS = ("before_network", "network", "trace_and_first_step")


def main(_) -> None:
    """Measures one case, or all, each in a process of its own."""
    if FLAGS.case:
        print(json.dumps(_measure(**json.loads(FLAGS.case))))
        return
    arguments = [f"--demo_dir={FLAGS.demo_dir}", f"--rounds={FLAGS.rounds}"]
    measure.run_cases(__file__, [{"command": name} for name in _CASES], arguments, "startup", _show)


def _show(row) -> str:
    parts = ", ".join(f"{name} {row[name]:.1f}" for name in _PARTS if row[name])
    return f"{row['seconds']:6.1f} s  {parts}"


def _measure(command: str) -> dict[str, float]:
    runs = []
    for _ in range(FLAGS.rounds):
        with tempfile.TemporaryDirectory() as folder:
            runs.append((_first_step if command.startswith("train") else _whole)(_arguments(command, folder)))
    return min(runs, key=lambda run: run["seconds"])


def _arguments(command: str, folder: str) -> list[str]:
    demo = FLAGS.demo_dir
    if command == "help":
        return [*_COMMAND, "train", "--help"]
    if command == "wrong config":
        return [*_COMMAND, "train", _DEMO, "--set=trainer_options.recompite=true", f"--model_dir={folder}/model"]
    if command == "eval":
        data = f"--set=eval_dataset_options.file_pattern={demo}/records/val/*.tfrecord"
        one = "--set=evaluator_options.eval_steps=1"
        return [*_COMMAND, "train", "--mode=eval", _DEMO, data, one, f"--model_dir={demo}/model"]
    if command == "predict":
        model, images = f"--saved_model={demo}/model", f"--input={demo}/data/val"
        return [*_COMMAND, "predict", model, images, "--limit=1", f"--output_dir={folder}/out"]
    start = [sys.executable, "-c", _PLAIN] if command.endswith("plain") else list(_COMMAND)
    config = _COCO_S if " S " in command else (_DEMO,)
    data = f"--set=train_dataset_options.file_pattern={demo}/records/train/*.tfrecord"
    steps = "--set=trainer_options.solver_options.training_number_of_steps=1"
    warmup = "--set=trainer_options.solver_options.warmup_steps=0"
    return [*start, "train", "--mode=train", *config, data, steps, warmup, f"--model_dir={folder}/model"]


def _whole(command: list[str]) -> dict[str, float]:
    started = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return {"seconds": time.perf_counter() - started, **dict.fromkeys(_PARTS)}


def _first_step(command: list[str]) -> dict[str, float]:
    """Follows what a training says until its first step is taken."""
    started = time.perf_counter()
    marks = {"Building the network ...": None, "Tracing the training step": None, "Training:": None}
    text = ""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    while chunk := os.read(process.stderr.fileno(), 4096):
        text += chunk.decode(errors="replace")
        for mark, seen in marks.items():
            if seen is None and re.search(re.escape(mark), text):
                marks[mark] = time.perf_counter() - started
    if process.wait() or None in marks.values():
        raise RuntimeError(f"{' '.join(command)}\n{text}")
    network, trace, step = marks.values()
    return {"seconds": step, **dict(zip(_PARTS, (network, trace - network, step - trace)))}


if __name__ == "__main__":
    app.run(main)
