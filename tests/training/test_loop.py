# SPDX-License-Identifier: Apache-2.0
"""The training run: its files, its checkpoints, and what stops it."""

import dataclasses
import os
import signal

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from deeplab_axial.errors import Interrupted, NonFiniteLoss
from deeplab_axial.training import addons, checkpoints, log, loop, profiler, schedules
from deeplab_axial.training.optimizers import Lookahead, RAdam
from tests.training import mini

OPTIONS = loop.LoopOptions(total_steps=6, save_steps=3, summary_steps=2)


class Run:
    """A run as the command line sets it up, with the mini network and drop path."""

    def __init__(self, folder, learning_rate=0.05, optimizer=None):
        self.folder = str(folder)
        rate = tf_keras.optimizers.schedules.PolynomialDecay(learning_rate, 6, end_learning_rate=0.0)
        self.optimizer = optimizer or Lookahead(RAdam(rate), sync_period=2)
        self.trainer = mini.make_trainer(self.optimizer, keep_prob=0.5)
        self.step = tf.Variable(0, dtype=tf.int64)
        objects = {"model": self.trainer.model, "optimizer": self.optimizer}
        self.manager = checkpoints.Manager(self.folder, objects, self.step, max_to_keep=5)

    def train(self, until=None, options=OPTIONS, bad_image=None):
        def make_dataset(first_step, context):
            return mini.dataset(first_step, bad_image)

        loop.train(self.trainer, make_dataset, self.step, self.manager, self.folder, options, until)

    def state(self):
        return [v.numpy() for v in (*self.trainer.model.variables, *self.optimizer.variables, self.step)]


def _checkpoints(folder):
    return sorted(name.removesuffix(".index") for name in os.listdir(folder) if name.endswith(".index"))


def _without_speed(history):
    return [{k: v for k, v in entry.items() if k not in (log.SPEED, log.TIME)} for entry in history]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("undisturbed"))
    run.train()
    return run


def test_the_files_of_a_run(undisturbed):
    assert _checkpoints(undisturbed.folder) == ["ckpt-3", "ckpt-6"]
    history = log.read_history(undisturbed.folder)
    assert [entry["step"] for entry in history] == [2, 4, 6]
    names = {*mini.TERMS, "step", "time", "images_per_second"}
    assert all(set(entry) == names for entry in history)
    # The rate that a step used: step 2 is the second, so the schedule's at 1.
    np.testing.assert_allclose(
        [e["learning_rate"] for e in history], [0.05 * (1 - n / 6) for n in (1, 3, 5)], rtol=1e-5
    )
    assert history[-1]["total_loss"] < history[0]["total_loss"]
    assert all(entry["images_per_second"] > 0 for entry in history)

    events = [os.path.join(undisturbed.folder, "train", name) for name in os.listdir(f"{undisturbed.folder}/train")]
    found = {}
    for serialized in tf.data.TFRecordDataset(events).as_numpy_iterator():
        event = tf.compat.v1.Event.FromString(serialized)
        for value in event.summary.value:
            found[event.step, value.tag.removeprefix("training/")] = tf.make_ndarray(value.tensor)
    assert {step for step, _ in found} == {2, 4, 6}
    for entry in history:
        np.testing.assert_allclose(found[entry["step"], "total_loss"], entry["total_loss"], rtol=1e-6)


def test_a_run_that_resumes_equals_an_undisturbed_one(undisturbed, tmp_path):
    first = Run(tmp_path)
    first.train(until=3)
    second = Run(tmp_path)
    assert second.manager.restore_latest() == str(tmp_path / "ckpt-3")
    second.train()
    for found, expected in zip(second.state(), undisturbed.state(), strict=True):
        np.testing.assert_array_equal(found, expected)
    expected_history = _without_speed(log.read_history(undisturbed.folder))
    assert _without_speed(log.read_history(tmp_path)) == expected_history


