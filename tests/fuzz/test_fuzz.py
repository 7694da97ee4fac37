# SPDX-License-Identifier: Apache-2.0
"""Whatever a file holds, it is read or refused with one message: no other exception, no hang, no memory without end."""

import contextlib
import faulthandler
import pathlib
import resource
import shutil
import signal
import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings

from deeplab_axial.errors import InputError
from tests.fuzz.targets import TARGETS, Target

_SECONDS = 20
_LARGEST = 3 * 2**30
# Of `make test`: a few seconds in all. Of `make test-slow`: 10,000, fewer where each takes long.
_FEW = {"report_data.zip": 6, "shard": 6, "record": 6}
_MANY = {"report_data.zip": 300, "shard": 400, "record": 400}
_EXAMPLES, _MANY_EXAMPLES = 15, 530

targets = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)


@contextlib.contextmanager
def _at_most(seconds: int) -> Iterator[None]:
    """Ends what takes longer: with an error where Python runs, else with the process."""

    def end(*_):
        raise TimeoutError(f"longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    faulthandler.dump_traceback_later(3 * seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _peak() -> int:
    """Bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _refusal(target: Target, value, folder: pathlib.Path) -> str | None:
    """The message; None for an input that is taken."""
    try:
        target.read(value, folder)
    except (InputError, *target.also) as error:
        return str(error)
    return None


def _try(target: Target, value, folder: pathlib.Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    before = _peak()
    with _at_most(_SECONDS):
        said = _refusal(target, value, folder)
    assert said is None or said.strip().encode()  # it can be printed
    assert _peak() <= max(before, _LARGEST)


def _fuzz(target: Target, folder: pathlib.Path, examples: int) -> None:
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(target.inputs())
    def run(value):
        _try(target, value, folder / "tried")

    run()


@targets
def test_a_few_inputs(target, tmp_path):
    _fuzz(target, tmp_path, _FEW.get(target.name, _EXAMPLES))


@pytest.mark.slow
@targets
def test_many_inputs(target, tmp_path):
    _fuzz(target, tmp_path, _MANY.get(target.name, _MANY_EXAMPLES))


def test_many_inputs_are_ten_thousand():
    assert sum(_MANY.get(target.name, _MANY_EXAMPLES) for target in TARGETS) >= 10_000
