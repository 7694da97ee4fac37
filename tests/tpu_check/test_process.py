# SPDX-License-Identifier: Apache-2.0
"""The compiler's process, with another program in its place."""

import types

import pytest

from deeplab_axial.errors import InputError
from deeplab_axial.tpu_check import compiler, process, step, topologies
from tests.tpu_check import fake_compiler

V5E = topologies.parse("v5e:2x2")


@pytest.fixture(autouse=True)
def _fake(monkeypatch):
    stand_in = types.SimpleNamespace(__name__=fake_compiler.__name__, environment=compiler.environment)
    monkeypatch.setattr(process, "compiler", stand_in)


def _compile(text, **options):
    return process.compile_program(step.Program(text.encode(), 1, 100, 10), V5E, **options)


def test_a_program_that_fits():
    result = _compile("fit 12000")
    assert (result.fits, result.code, result.needed, result.error) == (True, 700, 12700, "")
    assert (result.flops, result.bytes_accessed, result.loops) == (2e12, 3e9, 2)
    assert (result.plan.total, result.plan.arguments) == (12000, 3000)


def test_buffers_share_memory_and_copies_are_named_after_what_they_copy():
    buffers = _compile("fit 12000").plan.buffers
    assert [(b.bytes, b.shape, b.operation) for b in buffers] == [
        (5000, "f32[1250]{0:T(128)}", "model/stage2_block1/attention/MatMul"),
        (3000, "bf16[1500]{0:T(128)(2,1)}", "model/head/Cast"),
        (1000, "s32[250]{0}", ""),
    ]


def test_stops_when_the_memory_is_planned():
    result = _compile("stop 12000", makes_code=False, timeout=30)
    assert (result.fits, result.code, result.needed) == (True, None, 12000)


def test_a_program_that_is_too_large_has_a_plan():
    result = _compile("exceed 60000")
    assert (result.fits, result.error, result.needed) == (False, "", 60000)
    assert result.plan.buffers[0].bytes == 5000


def test_a_program_that_is_refused():
    result = _compile("refuse 0")
    assert result.error == fake_compiler.REFUSED
    assert not result.fits
    assert result.plan is None


def test_a_crash_says_the_last_lines():
    with pytest.raises(InputError, match=r"v5e:2x2 ended with status -6(?s:.*)v5litepod-4(?s:.*)the last words"):
        _compile("crash 0")


def test_a_compiler_that_takes_too_long_is_stopped():
    with pytest.raises(InputError, match=r"was stopped after 2 seconds"):
        _compile("hang 0", timeout=2)


def test_missing_packages_are_named(monkeypatch):
    def version(name):
        if name == "libtpu":
            raise process.importlib.metadata.PackageNotFoundError(name)
        return "0.10.2"

    monkeypatch.setattr(process.importlib.metadata, "version", version)
    with pytest.raises(InputError) as caught:
        process.check_installed()
    if "libtpu none" in str(caught.value):
        assert '".[tpu-check]"' in str(caught.value)
    else:  # this Python, or this system, is none for which the packages are made
        assert "needs Python 3.11" in str(caught.value)
