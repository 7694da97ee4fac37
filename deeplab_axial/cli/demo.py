# SPDX-License-Identifier: Apache-2.0
"""The command `demo`: what it does. Its flags are in `options`."""

import os
import resource
import shlex
import shutil
import subprocess
import sys
import time

import tensorflow as tf
from absl import flags

from deeplab_axial import builders, config, describe, files, locks
from deeplab_axial.cli import folders
from deeplab_axial.errors import InputError
from deeplab_axial.report import details, page
from deeplab_axial.training import log

FLAGS = flags.FLAGS
NUM_PICTURES = 12


def main() -> None:
    """Runs the steps; resumes a demo that was interrupted, and starts over after one that was finished."""
    with locks.in_folder(FLAGS.output_dir, "demo"):
        _demo()


def _demo() -> None:
    started = time.perf_counter()
    place = {name: os.path.join(FLAGS.output_dir, name) for name in ("model", "export", "predictions", "report.html")}
    mark = os.path.join(FLAGS.output_dir, "demo.txt")
    if not files.is_marked(mark):
        folders.refuse_foreign([mark, *place.values()], "output_dir")
        files.write_atomically(mark, f"All in this folder was {files.MARK} demo, which may replace and remove it.\n")
    if os.path.exists(place["report.html"]):
        shutil.rmtree(place["model"], ignore_errors=True)
        os.remove(place["report.html"])
    for name in ("export", "predictions"):
        shutil.rmtree(place[name], ignore_errors=True)
    seconds = {}
    for title, commands in _steps(place):
        print(f"\n== {title}", flush=True)
        begun = time.perf_counter()
        for command in commands:
            _run(command)
        seconds[title] = time.perf_counter() - begun
    facts = {
        "Total time": f"{time.perf_counter() - started:.0f} s",
        **{f"Time, {title.lower()}": f"{spent:.0f} s" for title, spent in seconds.items()},
        "Peak memory": f"{resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20:.2f} GiB",
    }
    _report(place, facts)
    for name in ("Total time", "Peak memory"):
        print(f"{name}: {facts[name]}")
    print(os.path.abspath(place["report.html"]))


def _steps(place: dict[str, str]) -> list[tuple[str, list[list[str]]]]:
    """Titles and commands."""
    data, records = os.path.join(FLAGS.output_dir, "data"), os.path.join(FLAGS.output_dir, "records")
    experiment = [f"--config_file={FLAGS.config_file}", *(f"--set={change}" for change in _changes())]
    model = f"--model_dir={place['model']}"
    convert = [
        [
            *(
                "convert",
                "coco_panoptic",
                f"--image_dir={data}/{split}",
                f"--panoptic_json={data}/panoptic_{split}.json",
            ),
            *(f"--panoptic_dir={data}/panoptic_{split}", f"--output_dir={records}/{split}"),
            *("--num_shards=4", "--name=scenes"),
        ]
        for split in ("train", "val")
    ]
    predict = [
        *("predict", f"--saved_model={place['export']}", f"--input={data}/val", f"--limit={NUM_PICTURES}"),
        *(f"--panoptic_json={data}/panoptic_val.json", f"--panoptic_dir={data}/panoptic_val"),
        f"--output_dir={place['predictions']}",
    ]
    return [
        ("Data", [["make_scenes", f"--output_dir={data}"]]),
        ("Convert", convert),
        ("Train", [["train", *experiment, "--mode=train", model]]),
        ("Evaluate", [["train", *experiment, "--mode=eval", model]]),
        ("Export", [["export", *experiment, model, f"--output_dir={place['export']}"]]),
        ("Predict", [predict]),
    ]


def _changes() -> list[str]:
    """Changes of the config: those asked for, and where the records are, unless they are where the config says."""
    if os.path.normpath(FLAGS.output_dir) == "demo":
        return FLAGS.set
    records = os.path.join(FLAGS.output_dir, "records")
    places = {"train": "train", "eval": "val"}
    patterns = [f"{name}_dataset_options.file_pattern={records}/{split}/*.tfrecord" for name, split in places.items()]
    return [*patterns, *FLAGS.set]


def _run(command: list[str]) -> None:
    print(f"$ deeplab-axial {shlex.join(command)}", flush=True)
    child = subprocess.Popen([sys.executable, "-m", "deeplab_axial.cli.main", *command])
    try:
        status = child.wait()
    except KeyboardInterrupt:  # or SIGTERM
        child.terminate()  # it saves what it has; where Ctrl-C has reached it, too, this changes nothing
        child.wait()
        raise
    if status:
        raise InputError(f"The step above failed with exit status {status}; the demo stops here.")


def _report(place: dict[str, str], facts: dict[str, str]) -> None:
    options = config.load(FLAGS.config_file, _changes())
    height, width = options.eval_dataset_options.crop_size
    with tf.Graph().as_default():
        parts = describe.describe(builders.build_symbolic_model(options), height, width)
    facts = {
        "Training": f"{options.trainer_options.solver_options.training_number_of_steps:,} steps of "
        f"{options.train_dataset_options.batch_size} images",
        "Multiply-adds": f"{sum(part.multiply_adds for part in parts) / 1e6:,.0f} M at {height} x {width}",
        **facts,
    }
    title = f"deeplab-axial: {options.experiment_name}"
    run = page.Run(title, details.read(place["model"]), log.read_history(place["model"]))
    page.write_report(place["report.html"], title, run, facts)
