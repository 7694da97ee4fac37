# SPDX-License-Identifier: Apache-2.0
"""One small experiment from data to predictions, run through the command line once for all tests."""

import pathlib
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
    from deeplab_axial.data import scenes

    root = tmp_path_factory.mktemp("chain")
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
        "train": ("train", *experiment, model),
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
    return Chain(root, experiment, results)
