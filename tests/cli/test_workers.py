# SPDX-License-Identifier: Apache-2.0
"""`deeplab-axial train` on several machines, which TF_CONFIG names: here two processes."""

import json
import re
import time

import pytest

from deeplab_axial.training import best, checkpoints, log
from tests import cluster
from tests.cli import commands
from tests.cli.conftest import experiment_flags


def _run(*arguments):
    from deeplab_axial.cli import main

    return main.main(["deeplab-axial", *map(str, arguments)])


def _alone(folder, *arguments, tf_config=""):
    process = cluster.Process(_run, arguments, folder, {"TF_CONFIG": tf_config, "CUDA_VISIBLE_DEVICES": "-1"})
    return commands.Result(*process.finish(120))


@pytest.fixture
def flags(scene_records):
    overrides = ("evaluator_options.eval_interval=3", "trainer_options.save_summaries_steps=1")
    return experiment_flags(scene_records.train, scene_records.val, *overrides)


def test_what_contradicts_is_refused_before_anything_is_made(flags, tmp_path):
    model = f"--model_dir={tmp_path}/model"
    broken = _alone(tmp_path / "broken", "train", *flags, model, tf_config="{")
    assert commands.one_message(broken).startswith("TF_CONFIG must be like {")
    several = cluster.tf_configs()[0]
    evaluation = _alone(tmp_path / "eval", "train", "--mode=eval", *flags, model, tf_config=several)
    assert commands.one_message(evaluation).startswith(
        "TF_CONFIG is for training on several machines. Received: one of 2"
    )
    # The older name of --tpu.
    no_tpu = _alone(tmp_path / "tpu", "train", *flags, model, "--master=local")
    assert commands.one_message(no_tpu).startswith("--tpu=local: no TPU answers there (")
    assert not (tmp_path / "model").exists()


def test_xla_on_several_cpus_is_refused(flags, tmp_path):
    arguments = ("train", "--mode=train", *flags, "--set=trainer_options.use_xla=true", f"--model_dir={tmp_path}/model")
    with cluster.workers(_run, lambda _: arguments, tmp_path) as workers:
        for result in cluster.finish(workers, 90):
            message = commands.one_message(commands.Result(*result))
            assert "trainer_options.use_xla does not go with training on several CPUs" in message


def test_configs_that_differ_are_refused(flags, tmp_path):
    arguments = ("train", "--mode=train", *flags, f"--model_dir={tmp_path}/model")
    other = "--set=trainer_options.save_checkpoints_steps=2"
    with cluster.workers(_run, lambda index: (*arguments, *([other] if index else [])), tmp_path) as workers:
        for result in cluster.finish(workers, 90):
            message = commands.one_message(commands.Result(*result))
            assert message.startswith("The workers must all have the same config")
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_a_worker_that_is_killed_and_all_started_again(flags, tmp_path):
    model = tmp_path / "model"
    arguments = ("train", "--mode=train_and_eval", *flags, f"--model_dir={model}")
    with cluster.workers(_run, lambda _: arguments, tmp_path / "killed") as workers:
        end = time.monotonic() + 900
        while not (model / log.METRICS_FILE).exists() and workers[0].is_running() and time.monotonic() < end:
            time.sleep(0.05)
        workers[1].kill()
        survivor, _ = cluster.finish(workers, 120)
    message = commands.one_message(commands.Result(*survivor))
    assert re.match(r"(Worker 1 \(127.0.0.1:\d+\)|Another worker) is gone, and no worker can go on without it", message)
    newest = checkpoints.latest(str(model))
    assert message.endswith(f"Restart all workers with the same commands: training resumes from {newest}.")

    with cluster.workers(_run, lambda _: arguments, tmp_path / "resumed") as workers:
        chief, other = cluster.finish(workers, 900)
    assert (chief.status, other.status) == (0, 0), chief.err[-3000:] + other.err[-3000:]
    assert f"Resuming from {newest}\n" in chief.out
    assert "Trained 6 steps" in chief.out
    assert other.out == ""
    assert [entry["step"] for entry in log.read_history(str(model))] == [1, 2, 3, 4, 5, 6]
    # Nothing was evaluated twice.
    assert [entry["step"] for entry in best.Evaluations(str(model)).read()] == [3, 6]
    assert json.loads((model / log.METRICS_FILE).read_text())["step"] == 6
    assert len(json.loads((model / "best" / best.BEST_FILE).read_text())) == 4
