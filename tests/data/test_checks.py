# SPDX-License-Identifier: Apache-2.0
"""Every kind of spoilt record is named with its place."""

import dataclasses
import json
import os
import struct

import numpy as np
import pytest

from deeplab_axial.data import (
    dataset_info,
    record_checks,
    records,
    scenes,
    tfrecord_files,
)
from deeplab_axial.data.converters import coco_panoptic
from deeplab_axial.data.pipeline import ImageOptions
from deeplab_axial.data.source import Source
from tests.data.checked import AGAIN, IDS, SPACE, change, encode, fault_lines, jpeg, panoptic_map, run_check, write


def test_healthy_records_have_no_faults(tmp_path):
    summary = run_check(write(tmp_path, [encode("a.jpg"), encode("b.jpg")], [encode("ü c.jpg")]))
    assert fault_lines(summary) == []
    assert summary.num_checked == summary.num_records == 3
    assert summary.sizes == summary.resized_sizes == {(32, 48): 3}
    assert summary.class_pixels[[0, 2, 3, 255]].tolist() == [3 * (32 * 48 - 48 - 640), 600, 1320, 144]
    assert summary.class_segments[[0, 2, 3, 255]].tolist() == [3, 3, 6, 3]
    assert summary.class_images[[0, 2, 3, 255]].tolist() == [3, 3, 3, 3]
    assert summary.instances == {2: 3}
    assert (summary.listed_crowd, summary.unlisted_crowd) == (3, 0)
    assert summary.small_instances == 3  # The cars; crowd does not count.
    assert not summary.too_small


def test_healthy_scenes_have_no_errors(scene_records):
    for pattern in (scene_records.train, scene_records.val):
        source = Source.open([pattern])
        summary = run_check(source, output_stride=2, image_options=ImageOptions((49, 65)), must_fit=True)
        assert fault_lines(summary) == []
        assert summary.num_checked == source.num_records
        assert {i: int(n) for i, n in enumerate(summary.class_pixels) if n} == {
            i: n for i, n in source.info.class_pixels.items() if n
        }


def _wrong_class():
    panoptic = panoptic_map()
    panoptic[20:22, 2:7] = 7003
    return panoptic


def _split_stuff():
    panoptic = panoptic_map()
    panoptic[20:22, 2:7] = 4
    return panoptic


