# SPDX-License-Identifier: Apache-2.0
"""Videos in, overlays out; colours of the frames stand in for a network."""

import os
import resource
import sys

import numpy as np
import pytest
from PIL import Image

from deeplab_axial import locks
from deeplab_axial.errors import InputError
from deeplab_axial.predict import PanopticModel, video
from deeplab_axial.predict.inputs import Input
from deeplab_axial.predict.output import Output
from tests.test_predict import SPACE, Colors

pytest.importorskip("imageio_ffmpeg")


def _frames(count=12, height=48, width=64):
    """A block of road that moves over sky, one column a frame."""
    frames = np.zeros([count, height, width, 3], np.uint8)
    for i in range(count):
        frames[i, 10:30, 4 * i : 4 * i + 16, 0] = 100
    return frames


def _write(path, frames, fps=10.0):
    with video.Writer(str(path), fps) as writer:
        for frame in frames:
            writer.add(frame)
    return str(path)


@pytest.fixture
def clip(tmp_path):
    return _write(tmp_path / "clip.mp4", _frames())


def test_frames_come_back_as_written(clip, tmp_path):
    reader = video.Reader(clip)
    assert (reader.height, reader.width, reader.fps, reader.num_frames) == (48, 64, 10.0, 12)
    frames = np.stack(list(reader))
    assert frames.shape == (12, 48, 64, 3)
    assert np.abs(frames.astype(int) - _frames()).mean() < 6
    assert os.listdir(tmp_path) == ["clip.mp4"]


def test_odd_sizes_lose_their_last_row_and_column(tmp_path):
    reader = video.Reader(_write(tmp_path / "odd.mp4", _frames(3, 47, 63)))
    assert (reader.height, reader.width) == (46, 62)
    with pytest.raises(ValueError, match=r"All frames must be \(48, 64\)\. Received: \(46, 62\)"):
        _write(tmp_path / "two.mp4", [_frames()[0], _frames(1, 46, 62)[0]])
    assert os.listdir(tmp_path) == ["odd.mp4"]


def test_a_gif_is_a_video(tmp_path):
    frames = [Image.fromarray(frame) for frame in _frames(6)]
    frames[0].save(tmp_path / "clip.gif", save_all=True, append_images=frames[1:], duration=100)
    reader = video.Reader(str(tmp_path / "clip.gif"))
    found = np.stack(list(reader))
    assert reader.fps == 10
    np.testing.assert_array_equal(found, _frames(6))


@pytest.mark.parametrize("content", [b"", b"no video" * 99, b"\0\0\0\x20ftypisom" + bytes(99)])
def test_no_video(tmp_path, content):
    (tmp_path / "clip.mp4").write_bytes(content)
    with pytest.raises(InputError, match=r"clip\.mp4 is no readable video \(.+\)\. Replace or remove it\."):
        list(video.Reader(str(tmp_path / "clip.mp4")))
    with pytest.raises(InputError, match=r"none\.mp4 cannot be read"):
        video.Reader(str(tmp_path / "none.mp4"))


