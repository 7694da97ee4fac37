# SPDX-License-Identifier: Apache-2.0
"""The profile of a range of steps: which steps it covers, and that it is always written to the end."""

import pytest
import tensorflow as tf

from deeplab_axial.errors import InputError, Interrupted
from deeplab_axial.training import profiler
from deeplab_axial.training.profiler import StepRange


def _traces(folder):
    """The files of all traces."""
    return sorted(folder.glob("plugins/profile/*/*.xplane.pb"))


def _loops(folder, steps, loops, notes):
    with profiler.Profiler(str(folder), steps, notes.append) as profile:
        for first, last in loops:
            with profile.loop(first, last):
                tf.linalg.matmul(tf.ones([8, 8]), tf.ones([8, 8]))


@pytest.mark.parametrize(("text", "first", "last"), [("1:1", 1, 1), ("11:20", 11, 20), ("100:100", 100, 100)])
def test_ranges(text, first, last):
    assert profiler.parse_range(text, 100) == StepRange(first, last)
    assert str(StepRange(first, last)) == text


@pytest.mark.parametrize(
    "text", ["", "5", "5:", "a:b", "0:3", "5:4", "99:101", "-1:4", "1:2:3", "1.5:2", " 1:2", "٣:٤"]
)
def test_other_ranges_are_refused(text):
    with pytest.raises(InputError, match=r"--profile must be FIRST:LAST, .* <= 100 .*Received: ") as error:
        profiler.parse_range(text, 100)
    assert f"Received: {text}." in str(error.value)


def test_a_range_that_is_none():
    with pytest.raises(ValueError, match="1 <= first <= last"):
        StepRange(3, 2)


@pytest.mark.parametrize(
    ("done", "left", "note"),
    [
        (0, StepRange(11, 20), None),
        (10, StepRange(11, 20), None),
        (11, StepRange(12, 20), "--profile=11:20: the run is at step 11. Profiling from step 12."),
        (19, StepRange(20, 20), "--profile=11:20: the run is at step 19. Profiling from step 20."),
        (20, None, "--profile=11:20: these steps are done, the run is at step 20. Nothing is profiled."),
    ],
)
def test_what_is_left_of_a_range_after_a_resume(done, left, note):
    notes = []
    assert profiler.still_to_come(StepRange(11, 20), done, notes.append) == left
    assert notes == ([] if note is None else [note])


@pytest.mark.parametrize(
    ("steps", "loops", "covered"),
    [
        (StepRange(2, 3), [(n, n) for n in range(1, 6)], "Profiled steps 2 to 3"),
        # Whole loops.
        (StepRange(6, 9), [(1, 4), (5, 8), (9, 12), (13, 16)], "Profiled steps 5 to 12"),
        (StepRange(2, 3), [(1, 4), (5, 8)], "Profiled steps 1 to 4"),
        # The run ends first.
        (StepRange(2, 9), [(1, 1), (2, 2), (3, 3)], "Profiled steps 2 to 3"),
    ],
)
def test_a_range_is_traced_once(tmp_path, steps, loops, covered):
    notes = []
    _loops(tmp_path, steps, loops, notes)
    assert notes == [f"{covered}: {tmp_path}/plugins/profile"]
    (trace,) = _traces(tmp_path)
    content = trace.read_bytes()
    assert all(name in content for name in (b"MatMul", b"train", b"step_num"))


@pytest.mark.parametrize("steps", [None, StepRange(8, 9)])
def test_nothing_to_trace(tmp_path, steps):
    notes = []
    _loops(tmp_path, steps, [(1, 4), (5, 7)], notes)
    assert not notes
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("problem", [Interrupted("stopped"), ArithmeticError("nan"), KeyboardInterrupt()])
def test_a_run_that_ends_amid_the_range_leaves_its_trace(tmp_path, problem):
    notes = []

    def run():
        with profiler.Profiler(str(tmp_path), StepRange(1, 9), notes.append) as profile:
            with profile.loop(1, 1):
                tf.ones([2]) + 1
            with profile.loop(2, 2):
                raise problem

    with pytest.raises(type(problem)):
        run()
    assert notes == [f"Profiled steps 1 to 1: {tmp_path}/plugins/profile"]
    assert len(_traces(tmp_path)) == 1
    # The next one can start: TensorFlow has one profiler.
    notes.clear()
    _loops(tmp_path / "next", StepRange(1, 1), [(1, 1)], notes)
    assert len(_traces(tmp_path / "next")) == 1


def test_a_run_that_fails_in_its_first_loop(tmp_path):
    notes = []

    def run():
        with profiler.Profiler(str(tmp_path), StepRange(3, 9), notes.append) as profile, profile.loop(1, 4):
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        run()
    assert notes == [f"The profile in {tmp_path}/plugins/profile ends amid the loop that begins with step 1."]
    assert len(_traces(tmp_path)) == 1
