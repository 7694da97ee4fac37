# SPDX-License-Identifier: Apache-2.0
"""Progress on stderr, in a terminal and elsewhere."""

import io
import re

import pytest

from deeplab_axial import progress


class _Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_lines_where_no_terminal_is(capsys, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    with progress.Bar(total=3, desc="Training", unit="step") as bar:
        for _ in range(3):
            bar.update()
    text = capsys.readouterr().err
    assert "\r" not in text
    lines = text.splitlines()
    assert all(line.startswith("Training:") and line == line.rstrip() for line in lines)
    assert [re.search(r"(\d)/3", line)[1] for line in lines][:4] == ["0", "1", "2", "3"]


def test_few_lines_of_many_updates(capsys, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS", 60.0)
    for _ in progress.Bar(range(1000), desc="Checking", unit="image"):
        pass
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "1000/1000" in lines[-1]


def test_one_line_in_a_terminal(monkeypatch):
    terminal = _Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    for _ in progress.Bar(range(3), desc="Training", mininterval=0):
        pass
    assert terminal.getvalue().count("\n") == 1
    assert terminal.getvalue().count("\r") >= 4


def test_a_task_says_how_long_it_took(capsys):
    with progress.task("Building the network"):
        assert capsys.readouterr().err == "Building the network ..."
    assert re.fullmatch(r" \d+ s\n", capsys.readouterr().err)


def test_a_task_that_fails_or_is_not_shown(capsys):
    with pytest.raises(KeyError), progress.task("Building"):
        raise KeyError
    assert capsys.readouterr().err == "Building ...\n"
    with progress.task("Hidden", show=False):
        pass
    assert capsys.readouterr().err == ""