@pytest.mark.addons
def test_a_run_with_an_optimizer_of_the_addons_resumes(tmp_path):
    def run(folder, until=None):
        schedule = schedules.poly(0.05, 6)
        made = Run(folder, optimizer=addons.tfa_optimizer("RectifiedAdam", learning_rate=schedule))
        made.manager.restore_latest()
        made.train(until)
        return made

    expected = run(tmp_path / "undisturbed")
    run(tmp_path / "resumed", until=3)
    found = run(tmp_path / "resumed")
    for ours, theirs in zip(found.trainer.model.get_weights(), expected.trainer.model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    histories = [_without_speed(log.read_history(str(r.folder))) for r in (found, expected)]
    assert histories[0] == histories[1]
    expected_rates = [schedules.poly(0.05, 6)(step) for step in (1, 3, 5)]
    np.testing.assert_allclose([entry["learning_rate"] for entry in histories[0]], expected_rates, rtol=1e-5)


def test_steps_beyond_the_checkpoint_are_taken_and_logged_again(undisturbed, tmp_path):
    first = Run(tmp_path)
    first.train(until=3)
    # What a kill between two checkpoints leaves: log entries of steps that no checkpoint has.
    with open(tmp_path / log.HISTORY_FILE, "a") as file:
        file.write('{"step": 4, "total_loss": 99}\n{"step": 5, "tot')
    second = Run(tmp_path)
    second.manager.restore_latest()
    second.train()
    assert _without_speed(log.read_history(tmp_path)) == _without_speed(log.read_history(undisturbed.folder))


def test_a_finished_run_does_nothing(undisturbed):
    before = undisturbed.state()
    undisturbed.train()
    for found, expected in zip(undisturbed.state(), before, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_several_steps_a_loop_give_the_same_run(undisturbed, tmp_path):
    run = Run(tmp_path)
    run.train(options=loop.LoopOptions(total_steps=6, save_steps=3, summary_steps=2, steps_per_loop=4))
    assert _checkpoints(tmp_path) == ["ckpt-3", "ckpt-6"]
    assert _without_speed(log.read_history(tmp_path)) == _without_speed(log.read_history(undisturbed.folder))


def test_a_loop_that_was_traced_is_not_timed(tmp_path):
    run = Run(tmp_path)
    options = loop.LoopOptions(total_steps=6, save_steps=6, summary_steps=1, steps_per_loop=2)
    run.train(until=4, options=options)
    run.train(options=options)  # as after an evaluation: nothing is traced again
    timed = {entry["step"]: log.SPEED in entry for entry in log.read_history(tmp_path)}
    assert timed == {1: False, 2: False, 3: True, 4: True, 5: True, 6: True}


def test_a_run_that_fails_amid_its_profile_leaves_the_trace(tmp_path, capsys):
    run = Run(tmp_path)
    options = dataclasses.replace(OPTIONS, profile=profiler.StepRange(4, 6))
    with pytest.raises(NonFiniteLoss):
        run.train(options=options, bad_image=4 * mini.BATCH_SIZE + 1)
    (trace,) = (tmp_path / "train" / "plugins" / "profile").glob("*/*.xplane.pb")
    assert trace.stat().st_size > 10_000
    assert f"Profiled steps 4 to 5: {tmp_path}/train/plugins/profile" in capsys.readouterr().out


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path):
    run = Run(tmp_path)
    with pytest.raises(NonFiniteLoss) as error:
        run.train(bad_image=4 * mini.BATCH_SIZE + 1)
    message = str(error.value)
    assert "not finite at step 5" in message
    assert all(f"{term} nan" in message for term in ("semantic_loss", "total_loss", "gradient_norm"))
    assert "base_learning_rate" in message
    assert _checkpoints(tmp_path) == ["ckpt-3"]
    reader = tf.train.load_checkpoint(checkpoints.latest(str(tmp_path)))
    shapes = reader.get_variable_to_shape_map()
    floats = [reader.get_tensor(name) for name in shapes if reader.get_variable_to_dtype_map()[name] == tf.float32]
    assert len(floats) > 20
    assert all(np.isfinite(values).all() for values in floats)


def test_a_learning_rate_that_is_too_large_ends_the_run(tmp_path):
    run = Run(tmp_path, learning_rate=1e38)
    with pytest.raises(NonFiniteLoss, match=r"not finite at step [2-6]: semantic_loss .*total_loss .*gradient_norm"):
        run.train()
    assert all(name == "ckpt-3" for name in _checkpoints(tmp_path))


def test_a_finite_loss_passes():
    loop.check_finite(1, {"total_loss": 0.0, "gradient_norm": 3e38})
    with pytest.raises(NonFiniteLoss, match="step 7: total_loss 1, gradient_norm inf"):
        loop.check_finite(7, {"total_loss": 1.0, "gradient_norm": float("inf")})


def _send(run, number, at_step, times=1):
    """Lets a signal come while the step after `at_step` is taken."""
    take_steps = run.trainer.train

    def interrupted(iterator, count):
        if run.step.numpy() == at_step:
            for _ in range(times):
                os.kill(os.getpid(), number)
        return take_steps(iterator, count)

    run.trainer.train = interrupted


@pytest.mark.parametrize(("number", "times"), [(signal.SIGTERM, 1), (signal.SIGTERM, 3), (signal.SIGINT, 1)])
def test_a_signal_writes_a_checkpoint_first(tmp_path, number, times):
    run = Run(tmp_path)
    _send(run, number, at_step=1, times=times)
    before = signal.getsignal(number)
    with pytest.raises(
        Interrupted, match=rf"{number.name} after step 2; wrote .*ckpt-2\. Run again to resume"
    ) as error:
        run.train()
    assert error.value.signal_number == number
    assert signal.getsignal(number) is before
    assert _checkpoints(tmp_path) == ["ckpt-2"]
    resumed = Run(tmp_path)
    resumed.manager.restore_latest()
    assert resumed.step.numpy() == 2
    for found, expected in zip(resumed.state(), run.state(), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_second_ctrl_c_stops_at_once(tmp_path, capfd):
    run = Run(tmp_path)
    _send(run, signal.SIGINT, at_step=4, times=2)
    before = signal.getsignal(signal.SIGINT)  # ignored, where a shell has started this in the background
    with pytest.raises(KeyboardInterrupt):
        run.train()
    assert "Press Ctrl-C again to stop at once" in capfd.readouterr().err
    assert _checkpoints(tmp_path) == ["ckpt-3"]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_signal_amid_the_last_save_is_not_lost(tmp_path):
    """Otherwise the evaluation that follows would go on after it."""
    run = Run(tmp_path)
    save = run.manager.save

    def interrupted():
        path = save()
        if run.step.numpy() == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return path

    run.manager.save = interrupted
    with pytest.raises(Interrupted, match=r"after step 6; wrote .*ckpt-6\."):
        run.train()


def test_a_signal_is_heeded_after_the_present_loop(tmp_path):
    run = Run(tmp_path)
    _send(run, signal.SIGTERM, at_step=0)
    with pytest.raises(Interrupted, match=r"after step 2; wrote .*ckpt-2\."):
        run.train(options=loop.LoopOptions(total_steps=6, save_steps=3, summary_steps=2, steps_per_loop=2))
