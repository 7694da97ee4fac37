# SPDX-License-Identifier: Apache-2.0
"""Data and model folder in a remote store: TensorFlow's in-process file system stands for a bucket.

It ends with the process, so the commands run one after the other in one.
"""

import pathlib

import pytest

from tests.cli import commands
from tests.cli.conftest import experiment_flags

OVERRIDES = (
    "model_options.backbone.name=resnet50",  # is traced sooner than axial attention
    "trainer_options.solver_options.training_number_of_steps=4",
    "trainer_options.solver_options.warmup_steps=0",
    "trainer_options.save_checkpoints_steps=2",
    "trainer_options.save_summaries_steps=1",
    "evaluator_options.save_predictions=true",
    "evaluator_options.continuous_eval_timeout=1",
)


def _command(*arguments: str) -> int:
    from absl import flags

    from deeplab_axial.cli import main

    for name in flags.FLAGS if flags.FLAGS.is_parsed() else ():
        flags.FLAGS[name].unparse()
    with pytest.raises(SystemExit) as status:
        main.main(["deeplab-axial", *arguments])
    return status.value.code or 0


def _copy_to_bucket(records_glob: str, folder: str) -> str:
    from deeplab_axial import files

    for path in pathlib.Path(records_glob).parent.iterdir():
        files.copy(path, f"{folder}/{path.name}")
    return f"{folder}/*.tfrecord"


def use_a_bucket(train: str, val: str, local_folder: str) -> None:
    """Trains, resumes, evaluates and reports; stops at the first thing that goes wrong."""
    import json

    from deeplab_axial import files
    from deeplab_axial.report import details, page
    from deeplab_axial.training import checkpoints, log

    data = [_copy_to_bucket(records, f"ram://bucket/{name}") for name, records in (("train", train), ("val", val))]
    experiment = experiment_flags(*data, *OVERRIDES)
    folder = "ram://bucket/runs/first"
    model = f"--model_dir={folder}"
    assert _command("train", "--mode=train", *experiment, model) == 0
    history = [entry["total_loss"] for entry in log.read_history(folder)]
    assert len(history) == 4
    # The newest checkpoint is damaged: the run goes on from the one before, and takes the same steps again.
    files.write_atomically(f"{folder}/ckpt-4.index", files.read(f"{folder}/ckpt-4.index")[:-9])
    assert _command("train", "--mode=train", *experiment, model) == 0
    assert [entry["total_loss"] for entry in log.read_history(folder)] == history
    assert files.exists(f"{folder}/damaged-ckpt-4.index")
    assert checkpoints.latest(folder) == f"{folder}/ckpt-4"
    # A config that has changed.
    assert _command("train", "--mode=train", *experiment, model, "--set=trainer_options.seed=3") == 1
    assert _command("train", "--mode=continuous_eval", *experiment, model) == 0
    evaluated = [json.loads(line)["step"] for line in files.read(f"{folder}/evaluations.jsonl").splitlines()]
    assert evaluated == [2, 4]
    best = json.loads(files.read(f"{folder}/best/best.json"))
    assert checkpoints.latest(f"{folder}/best") == f"{folder}/best/{best['checkpoint']}"
    # The config that the run has left there says it all.
    assert _command("train", "--mode=eval", f"--config_file={folder}/config.textproto", model) == 0
    assert json.loads(files.read(f"{folder}/metrics.json"))["step"] == 4
    assert {"eval", "train", "vis", "config.textproto", "report_data.zip"} <= set(files.names(folder))
    # Not by its command, whose flags are others than those of `train`.
    run = page.Run(folder, details.read(folder), log.read_history(folder))
    page.write_report(f"{local_folder}/report.html", folder, run)
    assert pathlib.Path(local_folder, "report.html").stat().st_size > 10000


@pytest.mark.slow
def test_a_run_in_a_bucket(scene_records, tmp_path):
    result = commands.call(use_a_bucket, scene_records.train, scene_records.val, str(tmp_path))
    assert result.status == 0, result.err[-4000:]
    assert "Falling back to the newest checkpoint that can be read: ram://bucket/runs/first/ckpt-2" in result.err
    assert "trainer_options.seed: was 0, now 3" in result.err
    assert not [path for path in tmp_path.iterdir() if path.name != "report.html"]
