# SPDX-License-Identifier: Apache-2.0
"""JSON as other tools write it, and JSON that is something else."""

import copy
import json

import pytest
from absl import logging

from deeplab_axial.data.converters import panoptic_json
from deeplab_axial.errors import InputError

CONTENT = {
    "images": [{"id": 1, "file_name": "a.jpg", "height": 4, "width": 6}],
    "annotations": [
        {
            "image_id": 1,
            "file_name": "a.png",
            "segments_info": [{"id": 7, "category_id": 3, "iscrowd": 0, "area": 24, "bbox": [0, 0, 6, 4]}],
        }
    ],
    "categories": [{"id": 3, "name": "hen", "isthing": 1}],
}


@pytest.fixture
def warnings(monkeypatch):
    found = []
    monkeypatch.setattr(logging, "warning", lambda text, *values: found.append(text % values))
    return found


def _changed(**places):
    """CONTENT with other values: image_id=..., and so on, wherever the key occurs."""
    content = copy.deepcopy(CONTENT)
    annotation = content["annotations"][0]
    entries = {
        "image": content["images"][0],
        "annotation": annotation,
        "segment": annotation["segments_info"][0],
        "category": content["categories"][0],
    }
    for place, value in places.items():
        entry, key = place.split("__")
        if value is ...:
            del entries[entry][key]
        else:
            entries[entry][key] = value
    return content


def _read(tmp_path, content):
    path = tmp_path / "panoptic.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return panoptic_json.read(str(path))


def test_what_is_right_is_read_without_a_word(tmp_path, warnings):
    assert _read(tmp_path, CONTENT) == CONTENT
    assert warnings == []
    named = _changed(image__id="000000000001", annotation__image_id="000000000001")
    assert _read(tmp_path, named) == named  # names are ids, too
    assert warnings == []


WRITTEN_OTHERWISE = {
    "whole floats": (
        {"segment__area": 24.0, "segment__id": 7.0, "segment__category_id": 3.0, "segment__iscrowd": 0.0},
        "'area' with a decimal point as whole numbers (1 times)",
    ),
    "sizes and ids": (
        {"image__height": 4.0, "image__width": 6.0, "image__id": 1.0, "annotation__image_id": 1.0},
        "'height' with a decimal point as whole numbers (1 times)",
    ),
    "categories": ({"category__id": 3.0, "category__isthing": 1.0}, "'isthing' with a decimal point"),
    "null": ({"segment__iscrowd": None}, "'iscrowd' null as 0 (1 times)"),
    "text": (
        {"segment__id": "7", "segment__category_id": "3", "category__id": "03"},
        "'id' as text as numbers (2 times)",
    ),
    "image ids as text": ({"annotation__image_id": "1"}, "'image_id' as text as numbers (1 times)"),
    "padded image ids": ({"image__id": "000001"}, "'id' as text as numbers (1 times)"),
}


@pytest.mark.parametrize("case", WRITTEN_OTHERWISE)
def test_what_other_tools_write_is_read_as_it_is_meant(tmp_path, warnings, case):
    changes, said = WRITTEN_OTHERWISE[case]
    assert _read(tmp_path, _changed(**changes)) == CONTENT
    (warning,) = warnings
    assert warning.startswith(f"{tmp_path}/panoptic.json: read as it is meant: ")
    assert said in warning


def test_an_absent_area_is_counted_from_the_png(tmp_path, warnings):
    expected = _changed(segment__area=..., segment__bbox=...)
    assert _read(tmp_path, expected) == expected
    assert warnings[0].endswith("'area' absent, so that the pixels of the PNG count (1 times).")


@pytest.mark.parametrize(
    "changes",
    [
        {"segment__area": 24.5},
        {"segment__area": "24"},
        {"segment__id": 1e300},
        {"segment__id": "seven"},
        {"segment__id": "\u0667"},
        {"segment__iscrowd": "no"},
        {"category__isthing": None},
        {"image__height": float("inf")},
    ],
)
def test_what_is_ambiguous_stays(tmp_path, warnings, changes):
    content = _changed(**changes)
    assert _read(tmp_path, content) == content
    assert warnings == []


def test_a_byte_order_mark(tmp_path):
    assert _read(tmp_path, b"\xef\xbb\xbf" + json.dumps(CONTENT).encode()) == CONTENT


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 20_000 + b"]" * 20_000, r"is nested too deeply|is not valid JSON"),
        (b'{"images":' * 20_000, r"is nested too deeply|is not valid JSON"),
        (b"\xff\xfe\x00", r"is not valid JSON"),
        (b"", r"is not valid JSON"),
        (b"[1, 2]", r"'images' must be a non-empty list.*Received: NoneType"),
    ],
)
def test_what_is_no_json_of_this_kind_is_one_error(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        _read(tmp_path, content)


OTHER_FORMATS = {
    "instances": (
        {"images": [{}], "categories": [{}], "annotations": [{"segmentation": [], "bbox": []}]},
        r"COCO's instances format .*'segments_info'.*detection2panoptic_coco_format\.py; docs/data\.md",
    ),
    "boxes": ({"annotations": [{"image_id": 1, "bbox": [0, 0, 1, 1]}]}, "COCO's format of boxes"),
    "captions": ({"annotations": [{"image_id": 1, "caption": "x"}]}, "COCO's captions format"),
    "keypoints": ({"annotations": [{"keypoints": [], "segmentation": []}]}, "COCO's keypoints format"),
    "results": ([{"image_id": 1, "bbox": [], "score": 0.5}], "a list of COCO results"),
    "annotations": ([{"image_id": 1, "segments_info": []}], "a list of annotations alone"),
    "Cityscapes": ({"imgHeight": 1, "imgWidth": 1, "objects": []}, "Cityscapes.*deeplab-axial convert cityscapes"),
    "LabelMe": ({"version": "5", "shapes": [], "imagePath": "a.jpg", "imageData": None}, "LabelMe.*docs/data.md"),
    "records": ({"label_space": {}, "shards": []}, "dataset.json of records that are converted already"),
    "Mapillary": ({"version": 1.2, "mapping": "public", "labels": []}, "deeplab-axial convert mapillary"),
}


@pytest.mark.parametrize("case", OTHER_FORMATS)
def test_another_format_is_recognised(tmp_path, case):
    content, message = OTHER_FORMATS[case]
    with pytest.raises(InputError, match=rf"panoptic\.json must be in COCO's panoptic format\. Received: .*{message}"):
        _read(tmp_path, content)


def test_only_files_are_read(tmp_path):
    with pytest.raises(InputError, match=r"cannot be read \(a device, where a file is expected\)"):
        panoptic_json.read("/dev/zero")
    with pytest.raises(InputError, match=r"cannot be read \(a folder"):
        panoptic_json.read(str(tmp_path))
    with pytest.raises(InputError, match=r"gone\.json cannot be read \(No such file"):
        panoptic_json.read(str(tmp_path / "gone.json"))