FAULTS = {
    "unknown class": (
        encode("b.jpg", _wrong_class()),
        "error: FILE, record 2, image 'b.jpg': the panoptic map has classes that the label space 'street' does not "
        "have. Received: 7 (10 pixels). Check the label space, label_divisor 1000 included.",
    ),
    "negative id": (
        change(
            encode("b.jpg"),
            SEGMENTATION=np.where(panoptic_map() == 2001, -5, panoptic_map()).astype("<i4").tobytes(),
            SEGMENTATION_FORMAT=b"raw",
            SEGMENT_IDS=None,
            SEGMENT_AREAS=None,
        ),
        "error: FILE, record 2, image 'b.jpg': the panoptic map has classes that the label space 'street' does not "
        "have. Received: -1 (200 pixels). Check the label space, label_divisor 1000 included.",
    ),
    "stuff with instances": (
        encode("b.jpg", _split_stuff(), (*IDS, 4)),
        "warning: FILE, record 2, image 'b.jpg': stuff must have instance id 0. Received: 4 (road 4). Panoptic quality "
        f"would count them as segments of their own; c{AGAIN[1:]}",
    ),
    "missing from the map": (
        encode("b.jpg", None, (*IDS, 2009, 3009)),
        "error: FILE, record 2, image 'b.jpg': the annotation has segments that the panoptic map does not have: 2009 "
        f"(car 9), 3009 (person 9). {AGAIN}",
    ),
    "missing from the annotation": (
        encode("b.jpg", None, (0, 3001, 3002)),
        "error: FILE, record 2, image 'b.jpg': the panoptic map has segments that the annotation does not have: 2001 "
        f"(car 1). {AGAIN}",
    ),
    "wrong areas": (
        encode("b.jpg", None, IDS, (848, 199, 401, -1)),
        "warning: FILE, record 2, image 'b.jpg': areas differ: 2001 (car 1): 199 pixels in the annotation, 200 in the "
        f"map; 3001 (person 1): 401 pixels in the annotation, 400 in the map. {AGAIN}",
    ),
    "lists of different lengths": (
        change(encode("b.jpg"), SEGMENT_AREAS=[1]),
        "error: FILE, record 2, image 'b.jpg': image/segmentation/segment_areas must have as many values as "
        "image/segmentation/segment_ids, 4. Received: 1. Convert the data set again.",
    ),
    "map of another size": (
        change(encode("b.jpg"), SEGMENTATION=records.encode_panoptic_png(panoptic_map(31, 47))),
        "error: FILE, record 2, image 'b.jpg': image/segmentation/class/encoded must be as large as the image, 32 x "
        "48. Received: 31 x 47. Convert the data set again.",
    ),
    "raw map of another size": (
        change(encode("b.jpg"), SEGMENTATION=bytes(400), SEGMENTATION_FORMAT=b"raw"),
        "error: FILE, record 2, image 'b.jpg': image/segmentation/class/encoded must hold 32 x 48 int32 = 6144 bytes. "
        "Received: 400 bytes. Convert the data set again.",
    ),
    "no map": (
        change(encode("b.jpg"), SEGMENTATION=None),
        "error: FILE, record 2, image 'b.jpg': there is no panoptic map (image/segmentation/class/encoded). Convert "
        "the data set again, with its labels.",
    ),
    "unknown format": (
        change(encode("b.jpg"), SEGMENTATION_FORMAT=b"\xffgif"),
        "error: FILE, record 2, image 'b.jpg': image/segmentation/class/format must be 'png' or 'raw'. Received: "
        "'\ufffdgif'. Convert again.",
    ),
    "stated size": (
        change(encode("b.jpg"), HEIGHT=[48], WIDTH=[32]),
        "error: FILE, record 2, image 'b.jpg': the record says 48 x 32 (height x width), but the image is 32 x 48. "
        "Convert the data set again.",
    ),
    "duplicate name": (
        encode("a.jpg"),
        "warning: FILE, record 2, image 'a.jpg': FILE, record 1 has the same file name. Remove one of the two, or "
        "rename it and convert again.",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_spoilt_record_is_named(tmp_path, fault):
    spoilt, line = FAULTS[fault]
    summary = run_check(write(tmp_path, [encode("a.jpg"), spoilt, encode("c.jpg")]))
    assert fault_lines(summary) == [line.replace("FILE", str(tmp_path / "0.tfrecord"))]
    assert summary.num_checked == 3
    severity = line.partition(":")[0]
    assert summary.faults.count(severity) == sum(summary.faults.counts.values()) == 1


@pytest.mark.parametrize(
    ("spoilt", "parts"),
    [
        (
            change(encode("b.jpg"), ENCODED=jpeg()[:300]),
            (", image 'b.jpg': the image does not decode (", "). Replace it and convert the data set again."),
        ),
        (
            change(encode("b.jpg"), ENCODED=b"no image"),
            (", image 'b.jpg': the image does not decode (", "). Replace it and convert the data set again."),
        ),
        (
            change(encode("b.jpg"), SEGMENTATION=records.encode_panoptic_png(panoptic_map())[:60]),
            (", image 'b.jpg': image/segmentation/class/encoded is not a readable PNG (", "). Convert the data set"),
        ),
        (b"no record", (": it is no image with features as 'image/encoded' (", "). Convert the data set again.")),
        (change(encode(), ENCODED=None), (": it is no image with features as 'image/encoded' (", ")")),
    ],
)
def test_what_does_not_decode_is_named_with_the_reason(tmp_path, spoilt, parts):
    (line,) = fault_lines(run_check(write(tmp_path, [encode("a.jpg"), spoilt, encode("c.jpg")])))
    assert line.startswith(f"error: {tmp_path / '0.tfrecord'}, record 2{parts[0]}")
    assert parts[1] in line
    assert "{{" not in line
    assert "()" not in line


def test_a_broken_image_still_has_its_map_checked(tmp_path):
    spoilt = change(encode("b.jpg", _wrong_class()), ENCODED=b"no image")
    summary = run_check(write(tmp_path, [spoilt]))
    assert [kind for _, kind in summary.faults.kept] == ["undecodable images", "unknown classes"]
    assert summary.class_segments[2] == 1


def test_random_damage_never_stops_the_check():
    rng = np.random.default_rng(0)
    good = encode()
    problems = 0
    for _ in range(300):
        damaged = bytearray(good)
        for at in rng.integers(0, len(good), rng.integers(1, 4)):
            damaged[at] = rng.integers(256)
        problems += bool(record_checks.examine_panoptic(bytes(damaged), SPACE).problems)
        record_checks.examine_classification(bytes(damaged), SPACE)
    assert problems > 30


def test_damage_in_a_file_ends_the_file_alone(tmp_path):
    source = write(tmp_path, [encode("a.jpg"), encode("b.jpg")], [encode("c.jpg")], [encode("d.jpg")])
    first, second, _ = map(os.path.abspath, source.files)
    for path, at in ((first, -300), (second, 3)):
        with open(path, "r+b") as file:
            data = bytearray(file.read())
            data[at] ^= 1
            file.seek(0)
            file.write(data)
    summary = run_check(source)
    lines = fault_lines(summary)
    assert lines[0].startswith(
        f"error: {second}: the file is no TFRecord file, or damaged: bad record header at byte 0"
    )
    assert lines[1].startswith(f"error: {first}, record 2: it is damaged (")
    assert len(lines) == 2
    assert summary.num_checked == 2  # a.jpg and d.jpg


def test_a_file_that_is_cut_short_is_named_with_the_byte(tmp_path):
    source = write(tmp_path, [encode("a.jpg"), encode("b.jpg")])
    size = os.path.getsize(source.files[0])
    os.truncate(source.files[0], size - 5)
    summary = run_check(source)
    (line,) = fault_lines(summary)
    assert line.startswith(f"error: {source.files[0]}: the file is cut short: ")
    assert f"the record at byte {size // 2}" in line
    assert summary.num_checked == 1


@pytest.mark.parametrize("length", [2**40, 2**62])
def test_a_header_with_an_absurd_length_is_named(tmp_path, length):
    source = write(tmp_path, [encode("a.jpg"), encode("b.jpg")], [encode("c.jpg")])
    size = os.path.getsize(source.files[0])
    header = struct.pack("<Q", length)
    with open(source.files[0], "r+b") as file:
        file.seek(size // 2)
        file.write(header + struct.pack("<I", tfrecord_files._masked_crc32c(header)))
    summary = run_check(source)
    (line,) = fault_lines(summary)
    assert line.startswith(
        f"error: {source.files[0]}: the file is cut short: the record at byte {size // 2} ends at byte"
    )
    assert summary.num_checked == 2


def test_many_faults_of_a_kind_are_cut_short(tmp_path):
    bad = [change(encode(f"{i}.jpg"), HEIGHT=[31]) for i in range(25)]
    lines = fault_lines(run_check(write(tmp_path, [*bad, encode("0.jpg")])))
    assert sum(line.startswith("error: ") for line in lines) == 21
    assert lines[20] == "error: ... and 5 more: wrong sizes"
    assert lines[21].startswith("warning: ")


def test_images_larger_than_the_crop_are_errors_of_the_evaluation(tmp_path):
    source = write(tmp_path, [encode()])
    small = ImageOptions((33, 41))
    assert fault_lines(run_check(source, image_options=small)) == []
    (line,) = fault_lines(run_check(source, image_options=small, must_fit=True))
    assert line == (
        f"error: {source.files[0]}, record 1, image 'a.jpg': the image is 32 x 48 (height x width) after resizing and "
        "does not fit crop_size, 33 x 41. Enlarge crop_size, or set min_resize_value and max_resize_value."
    )
    assert fault_lines(run_check(source, image_options=ImageOptions((33, 41), 32, 41), must_fit=True)) == []


def test_stuff_that_is_listed_in_parts_adds_up(tmp_path):
    ids = (0, 0, 2001, 3001, 3002)
    assert fault_lines(run_check(write(tmp_path, [encode("a.jpg", None, ids, (800, 48, 200, 400, 40))]))) == []
    (line,) = fault_lines(run_check(write(tmp_path, [encode("a.jpg", None, ids, (800, 49, 200, 400, 40))])))
    assert "0 (road): 849 pixels in the annotation, 848 in the map" in line


def test_a_sample_is_spread_over_the_files(tmp_path):
    shards = [[encode(f"{i}{j}.jpg") for j in range(4)] for i in range(3)]
    shards[2][0] = change(shards[2][0], HEIGHT=[1])
    summary = run_check(write(tmp_path, *shards), limit=5)
    assert summary.num_checked == 5
    assert len(fault_lines(summary)) == 1
    assert run_check(write(tmp_path, *shards), limit=50).num_checked == 12


@pytest.fixture
def converted(tmp_path):
    scenes.write_scenes(tmp_path / "scenes", num_train=4, num_val=1, height=48, width=64, seed=1)
    folder = tmp_path / "scenes"
    output = tmp_path / "records"
    coco_panoptic.convert(
        *(folder / "train", folder / "panoptic_train.json", folder / "panoptic_train"),
        output,
        num_shards=2,
        name="scenes",
    )
    return output


def _contradictions(folder):
    source = Source.open([f"{folder}/*.tfrecord"], allow_damage=True)
    return fault_lines(run_check(source, output_stride=2, image_options=ImageOptions((49, 65))))


def test_counts_that_contradict_dataset_json(converted):
    assert _contradictions(converted) == []
    path = converted / "dataset.json"
    info = dataset_info.DatasetInfo.read(converted)
    remedy = "Copy the folder again, or run `deeplab-axial convert` again."

    shards = (info.shards[0]._replace(records=3), info.shards[1]._replace(records=1))
    dataclasses.replace(info, shards=shards).write(converted)
    assert _contradictions(converted) == [
        f"error: {path}: it lists {shards[0].file} with 3 records. Received: 2. {remedy}",
        f"error: {path}: it lists {shards[1].file} with 1 records. Received: 2. {remedy}",
    ]

    sky = next(c for c in info.label_space.classes if info.class_pixels.get(c.id))
    pixels = info.class_pixels[sky.id]
    dataclasses.replace(info, class_pixels={**info.class_pixels, sky.id: pixels + 1}).write(converted)
    assert _contradictions(converted) == [
        f"error: {path}: it lists {pixels + 1} pixels of {sky.name}. Received: {pixels}. Run `deeplab-axial convert` "
        "again."
    ]

    info.write(converted)
    (converted / info.shards[1].file).unlink()
    assert _contradictions(converted) == [
        f"error: {path}: it lists {info.shards[1].file}, which is not there. Received: 1 of 2 files, 2 of 4 images. "
        f"{remedy} If a part is what you want, set allow_subset: true beside file_pattern: every result then says how "
        "many of the images it covers."
    ]


def test_an_old_dataset_json_is_enough(converted):
    path = converted / "dataset.json"
    content = json.loads(path.read_text())
    for name in ("task", "has_labels", "class_counts", "source_bytes", "fingerprint"):
        del content[name]
    path.write_text(json.dumps({**content, "class_pixels": None}))
    assert _contradictions(converted) == []
