# SPDX-License-Identifier: Apache-2.0
"""Every kind of spoilt record is named with its place; figures equal slow counts."""

import collections
import dataclasses
import io
import json
import os

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab_axial.data import (
    check_report,
    checks,
    dataset_info,
    record_checks,
    records,
    scenes,
    tfrecord_files,
)
from deeplab_axial.data.converters import coco_panoptic
from deeplab_axial.data.label_space import LabelClass, LabelSpace
from deeplab_axial.data.pipeline import ImageOptions
from deeplab_axial.data.source import Source

SPACE = LabelSpace(
    "street",
    (
        LabelClass(0, "road", False, (128, 64, 128), 7),
        LabelClass(2, "car", True, (0, 0, 142), 26),
        LabelClass(3, "person", True, (220, 20, 60), 24),
    ),
    num_classes=4,
    ignore_label=255,
    label_divisor=1000,
)
OPTIONS = ImageOptions((33, 49))
VOID = SPACE.void_id


def _jpeg(height=32, width=48):
    buffer = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def _map(height=32, width=48):
    """A road, a car of 200 pixels, a person of 400, a crowd of persons of 40, a rim of void."""
    panoptic = np.zeros((height, width), np.int32)
    panoptic[0] = VOID
    panoptic[2:12, 2:22] = 2001
    panoptic[12:32, 24:44] = 3001
    panoptic[2:6, 30:40] = 3002
    return panoptic


IDS = (0, 2001, 3001, 3002)


def _record(name="a.jpg", panoptic=None, ids=IDS, areas=None, crowd=(3002,)):
    panoptic = _map() if panoptic is None else panoptic
    areas = [int((panoptic == i).sum()) for i in ids] if areas is None else areas
    return records.encode_example(_jpeg(), "jpeg", name, *panoptic.shape, panoptic, crowd, ids, areas)


def _change(record, **changes):
    """A record with other features; None removes one."""
    example = tf.train.Example.FromString(record)
    feature = example.features.feature
    for name, value in changes.items():
        key = getattr(records, name)
        if isinstance(value, bytes):
            feature[key].bytes_list.value[:] = [value]
        elif value is None:
            del feature[key]
        else:
            feature[key].int64_list.value[:] = value
    return example.SerializeToString()


def _source(folder, *shards, task=dataset_info.PANOPTIC, space=SPACE):
    """Records in files 0.tfrecord, 1.tfrecord, ..., without dataset.json."""
    files = [tfrecord_files.write_shard(folder, f"{i}.tfrecord", shard) for i, shard in enumerate(shards)]
    paths = tuple(str(folder / shard.file) for shard in files)
    count = sum(map(len, shards))
    return Source(paths, count, dataset_info.DatasetInfo(space, count, tuple(files), 0, 0, task=task))


def _check(source, **options):
    arguments = {"image_options": OPTIONS, "output_stride": 8, "small_instance_threshold": 300, **options}
    return checks.check(source, **arguments)


def _lines(summary):
    text = check_report.format_faults(summary)
    return text.splitlines()


def test_healthy_records_have_no_faults(tmp_path):
    summary = _check(_source(tmp_path, [_record("a.jpg"), _record("b.jpg")], [_record("ü c.jpg")]))
    assert _lines(summary) == []
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
        summary = _check(source, output_stride=2, image_options=ImageOptions((49, 65)), must_fit=True)
        assert _lines(summary) == []
        assert summary.num_checked == source.num_records
        assert {i: int(n) for i, n in enumerate(summary.class_pixels) if n} == {
            i: n for i, n in source.info.class_pixels.items() if n
        }


def _wrong_class():
    panoptic = _map()
    panoptic[20:22, 2:7] = 7003
    return panoptic


def _split_stuff():
    panoptic = _map()
    panoptic[20:22, 2:7] = 4
    return panoptic


