# SPDX-License-Identifier: Apache-2.0
"""Commands that are stopped or killed: what they leave, what they say, and that the same command makes up for it.

Training has tests of its own: test_interruptions.py.
"""

import json
import os
import pathlib
import random
import re
import shutil
import signal
import time

import pytest

from deeplab_axial.cli import main
from deeplab_axial.data import scenes
from tests.cli import commands

_SIGNALS = [(signal.SIGTERM, 143, "SIGTERM"), (signal.SIGINT, 130, "SIGINT (Ctrl-C)")]


def _wait(running, condition) -> None:
    deadline = time.monotonic() + 300  # on a busy machine a command takes a minute to start
    while not condition():
        assert running.is_alive, running.finish().err[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.002)


def _stopped(running, number: int, status: int, name: str, command: str) -> None:
    """Sends a signal, twice, and checks the end of the command."""
    running.send(number)
    if number == signal.SIGTERM:
        running.send(number)  # who asks twice does no harm
    result = running.finish()
    assert result.status == status, result
    assert "Traceback" not in result.err, result.err
    assert result.err.splitlines()[-1] == f"Stopped by {name}. {main.KEPT[command]}"


def _killed(running) -> None:
    running.send(signal.SIGKILL)
    assert running.finish().status == -signal.SIGKILL


def _tree(folder: pathlib.Path, without=lambda path: False) -> dict[str, bytes]:
    """The files below a folder, hidden ones included."""
    paths = [path for path in folder.rglob("*") if path.is_file() and not without(path)]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def _leftovers(folder: pathlib.Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.name.endswith((".tmp", ".partial", ".lock"))]


def _end_by(name: str, number: int) -> int:
    """Runs a command that gets a signal, and another amid its clean-up."""
    import types

    def work():
        try:
            os.kill(os.getpid(), number)
            time.sleep(10)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            print("cleaned up")

    main.importlib = types.SimpleNamespace(import_module=lambda _: types.SimpleNamespace())  # no flags
    main._import_quietly = lambda _: types.SimpleNamespace(main=work)
    return main.main(["deeplab-axial", name])


@pytest.mark.parametrize(("number", "status", "shown"), _SIGNALS)
def test_a_signal_is_one_line(number, status, shown):
    result = commands.call(_end_by, "export", number)
    assert result[:2] == (status, "cleaned up\n")
    # The commands' server may have imported a TensorFlow that looks for a GPU in vain.
    lines = [line for line in result.err.splitlines() if not re.match(r"E\d{4} .*cuInit", line)]
    assert lines == [f"Stopped by {shown}. {main.KEPT['export']}"]


def test_every_command_says_what_is_kept():
    assert list(main.KEPT) == list(main.COMMANDS)


def test_handlers_are_as_before():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with main._terminable():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


# Convert: 40 images of a size that takes its time.
@pytest.fixture(scope="module")
def many_scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many_scenes")
    scenes.write_scenes(folder, num_train=40, num_val=1, height=320, width=480)
    return folder


def _convert(data, output_dir):
    return (
        *("convert", "coco_panoptic", f"--image_dir={data}/train", f"--panoptic_json={data}/panoptic_train.json"),
        *(f"--panoptic_dir={data}/panoptic_train", f"--output_dir={output_dir}", "--num_shards=8", "--num_workers=2"),
    )


@pytest.mark.slow
def test_convert(many_scenes, tmp_path):
    assert commands.run(*_convert(many_scenes, tmp_path / "undisturbed")).status == 0
    expected = _tree(tmp_path / "undisturbed")
    disturbed, moments = tmp_path / "disturbed", random.Random(1)

    def partial() -> list[pathlib.Path]:
        return list(disturbed.glob("*.tfrecord.partial"))

    for finished in (0, 1, 3):
        running = commands.start(*_convert(many_scenes, disturbed))
        _wait(running, lambda: not partial())  # what the one before has left
        _wait(running, partial)
        _wait(running, lambda count=finished: len(list(disturbed.glob("*.tfrecord"))) >= count)
        time.sleep(moments.uniform(0, 0.05))
        _killed(running)
    assert (disturbed / ".convert.lock").exists()
    for signals in _SIGNALS:
        running = commands.start(*_convert(many_scenes, disturbed))
        _wait(running, lambda: not partial())
        _wait(running, partial)
        _stopped(running, *signals, "convert")
        assert _leftovers(disturbed) == []
    result = commands.run(*_convert(many_scenes, disturbed))
    assert result.status == 0, result.err
    assert _tree(disturbed) == expected


@pytest.mark.slow
def test_two_conversions_into_one_folder(many_scenes, tmp_path):
    running = commands.start(*_convert(many_scenes, tmp_path))
    _wait(running, lambda: list(tmp_path.glob("*.partial")))
    message = commands.one_message(commands.run(*_convert(many_scenes, tmp_path)))
    assert f"{tmp_path} is in use by `deeplab-axial convert`, process {running.pid} on {os.uname().nodename}" in message
    result = running.finish()
    assert result.status == 0, result.err


# Evaluate.
def _results(folder: pathlib.Path) -> dict[str, bytes]:
    """What evaluation writes, without times and TensorBoard's events."""
    found = {name: (folder / name).read_bytes() for name in ("metrics.json", "per_image.jsonl")}
    metrics = json.loads(found["metrics.json"])
    return {**found, "metrics.json": {k: v for k, v in metrics.items() if "second" not in k}}


