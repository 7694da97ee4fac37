# SPDX-License-Identifier: Apache-2.0
"""Which checkpoint is kept as the best, and what is remembered of evaluations."""

import json
import pathlib

import pytest
import tensorflow as tf

from deeplab_axial import files
from deeplab_axial.errors import InputError
from deeplab_axial.training import best, checkpoints


class Run:
    """Writes checkpoints of one variable, which holds the step."""

    def __init__(self, folder, max_to_keep=5):
        self.folder = pathlib.Path(folder)
        self.step = tf.Variable(0, dtype=tf.int64)
        self.weight = tf.Variable(0.0)
        self.manager = checkpoints.Manager(str(folder), {"model": self.weight}, self.step, max_to_keep)

    def save(self, step: int, weight: float | None = None) -> str:
        self.step.assign(step)
        self.weight.assign(step if weight is None else weight)
        return self.manager.save()


def metrics(step: int, pq: float | None, **others) -> dict:
    return {"step": step, "panoptic_quality": {"all": {"pq": pq}}, **others}


def read_step(prefix: str) -> int:
    step = tf.Variable(0, dtype=tf.int64)
    checkpoints.restore(prefix, {"step": step, "model": tf.Variable(0.0)}, "test")
    return int(step.numpy())


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "a run")


def _kept(run) -> tuple[set[str], dict]:
    folder = run.folder / "best"
    return {p.name for p in folder.glob("ckpt-*")}, json.loads((folder / "best.json").read_text())


def test_the_best_is_kept(run):
    evaluations = best.Evaluations(str(run.folder))
    assert evaluations.best_value() is None
    for step, pq, is_best in ((1, 0.2, True), (2, 0.5, True), (3, 0.4, False), (4, 0.5, False)):
        assert evaluations.add(run.save(step), metrics(step, pq)) == is_best
    names, content = _kept(run)
    assert names == {"ckpt-2.index", "ckpt-2.data-00000-of-00001"}
    assert content == {"metric": "panoptic_quality/all/pq", "value": 0.5, "step": 2, "checkpoint": "ckpt-2"}
    assert evaluations.best_value() == 0.5
    assert evaluations.describe_best().startswith("Best so far: panoptic_quality/all/pq 0.5000 at step 2: ")
    # It is a folder like the model's, and outlives the checkpoints of that.
    for path in run.folder.glob("ckpt-*"):
        path.unlink()
    assert read_step(checkpoints.latest(str(run.folder / "best"))) == 2
    assert json.loads((run.folder / "best" / "metrics.json").read_text()) == metrics(2, 0.5)


def test_what_was_evaluated_is_remembered(run):
    first, second = run.save(1), run.save(2)
    best.Evaluations(str(run.folder)).add(first, metrics(1, 0.2))
    evaluations = best.Evaluations(str(run.folder))
    assert evaluations.step_of(first) == 1
    assert evaluations.step_of(second) is None
    evaluations.add(first, metrics(1, 0.2))
    assert [entry["step"] for entry in evaluations.read()] == [1]  # not twice
    with pytest.raises(FileNotFoundError):
        evaluations.step_of(str(run.folder / "ckpt-9"))


def test_a_checkpoint_of_the_same_step_by_another_training_is_another(run):
    evaluations = best.Evaluations(str(run.folder))
    evaluations.add(run.save(1, weight=3.0), metrics(1, 0.2))
    for path in run.folder.glob("*ckpt*"):
        path.unlink()
    (run.folder / "checkpoint").unlink()
    again = Run(run.folder).save(1, weight=4.0)
    assert evaluations.step_of(again) is None
    assert evaluations.add(again, metrics(1, 0.3))
    assert best.fingerprint(str(run.folder / "best" / "ckpt-1")) == best.fingerprint(again)


@pytest.mark.parametrize("rest", ['{"step": 1, "check', '{"step": 1, "checkpoint": "0123"'])
def test_a_line_cut_short_is_no_evaluation(run, rest):
    (run.folder).mkdir(exist_ok=True)
    (run.folder / "evaluations.jsonl").write_text(rest)
    evaluations = best.Evaluations(str(run.folder))
    assert evaluations.read() == []
    prefix = run.save(2)
    evaluations.add(prefix, metrics(2, 0.1))
    assert evaluations.step_of(prefix) == 2


def test_another_metric_is_looked_up_in_what_was_measured(run):
    by_pq = best.Evaluations(str(run.folder))
    by_pq.add(run.save(1), metrics(1, 0.5, mean_iou={"mean": 0.3}))
    by_iou = best.Evaluations(str(run.folder), "mean_iou/mean")
    assert by_iou.best_value() == 0.3
    assert not by_iou.add(run.save(2), metrics(2, 0.9, mean_iou={"mean": 0.2}))
    assert by_iou.add(run.save(3), metrics(3, 0.1, mean_iou={"mean": 0.4}))
    assert _kept(run)[1]["metric"] == "mean_iou/mean"


@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_metric_that_nothing_tells_is_never_the_best(run, value):
    evaluations = best.Evaluations(str(run.folder))
    prefix = run.save(1)
    assert not evaluations.add(prefix, metrics(1, value))
    assert not (run.folder / "best").exists()
    assert evaluations.step_of(prefix) == 1


def test_killed_amid_a_copy(run, monkeypatch):
    """Whenever it is killed, what best.json names is complete; the next evaluation goes on from there."""
    evaluations = best.Evaluations(str(run.folder))
    evaluations.add(run.save(1), metrics(1, 0.2))
    replace, calls = files.os.replace, []

    class Killed(BaseException):
        pass

    for moment in range(5):

        def dying(source, target, moment=moment):
            if len(calls) == moment:
                raise Killed
            calls.append(target)
            replace(source, target)

        calls.clear()
        prefix = run.save(2 + moment)
        monkeypatch.setattr(files.os, "replace", dying)
        with pytest.raises(Killed):
            evaluations.add(prefix, metrics(2 + moment, 0.5))
        monkeypatch.undo()
        _, content = _kept(run)
        assert content["step"] == 1
        assert read_step(str(run.folder / "best" / content["checkpoint"])) == 1
    assert not evaluations.add(run.save(8), metrics(8, 0.1))
    assert evaluations.add(run.save(9), metrics(9, 0.4))
    assert _kept(run)[0] == {"ckpt-9.index", "ckpt-9.data-00000-of-00001"}


def test_a_disk_that_is_full(run, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.shutil, "copyfile", full)
    evaluations = best.Evaluations(str(run.folder))
    prefix = run.save(1)
    with pytest.raises(InputError, match=r"cannot keep the evaluated checkpoint \(\[Errno 28\] No space left"):
        evaluations.add(prefix, metrics(1, 0.5))
    assert evaluations.step_of(prefix) is None  # evaluated again, once there is space


def test_unknown_metrics():
    with pytest.raises(ValueError, match="metric must be one of panoptic_quality/all/pq"):
        best.Evaluations("x", "loss")
