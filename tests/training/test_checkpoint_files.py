# SPDX-License-Identifier: Apache-2.0
"""Training goes on from the newest checkpoint that can be read in full, and loses no file on the way."""

import pathlib

import pytest
import tensorflow as tf

from deeplab_axial.errors import InputError
from deeplab_axial.training import checkpoint_files, checkpoints

DATA = ".data-00000-of-00001"


class Run:
    """A model folder of one vector, which holds the step in each of its places."""

    def __init__(self, folder, max_to_keep=5):
        self.folder = pathlib.Path(folder)
        self.step = tf.Variable(0, dtype=tf.int64)
        self.weights = tf.Variable(tf.zeros([1000]))
        self.manager = checkpoints.Manager(str(folder), {"weights": self.weights}, self.step, max_to_keep)

    def save(self, *steps: int) -> "Run":
        for step in steps:
            self.step.assign(step)
            self.weights.assign(tf.fill([1000], float(step)))
            self.manager.save()
        return self

    def resume(self) -> int | None:
        """The step that a fresh process goes on from; None if it starts anew."""
        other = Run(self.folder)
        path = other.manager.restore_latest()
        if path is None:
            return None
        step = int(other.step.numpy())
        assert path == str(self.folder / f"ckpt-{step}")
        assert set(other.weights.numpy()) == {step}
        return step

    def names(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}


def _cut_in_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _cut_the_end(path):
    path.write_bytes(path.read_bytes()[:-1])


def _flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _empty(path):
    path.write_bytes(b"")


def _fill_with_garbage(path):
    path.write_bytes(b"garbage!" * 50)


DAMAGES = (_cut_in_half, _cut_the_end, _flip_a_bit, _empty, _fill_with_garbage)


@pytest.mark.parametrize("suffix", [".index", DATA])
@pytest.mark.parametrize("damage", DAMAGES)
def test_falls_back_to_the_one_before_and_keeps_the_damaged(tmp_path, caplog, suffix, damage):
    run = Run(tmp_path).save(1, 2, 3)
    damaged = tmp_path / f"ckpt-3{suffix}"
    damage(damaged)
    content = {name: (tmp_path / f"ckpt-3{name}").read_bytes() for name in (".index", DATA)}
    assert run.resume() == 2
    warnings = [record.getMessage() for record in caplog.records if record.name == "absl"]
    assert warnings[0].startswith(f"{tmp_path}/ckpt-3 cannot be read (")
    assert warnings[0].endswith(f"What there is of it is kept as {tmp_path}/damaged-ckpt-3.")
    assert warnings[1] == f"Falling back to the newest checkpoint that can be read: {tmp_path}/ckpt-2"
    for name, expected in content.items():
        assert (tmp_path / f"damaged-ckpt-3{name}").read_bytes() == expected
        assert not (tmp_path / f"ckpt-3{name}").exists()
    # It is not found again, neither by us nor by TensorFlow.
    caplog.clear()
    assert run.resume() == 2
    assert not [record for record in caplog.records if record.name == "absl"]
    assert tf.train.latest_checkpoint(str(tmp_path)) == str(tmp_path / "ckpt-2")


def test_the_run_goes_on_and_sweeps_as_before(tmp_path):
    run = Run(tmp_path, max_to_keep=2).save(1, 2, 3)
    _cut_in_half(tmp_path / f"ckpt-3{DATA}")
    again = Run(tmp_path, max_to_keep=2)
    assert again.manager.restore_latest() == str(tmp_path / "ckpt-2")
    again.save(2)  # is there already
    again.save(3, 4)
    expected = {f"ckpt-{step}{suffix}" for step in (3, 4) for suffix in (".index", DATA)}
    assert {name for name in run.names() if name.startswith("ckpt")} == expected
    assert run.resume() == 4


def test_a_second_damaged_checkpoint_of_the_same_step_gets_a_name_of_its_own(tmp_path):
    run = Run(tmp_path).save(1, 2)
    for _ in range(2):
        _cut_in_half(tmp_path / f"ckpt-2{DATA}")
        assert run.resume() == 1
        Run(tmp_path).save(1, 2)
    names = {"damaged-ckpt-2.index", f"damaged-ckpt-2{DATA}", "damaged-2-ckpt-2.index", f"damaged-2-ckpt-2{DATA}"}
    assert names <= run.names()
    assert run.resume() == 2


@pytest.mark.parametrize("gone", [(".index",), (DATA,), (".index", DATA)])
def test_files_that_are_gone(tmp_path, caplog, gone):
    run = Run(tmp_path).save(1, 2, 3)
    for suffix in gone:
        (tmp_path / f"ckpt-3{suffix}").unlink()
    assert run.resume() == 2
    message = next(record.getMessage() for record in caplog.records if record.name == "absl")
    assert message.startswith(f"{tmp_path}/ckpt-3 cannot be read (")
    assert message.endswith("is gone." if len(gone) == 2 else f"is kept as {tmp_path}/damaged-ckpt-3.")


