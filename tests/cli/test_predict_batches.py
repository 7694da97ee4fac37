# SPDX-License-Identifier: Apache-2.0
"""`deeplab-axial predict` on many files, good and bad, with a table of colours in place of the network."""

import json
import os
import resource
import shutil
import signal
import time

import numpy as np
import pytest
from PIL import Image

from tests.cli import commands
from tests.colors import Colors, make_pixels

pytestmark = pytest.mark.unseeded


def _command(arguments: list[str], seconds: float = 0.0, largest_file: int | None = None) -> int:
    """`deeplab-axial predict` whose network takes so many seconds for each batch."""
    from deeplab_axial import api, predict
    from deeplab_axial.cli import main
    from tests.colors import SPACE

    colors = Colors()

    def slowly(batch):
        time.sleep(seconds)
        return colors(batch)

    api.load = lambda path, padding: predict.PanopticModel(slowly, SPACE, str(path))
    if largest_file is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    return main.main(["deeplab-axial", "predict", "--saved_model=colors", *arguments])


def _predict(output, *arguments, **options) -> commands.Result:
    flags = [f"--output_dir={output}", *map(str, arguments)]
    return commands.call(_command, flags, *options.values())


def _content(output) -> dict:
    return json.loads((output / "predictions.json").read_text())


def _names(output) -> list[str]:
    return [one.get("name", "failed") for one in _content(output)["inputs"]]


def _save(path, **kind) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(make_pixels(seed=len(path.name))).save(path, **kind)


def _files(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_bad_files_end_nothing_and_resume_does_the_rest(tmp_path):
    photos, output = tmp_path / "photos", tmp_path / "out"
    for name in ("a.jpg", "a.png", "sub/b.jpg", "x.jpg/c.png", "wide.tif", f"{'n' * 247}.png"):
        _save(photos / name)
    _save(photos / "spare.png")
    os.rename(photos / "spare.png", os.fsencode(photos) + b"/caf\xe9.png")
    (photos / "broken.png").write_bytes((photos / "a.png").read_bytes()[:60])
    (photos / "notes.txt").write_text("")
    (photos / ".hidden.png").write_text("")
    (photos / "loop").symlink_to(photos)
    os.mkfifo(photos / "pipe.png")
    result = _predict(output, f"--input={photos}", "--batch_size=2")
    message = commands.one_message(result)
    assert message.startswith("1 of 8 inputs were not predicted:\n"), message
    assert "broken.png is no readable image (" in message
    assert "note: left out: 1 .txt, 1 hidden, 1 no regular files.\n" in result.err
    assert result.out == f"7 images: {output}\n"
    names = ["a.jpg", "a.png", "failed", "caf\ufffd", "n" * 247, "wide", "sub/b", "x.jpg/c"]
    assert _names(output) == names
    content = _content(output)
    assert "broken.png is no readable image" in content["inputs"][2]["failed"]
    good = [name for name in names if name != "failed"]
    assert [image["id"] for image in content["images"]] == good
    assert content["images"][5]["file_name"] == "sub/b.jpg"
    for name, annotation in zip(good, content["annotations"]):
        assert annotation["file_name"] == f"{name}.png"
        assert (output / f"{name}.png").is_file()
        assert (output / "panoptic" / f"{name}.png").is_file()

    # The broken one is mended, one result is lost, and a new file would have the name of an old one.
    _save(photos / "broken.png")
    (output / "panoptic" / "sub" / "b.png").unlink()
    _save(photos / "wide.png")
    before = (output / "a.jpg.png").stat().st_mtime_ns
    result = _predict(output, f"--input={photos}", "--resume")
    assert result.status == 0, result.err
    assert result.out == f"3 images, 6 inputs of before: {output}\n"
    assert (output / "a.jpg.png").stat().st_mtime_ns == before
    assert _names(output) == [*names[:2], "broken", *names[3:5], "wide.png", "wide", *names[6:]]
    result = _predict(output, f"--input={photos}", "--resume", "--scores")
    assert "has others: scores: False, now True. Leave --resume out" in commands.one_message(result)


def test_fail_fast(tmp_path):
    for name in ("a.png", "c.png"):
        _save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "b.png").write_text("text")
    message = commands.one_message(_predict(tmp_path / "out", f"--input={tmp_path}/photos", "--fail_fast"))
    assert message.endswith("Stopped, as --fail_fast says; what was predicted stays.")
    assert _names(tmp_path / "out") == ["a", "failed"]


