# SPDX-License-Identifier: Apache-2.0
"""Records that go, or a log that cannot be written, cost no step: the run saves its last complete one and resumes."""

import functools
import itertools

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from deeplab_axial import files
from deeplab_axial.data import diagnosis
from deeplab_axial.data.source import Source
from deeplab_axial.errors import InputError
from deeplab_axial.training import log, loop
from deeplab_axial.training.optimizers import Lookahead
from tests.training import mini
from tests.training.test_loop import Run, _checkpoints, _without_speed

OPTIONS = loop.LoopOptions(total_steps=6, save_steps=6, summary_steps=1)


def _run(folder) -> Run:
    """With what changes weights without looking at an image: decay, and averages of both kinds."""
    rate = tf_keras.optimizers.schedules.PolynomialDecay(0.05, 6, end_learning_rate=0.0)
    adamw = tf_keras.optimizers.AdamW(rate, weight_decay=0.1)
    return Run(folder, optimizer=Lookahead(adamw, sync_period=2))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    run = _run(tmp_path_factory.mktemp("undisturbed"))
    run.train(options=OPTIONS)
    return run


def _finish(folder, expected, from_step):
    run = _run(folder)
    run.manager.restore_latest()
    assert run.step.numpy() == from_step
    run.train(options=OPTIONS)
    for found, value in zip(run.state(), expected.state(), strict=True):
        np.testing.assert_array_equal(found, value)
    assert _without_speed(log.read_history(folder)) == _without_speed(log.read_history(expected.folder))


def _train_without(run, missing, step, **options):
    """Trains on data that need the file `missing` from that step on."""

    def read(i, batch):
        length = tf.cond(i < step, lambda: 0, lambda: tf.strings.length(tf.io.read_file(missing)))
        return {key: value + tf.cast(0 * length, value.dtype) for key, value in batch.items()}

    def make_dataset(first_step, _):
        return mini.dataset(first_step).enumerate(first_step).map(read).prefetch(10)

    explain = functools.partial(diagnosis.explain_errors, Source((__file__, missing), 2, None))
    options = loop.LoopOptions(**{**vars(OPTIONS), **options})
    loop.train(run.trainer, make_dataset, run.step, run.manager, run.folder, options, explain_errors=explain)


@pytest.mark.parametrize("steps_per_loop", [1, 6])
def test_records_that_vanish(undisturbed, tmp_path, steps_per_loop):
    missing = str(tmp_path / "train-00001.tfrecord")
    with pytest.raises(InputError) as error:
        _train_without(_run(tmp_path), missing, step=4, steps_per_loop=steps_per_loop)
    assert str(error.value) == (
        f"1 of 2 record files cannot be found any more, the first {missing}. They were there at the start: bring them "
        f"back, or mount their drive again, and run the same command. Training resumes from {tmp_path}/ckpt-4."
    )
    assert _checkpoints(tmp_path) == ["ckpt-4"]
    if steps_per_loop == 1:  # else the log of the loop is lost
        _finish(tmp_path, undisturbed, from_step=4)


def test_a_run_that_has_done_nothing_saves_nothing(tmp_path):
    with pytest.raises(InputError, match=r"run the same command\.$"):
        _train_without(_run(tmp_path), str(tmp_path / "gone"), step=0)
    assert _checkpoints(tmp_path) == []


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    run = Run(tmp_path, optimizer=tf_keras.optimizers.AdamW(1e38, weight_decay=0.1))
    with pytest.raises(InputError, match=r"The weights after step 3 are not finite: training resumes from"):
        _train_without(run, str(tmp_path / "gone"), step=3, steps_per_loop=6)
    assert _checkpoints(tmp_path) == []


def _failing(function, number, error):
    """A function that raises the error at its call of that number, as the disk fills up."""
    calls = itertools.count(1)

    def call(*args, **kwargs):
        if next(calls) >= number:
            raise error
        return function(*args, **kwargs)

    return call


def test_a_history_that_cannot_be_written(undisturbed, tmp_path, monkeypatch):
    full = OSError(28, "No space left on device", f"{tmp_path}/{log.HISTORY_FILE}")
    monkeypatch.setattr(files, "append", _failing(files.append, 4, full))
    with pytest.raises(InputError) as error:
        _run(tmp_path).train(options=OPTIONS)
    monkeypatch.undo()
    message = str(error.value)
    assert message.startswith(f"{tmp_path}/{log.HISTORY_FILE} cannot be written (No space left on device). Free or")
    assert message.endswith(f"Training resumes from {tmp_path}/ckpt-4.")
    # The line of step 4 is what could not be written; it is known to no checkpoint's log.
    assert [entry["step"] for entry in log.read_history(tmp_path)] == [1, 2, 3]
    second = _run(tmp_path)
    second.manager.restore_latest()
    second.train(options=OPTIONS)
    for found, value in zip(second.state(), undisturbed.state(), strict=True):
        np.testing.assert_array_equal(found, value)


def test_events_that_cannot_be_written(undisturbed, tmp_path, monkeypatch):
    full = tf.errors.ResourceExhaustedError(None, None, "events.out; No space left on device")
    # The images a second, which are no term, are known from step 2 on.
    monkeypatch.setattr(tf.summary, "scalar", _failing(tf.summary.scalar, 3 * len(mini.TERMS) + 4, full))
    with pytest.raises(InputError) as error:
        _run(tmp_path).train(options=OPTIONS)
    monkeypatch.undo()
    assert "No space left on device" in str(error.value)
    assert str(error.value).endswith(f"Training resumes from {tmp_path}/ckpt-4.")
    _finish(tmp_path, undisturbed, from_step=4)


def test_neither_log_nor_checkpoint_can_be_written(tmp_path, monkeypatch):
    run = _run(tmp_path)
    run.train(options=loop.LoopOptions(total_steps=6, save_steps=2, summary_steps=6), until=2)
    full = OSError(28, "No space left on device")
    monkeypatch.setattr(files, "append", _failing(files.append, 1, full))
    monkeypatch.setattr(run.manager._manager, "save", _failing(run.manager.save, 1, full))
    # One summary a step, but no more checkpoints than the one at the end.
    with pytest.raises(InputError) as error:
        run.train(options=OPTIONS)
    assert str(error.value).endswith(
        "A checkpoint of step 3 cannot be written, either: training resumes from the one before."
    )
    assert _checkpoints(tmp_path) == ["ckpt-2"]
