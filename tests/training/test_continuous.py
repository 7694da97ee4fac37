# SPDX-License-Identifier: Apache-2.0
"""Evaluation beside a training that writes and deletes checkpoints."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from deeplab_axial import files
from deeplab_axial.errors import InputError
from deeplab_axial.training import best, checkpoints, continuous
from tests.training.test_best import Run, metrics, read_step

# The quality at each step: the best is not the last.
QUALITY = {1: 0.1, 2: 0.2, 3: 0.6, 4: 0.3, 5: 0.4}


class Evaluator:
    """Follows a folder and remembers what it evaluated and said."""

    def __init__(self, folder, before=None):
        self.folder = str(folder)
        self.steps: list[int] = []
        self.notes: list[str] = []
        self.before = before or (lambda step: None)

    def evaluate(self, prefix):
        step = read_step(prefix)
        self.before(step)
        assert read_step(prefix) == step  # it stays, whatever the training does
        self.steps.append(step)
        return metrics(step, QUALITY[step])

    def follow(self, last_step=5, timeout=20.0):
        evaluations = best.Evaluations(self.folder)
        return continuous.follow(evaluations, last_step, self.evaluate, timeout, self.notes.append, 0.01)


def _best_step(folder) -> int:
    return json.loads((folder / "best" / "best.json").read_text())["step"]


def test_each_once_in_their_order(tmp_path):
    run = Run(tmp_path)
    for step in (1, 2, 3):
        run.save(step)
    # The others come while the first ones are evaluated.
    evaluator = Evaluator(tmp_path, lambda step: run.save(step + 3) if step < 3 else None)
    assert evaluator.follow()
    assert evaluator.steps == [1, 2, 3, 4, 5]
    assert _best_step(tmp_path) == 3
    assert [note.split(":")[0] for note in evaluator.notes] == ["Best so far"] * 3
    assert not (tmp_path / ".evaluating").exists()


def test_a_restart_goes_on_where_it_was(tmp_path):
    run = Run(tmp_path)
    for step in (1, 2, 3):
        run.save(step)

    class Killed(BaseException):
        pass

    def kill(step):
        if step == 3:
            raise Killed

    killed = Evaluator(tmp_path, kill)
    with pytest.raises(Killed):
        killed.follow()
    assert killed.steps == [1, 2]
    assert not (tmp_path / ".evaluating").exists()
    (tmp_path / ".evaluating").mkdir()  # as SIGKILL leaves it
    again = Evaluator(tmp_path)
    assert again.follow(last_step=3)
    assert again.steps == [3]
    assert not (tmp_path / ".evaluating").exists()
    finished = Evaluator(tmp_path)
    assert finished.follow(last_step=3)  # at once
    assert finished.steps == []


def test_a_checkpoint_that_is_deleted_while_it_waits(tmp_path):
    run = Run(tmp_path, max_to_keep=2)
    run.save(1)
    run.save(2)
    # While step 1 is evaluated, the training goes on and keeps the last two.
    evaluator = Evaluator(tmp_path, lambda step: [run.save(n) for n in (3, 4, 5)] if step == 1 else None)
    assert evaluator.follow()
    assert evaluator.steps == [1, 4, 5]
    assert _best_step(tmp_path) == 5
    assert read_step(checkpoints.latest(str(tmp_path / "best"))) == 5


@pytest.mark.parametrize("deleted", ["ckpt-2.index", "ckpt-2.data-00000-of-00001", "ckpt-2.*"])
def test_a_checkpoint_that_is_listed_but_gone(tmp_path, deleted):
    run = Run(tmp_path)
    for step in (1, 2, 3):
        run.save(step)
    for path in tmp_path.glob(deleted):
        path.unlink()
    evaluator = Evaluator(tmp_path)
    assert evaluator.follow(last_step=3)
    assert evaluator.steps == [1, 3]
    path = os.path.join(tmp_path, "ckpt-2")
    said = [note for note in evaluator.notes if not note.startswith("Best")]
    assert said == [f"{path} was deleted before it could be evaluated: going on with the next."]


def test_a_checkpoint_that_goes_amid_its_copy(tmp_path, monkeypatch):
    run = Run(tmp_path)
    for step in (1, 2):
        run.save(step)
    copyfile = files.shutil.copyfile

    def racing(source, target):
        if source.endswith("ckpt-1.index"):
            for path in tmp_path.glob("ckpt-1.*"):
                path.unlink()
        copyfile(source, target)

    monkeypatch.setattr(files.shutil, "copyfile", racing)
    evaluator = Evaluator(tmp_path)
    assert evaluator.follow(last_step=2)
    assert evaluator.steps == [2]


def test_nothing_comes(tmp_path):
    assert not Evaluator(tmp_path / "empty").follow(timeout=0.05)
    Run(tmp_path).save(1)
    evaluator = Evaluator(tmp_path)
    assert not evaluator.follow(timeout=0.05)
    assert evaluator.steps == [1]


def test_the_time_of_an_evaluation_does_not_count_as_waiting(tmp_path):
    run = Run(tmp_path)
    run.save(1)

    def slow(step):
        time.sleep(0.4)
        if step == 1:
            threading.Timer(0.1, run.save, [5]).start()

    evaluator = Evaluator(tmp_path, slow)
    assert evaluator.follow(timeout=0.3)
    assert evaluator.steps == [1, 5]


def test_an_error_of_the_evaluation_is_no_deleted_checkpoint(tmp_path):
    Run(tmp_path).save(1)

    def fail(step):
        raise FileNotFoundError("records are gone")

    with pytest.raises(FileNotFoundError, match="records are gone"):
        Evaluator(tmp_path, fail).follow()


def test_a_disk_that_is_full(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    Run(tmp_path).save(1)
    monkeypatch.setattr(files.shutil, "copyfile", full)
    with pytest.raises(InputError, match=r"ckpt-1 cannot be copied to .*No space left"):
        Evaluator(tmp_path).follow()


_TRAINING = """
import sys, time
from tests.training.test_best import Run
run = Run(sys.argv[1], max_to_keep=2)
for step in range(1, 6):
    run.save(step)
    time.sleep(0.05)
"""


def test_beside_a_training_of_another_process(tmp_path):
    """It writes a checkpoint every 50 ms and keeps two: some are lost, none is evaluated in part."""
    process = subprocess.Popen([sys.executable, "-c", _TRAINING, str(tmp_path)], stderr=subprocess.PIPE, text=True)
    evaluator = Evaluator(tmp_path, lambda step: time.sleep(0.1))
    finished = evaluator.follow(timeout=60)
    assert process.wait() == 0, process.stderr.read()
    assert finished
    assert evaluator.steps == sorted(set(evaluator.steps))
    assert evaluator.steps[-1] == 5
    assert _best_step(tmp_path) == max(evaluator.steps, key=QUALITY.get)