def test_a_full_disk(tmp_path):
    photos = tmp_path / "photos"
    for name in ("a.png", "c.png"):
        _save(photos / name)
    big = np.random.default_rng(0).integers(0, 256, (700, 800, 3), np.uint8)
    Image.fromarray(big // 64 * 64).save(photos / "b.png")
    result = _predict(tmp_path / "out", f"--input={photos}", seconds=0.0, largest_file=300_000)
    message = commands.one_message(result)
    assert "1 of 3 inputs were not predicted:" in message
    assert "out/b.png cannot be written (" in message
    assert _names(tmp_path / "out") == ["a", "failed", "c"]
    assert not (tmp_path / "out" / "panoptic" / "b.png").exists()
    assert not list((tmp_path / "out").rglob("*.tmp"))


def _unsaved(arguments: list[str], failure: type[BaseException] | None) -> int:
    """`deeplab-axial predict` that cannot write predictions.json in the end; `failure` comes with the first image."""
    from deeplab_axial.errors import InputError
    from deeplab_axial.predict import output

    save, saved = output.Output.save, []

    def save_once(self):
        if saved:
            raise InputError("predictions.json cannot be written (full).")
        saved.append(save(self))

    def fail(*arguments):
        raise failure

    output.Output.save = save_once
    if failure:
        output.Output.add_image = fail
    return _command(arguments)


def test_what_failed_is_told_when_predictions_json_cannot_be_written(tmp_path):
    _save(tmp_path / "photos" / "a.png")
    (tmp_path / "photos" / "b.png").write_text("text")
    result = commands.call(_unsaved, [f"--input={tmp_path}/photos", f"--output_dir={tmp_path}/out"], None)
    assert result.out == f"1 images: {tmp_path}/out\n"
    message = commands.one_message(result)
    assert message.startswith("predictions.json cannot be written (full).\n1 of 2 inputs were not predicted:\n")
    assert "b.png is no readable image" in message


def test_what_ends_a_run_is_told_when_predictions_json_cannot_be_written(tmp_path):
    _save(tmp_path / "photos" / "a.png")
    flags = [f"--input={tmp_path}/photos", f"--output_dir={tmp_path}/out"]
    result = commands.call(_unsaved, flags, KeyboardInterrupt)
    assert result.status == 130
    assert "cannot be written" not in result.err
    (tmp_path / "photos" / "a.png").write_text("text")
    message = commands.one_message(commands.call(_unsaved, [*flags, "--fail_fast"], None))
    assert message.endswith("Stopped, as --fail_fast says; what was predicted stays.")
    assert "cannot be written" not in message


class TestWhatIsNotOurs:
    def test_the_folder_of_the_photographs(self, tmp_path):
        _save(tmp_path / "a.png")
        (tmp_path / "predictions.json").write_text("mine")
        before = _files(tmp_path)
        message = commands.one_message(_predict(tmp_path, f"--input={tmp_path}"))
        assert message.startswith(
            f"--output_dir={tmp_path}: results would lie beside or in the place of the input {tmp_path}/"
        )
        assert _files(tmp_path) == before

    @pytest.mark.parametrize("name", ["a.png", "panoptic/a.png", "predictions.json"])
    def test_files_in_the_way(self, tmp_path, name):
        _save(tmp_path / "photos" / "a.png")
        path = tmp_path / "out" / name
        path.parent.mkdir(parents=True)
        path.write_text("mine")
        message = commands.one_message(_predict(tmp_path / "out", f"--input={tmp_path}/photos"))
        assert message.startswith(f"--output_dir: {path} would be replaced, but deeplab-axial did not write it")
        assert _files(tmp_path / "out") == {name: b"mine"}

    def test_maps_of_before_as_inputs(self, tmp_path):
        _save(tmp_path / "photos" / "a.png")
        assert _predict(tmp_path / "out", f"--input={tmp_path}/photos").status == 0
        before = _files(tmp_path / "out")
        message = commands.one_message(_predict(tmp_path / "out", f"--input={tmp_path}/out/panoptic"))
        assert "in the place of the input" in message
        assert _files(tmp_path / "out") == before

    def test_results_of_before_are_replaced_and_are_no_inputs(self, tmp_path):
        _save(tmp_path / "a.png")
        for note in ("", "note: left out: 3 below the folder of the results.\n"):
            result = _predict(tmp_path / "out", f"--input={tmp_path}")
            assert result.status == 0, result.err
            assert note in result.err
            assert _names(tmp_path / "out") == ["a"]


def test_images_without_ground_truth(tmp_path):
    for name in ("a", "b", "sub/a"):
        _save(tmp_path / "photos" / f"{name}.png")
    _save(tmp_path / "truth" / "a.png")
    row = {"image_id": 7, "file_name": "a.png", "segments_info": [{"id": 7, "category_id": 10}]}
    categories = [{"id": 10, "name": "sky", "isthing": 0}]
    content = {"images": [{"id": 7, "file_name": "a.png"}], "annotations": [row], "categories": categories}
    (tmp_path / "truth.json").write_text(json.dumps(content))
    truth = (f"--panoptic_json={tmp_path}/truth.json", f"--panoptic_dir={tmp_path}/truth")
    message = commands.one_message(_predict(tmp_path / "out", f"--input={tmp_path}/photos", *truth))
    assert message.startswith("2 of 3 inputs were not predicted:\n")
    assert "photos/b.png" in message
    assert "photos/sub/a.png: another image has the ground truth's id 7 already" in message
    assert [image["id"] for image in _content(tmp_path / "out")["images"]] == [7]
    message = commands.one_message(_predict(tmp_path / "none", f"--input={tmp_path}/photos/b.png", *truth))
    assert "no annotation for b.png" in message
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_killed_and_resumed(tmp_path, number):
    for i in range(30):
        _save(tmp_path / "photos" / f"{i:03}.png")
    undisturbed, output = tmp_path / "undisturbed", tmp_path / "out"
    flags = [f"--input={tmp_path}/photos"]
    assert _predict(undisturbed, *flags).status == 0
    running = commands._Running(_command, ([*flags, f"--output_dir={output}"], 0.1))
    deadline = time.monotonic() + 60
    while not (output / "011.png").exists():
        assert running.is_alive, running.finish()
        assert time.monotonic() < deadline
        if (output / "predictions.json").exists():
            _content(output)  # whole at every moment
        time.sleep(0.01)
    running.send(number)
    result = running.finish()
    assert result.status in (128 + number, -number), result
    assert "Traceback" not in result.err
    done = len(_content(output)["annotations"])
    assert done < 30
    assert number != signal.SIGTERM or done >= 11
    (output / ".029.png.-1.tmp").write_text("as a kill leaves it")
    os.utime(output / ".029.png.-1.tmp", (0, 0))
    resumed = _predict(output, *flags, "--resume")
    assert resumed.status == 0, resumed.err
    assert resumed.out.startswith(f"{30 - done} images")
    assert _files(output) == _files(undisturbed)


def test_brackets_and_home(tmp_path, monkeypatch):
    for name in ("run[1]/a.png", "run[1]/b.png", "run1/c.png", "photo[2].png", "photo2.png"):
        _save(tmp_path / name)
    monkeypatch.setenv("HOME", str(tmp_path))
    inputs = (f"--input={tmp_path}/run[1]/*.png", f"--input={tmp_path}/photo[2].png", "--input=~/run1")
    result = commands.call(_with_home, str(tmp_path), ["--output_dir=~/out", *inputs])
    assert result.status == 0, result.err
    assert _names(tmp_path / "out") == ["a", "b", "photo[2]", "c"]


def _with_home(home: str, arguments: list[str]) -> int:
    os.environ["HOME"] = home
    return _command(arguments)


def test_an_ascii_console(tmp_path):
    _save(tmp_path / "café.png")
    (tmp_path / "größe.png").write_text("text")
    result = commands.call(_on_ascii, [f"--input={tmp_path}", f"--output_dir={tmp_path}/über"])
    assert result.status == 1
    assert result.out == f"1 images: {tmp_path}/\\xfcber\n"
    assert "gr\\xf6\\xdfe.png is no readable image" in commands.one_message(result)
    shutil.rmtree(tmp_path / "über")


def _on_ascii(arguments: list[str]) -> int:
    import sys

    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="ascii", errors="strict")
    return _command(arguments)