AGAIN = "Correct the annotation and convert the data set again."
FAULTS = {
    "unknown class": (
        _record("b.jpg", _wrong_class()),
        "error: FILE, record 2, image 'b.jpg': the panoptic map has classes that the label space 'street' does not "
        "have. Received: 7 (10 pixels). Check the label space, label_divisor 1000 included.",
    ),
    "negative id": (
        _change(
            _record("b.jpg"),
            SEGMENTATION=np.where(_map() == 2001, -5, _map()).astype("<i4").tobytes(),
            SEGMENTATION_FORMAT=b"raw",
            SEGMENT_IDS=None,
            SEGMENT_AREAS=None,
        ),
        "error: FILE, record 2, image 'b.jpg': the panoptic map has classes that the label space 'street' does not "
        "have. Received: -1 (200 pixels). Check the label space, label_divisor 1000 included.",
    ),
    "stuff with instances": (
        _record("b.jpg", _split_stuff(), (*IDS, 4)),
        "warning: FILE, record 2, image 'b.jpg': stuff must have instance id 0. Received: 4 (road 4). Panoptic quality "
        f"would count them as segments of their own; c{AGAIN[1:]}",
    ),
    "missing from the map": (
        _record("b.jpg", None, (*IDS, 2009, 3009)),
        "error: FILE, record 2, image 'b.jpg': the annotation has segments that the panoptic map does not have: 2009 "
        f"(car 9), 3009 (person 9). {AGAIN}",
    ),
    "missing from the annotation": (
        _record("b.jpg", None, (0, 3001, 3002)),
        "error: FILE, record 2, image 'b.jpg': the panoptic map has segments that the annotation does not have: 2001 "
        f"(car 1). {AGAIN}",
    ),
    "wrong areas": (
        _record("b.jpg", None, IDS, (848, 199, 401, -1)),
        "warning: FILE, record 2, image 'b.jpg': areas differ: 2001 (car 1): 199 pixels in the annotation, 200 in the "
        f"map; 3001 (person 1): 401 pixels in the annotation, 400 in the map. {AGAIN}",
    ),
    "lists of different lengths": (
        _change(_record("b.jpg"), SEGMENT_AREAS=[1]),
        "error: FILE, record 2, image 'b.jpg': image/segmentation/segment_areas must have as many values as "
        "image/segmentation/segment_ids, 4. Received: 1. Convert the data set again.",
    ),
    "map of another size": (
        _change(_record("b.jpg"), SEGMENTATION=records.encode_panoptic_png(_map(31, 47))),
        "error: FILE, record 2, image 'b.jpg': image/segmentation/class/encoded must be as large as the image, 32 x "
        "48. Received: 31 x 47. Convert the data set again.",
    ),
    "raw map of another size": (
        _change(_record("b.jpg"), SEGMENTATION=bytes(400), SEGMENTATION_FORMAT=b"raw"),
        "error: FILE, record 2, image 'b.jpg': image/segmentation/class/encoded must hold 32 x 48 int32 = 6144 bytes. "
        "Received: 400 bytes. Convert the data set again.",
    ),
    "no map": (
        _change(_record("b.jpg"), SEGMENTATION=None),
        "error: FILE, record 2, image 'b.jpg': there is no panoptic map (image/segmentation/class/encoded). Convert "
        "the data set again, with its labels.",
    ),
    "unknown format": (
        _change(_record("b.jpg"), SEGMENTATION_FORMAT=b"\xffgif"),
        "error: FILE, record 2, image 'b.jpg': image/segmentation/class/format must be 'png' or 'raw'. Received: "
        "'\ufffdgif'. Convert again.",
    ),
    "stated size": (
        _change(_record("b.jpg"), HEIGHT=[48], WIDTH=[32]),
        "error: FILE, record 2, image 'b.jpg': the record says 48 x 32 (height x width), but the image is 32 x 48. "
        "Convert the data set again.",
    ),
    "duplicate name": (
        _record("a.jpg"),
        "warning: FILE, record 2, image 'a.jpg': FILE, record 1 has the same file name. Remove one of the two, or "
        "rename it and convert again.",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_spoilt_record_is_named(tmp_path, fault):
    spoilt, line = FAULTS[fault]
    summary = _check(_source(tmp_path, [_record("a.jpg"), spoilt, _record("c.jpg")]))
    assert _lines(summary) == [line.replace("FILE", str(tmp_path / "0.tfrecord"))]
    assert summary.num_checked == 3
    severity = line.partition(":")[0]
    assert summary.faults.count(severity) == sum(summary.faults.counts.values()) == 1


@pytest.mark.parametrize(
    ("spoilt", "parts"),
    [
        (
            _change(_record("b.jpg"), ENCODED=_jpeg()[:300]),
            (", image 'b.jpg': the image does not decode (", "). Replace it and convert the data set again."),
        ),
        (
            _change(_record("b.jpg"), ENCODED=b"no image"),
            (", image 'b.jpg': the image does not decode (", "). Replace it and convert the data set again."),
        ),
        (
            _change(_record("b.jpg"), SEGMENTATION=records.encode_panoptic_png(_map())[:60]),
            (", image 'b.jpg': image/segmentation/class/encoded is not a readable PNG (", "). Convert the data set"),
        ),
        (b"no record", (": it is no image with features as 'image/encoded' (", "). Convert the data set again.")),
        (_change(_record(), ENCODED=None), (": it is no image with features as 'image/encoded' (", ")")),
    ],
)
def test_what_does_not_decode_is_named_with_the_reason(tmp_path, spoilt, parts):
    (line,) = _lines(_check(_source(tmp_path, [_record("a.jpg"), spoilt, _record("c.jpg")])))
    assert line.startswith(f"error: {tmp_path / '0.tfrecord'}, record 2{parts[0]}")
    assert parts[1] in line
    assert "{{" not in line
    assert "()" not in line


def test_a_broken_image_still_has_its_map_checked(tmp_path):
    spoilt = _change(_record("b.jpg", _wrong_class()), ENCODED=b"no image")
    summary = _check(_source(tmp_path, [spoilt]))
    assert [kind for _, kind in summary.faults.kept] == ["undecodable images", "unknown classes"]
    assert summary.class_segments[2] == 1


def test_random_damage_never_stops_the_check():
    rng = np.random.default_rng(0)
    good = _record()
    problems = 0
    for _ in range(300):
        damaged = bytearray(good)
        for at in rng.integers(0, len(good), rng.integers(1, 4)):
            damaged[at] = rng.integers(256)
        problems += bool(record_checks.examine_panoptic(bytes(damaged), SPACE).problems)
        record_checks.examine_classification(bytes(damaged), SPACE)
    assert problems > 30


def test_damage_in_a_file_ends_the_file_alone(tmp_path):
    source = _source(tmp_path, [_record("a.jpg"), _record("b.jpg")], [_record("c.jpg")], [_record("d.jpg")])
    first, second, _ = map(os.path.abspath, source.files)
    for path, at in ((first, -300), (second, 3)):
        with open(path, "r+b") as file:
            data = bytearray(file.read())
            data[at] ^= 1
            file.seek(0)
            file.write(data)
    summary = _check(source)
    lines = _lines(summary)
    assert lines[0].startswith(
        f"error: {second}: the file is no TFRecord file, or damaged: bad record header at byte 0"
    )
    assert lines[1].startswith(f"error: {first}, record 2: it is damaged (")
    assert len(lines) == 2
    assert summary.num_checked == 2  # a.jpg and d.jpg


def test_a_file_that_is_cut_short_is_named_with_the_byte(tmp_path):
    source = _source(tmp_path, [_record("a.jpg"), _record("b.jpg")])
    size = os.path.getsize(source.files[0])
    os.truncate(source.files[0], size - 5)
    summary = _check(source)
    (line,) = _lines(summary)
    assert line.startswith(f"error: {source.files[0]}: the file is cut short: ")
    assert f"the record at byte {size // 2}" in line
    assert summary.num_checked == 1


def test_many_faults_of_a_kind_are_cut_short(tmp_path):
    bad = [_change(_record(f"{i}.jpg"), HEIGHT=[31]) for i in range(25)]
    lines = _lines(_check(_source(tmp_path, [*bad, _record("0.jpg")])))
    assert sum(line.startswith("error: ") for line in lines) == 21
    assert lines[20] == "error: ... and 5 more: wrong sizes"
    assert lines[21].startswith("warning: ")


def test_images_larger_than_the_crop_are_errors_of_the_evaluation(tmp_path):
    source = _source(tmp_path, [_record()])
    small = ImageOptions((33, 41))
    assert _lines(_check(source, image_options=small)) == []
    (line,) = _lines(_check(source, image_options=small, must_fit=True))
    assert line == (
        f"error: {source.files[0]}, record 1, image 'a.jpg': the image is 32 x 48 (height x width) after resizing and "
        "does not fit crop_size, 33 x 41. Enlarge crop_size, or set min_resize_value and max_resize_value."
    )
    assert _lines(_check(source, image_options=ImageOptions((33, 41), 32, 41), must_fit=True)) == []


def test_instances_too_small_for_the_stride_are_counted_after_resizing(tmp_path):
    source = _source(tmp_path, [_record("a.jpg"), _record("b.jpg")])
    (line,) = _lines(_check(source, output_stride=16))
    assert line == (
        f"warning: {tmp_path}: 2 of 4 instances have less than 16 x 16 pixels after resizing, one position at the "
        "model's output stride: car 2. They are hardly learned; raise min_resize_value, or lower output_stride."
    )
    doubled = _check(source, output_stride=16, image_options=ImageOptions((65, 97), 64, 96))
    assert _lines(doubled) == []
    assert doubled.resized_sizes == {(64, 96): 2}
    assert doubled.small_instances == 0


def test_things_with_instance_id_0_count_as_crowd(tmp_path):
    panoptic = np.where(_map() == 3002, 3000, _map())
    summary = _check(_source(tmp_path, [_record("a.jpg", panoptic, (), crowd=())]))
    assert _lines(summary) == []
    assert (summary.listed_crowd, summary.unlisted_crowd) == (0, 1)
    assert summary.instances == {2: 1}
    assert "crowd      0 segments listed, 1 more with instance id 0" in _report(summary)


def test_stuff_that_is_listed_in_parts_adds_up(tmp_path):
    ids = (0, 0, 2001, 3001, 3002)
    assert _lines(_check(_source(tmp_path, [_record("a.jpg", None, ids, (800, 48, 200, 400, 40))]))) == []
    (line,) = _lines(_check(_source(tmp_path, [_record("a.jpg", None, ids, (800, 49, 200, 400, 40))])))
    assert "0 (road): 849 pixels in the annotation, 848 in the map" in line


def test_the_figures_equal_a_slow_count(tmp_path):
    rng = np.random.default_rng(5)
    choices = [0, 2000, 2001, 2002, 3001, 3007, VOID]
    maps = [rng.choice(choices[: 1 + n], (32, 48)).astype(np.int32) for n in (0, 2, 3, 4, 6, 6)]
    summary = _check(_source(tmp_path, [_record(f"{i}.jpg", m, (), crowd=(3007,)) for i, m in enumerate(maps)]))
    pixels, segments, images, instances = (collections.Counter() for _ in range(4))
    for panoptic in maps:
        ids = set()
        for row in panoptic.tolist():
            for value in row:
                pixels[value // 1000] += 1
                ids.add(value)
        segments.update(i // 1000 for i in ids)
        images.update({i // 1000 for i in ids})
        instances[sum(i in (2001, 2002, 3001) for i in ids)] += 1
    for counted, expected in (
        (summary.class_pixels, pixels),
        (summary.class_segments, segments),
        (summary.class_images, images),
    ):
        assert {i: n for i, n in enumerate(counted.tolist()) if n} == expected
    assert summary.instances == instances


def test_segments_equal_numpys_unique():
    rng = np.random.default_rng(0)
    for size in ((1, 1), (1, 50), (50, 1), (40, 60)):
        panoptic = rng.integers(0, 4, size).astype(np.int32).repeat(3, 1) * 1000
        ids, areas = record_checks.find_segments(panoptic)
        np.testing.assert_array_equal([ids, areas], np.unique(panoptic, return_counts=True))


@pytest.mark.parametrize(
    ("sizes", "stride", "largest", "usual"),
    [
        ({(480, 640): 1}, 16, (481, 641), (481, 641)),
        ({(481, 641): 3}, 32, (481, 641), (481, 641)),
        ({(1, 1): 1}, 16, (17, 17), (17, 17)),
        ({(480, 640): 95, (2000, 3000): 5}, 16, (2001, 3009), (481, 641)),
        ({(480, 640): 94, (2000, 3000): 6}, 16, (2001, 3009), (2001, 3009)),
        # Landscape and portrait: neither side alone tells.
        ({(480, 640): 50, (640, 480): 50}, 16, (641, 641), (641, 641)),
        # The largest heights and the largest widths belong to different images; both sides grow together.
        ({(100, 100): 92, (300, 100): 4, (100, 300): 4}, 8, (305, 305), (305, 305)),
    ],
)
def test_suggested_crops(sizes, stride, largest, usual):
    assert check_report.largest_crop(sizes, stride) == largest
    assert check_report.usual_crop(sizes, stride) == usual
    assert check_report.share_that_fits(sizes, usual) >= 0.95
    assert check_report.share_that_fits(sizes, largest) == 1


def _report(summary, **options):
    arguments = {"image_options": OPTIONS, "output_stride": 8, "is_training": True, **options}
    return check_report.format_summary(summary, **arguments)


def test_the_summary_as_text(tmp_path):
    source = _source(tmp_path, [_record("a.jpg"), _record("b.jpg", np.zeros((32, 48), np.int32), (0,), crowd=())])
    assert _report(_check(source)) == (
        "images     2 read\n"
        "sizes      height x width, pixels: smallest 32 x 48, median 32 x 48, largest 32 x 48\n"
        "crop       33 x 49 holds 100% of the images whole; crop_size is the same\n"
        "instances  an image: mean 1.0, median 0, 95 % have at most 2, largest 2\n"
        "           images by their instances: 0: 1, 2-3: 1\n"
        "too small  0 of 2 instances (0.0%) have less than 8 x 8 pixels\n"
        "small      1 of 2 instances (50.0%) are below small_instance_threshold, 300 pixels\n"
        "crowd      1 segment listed\n"
        "void       1.6% of the pixels\n"
        "faults     0 errors, 0 warnings\n"
        "\n"
        "   id  name    kind    pixels %  segments    images\n"
        "    0  road    stuff     77.604         2         2\n"
        "    2  car     thing      6.510         1         1\n"
        "    3  person  thing     14.323         2         1"
    )
    alone = _report(_check(source, limit=1), is_training=False, image_options=ImageOptions((33, 41)))
    assert "images     1 of 2 read" in alone
    assert "33 x 49 holds the largest image; crop_size is 33 x 41, which holds 0%" in alone
    assert "small_instance_threshold" not in alone


def test_classes_that_are_never_seen_are_listed(tmp_path):
    source = _source(tmp_path, [_record("b.jpg", np.zeros((32, 48), np.int32), (0,), crowd=())])
    assert _report(_check(source)).splitlines()[-1] == "never seen (2): car, person"


def test_a_sample_is_spread_over_the_files(tmp_path):
    shards = [[_record(f"{i}{j}.jpg") for j in range(4)] for i in range(3)]
    shards[2][0] = _change(shards[2][0], HEIGHT=[1])
    summary = _check(_source(tmp_path, *shards), limit=5)
    assert summary.num_checked == 5
    assert len(_lines(summary)) == 1
    assert _check(_source(tmp_path, *shards), limit=50).num_checked == 12


def test_records_without_labels_have_their_images_checked(tmp_path):
    bare = records.encode_example(_jpeg(), "jpeg", "a.jpg", 32, 48, None)
    source = _source(tmp_path, [bare, _change(bare, ENCODED=b"x", FILENAME=b"b.jpg")])
    summary = _check(source, with_labels=False)
    (line,) = _lines(summary)
    assert "image 'b.jpg': the image does not decode" in line
    assert _report(summary).endswith("There are no labels; the images alone were checked.")


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
    return _lines(_check(source, output_stride=2, image_options=ImageOptions((49, 65))))


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
        f"error: {path}: it lists {info.shards[1].file}, which is not there. {remedy}"
    ]


def test_an_old_dataset_json_is_enough(converted):
    path = converted / "dataset.json"
    content = json.loads(path.read_text())
    for name in ("task", "has_labels", "class_counts", "source_bytes", "fingerprint"):
        del content[name]
    path.write_text(json.dumps({**content, "class_pixels": None}))
    assert _contradictions(converted) == []


def _labelled(name, label):
    bare = records.encode_example(_jpeg(), "jpeg", name, 32, 48, None)
    return bare if label is None else _change(bare, CLASS_LABEL=[label])


def test_classification_records(tmp_path):
    source = _source(
        tmp_path,
        [_labelled("a.jpg", 0), _labelled("b.jpg", 2), _labelled("c.jpg", 2), _labelled("d.jpg", 1)],
        [_labelled("e.jpg", None), _change(_labelled("f.jpg", 3), ENCODED=b"x"), _labelled("g.jpg", 255)],
        task=dataset_info.CLASSIFICATION,
    )
    summary = _check(source)
    first, second = source.files
    rule = f"image/class/label must be the id of a class of 'street'. Received: %s. {AGAIN}"
    lines = _lines(summary)
    assert lines[:3] == [
        f"error: {first}, record 4, image 'd.jpg': {rule % 1}",
        f"error: {second}, record 1, image 'e.jpg': {rule % 'no label'}",
        f"error: {second}, record 3, image 'g.jpg': {rule % 255}",
    ]
    assert lines[3].startswith(f"error: {second}, record 2, image 'f.jpg': the image does not decode (")
    assert len(lines) == 4
    text = _report(summary)
    assert text.endswith(
        "   id  name        images\n    0  road             1\n    2  car              2\n    3  person           1"
    )
    assert "crop" not in text
