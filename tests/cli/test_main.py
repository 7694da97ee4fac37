# SPDX-License-Identifier: Apache-2.0
"""The command itself: help, names of commands and options, exit status."""

import subprocess
import sys

import pytest

from deeplab_axial import __version__, errors
from deeplab_axial.cli import main
from tests.cli import commands


@pytest.mark.parametrize("argv", [["--help"], ["-h"], []])
def test_the_overview_lists_every_command(argv, capsys):
    assert main.main(["deeplab-axial", *argv]) == (0 if argv else 2)
    out = capsys.readouterr().out
    assert out.startswith("usage: deeplab-axial COMMAND")
    for name, (_, what) in main.COMMANDS.items():
        assert f"  {name} " in out
        assert what in out


def test_version(capsys):
    assert main.main(["deeplab-axial", "--version"]) == 0
    assert capsys.readouterr().out == f"deeplab-axial {__version__}\n"


def test_an_unknown_command(capsys):
    assert main.main(["deeplab-axial", "trian"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: unknown command 'trian'.")
    assert "usage: deeplab-axial COMMAND" in captured.err
    assert captured.out == ""


@pytest.mark.parametrize("name", main.COMMANDS)
def test_help_of_every_command(name):
    result = commands.run(name, "--help")
    assert result.status == 0
    assert result.out.startswith(f"usage: deeplab-axial {name} [--option=value ...]")
    assert "Options:" in result.out
    options = result.out.split("Options:")[1]
    assert 2 <= options.count("\n  --") <= 16  # its own, none of absl's and TensorFlow's
    assert "deeplab_axial.cli" not in result.out
    assert max(map(len, result.out.splitlines())) <= 140


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["describe", "--config_fil=x"], "Unknown command line flag 'config_fil'. Did you mean: config_file ?"),
        (["describe"], "--config_file must have a value"),
        (["train", "--config_file=x", "--model_dir=y", "--mode=trian"], "one of <train|eval|"),
        (["make_scenes", "--output_dir=x", "--num_val=0"], "num_val"),
    ],
)
def test_wrong_options(arguments, message):
    result = commands.run(*arguments)
    assert result.status == 1
    assert message in result.err
    assert "Traceback" not in result.err


_ALONE = """
import sys
from deeplab_axial.cli import main
try:
    status = main.main(["deeplab-axial", *sys.argv[1:]])
except SystemExit as end:
    status = end.code
assert "tensorflow" not in sys.modules
sys.exit(status)
"""


@pytest.mark.parametrize("name", main.COMMANDS)
def test_help_comes_before_tensorflow(name):
    result = subprocess.run([sys.executable, "-c", _ALONE, name, "--help"], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--config_file=CONFIG", "--model_dir=x"], "trainer_opions"),
        (["train", "--config_file=missing", "--model_dir=x"], "missing"),
        (["train", "--model_dri=x"], "model_dri"),
        (["export", "--config_file=CONFIG", "--model_dir=x", "--output_dir=y"], "trainer_opions"),
        (["convert", "coca", "--output_dir=x"], "Unknown data set 'coca'"),
        (["submit", "--format=coco", "--config_file=CONFIG", "--model_dir=x"], "no --image_list"),
        (["convert", "--output_dir=x"], "wrong number of words"),
    ],
)
def test_errors_that_come_before_tensorflow(tmp_path, arguments, message):
    (tmp_path / "CONFIG").write_text("trainer_opions {}")
    command = [sys.executable, "-c", _ALONE, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode in (1, 2)
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(("words", "status"), [([], 2), (["a", "b"], 2), (["a"], 0)])
def test_words_that_are_no_options(words, status, capsys):
    received = []
    assert main.run(lambda dataset: received.append(dataset), words) == status
    assert received == (["a"] if status == 0 else [])
    if status:
        assert "Expected: DATASET. Options look like --name=value." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "shown"),
    [
        (errors.InputError("mend it"), 1, "error: mend it\n"),
        (errors.NonFiniteLoss("step 3"), 1, "error: step 3\n"),
        (errors.Interrupted("Stopped"), 143, "Stopped\n"),
    ],
)
def test_what_a_person_can_mend_is_no_traceback(error, status, shown, capsys):
    def command():
        raise error

    assert main.run(command, []) == status
    assert capsys.readouterr().err == shown


def test_a_bug_keeps_its_traceback():
    def command():
        raise KeyError("bug")

    with pytest.raises(KeyError):
        main.run(command, [])


def _at_home(home: str, arguments: list[str]) -> int:
    import os

    os.environ["HOME"] = home
    return main.main(["deeplab-axial", *arguments])


def test_the_home_folder(tmp_path):
    arguments = ["make_scenes", "--output_dir=~/data", "--num_train=1", "--num_val=1"]
    result = commands.call(_at_home, str(tmp_path), arguments)
    assert result.status == 0, result.err
    assert result.out == f"1 training and 1 validation images: {tmp_path}/data\n"
    arguments = ["describe", "--config_file=~/none.textproto", "--set=base=~/x.textproto", "--placeholder=A=~/b"]
    assert f"{tmp_path}/none.textproto" in commands.one_message(commands.call(_at_home, str(tmp_path), arguments))


def test_entries_of_set_have_a_home(monkeypatch):
    monkeypatch.setenv("HOME", "/here")
    assert main._expand_value("a.file_pattern=~/x/*.tfrecord") == "a.file_pattern=/here/x/*.tfrecord"
    assert main._expand_value("a.name=x~y=~/z") == "a.name=x~y=~/z"


def test_characters_that_the_console_lacks(monkeypatch):
    import io
    import sys

    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert main.main(["deeplab-axial", "café \\udce9"]) == 2
    print("café \udce9", flush=True)
    assert stream.buffer.getvalue() == b"caf\\xe9 \\udce9\n"


def test_make_scenes(tmp_path):
    result = commands.run("make_scenes", f"--output_dir={tmp_path}/data", "--num_train=1", "--num_val=2")
    assert result.status == 0, result.err
    assert result.out == f"1 training and 2 validation images: {tmp_path}/data\n"
    assert len(list((tmp_path / "data" / "val").glob("*.jpg"))) == 2
