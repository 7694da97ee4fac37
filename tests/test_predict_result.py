# SPDX-License-Identifier: Apache-2.0
"""What a result says and what is written of it."""

import dataclasses
import errno
import io
import json
import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from deeplab_axial import keys
from deeplab_axial.errors import InputError
from deeplab_axial.predict import PanopticModel
from deeplab_axial.predict.ground_truth import GroundTruth
from deeplab_axial.predict.inputs import Input
from deeplab_axial.predict.output import Output
from deeplab_axial.predict.result import Result, find_segments
from tests.colors import SPACE, VOID, Colors, make_pixels


@pytest.fixture
def model():
    return PanopticModel(Colors(), SPACE, "a table")


class TestResult:
    @pytest.fixture
    def result(self, model) -> Result:
        pixels = np.zeros([40, 50, 3], np.uint8)  # sky
        pixels[20:, :, 0] = 64  # road
        pixels[10:30, 5:15] = (128, 0, 0)  # a cat
        pixels[25:28, 30:49] = (128, 64, 0)  # another
        pixels[0:2, 0:3, 0] = 192  # void
        return model.predict(pixels)

    def test_segments(self, result):
        found = [(s.id, s.class_id, s.class_name, s.is_thing, s.area, s.box) for s in result.segments]
        assert found == [
            (0, 0, "sky", False, 20 * 50 - 10 * 10 - 6, (0, 0, 20, 50)),
            (10, 1, "road", False, 20 * 50 - 10 * 10 - 3 * 19, (20, 0, 40, 50)),
            (21, 2, "cat", True, 200, (10, 5, 30, 15)),
            (22, 2, "cat", True, 57, (25, 30, 28, 49)),
        ]
        np.testing.assert_allclose([s.score for s in result.segments], [0.9, 0.8, 0.1, 0.2], rtol=1e-6)
        assert repr(result) == "Result(40 x 50 pixels, 4 segments: sky, road, 2 cat)"

    def test_masks_tile_the_image(self, result):
        masks = [result.mask(segment) for segment in result.segments]
        assert [mask.sum() for mask in masks] == [segment.area for segment in result.segments]
        np.testing.assert_array_equal(np.sum(masks, axis=0), result.panoptic != VOID)

    @pytest.mark.parametrize("seed", range(20))
    def test_areas_and_boxes_are_those_of_a_slow_count(self, model, seed):
        result = model.predict(make_pixels(seed=seed))
        assert {s.id for s in result.segments} == set(result.panoptic.ravel().tolist()) - {VOID}
        for segment in result.segments:
            places = [(y, x) for y in range(24) for x in range(32) if result.panoptic[y, x] == segment.id]
            ys, xs = zip(*places)
            assert segment.area == len(places)
            assert segment.box == (min(ys), min(xs), max(ys) + 1, max(xs) + 1)

    def test_a_network_without_instances(self):
        panoptic = np.int32([[0, 30], [10, 10]])
        segments = find_segments(panoptic, {keys.STUFF_SCORES: np.float32([0.5, 0.25, 0])}, SPACE)
        assert [(s.class_name, s.score) for s in segments] == [("road", 0.25), ("sky", 0.5)]

    def test_coco(self, result):
        planes, info = result.coco()
        ids = planes.astype(int) @ [1, 256, 65536]
        np.testing.assert_array_equal(ids == 0, result.panoptic == VOID)
        assert [entry["category_id"] for entry in info] == [10, 11, 17, 17]
        for entry in info:
            ys, xs = np.nonzero(ids == entry["id"])
            assert entry["area"] == len(ys)
            assert entry["bbox"] == [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
            assert entry["iscrowd"] == 0
        assert info[-1]["score"] == 0.2

    @pytest.mark.parametrize("extension", ["png", "jpg", "JPEG", "webp", "bmp"])
    def test_save(self, result, tmp_path, extension):
        path = tmp_path / "new" / f"overlay.{extension}"
        result.save(path)
        assert os.listdir(path.parent) == [path.name]
        overlay = result.overlay()
        assert overlay.shape == (400, 500, 3)
        with Image.open(path) as picture:
            assert picture.format == {"JPG": "JPEG"}.get(extension.upper(), extension.upper())
            difference = np.abs(np.asarray(picture.convert("RGB")).astype(int) - overlay)
        assert difference.mean() < (3 if extension in ("jpg", "JPEG", "webp") else 1e-9)

    def test_scores_are_written_when_asked(self, result, tmp_path):
        assert (result.overlay() != result.overlay(scores=True)).any()
        result.save(tmp_path / "a.png", scores=True)
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), result.overlay(scores=True))

    def test_a_notebook_shows_the_overlay(self, result):
        with Image.open(io.BytesIO(result._repr_png_())) as picture:
            np.testing.assert_array_equal(np.asarray(picture), result.overlay())

    @pytest.mark.parametrize("name", ["overlay", "overlay.gif", "overlay.txt"])
    def test_another_extension(self, result, tmp_path, name):
        with pytest.raises(InputError, match=r"must end in \.png, \.jpg, .*Received: .*overlay"):
            result.save(tmp_path / name)
        assert not list(tmp_path.iterdir())

    def test_a_full_disk(self, result, tmp_path, monkeypatch):
        _fill_disk(monkeypatch)
        with pytest.raises(InputError, match=r"overlay\.png cannot be written \(.*No space left.*\)\. Name another"):
            result.save(tmp_path / "overlay.png")
        assert not list(tmp_path.iterdir())


def _fill_disk(monkeypatch):
    """Files end after their first bytes."""

    def write_bytes(path, content):
        with open(path, "wb") as file:
            file.write(content[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(pathlib.Path, "write_bytes", write_bytes)


def test_ground_truth_with_more_instances_than_ids(tmp_path):
    ids = np.arange(1, 13, dtype=np.uint8).reshape(3, 4)
    Image.fromarray(np.stack([ids, ids * 0, ids * 0], -1)).save(tmp_path / "a.png")
    segments = [{"id": i, "category_id": 17} for i in range(1, 13)]
    content = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": segments}],
        "categories": [{"id": 17, "name": "cat", "isthing": 1}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(content))
    for divisor in (13, 12):
        space = dataclasses.replace(SPACE, label_divisor=divisor)
        truth = GroundTruth(str(tmp_path / "truth.json"), str(tmp_path), space)
        if divisor == 13:
            np.testing.assert_array_equal(truth.read("a.jpg", (3, 4)), 2 * 13 + ids)
            continue
        with pytest.raises(InputError, match=r"holds 11 segments of a class\. Received: more of 'cat'"):
            truth.read("a.jpg", (3, 4))


class TestOutput:
    def test_a_full_disk_leaves_no_part_of_a_file(self, model, tmp_path, monkeypatch):
        output = Output(str(tmp_path), SPACE)
        output.add_image(Input("a/x.jpg", "x.jpg"), "x", model.predict(make_pixels()))
        _fill_disk(monkeypatch)
        with pytest.raises(InputError, match=r"y\.png cannot be written \(.*No space left"):
            output.add_image(Input("a/y.jpg", "y.jpg"), "y", model.predict(make_pixels()))
        with pytest.raises(InputError, match=r"cannot be written \(No space left on device\)\. Make room"):
            output.save()
        files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
        assert files == ["panoptic", "panoptic/x.png", "predictions.json", "x.png"]

    def test_older_predictions_do_not_stay(self, tmp_path):
        (tmp_path / "predictions.json").write_text("{}")
        Output(str(tmp_path), SPACE).start()
        assert json.loads((tmp_path / "predictions.json").read_text())["images"] == []
