# SPDX-License-Identifier: Apache-2.0
"""A disk that is full ends a run with one clear error; nothing written before is lost, and the run resumes."""

import contextlib
import io
import os
import resource

import numpy as np
import pytest

from deeplab_axial import files
from deeplab_axial.errors import InputError
from deeplab_axial.training import log, loop
from tests.training.test_loop import OPTIONS, Run, _checkpoints, _without_speed


@contextlib.contextmanager
def largest_file(num_bytes):
    """Inside, writing beyond this size fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # pytest keeps it in a file, which would be too large as well
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("undisturbed"))
    run.train()
    return run


def _finish(folder, expected, from_step):
    run = Run(folder)
    run.manager.restore_latest()
    assert run.step.numpy() == from_step
    run.train()
    for found, value in zip(run.state(), expected.state(), strict=True):
        np.testing.assert_array_equal(found, value)
    assert _without_speed(log.read_history(folder)) == _without_speed(log.read_history(expected.folder))


def test_amid_a_checkpoint(undisturbed, tmp_path):
    run = Run(tmp_path)
    run.train(until=3)
    size = os.path.getsize(tmp_path / "ckpt-3.data-00000-of-00001")
    before = {path: path.read_bytes() for path in tmp_path.glob("ckpt-3*")}
    with (
        largest_file(size // 2),
        pytest.raises(InputError, match=r"Cannot write a checkpoint to .*File too large\)") as error,
    ):
        run.train()
    assert str(error.value).endswith(f"run again: training resumes from {tmp_path}/ckpt-3.")
    assert "function_node" not in str(error.value)
    assert _checkpoints(tmp_path) == ["ckpt-3"]
    assert {path: path.read_bytes() for path in tmp_path.glob("ckpt-*")} == before  # no half-written one either
    _finish(tmp_path, undisturbed, from_step=3)


def test_amid_the_history(undisturbed, tmp_path):
    run = Run(tmp_path)
    run.train(until=3)
    history = tmp_path / log.HISTORY_FILE
    size = history.stat().st_size
    with (
        largest_file(size + 20),
        pytest.raises(InputError, match=r"cannot be written \(File too large\)\. Free or change the place") as error,
    ):
        run.train(options=loop.LoopOptions(total_steps=6, save_steps=6, summary_steps=1))
    assert str(tmp_path) in str(error.value)
    assert [entry["step"] for entry in log.read_history(tmp_path)][:1] == [2]
    _finish(tmp_path, undisturbed, from_step=3)


def test_as_the_run_begins(undisturbed, tmp_path):
    first = Run(tmp_path)
    first.train(until=3)
    before = (tmp_path / log.HISTORY_FILE).read_bytes()
    second = Run(tmp_path)
    second.manager.restore_latest()
    with largest_file(10), pytest.raises(InputError, match=r"cannot be written \(File too large\)"):
        second.train()
    assert (tmp_path / log.HISTORY_FILE).read_bytes() == before
    _finish(tmp_path, undisturbed, from_step=3)


def test_a_small_file_keeps_its_old_content(tmp_path):
    path = tmp_path / "config.textproto"
    path.write_text("old")
    with largest_file(10), pytest.raises(InputError, match="cannot be written"), files.explained(tmp_path):
        files.write_atomically(path, "x" * 100)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["config.textproto"]


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_a_folder_without_permission(tmp_path):
    run = Run(tmp_path)
    run.train(until=3)
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(InputError, match="Permission denied"):
            run.train(options=OPTIONS)
    finally:
        tmp_path.chmod(0o755)