@pytest.mark.slow
def test_evaluate(chain, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(chain.root / "model", folder)
    command = ("train", "--mode=eval", *chain.flags, f"--model_dir={folder}")
    expected = _results(folder)
    before = _tree(folder)
    for signals in _SIGNALS:
        running = commands.start(*command)
        _wait(running, (folder / ".evaluation.lock").exists)
        time.sleep(random.Random(signals[1]).uniform(0, 2))
        _stopped(running, *signals, "train")
        assert _tree(folder, lambda path: path.parent.name == "eval") == {
            name: content for name, content in before.items() if not name.startswith("eval/")
        }
    for name in expected:
        (folder / name).unlink()
    moments = random.Random(1)
    for _ in range(3):
        running = commands.start(*command)
        _wait(running, (folder / ".evaluation.lock").exists)
        time.sleep(moments.uniform(0, 3))
        _killed(running)
    (folder / ".metrics.json.00000000-1.tmp").write_text("of another machine, and written just now")
    result = commands.run(*command)
    assert result.status == 0, result.err
    assert _results(folder) == expected
    assert _leftovers(folder) == [".metrics.json.00000000-1.tmp"]


@pytest.mark.slow
def test_who_may_use_a_model_folder_together(chain, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(chain.root / "model", folder)
    model = (*chain.flags, f"--model_dir={folder}")
    longer = (*model, _steps(10_000), "--allow_config_change")  # another learning rate, which is poly's
    training = commands.start("train", "--mode=train", *longer)
    _wait(training, lambda: _newest(folder) > 30)
    try:
        message = commands.one_message(commands.run("train", "--mode=train_and_eval", *longer))
        assert f"{folder} is in use by `deeplab-axial train --mode=train`, process {training.pid} on" in message
        result = commands.run("train", "--mode=eval", *model)
        assert result.status == 0, result.err
        following = commands.start("train", "--mode=continuous_eval", *model)
        _wait(following, (folder / ".evaluation.lock").exists)
        message = commands.one_message(commands.run("train", "--mode=eval", *model))
        assert f"{folder} is in use by `deeplab-axial train --mode=continuous_eval`, process {following.pid}" in message
        _stopped(following, *_SIGNALS[0], "train")
    finally:
        training.send(signal.SIGTERM)
        result = training.finish()
    assert result.status == 143, result.err
    assert _leftovers(folder) == []


def _steps(count: int) -> str:
    return f"--set=trainer_options.solver_options.training_number_of_steps={count}"


def _newest(folder: pathlib.Path) -> int:
    return max(int(path.stem.removeprefix("ckpt-")) for path in folder.glob("ckpt-*.index"))


# Export.
@pytest.mark.slow
def test_export(chain, tmp_path):
    target = tmp_path / "e"
    command = ("export", *chain.flags, f"--model_dir={chain.root}/model", f"--output_dir={target}")

    def partial() -> list[pathlib.Path]:
        return list(tmp_path.glob(".e.*.partial"))

    running = commands.start(*command)
    _wait(running, partial)
    message = commands.one_message(commands.run(*command))
    assert f"{target} is in use by `deeplab-axial export`, process {running.pid} on" in message
    _stopped(running, *_SIGNALS[0], "export")
    assert os.listdir(tmp_path) == []
    running = commands.start(*command)
    _wait(running, lambda: any((path / "check").exists() for path in partial()))  # a child is at work
    _stopped(running, *_SIGNALS[1], "export")
    assert os.listdir(tmp_path) == []
    for stage in ("", "export", "check"):
        running = commands.start(*command)
        _wait(running, lambda name=stage: any((path / name).exists() for path in partial()))
        _killed(running)
        assert sorted(path.name.split(".")[-1] for path in tmp_path.iterdir()) == ["lock", "partial"]
    result = commands.run(*command)
    assert result.status == 0, result.err
    assert os.listdir(tmp_path) == ["e"]
    result = commands.run("predict", f"--saved_model={target}", f"--input={chain.root}/data/val", *_output(tmp_path))
    assert result.status == 0, result.err


def _output(tmp_path):
    return (f"--output_dir={tmp_path}/predictions", "--limit=1")


# The others, while they start.
def _others(chain, tmp_path) -> dict[str, tuple[str, ...]]:
    model, output = f"--model_dir={chain.root}/model", f"--output_dir={tmp_path}/out"
    return {
        "check_data": chain.flags,
        "describe": (chain.flags[0],),
        "visualize_data": (*chain.flags, output, "--num_images=500"),
        "make_scenes": (output, "--num_train=100000"),
        "demo": (output, f"--config_file={commands.TINY}"),
        "report": (model, f"--output={tmp_path}/out/report.html"),
        "predict": (f"--saved_model={chain.root}/export", f"--input={chain.root}/data/train", output),
        "submit": (*chain.flags, model, "--format=cityscapes", output),
        "import_deeplab2": (chain.flags[0], f"--checkpoint={chain.root}/none", output),
        "tpu_check": (chain.flags[0], "--topology=v5e:2x2"),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in main.COMMANDS if name not in ("convert", "train", "export")])
def test_the_other_commands(chain, tmp_path, name):
    running = commands.start(name, *_others(chain, tmp_path)[name])
    time.sleep(0.7)
    running.send(signal.SIGTERM)
    result = running.finish()
    assert "Traceback" not in result.err, result.err
    if result.status not in (0, 1):  # it was faster
        assert result.status in (143, -signal.SIGTERM), result  # the latter before it knew what to say
        assert result.status != 143 or result.err.splitlines()[-1] == f"Stopped by SIGTERM. {main.KEPT[name]}"
    assert _leftovers(tmp_path) == []