def _cut(clip):
    """Keeps the header, which stands in front, and half of the frames."""
    rng = np.random.default_rng(0)
    _write(clip, rng.integers(0, 256, [40, 48, 64, 3], np.uint8))
    size = os.path.getsize(clip)
    os.truncate(clip, size // 2)


def test_a_video_that_is_cut_short(clip):
    _cut(clip)
    with pytest.raises(InputError, match=r"clip\.mp4 is damaged or cut short: \d+ of about 40 frames decode"):
        list(video.Reader(clip))


def test_a_full_disk(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, [60, 120, 160, 3], np.uint8)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(InputError, match=r"clip\.mp4 cannot be written \(.+\)\. Name another folder, or make room"):
            _write(tmp_path / "clip.mp4", noise)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_without_the_extra(monkeypatch, clip):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(InputError, match=r"Install it: pip install 'deeplab-axial\[video\]'"):
        video.Reader(clip)


class TestOutput:
    @pytest.mark.parametrize("batch_size", [1, 5])
    def test_a_video_becomes_a_video_of_overlays(self, clip, tmp_path, batch_size):
        model = PanopticModel(Colors(), SPACE, "a table")
        output = Output(str(tmp_path / "out"), SPACE)
        output.start()
        output.add_video(Input(clip, "clip.mp4"), "clip", video.Reader(clip), model, batch_size, keep_frames=True)
        output.save()
        frames = list(video.Reader(str(tmp_path / "out" / "clip.mp4")))
        originals = list(video.Reader(clip))
        assert len(frames) == 12
        for frame, original in zip(frames, originals):
            expected = model.predict(original).overlay()
            assert frame.shape == expected.shape == (384, 512, 3)
            assert np.abs(frame.astype(int) - expected).mean() < 6
        maps = sorted((tmp_path / "out" / "panoptic" / "clip").iterdir())
        assert [path.name for path in maps] == [f"{i:06d}.png" for i in range(12)]
        np.testing.assert_array_equal(np.asarray(Image.open(maps[3])), model.predict(originals[3]).coco()[0])
        assert sorted(path.name for path in (tmp_path / "out" / "panoptic").iterdir()) == ["clip"]
        assert model.function.batches[0][0] == batch_size

    def test_maps_of_frames_only_when_asked(self, clip, tmp_path):
        output = Output(str(tmp_path / "out"), SPACE)
        output.start()
        output.add_video(
            Input(clip, "clip.mp4"),
            "clip",
            video.Reader(clip),
            PanopticModel(Colors(), SPACE, "a table"),
            4,
            keep_frames=False,
        )
        output.save()
        files = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*"))
        assert files == ["clip.mp4", "panoptic", "predictions.json"]

    def test_without_maps_no_folder_is_made_or_locked_for_them(self, clip, tmp_path, monkeypatch):
        monkeypatch.setattr(locks, "partial_folder", None)
        output = Output(str(tmp_path / "out"), SPACE)
        output.start()
        model = PanopticModel(Colors(), SPACE, "a table")
        output.add_video(Input(clip, "sub/clip.mp4"), "sub/clip", video.Reader(clip), model, 4, keep_frames=False)
        assert (tmp_path / "out" / "sub" / "clip.mp4").is_file()
        assert not list((tmp_path / "out" / "panoptic").iterdir())

    def test_nothing_of_a_damaged_video_stays(self, clip, tmp_path):
        _cut(clip)
        output = Output(str(tmp_path / "out"), SPACE)
        output.start()
        with pytest.raises(InputError, match="cut short"):
            output.add_video(
                Input(clip, "clip.mp4"),
                "clip",
                video.Reader(clip),
                PanopticModel(Colors(), SPACE, "x"),
                4,
                keep_frames=True,
            )
        output.save()
        assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == ["panoptic", "predictions.json"]

    @pytest.mark.parametrize("keep_frames", [False, True])
    def test_nor_of_the_run_before(self, clip, tmp_path, keep_frames):
        output = Output(str(tmp_path / "out"), SPACE)
        output.start()
        model = PanopticModel(Colors(), SPACE, "x")

        def add():
            output.add_video(Input(clip, "clip.mp4"), "clip", video.Reader(clip), model, 4, keep_frames)

        add()
        assert (tmp_path / "out" / "clip.mp4").is_file()
        _cut(clip)
        with pytest.raises(InputError, match="cut short"):
            add()
        found = sorted(path.name for path in (tmp_path / "out").rglob("*"))
        assert found == ["panoptic", "predictions.json"]

    def test_what_is_not_ours_stays(self, clip, tmp_path):
        output = Output(str(tmp_path / "out"), SPACE)
        output.start()
        (tmp_path / "out" / "clip.mp4").write_text("mine")
        _cut(clip)
        model = PanopticModel(Colors(), SPACE, "x")
        with pytest.raises(InputError, match="cut short"):
            output.add_video(Input(clip, "clip.mp4"), "clip", video.Reader(clip), model, 4, keep_frames=False)
        assert (tmp_path / "out" / "clip.mp4").read_text() == "mine"
