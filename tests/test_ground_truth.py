# SPDX-License-Identifier: Apache-2.0
"""Ground truth beside predictions: a faulty entry spoils its own image alone."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from deeplab_axial.errors import InputError
from deeplab_axial.predict.ground_truth import GroundTruth
from tests.colors import SPACE

IDS = np.int64([[1, 1, 2], [300, 300, 0]])


@pytest.fixture
def content():
    segments = [{"id": 1, "category_id": 17}, {"id": 2, "category_id": 10}, {"id": 300, "category_id": 17}]
    return {
        "images": [{"id": i, "file_name": f"deep/{name}.jpg"} for i, name in ((1, "a"), (2, "b"))],
        "annotations": [
            {"image_id": i, "file_name": f"{name}.png", "segments_info": [dict(s) for s in segments]}
            for i, name in ((1, "a"), (2, "b"))
        ],
        "categories": [{"id": 10}],
    }


@pytest.fixture
def load(tmp_path, content):
    planes = np.stack([IDS & 255, IDS >> 8 & 255, IDS >> 16], -1).astype(np.uint8)
    for name in "ab":
        Image.fromarray(planes).save(tmp_path / f"{name}.png")

    def load():
        (tmp_path / "panoptic.json").write_text(json.dumps(content))
        return GroundTruth(str(tmp_path / "panoptic.json"), str(tmp_path), SPACE)

    return load


def test_maps_and_ids(load, content):
    content["annotations"][1]["image_id"] = 2.0
    content["annotations"][1]["segments_info"][0]["category_id"] = "17"
    truth = load()
    for i, name in ((1, "a"), (2, "b")):
        assert truth.image_id(f"photos/{name}.jpg") == i
        np.testing.assert_array_equal(truth.read(f"{name}.jpg", (2, 3)), [[21, 21, 0], [22, 22, 30]])


FAULTS = {
    "no segments": (lambda a: a.pop("segments_info"), r"annotations\[0\] \(a\.jpg\): 'segments_info' must be a list"),
    "no file": (lambda a: a.pop("file_name"), r"annotations\[0\] \(a\.jpg\): 'file_name' must be a non-empty string"),
    "segment is text": (lambda a: a["segments_info"].append("x"), r"segments_info\[3\]: 'id' must be an integer"),
    "no category": (lambda a: a["segments_info"][1].pop("category_id"), r"segments_info\[1\]: 'category_id'"),
    "other category": (lambda a: a["segments_info"][1].update(category_id=9), r"category_id 9 is not in the model's"),
    "missing PNG": (lambda a: a.update(file_name="c.png"), r"c\.png cannot be read \(No such file"),
    "a folder": (lambda a: a.update(file_name="."), r"cannot be read \(a folder"),
    "too many": (
        lambda a: a["segments_info"].extend({"id": i, "category_id": 17} for i in range(400, 409)),
        r"label_divisor holds 9 segments of a class\. Received: more of 'cat'",
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_faulty_entry_spoils_its_image_alone(load, content, case):
    spoil, message = FAULTS[case]
    spoil(content["annotations"][0])
    truth = load()
    with pytest.raises(InputError, match=message):
        truth.read("a.jpg", (2, 3))
    assert truth.read("b.jpg", (2, 3)).shape == (2, 3)


def _with_more(content, *names):
    for i, name in enumerate(names, start=3):
        content["images"].append({"id": i, "file_name": name})
        content["annotations"].append({"image_id": i, "file_name": "a.png", "segments_info": []})


def test_the_longest_end_of_the_path_counts(load, content, monkeypatch, tmp_path):
    _with_more(content, "x.jpg", "b/x.jpg", "a/b/x.jpg", "train/c/y.jpg", "train/d/y.jpg")
    truth = load()
    found = {path: truth.image_id(path) for path in ("c/x.jpg", "c/b/x.jpg", "a/b/x.jpg", "/c/y.jpg", "z/d/y.jpg")}
    assert list(found.values()) == [3, 4, 5, 6, 7]
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "b")
    assert truth.image_id("./x.jpg") == 4


@pytest.mark.parametrize("names", [("c/x.jpg", "d/x.jpg"), ("x.jpg", "./x.jpg")])
def test_an_image_that_several_annotations_may_be_of(load, content, names):
    _with_more(content, *names)
    truth = load()
    with pytest.raises(InputError, match=r"^photos/x\.jpg: several annotations of .*: '.*x\.jpg', '.*x\.jpg'\. Keep"):
        truth.image_id("photos/x.jpg")
    assert truth.image_id("a.jpg") == 1


@pytest.mark.parametrize(
    ("image", "annotation", "message"),
    [
        ({}, {}, "has no annotation for c.jpg"),
        ({"id": None}, {}, "has no annotation for c.jpg"),
        ({}, {"image_id": None}, "has no annotation for c.jpg"),
        ({"id": None}, {"image_id": None}, "'image_id' must be a number of 64 bits or a string. Received: None"),
        ({"id": True}, {"image_id": True}, "'image_id' must be a number of 64 bits or a string. Received: True"),
        ({"id": 2**63}, {"image_id": 2**63}, "'image_id' must be a number of 64 bits"),
        ({"id": "\ud800"}, {"image_id": "\ud800"}, "'image_id' must be valid Unicode"),
    ],
)
def test_images_and_annotations_without_an_id(load, content, image, annotation, message):
    content["images"].append({**image, "file_name": "c.jpg"})
    content["annotations"].append({**annotation, "file_name": "c.png", "segments_info": []})
    truth = load()
    with pytest.raises(InputError) as caught:
        truth.image_id("c.jpg")
    assert message in str(caught.value)
    assert truth.image_id("a.jpg") == 1


@pytest.mark.parametrize("row", ["text", None, 7, [], {}, {"image_id": []}, {"image_id": 9}])
def test_rows_of_no_image_are_passed_over(load, content, row):
    content["annotations"].append(row)
    content["images"].append(row)
    truth = load()
    assert truth.read("a.jpg", (2, 3)).shape == (2, 3)
    with pytest.raises(InputError, match=r"The ground truth has no annotation for c\.jpg"):
        truth.image_id("c.jpg")


def test_pngs_that_are_wrong(load, tmp_path):
    truth = load()
    with pytest.raises(InputError, match=r"a\.png must be as large as its image, 3 x 3 .* Received: 2 x 3"):
        truth.read("a.jpg", (3, 3))
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2)).save(buffer, "PNG")
    for data in (b"", b"%!PS-Adobe-3.0 EPSF-3.0\n", buffer.getvalue()[:40]):
        (tmp_path / "a.png").write_bytes(data)
        with pytest.raises(InputError, match=r"a\.png cannot be read \(.+\)\. Complete the ground truth"):
            truth.read("a.jpg", (2, 3))


def test_another_format(tmp_path):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps({"images": [{}], "annotations": [{"segmentation": []}], "categories": [{}]}))
    with pytest.raises(
        InputError, match=r"instances\.json must be in COCO's panoptic format. Received: COCO's instances"
    ):
        GroundTruth(str(path), str(tmp_path), SPACE)
    path.write_text("[" * 20_000)
    with pytest.raises(InputError, match=r"instances\.json is n"):
        GroundTruth(str(path), str(tmp_path), SPACE)
