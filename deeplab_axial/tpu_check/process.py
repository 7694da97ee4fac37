# SPDX-License-Identifier: Apache-2.0
"""Runs the compiler in a process of its own and reads its results."""

import dataclasses
import importlib.metadata
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

from deeplab_axial.errors import InputError
from deeplab_axial.tpu_check import compiler, cycles, plan, topologies
from deeplab_axial.tpu_check.step import Program

# As in setup.py.
_VERSIONS = {"jax": "0.10.2", "jaxlib": "0.10.2", "libtpu": "0.0.52"}
# Of all that is known of a schedule, only its last state.
_SCHEDULES = "--xla_jf_dump_llo_text=true --xla_jf_dump_llo_pass_label_regex=final_bundles"
_NO_CODE = "the compiler estimates it when it makes machine code, and none was made"
_POLL = 0.5  # seconds
_OUT_OF_MEMORY = re.compile(r"^RESOURCE_EXHAUSTED.*\b(?:hbm|HBM)\b", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Result:
    """What the compiler says of a program.

    Attributes:
      plan: of the memory; also of a program that does not fit. None if it does not compile.
      fits: whether the plan fits the memory of a core.
      code: bytes of machine code, which lies in HBM as well; None if none was made.
      flops: of the step, two for a multiply-add.
      bytes_accessed: of the step before operations are fused.
      loops: whose bodies count once in the two.
      error: why it does not compile, other than want of memory; empty if it does.
      seconds: taken.
      expected: cycles that the compiler expects a run of the program to take; None if they are not known.
      no_cycles: why they are not known.
      bytes_after_fusion: that the instructions of the compiled program read and write, the bodies of loops once; None
        if no machine code was made.
    """

    plan: plan.Plan | None
    fits: bool
    code: int | None
    flops: float
    bytes_accessed: float
    loops: int
    error: str
    seconds: float
    expected: cycles.Cycles | None = None
    no_cycles: str = ""
    bytes_after_fusion: float | None = None

    @property
    def needed(self) -> int:
        """Bytes of HBM, machine code included where it was made."""
        return (self.plan.total if self.plan else 0) + (self.code or 0)


def check_installed() -> None:
    """Raises InputError unless the packages of the extra [tpu-check] are there, in the versions that were tried."""
    if sys.version_info < (3, 11) or sys.platform != "linux":
        raise InputError(
            "tpu_check needs Python 3.11 or later on Linux, for which its packages are made. Received: Python "
            f"{sys.version_info[0]}.{sys.version_info[1]} on {sys.platform}. Run it in another environment."
        )
    received = {}
    for name in _VERSIONS:
        try:
            received[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            received[name] = "none"
    if received != _VERSIONS:
        raise InputError(
            f"tpu_check needs {_list(_VERSIONS)}. Received: {_list(received)}. "
            'Install them: pip install ".[tpu-check]" in a checkout (with TensorFlow 2.18 or later).'
        )


def compile_program(
    program: Program, topology: topologies.Topology, makes_code: bool = True, timeout: float = 7200.0
) -> Result:
    """Compiles a program for one core.

    Args:
      program: of `step.lower`.
      topology: whose chips it is for.
      makes_code: whether machine code is made. If not, the compiler is stopped as soon as it has planned the memory,
        which takes a fraction of the time.
      timeout: seconds.

    Raises:
      InputError: the compiler crashed or took too long; the message has its last lines.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        (root / "step.hlo").write_bytes(program.hlo)
        (root / "kernels").mkdir()
        ending = _run(root, topology, makes_code, timeout)
        answers = {}
        for name in ("costs", "executable"):
            if (root / f"{name}.json").exists():
                answers |= json.loads((root / f"{name}.json").read_text(encoding="utf-8"))
        planned = plan.read(root / "dump") if plan.was_made(root / "dump") else None
        is_done = "code" in answers or "error" in answers or (planned is not None and not makes_code)
        if not is_done:
            last = (root / "log").read_text(encoding="utf-8", errors="replace").splitlines()[-8:]
            raise InputError(f"The compiler for {topology.name} {ending}. Its last lines:\n  " + "\n  ".join(last))
        expected, reason = _cycles(root, topology.chip) if "code" in answers else (None, _NO_CODE)
    error = answers.get("error", "")
    lacks_memory = planned is not None and bool(_OUT_OF_MEMORY.search(error))
    return Result(
        planned,
        not error,
        answers.get("code"),
        answers["flops"] + program.kernel_flops,
        answers["bytes_accessed"],
        answers["loops"],
        "" if lacks_memory else error,
        time.monotonic() - started,
        expected,
        reason,
        answers.get("bytes_after_fusion"),
    )


def _cycles(root: pathlib.Path, chip: topologies.Chip) -> tuple[cycles.Cycles | None, str]:
    """What the compiler expects, or why that is not known."""
    try:
        return cycles.read(root / "dump", root / "kernels", chip.branch_delay), ""
    except ValueError as error:
        return None, str(error)


def _run(root: pathlib.Path, topology: topologies.Topology, makes_code: bool, timeout: float) -> str:
    """Runs `compiler` on step.hlo in a folder, where costs.json, executable.json, dump, kernels and log come to lie.

    Returns:
      How it ended, for people.
    """
    command = [sys.executable, "-m", compiler.__name__, str(root / "step.hlo"), topology.name, str(root)]
    libtpu = f"{os.environ.get('LIBTPU_INIT_ARGS', '')} --xla_jf_dump_to={root / 'kernels'} {_SCHEDULES}"
    environment = {
        **os.environ,
        **compiler.environment(topology),
        "LIBTPU_INIT_ARGS": libtpu,
        "XLA_FLAGS": f"--xla_dump_to={root / 'dump'} --xla_dump_hlo_as_text",
    }
    started = time.monotonic()
    with (root / "log").open("w") as log:
        child = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            while child.poll() is None:
                if time.monotonic() - started > timeout:
                    return f"was stopped after {timeout:.0f} seconds"
                if not makes_code and plan.is_complete(root / "dump"):
                    return "was stopped when it had planned the memory"
                time.sleep(_POLL)
        finally:
            child.kill()
            child.wait()
    return f"ended with status {child.returncode} after {time.monotonic() - started:.0f} seconds"


def _list(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
