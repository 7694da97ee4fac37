# SPDX-License-Identifier: Apache-2.0
"""Nothing is written over that this program has not written."""

import json
import os
import re
import shutil

import numpy as np
import pytest

from deeplab_axial import files, visualization
from deeplab_axial.cli import folders
from deeplab_axial.errors import InputError
from tests.cli import commands


def _refuses(path) -> bool:
    try:
        folders.refuse_foreign([str(path)], "output_dir")
    except InputError:
        return True
    return False


def test_files_without_the_mark_are_not_replaced(tmp_path):
    path = tmp_path / "a.png"
    assert not _refuses(path)
    for content in (b"", b"mine", b"x" * 10**6):
        path.write_bytes(content)
        assert _refuses(path)
    visualization.save_png(path, np.zeros([300, 400, 3], np.uint8))
    assert not _refuses(path)
    (tmp_path / "link").symlink_to(tmp_path / "none")
    assert _refuses(tmp_path / "link")
    os.mkfifo(tmp_path / "pipe")
    assert _refuses(tmp_path / "pipe")


def test_folders_of_files_with_the_mark_are_removed_and_no_others(tmp_path):
    folder = tmp_path / "maps"
    (folder / "empty").mkdir(parents=True)
    assert not _refuses(folder)
    visualization.save_png(folder / "deep" / "a.png", np.zeros([4, 4], np.uint8))
    assert not _refuses(folder)
    (folder / "deep" / "b.png").write_text("mine")
    assert _refuses(folder)
    message = rf"--set: {re.escape(str(folder))}/deep/b\.png and 1 more would be replaced, but deeplab-axial did not"
    with pytest.raises(InputError, match=message):
        folders.refuse_foreign([str(folder / "deep" / "b.png"), str(folder)], "set")


def test_a_folder_with_an_input_is_not_for_results(tmp_path):
    (tmp_path / "photos").mkdir()
    photo = tmp_path / "photos" / "a.jpg"
    photo.write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "photos")

    def check(folder, *places):
        folders.refuse_inputs([str(photo)], str(tmp_path / folder), [str(tmp_path / p) for p in places], "output_dir")

    check("photos/results", "photos/results/a.png")
    check(".", "photo", "photos/a.png")
    for folder, *places in (["photos"], ["link"], [".", "link/a.jpg"], [".", "photos"]):
        with pytest.raises(
            InputError, match=r"beside or in the place of the input .*a\.jpg\. Name a folder of their own"
        ):
            check(folder, *places)


def test_a_video_has_the_mark(tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    from deeplab_axial.predict import video

    with video.Writer(str(tmp_path / "clip.mp4"), 10.0) as writer:
        for _ in range(3):
            writer.add(np.zeros([48, 64, 3], np.uint8))
    assert files.is_marked(tmp_path / "clip.mp4")


@pytest.mark.parametrize("place", ["model/notes.txt", "predictions/a.png", "report.html"])
def test_the_demo_removes_nothing_of_others(tmp_path, place):
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    message = commands.one_message(commands.run("demo", f"--output_dir={tmp_path}"))
    assert message.startswith(
        f"--output_dir: {tmp_path}/{place.split('/')[0]} would be replaced, but deeplab-axial did"
    )
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]


def test_a_report_replaces_reports_alone(tmp_path):
    page = tmp_path / "notes.html"
    page.write_text("mine")
    message = commands.one_message(commands.run("report", f"--model_dir={tmp_path}", f"--output={page}"))
    assert message.startswith(f"--output: {page} would be replaced, but deeplab-axial did not write it")
    assert page.read_text() == "mine"


def test_pictures_of_an_evaluation(chain, tmp_path):
    (tmp_path / "photo.png").write_text("mine")
    fields = ("save_predictions=true", f"override_save_dir={tmp_path}")
    changes = [f"--set=evaluator_options.{field}" for field in fields]
    model = f"--model_dir={chain.root}/model"
    result = commands.run("train", "--mode=eval", *chain.flags, *changes, model)
    assert f"{tmp_path}/photo.png would be replaced, but deeplab-axial did" in commands.one_message(result)


@pytest.mark.slow
def test_a_config_of_the_user_in_the_folder_of_the_model(chain, tmp_path):
    (tmp_path / "config.textproto").write_text(f'base: "{commands.TINY}"')
    flags = [f"--config_file={tmp_path}/config.textproto", *chain.flags[1:]]
    message = commands.one_message(commands.run("train", "--mode=train", *flags, f"--model_dir={tmp_path}"))
    assert message.startswith(f"{tmp_path}/config.textproto would be replaced by the config as it was read")
    assert (tmp_path / "config.textproto").read_text() == f'base: "{commands.TINY}"'


@pytest.mark.slow
def test_a_result_is_written_before_it_is_printed(chain, tmp_path):
    shutil.copytree(chain.root / "model", tmp_path / "model")
    (tmp_path / "model" / "metrics.json").unlink()
    arguments = ["train", "--mode=eval", *chain.flags, f"--model_dir={tmp_path}/model"]
    assert commands.call(_without_stdout, arguments).status != 0
    assert json.loads((tmp_path / "model" / "metrics.json").read_text())["step"] == 30


def _without_stdout(arguments: list[str]) -> int:
    import sys

    from deeplab_axial.cli import main

    sys.stdout = open("/dev/full", "w")  # noqa: SIM115 - for the rest of the process
    return main.main(["deeplab-axial", *arguments])
