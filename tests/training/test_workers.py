# SPDX-License-Identifier: Apache-2.0
"""Two processes that train together: who writes, and what happens when one is stopped or dies."""

import os
import re
import signal

import numpy as np
import pytest
import tensorflow as tf

from deeplab_axial.training import log
from deeplab_axial.training.workers import Workers
from tests import cluster
from tests.training import worker

# Detection of a dead worker: TensorFlow misses its heartbeats for some ten seconds.
SECONDS = 90


def _train(folder, model, disturbance=None, with_chief=False):
    """Runs both workers and returns what they left."""
    with cluster.workers(
        worker.main, lambda index: (index, str(model), disturbance), folder, with_chief=with_chief
    ) as workers:
        return cluster.finish(workers, SECONDS)


def _variables(model):
    reader = tf.train.load_checkpoint(str(model / f"ckpt-{worker.STEPS}"))
    names = set(reader.get_variable_to_shape_map()) - {"_CHECKPOINTABLE_OBJECT_GRAPH"}
    return {name: reader.get_tensor(name) for name in names if not name.startswith("save_counter")}


def _assert_same_end(found, expected):
    ours, theirs = _variables(found), _variables(expected)
    assert set(ours) == set(theirs)
    assert any("moving_variance" in name for name in ours)
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)
    histories = [log.read_history(str(model)) for model in (found, expected)]
    for history in histories:
        assert [entry["step"] for entry in history] == list(range(1, worker.STEPS + 1))
    losses = [[entry["total_loss"] for entry in history] for history in histories]
    assert losses[0] == losses[1]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    root = tmp_path_factory.mktemp("undisturbed")
    results = _train(root, root / "model")
    assert [result.status for result in results] == [0, 0], results[0].err[-3000:]
    return root / "model", results


def _said(result, what):
    return re.search(rf"^{what} (.*)$", result.err, re.MULTILINE)[1]


def test_only_the_chief_writes(undisturbed):
    model, results = undisturbed
    assert _said(results[0], "writes to") == str(model)
    # Neither beside the chief's files nor elsewhere does the other leave anything.
    assert not os.path.exists(_said(results[1], "writes to"))
    assert {path.name for path in model.iterdir()} == {
        "checkpoint",
        "history.jsonl",
        "train",
        *(f"ckpt-{step}.{kind}" for step in (6, 8) for kind in ("index", "data-00000-of-00001")),
    }
    assert len(list((model / "train").iterdir())) == 1
    assert "Training: 100%" in results[0].err
    assert "Training:" not in results[1].err
    assert "Worker 1 of 2, 127.0.0.1:" in results[1].err


def test_sigterm_to_one_worker_stops_all_with_a_checkpoint(undisturbed, tmp_path):
    model = tmp_path / "model"
    disturbance = worker.Disturbance(worker=1, step=4, signal=signal.SIGTERM)
    for result in _train(tmp_path / "stopped", model, disturbance, with_chief=True):
        assert result.status == 143
        assert f"Stopped by SIGTERM after step 4; wrote {model}/ckpt-4. Run again to resume." in result.err
    for result in _train(tmp_path / "resumed", model):
        assert result.status == 0, result.err[-3000:]
        assert _said(result, "resumes from") == f"{model}/ckpt-4"
    _assert_same_end(model, undisturbed[0])


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_worker_that_dies_ends_the_job_and_the_next_resumes(undisturbed, tmp_path, victim):
    model = tmp_path / "model"
    results = _train(tmp_path / "killed", model, worker.Disturbance(victim, 5, signal.SIGKILL))
    assert results[victim].status == -signal.SIGKILL
    survivor = results[1 - victim]
    assert survivor.status == 1, survivor.err[-3000:]
    message = survivor.err[survivor.err.index("\nerror: ") :]
    assert re.search(rf"error: (Worker {victim} \(127.0.0.1:\d+\)|Another worker) is gone", message)
    assert message.endswith(f"Restart all workers with the same commands: training resumes from {model}/ckpt-3.\n")
    for result in _train(tmp_path / "resumed", model):
        assert result.status == 0, result.err[-3000:]
        assert _said(result, "resumes from") == f"{model}/ckpt-3"
    _assert_same_end(model, undisturbed[0])


@pytest.mark.parametrize(("first", "second"), [(2**48 - 1, 2**48 - 1), (2**48 - 1, 2**48 - 2), (0, 7)])
def test_workers_know_whether_they_agree(tmp_path, first, second):
    with cluster.workers(worker.agree, lambda index: (index, (first, second)[index]), tmp_path) as workers:
        for result in cluster.finish(workers, SECONDS):
            assert result.status == 0, result.err[-3000:]
            assert _said(result, "alike:") == str(first == second)


def test_one_process_alone_waits_for_nobody(tmp_path):
    workers = Workers(tf.distribute.get_strategy())
    assert workers.count == 1
    assert workers.is_chief
    assert workers.any(True)
    assert not workers.any(False)
    assert workers.agree(7)
    workers.wait()
    with workers.job(str(tmp_path)) as folder:
        assert folder == str(tmp_path)
    with pytest.raises(tf.errors.UnavailableError), workers.job(str(tmp_path)):
        raise tf.errors.UnavailableError(None, None, "a tf.data service is gone, no worker")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (tf.errors.UnavailableError(None, None, "Collective ops is aborted by: ..."), True),
        (tf.errors.AbortedError(None, None, "/job:worker/replica:0/task:0: no answer from /job:worker/task:1"), True),
        (
            tf.errors.UnavailableError(None, None, "gs://bucket does not answer [/job:worker/task:0/device:CPU:0]"),
            False,
        ),
        (tf.errors.InternalError(None, None, "NCCL: unhandled system error"), True),
        (tf.errors.InternalError(None, None, "Failed to launch a kernel"), False),
        (tf.errors.ResourceExhaustedError(None, None, "OOM in CollectiveReduceV2"), False),
        (tf.errors.InvalidArgumentError(None, None, "..."), False),
    ],
)
def test_which_errors_tell_of_a_lost_worker(error, expected):
    workers = Workers()
    assert not workers.tells_loss(error)
    workers.count = 2
    assert workers.tells_loss(error) is expected