def test_several_damaged_ones(tmp_path):
    run = Run(tmp_path).save(1, 2, 3, 4)
    _empty(tmp_path / "ckpt-4.index")
    _cut_in_half(tmp_path / f"ckpt-3{DATA}")
    assert run.resume() == 2
    assert {"damaged-ckpt-4.index", "damaged-ckpt-3.index"} <= run.names()


@pytest.mark.parametrize("content", [b"\x00garbage", b"\xff\xfe\x00", b"", b'model_checkpoint_path: "ckpt'])
def test_a_list_that_is_damaged(tmp_path, caplog, content):
    run = Run(tmp_path).save(1, 2, 10)
    (tmp_path / "checkpoint").write_bytes(content)
    with pytest.raises(InputError, match="or the file is damaged"):
        checkpoints.latest(str(tmp_path))
    assert run.resume() == 10
    assert f"{tmp_path}/checkpoint is damaged. It is kept as {tmp_path}/damaged-checkpoint." in caplog.text
    assert (tmp_path / "damaged-checkpoint").read_bytes() == content
    assert checkpoints.latest(str(tmp_path)) == str(tmp_path / "ckpt-10")
    again = Run(tmp_path, max_to_keep=2)
    again.manager.restore_latest()
    again.save(11)
    assert sorted(path.stem for path in tmp_path.glob("ckpt-*.index")) == ["ckpt-10", "ckpt-11"]


def test_a_list_that_is_gone(tmp_path):
    run = Run(tmp_path).save(1, 2)
    (tmp_path / "checkpoint").unlink()
    assert run.resume() == 2
    assert checkpoints.latest(str(tmp_path)) == str(tmp_path / "ckpt-2")


def test_a_damaged_list_and_a_damaged_checkpoint(tmp_path):
    run = Run(tmp_path).save(1, 2)
    (tmp_path / "checkpoint").write_bytes(b"\xff")
    _cut_the_end(tmp_path / f"ckpt-2{DATA}")
    assert run.resume() == 1


def test_none_is_readable(tmp_path):
    run = Run(tmp_path).save(1, 2)
    for step in (1, 2):
        _cut_in_half(tmp_path / f"ckpt-{step}{DATA}")
    before = run.names()
    with pytest.raises(InputError) as error:
        run.resume()
    message = str(error.value)
    assert message.startswith(f"{tmp_path} holds no checkpoint that can be read: {tmp_path}/ckpt-2: ")
    assert f"; {tmp_path}/ckpt-1: " in message
    assert message.endswith("or name another --model_dir to start over.")
    assert run.names() == before


def test_a_kill_amid_the_first_checkpoint(tmp_path, caplog):
    """The list comes last, so nothing was saved yet; what was written so far is no reason to stop."""
    run = Run(tmp_path).save(1)
    (tmp_path / "checkpoint").unlink()
    _cut_in_half(tmp_path / "ckpt-1.index")
    (tmp_path / "ckpt-7_temp").mkdir()
    assert run.resume() is None
    assert "no checkpoint was ever finished: starting over" in caplog.text
    assert "ckpt-7_temp" not in run.names()


def test_nothing_there(tmp_path):
    assert Run(tmp_path / "none").resume() is None
    (tmp_path / "notes.txt").write_text("ckpt-3.index")
    assert Run(tmp_path).resume() is None


def test_a_checkpoint_that_does_not_fit_is_no_damage(tmp_path):
    run = Run(tmp_path).save(1, 2)
    before = run.names()
    weights, step = tf.Variable(tf.zeros([7])), tf.Variable(0, dtype=tf.int64)
    other = checkpoints.Manager(str(tmp_path), {"weights": weights}, step, 5)
    with pytest.raises(InputError, match=r"ckpt-2.*does not fit this config"):
        other.restore_latest()
    assert run.names() == before


def test_a_worker_that_may_not_write_finds_the_same(tmp_path):
    run = Run(tmp_path).save(1, 2)
    _cut_in_half(tmp_path / f"ckpt-2{DATA}")
    before = run.names()
    assert checkpoint_files.newest_readable(str(tmp_path), mend=False) == str(tmp_path / "ckpt-1")
    assert run.names() == before


def test_storage_that_refuses_is_no_damage(tmp_path, monkeypatch):
    run = Run(tmp_path).save(1, 2)
    before = run.names()

    def refuse(*_):
        raise tf.errors.PermissionDeniedError(None, None, "not for you")

    monkeypatch.setattr(checkpoint_files, "open_reader", refuse)
    monkeypatch.setattr(tf.io.gfile, "GFile", refuse)
    with pytest.raises(InputError, match=r"ckpt-2\.index cannot be read at present \(not for you\)"):
        run.resume()
    assert run.names() == before
