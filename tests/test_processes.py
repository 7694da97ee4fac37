# SPDX-License-Identifier: Apache-2.0
"""Which processes are there."""

import os
import subprocess
import sys

import pytest

from deeplab_axial import processes


def test_this_one_is_alive():
    start = processes.start_of(os.getpid())
    assert processes.is_alive(os.getpid())
    assert processes.is_alive(os.getpid(), start)
    assert not processes.is_alive(os.getpid(), str(int(start) - 1))  # an earlier one of this number
    assert len(processes.machine()) == 8


def test_one_that_ended_is_not_even_as_a_zombie():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    start = processes.start_of(process.pid)
    assert processes.is_alive(process.pid, start)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # leaves a zombie
    assert not processes.is_alive(process.pid, start)
    assert not processes.is_alive(process.pid)
    process.communicate()
    assert not processes.is_alive(process.pid, start)


@pytest.mark.parametrize("pid", [2**22 + 1, 2**40])
def test_numbers_that_no_process_has(pid):
    assert not processes.is_alive(pid)
