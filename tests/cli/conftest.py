# SPDX-License-Identifier: Apache-2.0
"""One small experiment from data to predictions, run through the command line once for all tests."""

import fcntl
import json
import os
import pathlib
import shutil
from typing import NamedTuple

import pytest

from tests.cli import commands

# Small enough to take a minute, long enough to find something.
OVERRIDES = (
    "trainer_options.solver_options.training_number_of_steps=30",
    "trainer_options.save_checkpoints_steps=15",
    "evaluator_options.eval_interval=15",
)


class Chain(NamedTuple):
    """The folders of the experiment, the flags that name it, and what each command left."""

    root: pathlib.Path
    flags: tuple[str, ...]
    results: dict[str, commands.Result]


def experiment_flags(train: str, val: str, *overrides: str) -> tuple[str, ...]:
    """Flags of the tiny experiment on record files."""
    fields = (f"train_dataset_options.file_pattern={train}", f"eval_dataset_options.file_pattern={val}", *overrides)
    return (f"--config_file={commands.TINY}", *(f"--set={field}" for field in fields))


@pytest.fixture(scope="session")
def chain(tmp_path_factory) -> Chain:
    """The experiment; tests that write into its folders copy them first.

    The processes of pytest-xdist share one: the first that needs it makes it while the others wait.
    """
    base = tmp_path_factory.getbasetemp()
    # Below pytest-xdist, each process has a folder of its own in the folder of the run.
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "chain"
    done = root / "done.json"
    with open(root.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            # What a process left that failed or was stopped halfway is no start for the next.
            shutil.rmtree(root, ignore_errors=True)
            done.write_text(json.dumps(_make_chain(root)))
        flags, results = json.loads(done.read_text())
    return Chain(root, tuple(flags), {name: commands.Result(*result) for name, result in results.items()})


def _make_chain(root: pathlib.Path) -> tuple[tuple[str, ...], dict[str, commands.Result]]:
    """Runs the commands of the experiment in `root`; the flags that name it and what each command left."""
    from deeplab_axial.data import scenes

    data = root / "data"
    scenes.write_scenes(data, num_train=7, num_val=5, height=48, width=64, seed=3)
    experiment = experiment_flags(f"{root}/records/train/*.tfrecord", f"{root}/records/val/*.tfrecord", *OVERRIDES)
    model = f"--model_dir={root}/model"
    val = (f"--panoptic_json={data}/panoptic_val.json", f"--panoptic_dir={data}/panoptic_val")
    steps = {
        "convert train": (
            *("convert", "coco_panoptic", f"--image_dir={data}/train", f"--panoptic_json={data}/panoptic_train.json"),
            *(f"--panoptic_dir={data}/panoptic_train", f"--output_dir={root}/records/train", "--num_shards=2"),
        ),
        "convert val": (
            *("convert", "coco_panoptic", f"--image_dir={data}/val", *val),
            *(f"--output_dir={root}/records/val", "--name=scenes"),
        ),
        "train": ("train", *experiment, model, "--profile=14:16"),
        "eval": ("train", "--mode=eval", *experiment, model),
        "export": ("export", *experiment, model, f"--output_dir={root}/export"),
        "predict": (
            *("predict", f"--saved_model={root}/export", f"--input={data}/val", *val),
            f"--output_dir={root}/predictions",
        ),
    }
    results = {}
    for name, arguments in steps.items():
        results[name] = commands.run(*arguments)
        assert results[name].status == 0, f"{name}: {results[name].err[-4000:]}"
    return experiment, results
