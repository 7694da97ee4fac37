# SPDX-License-Identifier: Apache-2.0
"""Evaluation beside and amid a real training: each checkpoint once, the best kept, nothing lost by a kill."""

import json
import shutil
import signal
import subprocess
import sys

import pytest

from deeplab_axial.training import checkpoints
from tests.cli import commands
from tests.cli.conftest import experiment_flags


def _steps(folder) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "evaluations.jsonl").read_text().splitlines()]


def test_train_and_eval_keeps_the_best(chain):
    folder = chain.root / "model"
    assert _steps(folder) == [15, 30]
    kept = json.loads((folder / "best" / "best.json").read_text())
    metrics = json.loads((folder / "best" / "metrics.json").read_text())
    assert kept["metric"] == "panoptic_quality/all/pq"
    assert kept["value"] == metrics["panoptic_quality"]["all"]["pq"]
    assert kept["step"] == metrics["step"]
    assert checkpoints.latest(str(folder / "best")).endswith(f"best/ckpt-{kept['step']}")
    assert "Best so far: panoptic_quality/all/pq" in chain.results["train"].out


def test_the_best_can_be_evaluated_like_a_run(chain, tmp_path):
    folder = tmp_path / "best"
    shutil.copytree(chain.root / "model" / "best", folder)
    expected = json.loads((folder / "metrics.json").read_text())
    result = commands.run("train", "--mode=eval", *chain.flags, f"--model_dir={folder}")
    assert result.status == 0, result.err
    assert json.loads((folder / "metrics.json").read_text()) == expected


@pytest.mark.slow
def test_a_killed_evaluation_is_made_up_for(chain, tmp_path):
    """A run that was killed in the evaluation of step 15 begins with it when it is resumed."""
    folder = tmp_path / "model"
    folder.mkdir()
    for path in (chain.root / "model").glob("ckpt-15.*"):
        shutil.copy(path, folder)
    (folder / "checkpoint").write_text('model_checkpoint_path: "ckpt-15"\nall_model_checkpoint_paths: "ckpt-15"\n')
    result = commands.run("train", *chain.flags, f"--model_dir={folder}")
    assert result.status == 0, result.err
    assert "step 15, 5 images" in result.out
    assert "step 30, 5 images" in result.out
    assert _steps(folder) == [15, 30]


def test_bad_metrics(chain, tmp_path):
    def message(*flags):
        return commands.one_message(commands.run("train", *chain.flags, f"--model_dir={tmp_path}", *flags))

    assert "--best_metric goes with" in message("--mode=eval", "--best_metric=mean_iou/mean")
    assert "must be one of panoptic_quality/all/pq, " in message("--best_metric=loss")
    without = ("--best_metric=average_precision/ap", "--set=evaluator_options.instance_ap=none")
    assert "needs average precision to be measured" in message(*without)


@pytest.mark.slow
def test_beside_a_training_and_killed(scene_records, tmp_path):
    """An evaluator that is killed and started again evaluates what is left, while the training deletes checkpoints."""
    flags = experiment_flags(
        scene_records.train,
        scene_records.val,
        "trainer_options.solver_options.training_number_of_steps=12",
        "trainer_options.save_checkpoints_steps=2",
        "trainer_options.num_checkpoints_to_keep=2",
    )
    command = [sys.executable, "-m", "deeplab_axial.cli.main", "train", *flags, f"--model_dir={tmp_path}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": commands.REPOSITORY}
    first = subprocess.Popen([*command, "--mode=continuous_eval"], **pipes)
    training = subprocess.Popen([*command, "--mode=train"], **pipes)
    for line in first.stdout:
        if line.startswith("Best so far"):
            break
    first.send_signal(signal.SIGKILL)
    first.communicate()
    before = _steps(tmp_path) if (tmp_path / "evaluations.jsonl").exists() else []
    second = subprocess.run(
        [*command, "--mode=continuous_eval"], capture_output=True, text=True, check=False, cwd=commands.REPOSITORY
    )
    assert training.wait() == 0, training.stderr.read()[-3000:]
    assert second.returncode == 0, second.stderr[-3000:]
    steps = _steps(tmp_path)
    assert steps[: len(before)] == before
    assert steps == sorted(set(steps))
    assert steps[-1] == 12
    assert json.loads((tmp_path / "best" / "best.json").read_text())["step"] in steps
    assert not (tmp_path / ".evaluating").exists()
