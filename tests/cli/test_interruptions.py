# SPDX-License-Identifier: Apache-2.0
"""Runs of the command line that are killed end where an undisturbed one ends: bit for bit, with drop path on.

Many more kills, of a smaller network, are in tests/training/test_kills.py.
"""

import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from deeplab_axial.training import checkpoints, log
from tests.cli import commands
from tests.cli.conftest import experiment_flags

pytestmark = pytest.mark.slow

STEPS = 30
# A checkpoint a step: most of the time that a run takes, it is writing one.
OVERRIDES = (
    f"trainer_options.solver_options.training_number_of_steps={STEPS}",
    "trainer_options.save_checkpoints_steps=1",
    "trainer_options.num_checkpoints_to_keep=2",
    "model_options.backbone.drop_path_keep_prob=0.5",
    "trainer_options.solver_options.optimizer=radam",
    "trainer_options.solver_options.lookahead.sync_period=4",
    "trainer_options.solver_options.gradient_accumulation_steps=2",
    "trainer_options.solver_options.ema_decay=0.9",
)


class Run:
    """A training run in a process of its own."""

    def __init__(self, records, folder):
        flags = experiment_flags(records.train, records.val, *OVERRIDES)
        self.folder = folder
        self.command = [sys.executable, "-m", "deeplab_axial.cli.main", "train", "--mode=train", *flags]
        self.command.append(f"--model_dir={folder}")

    def start(self) -> subprocess.Popen:
        return subprocess.Popen(
            self.command, cwd=commands.REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def finish(self) -> str:
        process = self.start()
        out, err = process.communicate()
        assert process.returncode == 0, err[-3000:]
        return out

    def latest(self) -> str | None:
        return checkpoints.latest(str(self.folder))

    def wait_for_a_checkpoint(self, process, after: str | None):
        while self.latest() == after:
            assert process.poll() is None, process.stderr.read()[-3000:]
            time.sleep(0.02)


def _variables(prefix):
    reader = tf.train.load_checkpoint(prefix)
    names = set(reader.get_variable_to_shape_map()) - {"_CHECKPOINTABLE_OBJECT_GRAPH"}
    # The counter of saves tells how often a run was saved, not what it learnt.
    return {name: reader.get_tensor(name) for name in names if not name.startswith("save_counter")}


def _assert_same_end(found: pathlib.Path, expected: pathlib.Path):
    ours, theirs = (_variables(str(folder / f"ckpt-{STEPS}")) for folder in (found, expected))
    assert set(ours) == set(theirs)
    assert len(ours) > 500
    different = [name for name in ours if not np.array_equal(ours[name], theirs[name])]
    assert not different
    histories = [log.read_history(str(folder)) for folder in (found, expected)]
    for history in histories:
        for entry in history:
            entry.pop(log.SPEED, None)  # a step that was traced is not timed
            entry.pop(log.TIME)
    assert histories[0] == histories[1]


@pytest.fixture(scope="module")
def undisturbed(scene_records, tmp_path_factory):
    run = Run(scene_records, tmp_path_factory.mktemp("undisturbed"))
    run.finish()
    return run.folder


def test_killed_again_and_again(scene_records, undisturbed, tmp_path):
    run = Run(scene_records, tmp_path)
    moments = random.Random(1)
    last = None
    for _ in range(4):
        process = run.start()
        run.wait_for_a_checkpoint(process, after=last)
        time.sleep(moments.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        last = run.latest()
        assert last is not None
        if last.endswith(f"-{STEPS}"):
            break
        assert all(np.isfinite(v).all() for v in _variables(last).values() if v.dtype == np.float32)
    assert f"Resuming from {last}" in run.finish()
    _assert_same_end(tmp_path, undisturbed)
    # What a kill left half-written does not stay for ever.
    assert len(list(tmp_path.glob("ckpt-*.index"))) <= 2 + 4


@pytest.mark.parametrize(("number", "status", "times"), [(signal.SIGTERM, 143, 2), (signal.SIGINT, 130, 1)])
def test_a_signal_stops_with_a_checkpoint(scene_records, undisturbed, tmp_path, number, status, times):
    run = Run(scene_records, tmp_path)
    process = run.start()
    run.wait_for_a_checkpoint(process, after=None)
    for _ in range(times):  # who asks twice does no harm
        process.send_signal(number)
        time.sleep(0.01)
    _, err = process.communicate(timeout=60)
    assert process.returncode == status
    message = err.splitlines()[-1]
    assert message.startswith(f"Stopped by {number.name} after step ")
    assert message.endswith(f"wrote {run.latest()}. Run again to resume.")
    run.finish()
    _assert_same_end(tmp_path, undisturbed)
