# SPDX-License-Identifier: Apache-2.0
"""A run that is killed, again and again and amid its checkpoints, ends where an undisturbed one ends: bit for bit."""

import multiprocessing
import os
import pathlib
import random
import re
import signal
import time

import numpy as np
import pytest
import tensorflow as tf

from deeplab_axial.training import checkpoint_files, checkpoints, log
from tests.training import killed

# What is in a model folder amid the writing of a checkpoint, in the order in which TensorFlow makes it.
PHASES = ("folder", "data", "index")


def _start(folder: pathlib.Path, steps: int):
    """A process that trains, forked off a server that has imported TensorFlow."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tensorflow", "tf_keras", "tests.training.mini"])
    process = context.Process(target=killed.train, args=(str(folder), steps))
    process.start()
    return process


def _finish(folder: pathlib.Path, steps: int) -> None:
    process = _start(folder, steps)
    process.join()
    assert process.exitcode == 0


def _newest(folder: pathlib.Path) -> int:
    """The step of the newest finished checkpoint, 0 without one; cheap, so that it can be asked often."""
    try:
        return int(re.search(r"ckpt-(\d+)", (folder / checkpoint_files.LIST).read_text())[1])
    except FileNotFoundError:
        return 0


def _phase(folder: pathlib.Path) -> str | None:
    """How far the checkpoint is that is being written, or was when a kill came; None if none is."""
    names = os.listdir(folder) if folder.exists() else []
    steps = {int(match[1]) for name in names if (match := re.match(r"ckpt-(\d+)", name))}
    new = max(steps, default=0)
    if new <= _newest(folder):
        return None
    if f"ckpt-{new}.index" in names:
        return "index"
    return "data" if any(name.startswith(f"ckpt-{new}.data") for name in names) else "folder"


def _wait_until(process, condition, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.is_alive() and not condition():
        time.sleep(0.001)


def _kill(folder: pathlib.Path, steps: int, rng: random.Random, aim: str) -> str | None:
    """Starts a run, kills it at a moment of the kind `aim`, and returns what it was writing."""
    before = _newest(folder)
    process = _start(folder, steps)
    if aim == "start":
        # Amid the start, of whatever length it is here, or at its first step.
        _wait_until(process, lambda: _newest(folder) > before, rng.uniform(0, 4))
    else:
        wanted = before + rng.randint(1, 4)
        _wait_until(process, lambda: _newest(folder) >= wanted, 60)
        if aim in PHASES:
            _wait_until(process, lambda: _phase(folder) == aim or _newest(folder) > wanted + 3, 2)  # it is short
        else:
            time.sleep(rng.uniform(0, 0.05))
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL, "the run ended before the kill: take more steps"
    newest = checkpoints.latest(str(folder))
    assert _newest(folder) >= before
    if newest is not None:
        assert checkpoint_files.why_unreadable(newest) is None
    return None if aim == "start" else _phase(folder)  # else of the kill before


def _variables(prefix: str) -> dict[str, np.ndarray]:
    reader = tf.train.load_checkpoint(prefix)
    names = set(reader.get_variable_to_shape_map()) - {"_CHECKPOINTABLE_OBJECT_GRAPH"}
    # The counter of saves tells how often a run was saved, not what it learnt.
    return {name: reader.get_tensor(name) for name in names if not name.startswith("save_counter")}


def _assert_same_end(found: pathlib.Path, expected: pathlib.Path, steps: int) -> None:
    ours, theirs = (_variables(str(folder / f"ckpt-{steps}")) for folder in (found, expected))
    assert set(ours) == set(theirs)
    kinds = ("model/", "optimizer/", "average/values/", "step/")
    assert all(any(name.startswith(kind) for name in ours) for kind in kinds)
    assert not [name for name in ours if not np.array_equal(ours[name], theirs[name])]
    histories = [log.read_history(str(folder)) for folder in (found, expected)]
    for history in histories:
        assert [entry["step"] for entry in history] == list(range(1, steps + 1))
        for entry in history:
            entry.pop(log.SPEED, None)
            entry.pop(log.TIME)
    assert histories[0] == histories[1]


def _kill_again_and_again(folder: pathlib.Path, aims: list[str], steps: int) -> list[str | None]:
    rng = random.Random(1)
    undisturbed, disturbed = folder / "undisturbed", folder / "disturbed"
    _finish(undisturbed, steps)
    phases = [_kill(disturbed, steps, rng, aim) for aim in aims]
    _finish(disturbed, steps)
    _assert_same_end(disturbed, undisturbed, steps)
    # Nothing that the kills left stays.
    indices = {f"ckpt-{step}.index" for step in (steps - 1, steps)}
    assert {name for name in os.listdir(disturbed) if name.endswith((".index", "_temp"))} == indices
    return phases


def test_three_kills(tmp_path):
    _kill_again_and_again(tmp_path, ["folder", "any", "index"], steps=16)


@pytest.mark.slow
def test_thirty_kills(tmp_path):
    aims = ["start"] * 6 + ["any"] * 6 + [phase for phase in PHASES for _ in range(6)]
    random.Random(0).shuffle(aims)
    phases = _kill_again_and_again(tmp_path, aims, steps=250)
    # Many of them came amid a checkpoint.
    assert sum(phase is not None for phase in phases) >= 8
