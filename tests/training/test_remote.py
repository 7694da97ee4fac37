# SPDX-License-Identifier: Apache-2.0
"""A model folder in a remote store: TensorFlow's in-process file system stands for a bucket."""

import json
import uuid

import numpy as np
import pytest
import tensorflow as tf

from deeplab_axial import files
from deeplab_axial.training import best, checkpoints, continuous, log
from tests.training.test_best import metrics, read_step
from tests.training.test_checkpoint_files import Run as Saver
from tests.training.test_loop import Run


@pytest.fixture
def bucket():
    return f"ram://{uuid.uuid4().hex}"


def _without_times(folder):
    times = (log.SPEED, log.TIME)
    return [{k: v for k, v in entry.items() if k not in times} for entry in log.read_history(folder)]


def test_a_run_that_resumes_equals_an_undisturbed_local_one(bucket, tmp_path):
    expected = Run(tmp_path)
    expected.train()
    folder = f"{bucket}/runs/a"
    Run(folder).train(until=3)
    # What a kill may leave.
    files.append(f"{folder}/{log.HISTORY_FILE}", '{"step": 4, "total_loss": 99}\n{"step": 5, "tot')
    second = Run(folder)
    assert second.manager.restore_latest() == f"{folder}/ckpt-3"
    second.train()
    for found, value in zip(second.state(), expected.state(), strict=True):
        np.testing.assert_array_equal(found, value)
    assert _without_times(folder) == _without_times(tmp_path)
    assert checkpoints.latest(folder) == f"{folder}/ckpt-6"
    assert [name for name in files.names(f"{folder}/train") if name.startswith("events")]


def test_damaged_checkpoints_are_set_aside(bucket):
    class RemoteSaver(Saver):
        def __init__(self, folder, max_to_keep=5):
            super().__init__(folder, max_to_keep)
            self.manager = checkpoints.Manager(folder, {"weights": self.weights}, self.step, max_to_keep)

    saver = RemoteSaver(bucket).save(1, 2, 3)
    content = files.read(f"{bucket}/ckpt-3.index")
    files.write_atomically(f"{bucket}/ckpt-3.index", content[:-5])
    assert saver.manager.restore_latest() == f"{bucket}/ckpt-2"
    assert set(saver.weights.numpy()) == {2.0}
    assert files.read(f"{bucket}/damaged-ckpt-3.index") == content[:-5]
    again = RemoteSaver(bucket, max_to_keep=2)
    assert again.manager.restore_latest() == f"{bucket}/ckpt-2"
    again.save(3, 4)
    indices = [name for name in files.names(bucket) if name.startswith("ckpt") and name.endswith(".index")]
    assert indices == ["ckpt-3.index", "ckpt-4.index"]


def test_the_best_is_kept(bucket):
    step, weight = tf.Variable(0, dtype=tf.int64), tf.Variable(0.0)
    manager = checkpoints.Manager(bucket, {"model": weight}, step, 5)
    evaluations = best.Evaluations(bucket)
    for number, quality in ((1, 0.2), (2, 0.5), (3, 0.4)):
        step.assign(number)
        assert evaluations.add(manager.save(), metrics(number, quality)) == (number < 3)
    assert json.loads(files.read(f"{bucket}/best/best.json"))["step"] == 2
    assert read_step(checkpoints.latest(f"{bucket}/best")) == 2
    assert [name for name in files.names(f"{bucket}/best") if name.endswith(".index")] == ["ckpt-2.index"]
    assert evaluations.step_of(f"{bucket}/ckpt-3") == 3
    assert evaluations.describe_best().endswith(f"at step 2: {bucket}/best")


def test_each_checkpoint_is_evaluated_once(bucket):
    step, weight = tf.Variable(0, dtype=tf.int64), tf.Variable(0.0)
    manager = checkpoints.Manager(bucket, {"model": weight}, step, 5)
    for number in (1, 2, 3):
        step.assign(number)
        manager.save()
    evaluated = []

    def evaluate(prefix):
        evaluated.append(read_step(prefix))
        return metrics(evaluated[-1], 0.1 * evaluated[-1])

    for _ in range(2):
        assert continuous.follow(best.Evaluations(bucket), 3, evaluate, 5.0, lambda text: None, 0.01)
    assert evaluated == [1, 2, 3]
    assert ".evaluating" not in files.names(bucket)
    assert json.loads(files.read(f"{bucket}/best/best.json"))["step"] == 3
