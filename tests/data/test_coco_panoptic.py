# SPDX-License-Identifier: Apache-2.0
"""COCO panoptic -> TFRecords: read back pixel by pixel."""

import json
import pathlib
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab_axial.data import dataset_info, records, tfrecord_files
from deeplab_axial.data.converters import conversion, panoptic_entries, panoptic_format
from deeplab_axial.data.converters.coco_panoptic import convert
from deeplab_axial.data.label_space import LabelClass, LabelSpace
from deeplab_axial.errors import InputError
from tests.data.coco_source import Source

SAMPLE = pathlib.Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "coco_sample"


def _check_round_trip(source: Source, info: dataset_info.DatasetInfo):
    """Compares every pixel with a slow, direct reading of the JSON."""
    content = source.load()
    images = {i["id"]: i for i in content["images"]}
    by_category = {c.category_id: c for c in info.label_space.classes}
    divisor = info.label_space.label_divisor
    parsed = source.records(info)
    pixels = dict.fromkeys(range(info.label_space.num_classes), 0)
    for annotation in content["annotations"]:
        image = images[annotation["image_id"]]
        record = parsed[image["file_name"]]
        assert record[records.ENCODED].numpy() == (source.image_dir / image["file_name"]).read_bytes()
        ids = source.segment_ids(annotation["file_name"])
        expected, counts, crowd = np.zeros(ids.shape, np.int64), {}, []
        for segment in annotation["segments_info"]:
            label = by_category[segment["category_id"]]
            counts[label.id] = counts.get(label.id, 0) + 1
            panoptic_id = label.id * divisor + counts[label.id] - (0 if label.is_thing else 1)
            expected[ids == segment["id"]] = panoptic_id
            if segment["iscrowd"]:
                crowd.append(panoptic_id)
        found = records.decode_panoptic(
            record[records.SEGMENTATION].numpy(), records.PNG, image["height"], image["width"]
        )
        np.testing.assert_array_equal(found, expected)
        assert record[records.CROWD_IDS].numpy().tolist() == crowd
        for class_id in pixels:
            pixels[class_id] += int((expected // divisor == class_id).sum())
    assert info.class_pixels == pixels


def test_round_trip_of_scenes(source):
    info = source.convert(num_shards=7)
    _check_round_trip(source, info)
    assert (info.num_images, info.max_height, info.max_width) == (40, 48, 64)
    assert dataset_info.DatasetInfo.read(source.output) == info
    files = sorted(f.name for f in source.output.glob("coco_panoptic-*.tfrecord"))
    assert files == [f"coco_panoptic-{i:05d}-of-00007.tfrecord" for i in range(7)] == [s.file for s in info.shards]
    assert tfrecord_files.check_shards([source.output / f for f in files]) == [s.records for s in info.shards]
    assert [s.bytes for s in info.shards] == [(source.output / f).stat().st_size for f in files]
    assert any(p[records.CROWD_IDS].shape[0] for p in source.records(info).values())


def test_another_file_system(source):
    """TensorFlow's file system in memory stands for gs://."""
    place = f"ram:/{source.output}"
    for path in (source.json, *source.image_dir.iterdir(), *source.panoptic_dir.iterdir()):
        tf.io.gfile.makedirs(f"ram:/{path.parent}")
        tf.io.gfile.copy(str(path), f"ram:/{path}", overwrite=True)
    folders = (f"ram:/{source.image_dir}", f"ram:/{source.json}", f"ram:/{source.panoptic_dir}")
    convert(*folders, place, num_shards=5)
    info = convert(*folders, place, num_shards=3, num_workers=2)
    assert dataset_info.DatasetInfo.read(place) == info == convert(*folders, place, num_shards=3)
    assert sorted(tf.io.gfile.listdir(place)) == sorted([*(shard.file for shard in info.shards), "dataset.json"])
    expected = source.convert(num_shards=3)
    assert info.shards == expected.shards
    for shard in info.shards:
        with tf.io.gfile.GFile(f"{place}/{shard.file}", "rb") as file:
            assert file.read() == (source.output / shard.file).read_bytes()


def test_classes_are_things_then_stuff_by_category_id(source):
    space = source.convert().label_space
    assert [(c.id, c.name, c.category_id, c.is_thing) for c in space.classes] == [
        (1, "ball", 5, True),
        (2, "crate", 8, True),
        (3, "star", 22, True),
        (4, "sky", 3, False),
        (5, "meadow", 21, False),
        (6, "water", 25, False),
        (7, "brick wall", 31, False),
    ]
    assert (space.num_classes, space.ignore_label, space.label_divisor) == (8, 0, 256)
    assert space.by_id[1].color == (220, 60, 60)


def test_categories_without_colors_get_distinct_ones(source):
    content = source.load()
    for category in content["categories"]:
        del category["color"]
    source.save(content)
    classes = source.convert().label_space.classes
    assert len({c.color for c in classes}) == len(classes)


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="needs COCO's two sample images in ../shared beside the checkout")
def test_round_trip_of_real_coco_images(tmp_path):
    source = Source(SAMPLE / "input_images", SAMPLE / "panoptic_examples.json", SAMPLE / "panoptic_examples", tmp_path)
    info = source.convert()
    _check_round_trip(source, info)
    space = info.label_space
    assert (space.num_classes, space.thing_ids) == (134, tuple(range(1, 81)))
    assert space.by_id[1].name == "person"
    assert len(info.shards) == info.num_images == 2
    assert sum(p[records.CROWD_IDS].shape[0] for p in source.records(info).values()) == 3


def test_converting_again_leaves_no_old_shards(source):
    source.convert(num_shards=5)
    info = source.convert(num_shards=2)
    assert sorted(f.name for f in source.output.glob("*.tfrecord")) == [s.file for s in info.shards]


def test_second_stuff_segment_of_a_class_gets_its_own_instance_id(source):
    content = source.load()
    annotation, segment = next(
        (a, s) for a in content["annotations"] for s in a["segments_info"] if s["category_id"] == 21
    )
    ids = source.segment_ids(annotation["file_name"])
    rows = np.arange(ids.shape[0])[:, None]
    half = (ids == segment["id"]) & (rows > np.median(np.nonzero(ids == segment["id"])[0]))
    ids[half] = 77
    planes = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], -1).astype(np.uint8)
    Image.fromarray(planes).save(source.panoptic_dir / annotation["file_name"])
    annotation["segments_info"].append({**segment, "id": 77, "area": int(half.sum())})
    source.save(content)
    _check_round_trip(source, source.convert())


def _write(root: pathlib.Path, maps: dict[str, np.ndarray]) -> Source:
    """A data set of one category in which each number of a map is a segment; 0 is void. `maps` is by image name."""
    images, annotations = [], []
    for number, (name, ids) in enumerate(maps.items(), start=1):
        png = str(pathlib.PurePosixPath(name).with_suffix(".png"))
        for folder in (root / "images" / name, root / "pngs" / png):
            folder.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", ids.shape[::-1], (number, 50, 60)).save(root / "images" / name)
        Image.fromarray(np.stack([ids & 255, ids >> 8 & 255, ids >> 16], -1).astype(np.uint8)).save(root / "pngs" / png)
        found, counts = np.unique(ids[ids > 0], return_counts=True)
        segments = [
            {"id": i, "category_id": 7, "area": n, "iscrowd": 0} for i, n in zip(found.tolist(), counts.tolist())
        ]
        images.append({"id": number, "file_name": name, "height": ids.shape[0], "width": ids.shape[1]})
        annotations.append({"image_id": number, "file_name": png, "segments_info": segments})
    categories = [{"id": 7, "name": "thing", "isthing": 1}, {"id": 9, "name": "other", "isthing": 1}]
    source = Source(root / "images", root / "panoptic.json", root / "pngs", root / "records")
    source.save({"images": images, "annotations": annotations, "categories": categories})
    return source


def _ids(record) -> np.ndarray:
    size = int(record[records.HEIGHT]), int(record[records.WIDTH])
    return records.decode_panoptic(record[records.SEGMENTATION].numpy(), records.PNG, *size)


def test_zero_segments_one_pixel_instances_and_one_pixel_images(tmp_path):
    one = np.zeros((5, 7), np.int32)
    one[2, 3], one[4, 6] = 12, 99999
    source = _write(
        tmp_path, {"void.png": one * 0, "one.png": one, "tiny.png": one[2:3, 3:4], "row.png": one[2:3] // 12}
    )
    found = source.records(source.convert())
    assert not _ids(found["void.png"]).any()
    assert found["void.png"][records.SEGMENT_IDS].shape == [0]
    np.testing.assert_array_equal(_ids(found["one.png"]), np.where(one == 12, 257, np.where(one == 99999, 258, 0)))
    assert found["one.png"][records.SEGMENT_AREAS].numpy().tolist() == [1, 1]
    np.testing.assert_array_equal(_ids(found["tiny.png"]), [[257]])
    np.testing.assert_array_equal(_ids(found["row.png"]), [[0, 0, 0, 257, 0, 0, 0]])


def test_more_than_2_16_segments_in_one_image(tmp_path):
    ids = np.arange(1, 70_001, dtype=np.int32).reshape(250, 280)
    source = _write(tmp_path, {"many.png": ids})
    message = r"many\.png\): at most 255 segments of class 'thing'.* 256\. Received: 70000\. Pass --label_divisor=70001"
    with pytest.raises(InputError, match=message):
        source.convert()
    assert not source.output.exists()
    info = source.convert(label_divisor=2**17)
    record = source.records(info)["many.png"]
    np.testing.assert_array_equal(_ids(record), 2**17 + ids)
    assert record[records.SEGMENT_IDS].shape == [70_000]
    assert info.class_counts == {1: 70_000, 2: 0}


def test_one_file_name_in_two_folders_with_unicode_and_spaces(tmp_path):
    ids = np.ones((3, 4), np.int32)
    maps = {"a/x.png": ids, "b b/x.png": ids * 2, "b b/ü 图/x [1].png": ids * 300, "x.png": ids * 0}
    source = _write(tmp_path / "daten für *", maps)
    found = source.records(source.convert(num_workers=2))
    assert set(found) == set(maps)
    for name, expected in maps.items():
        np.testing.assert_array_equal(_ids(found[name]), np.where(expected, 257, 0))
        assert found[name][records.ENCODED].numpy() == (source.image_dir / name).read_bytes()
    (source.image_dir / "b b/x.png").unlink()
    (source.output / "dataset.json").unlink()
    with pytest.raises(InputError, match=r"b b/x.png does not exist.*1 of 4"):
        source.convert()


@pytest.fixture
def warnings(monkeypatch):
    found = []
    for module in (conversion, panoptic_entries, panoptic_format):
        monkeypatch.setattr(module.logging, "warning", lambda text, *values: found.append(text % values))
    return found


def test_wrong_areas_are_kept_and_counted(tmp_path, warnings):
    ids = np.repeat(np.int32([[1, 2, 3, 4]]), 5, axis=0)
    source = _write(tmp_path, {"a.png": ids, "b.png": ids})
    content = source.load()
    segments = content["annotations"][1]["segments_info"]
    segments[0]["area"], segments[2]["area"] = 6, 0
    del segments[3]["area"]
    source.save(content)
    record = source.records(source.convert())["b.png"]
    assert record[records.SEGMENT_AREAS].numpy().tolist() == [6, 5, 0, -1]
    assert record[records.SEGMENT_IDS].numpy().tolist() == [257, 258, 259, 260]
    assert warnings == [
        f"{source.json}: read as it is meant: 'area' absent, so that the pixels of the PNG count (1 times).",
        "2 segments have another area (pixels) than the annotation says. First: segment 1 of b.png: 5, not 6.",
    ]


def test_a_given_label_space(source, warnings):
    """Two of the seven classes, with numbers of their own; the others become void."""
    classes = (LabelClass(3, "water", False, (1, 2, 3), 25), LabelClass(5, "ball", True, (4, 5, 6), 5))
    space = LabelSpace("mine", classes, num_classes=6, ignore_label=255, label_divisor=1000)
    info = source.convert(label_space=space)
    assert info.label_space == space
    assert set(info.class_pixels) == {3, 5, 255}
    content, parsed = source.load(), source.records(info)
    void_segments = 0
    for annotation in content["annotations"]:
        record = parsed[annotation["file_name"].replace("png", "jpg")]
        ids = source.segment_ids(annotation["file_name"])
        expected, count, crowd = np.full(ids.shape, 255_000), Counter(), []
        for segment in annotation["segments_info"]:
            label = {25: 3, 5: 5}.get(segment["category_id"])
            void_segments += label is None
            if label is not None:
                expected[ids == segment["id"]] = label * 1000 + count[label] + (label == 5)
                crowd += [label * 1000 + count[label] + 1] * segment["iscrowd"]
                count[label] += 1
        np.testing.assert_array_equal(_ids(record), expected)
        assert record[records.CROWD_IDS].numpy().tolist() == crowd
        assert len(record[records.SEGMENT_IDS]) == count.total()
    (warning,) = warnings
    assert f"{void_segments} segments are void" in warning
    assert "lacks their category: sky, crate, meadow, star, brick wall." in warning


def _without_truth(source):
    content = source.load()
    del content["annotations"]
    for category in content["categories"]:  # COCO's image_info files do not tell things and stuff apart
        del category["isthing"]
    source.save(content)
    return [image["file_name"] for image in content["images"]]


def test_images_without_ground_truth(source):
    space = source.convert(num_shards=3).label_space
    names = _without_truth(source)
    panoptic_dir, source.panoptic_dir = source.panoptic_dir, None
    with pytest.raises(InputError, match=r"categories\[0\]: 'isthing'.*pass --label_space"):
        source.convert()
    info = source.convert(label_space=space)
    assert (info.has_labels, info.class_pixels, info.class_counts) == (False, None, None)
    assert (info.num_images, info.max_height, info.max_width, info.label_space) == (40, 48, 64, space)
    found = source.records(info)
    assert sorted(found) == sorted(names)
    for name, record in found.items():
        assert record[records.ENCODED].numpy() == (source.image_dir / name).read_bytes()
        assert record[records.SEGMENTATION].numpy() == b""
    source.panoptic_dir = panoptic_dir
    with pytest.raises(InputError, match=r"'annotations' must be a non-empty list.*with ground truth"):
        source.convert()


def test_things_may_be_missing_from_a_json_without_ground_truth(source):
    space = source.convert(num_shards=3).label_space
    _without_truth(source)
    content = source.load()
    del content["categories"][3:]
    source.save(content)
    source.panoptic_dir = None
    assert source.convert(label_space=space).label_space == space


def test_an_exif_orientation_is_warned_of(source, warnings):
    path = source.image_dir / "000004.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).save(path, exif=exif)
    source.convert()
    (warning,) = warnings
    assert warning.startswith("1 images have an EXIF orientation, which is not applied")
    assert warning.endswith(f"First: {path} with orientation 6.")
    Image.open(path).transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    (source.output / "dataset.json").unlink()
    with pytest.raises(InputError, match=r"000004.jpg must be as large.*turned by its EXIF orientation \(6\)"):
        source.convert()


def _upside_down(source, name, labels: bool):
    """Stores an image with EXIF orientation 3; its labels are of the pixels as stored if `labels`."""
    tag = Image.Exif()
    tag[0x0112] = 3
    with Image.open(source.image_dir / f"{name}.jpg") as image:
        image.transpose(Image.Transpose.ROTATE_180).save(source.image_dir / f"{name}.jpg", exif=tag, quality=100)
    if labels:
        with Image.open(source.panoptic_dir / f"{name}.png") as png:
            png.transpose(Image.Transpose.ROTATE_180).save(source.panoptic_dir / f"{name}.png")


@pytest.mark.parametrize(("upright", "labels_as_stored"), [("image", False), ("both", True), ("none", True)])
def test_images_and_labels_that_are_upside_down(source, upright, labels_as_stored):
    ids = source.segment_ids("000004.png")
    with Image.open(source.image_dir / "000004.jpg") as image:
        pixels = np.asarray(image, int)
    _upside_down(source, "000004", labels_as_stored)
    with pytest.raises(InputError, match=r"000004\.jpg has EXIF orientation 3, .* does not tell .*--upright=image"):
        source.convert(num_shards=2)
    assert not (source.output / "dataset.json").exists()
    record = source.records(source.convert(num_shards=2, upright=upright))["000004.jpg"]
    found = tf.io.decode_image(record[records.ENCODED], channels=3).numpy().astype(int)
    size = [int(record[key]) for key in (records.HEIGHT, records.WIDTH)]
    panoptic = records.decode_panoptic(record[records.SEGMENTATION].numpy(), records.PNG, *size)
    assert record[records.ENCODED].numpy().startswith(b"\xff\xd8\xff" if upright == "none" else b"\x89PNG")
    if upright == "none":
        found, panoptic = found[::-1, ::-1], panoptic[::-1, ::-1]
    assert np.abs(found - pixels).mean() < 4  # JPEG twice
    for segment in np.unique(ids):
        assert len(np.unique(panoptic[ids == segment])) == 1
    with pytest.raises(InputError, match="--upright must be one of none, image, both"):
        source.convert(upright="yes")


def test_images_of_12_bits(source):
    content = source.load()
    originals = {}
    for i, image in enumerate(content["images"][:40]):
        path = source.image_dir / image["file_name"]
        with Image.open(path) as opened:
            pixels = np.asarray(opened.convert("RGB"), np.uint16)
        if i < 3:
            image["file_name"] = path.with_suffix(".png").name
            originals[image["file_name"]] = pixels
            path.with_suffix(".png").write_bytes(tf.io.encode_png(pixels << 4).numpy())
    source.save(content)
    with pytest.raises(InputError, match=r"largest value of 16 bits is \d+, of 65535.*--value_range=0:4095") as error:
        source.convert(num_shards=2)
    assert str(error.value).count("--value_range=0:4095") == 3  # all are named
    info = source.convert(num_shards=2, value_range=(0, 4095))
    assert dataset_info.DatasetInfo.read(source.output).value_range == info.value_range == (0, 4095)
    found = source.records(info)
    for name, pixels in originals.items():
        np.testing.assert_array_equal(tf.io.decode_image(found[name][records.ENCODED]), pixels)
    again = source.convert(num_shards=2, value_range=(0, 8191))  # other options make the records anew
    assert again.fingerprint != info.fingerprint
    darker = source.records(again)
    for name, pixels in originals.items():
        np.testing.assert_array_equal(tf.io.decode_image(darker[name][records.ENCODED]), pixels >> 1)


def test_json_of_another_tool_gives_the_same_records(source, warnings):
    expected = source.records(source.convert(num_shards=1))
    content = source.load()
    for annotation in content["annotations"]:
        annotation["image_id"] = f"{annotation['image_id']:06}"
        for segment in annotation["segments_info"]:
            segment["area"] = float(segment["area"])
            segment["category_id"] = str(segment["category_id"])
            if not segment["iscrowd"]:
                segment["iscrowd"] = None
    source.json.write_bytes(b"\xef\xbb\xbf" + json.dumps(content).encode())
    (source.output / "dataset.json").unlink()
    found = source.records(source.convert(num_shards=1))
    (warning,) = warnings
    assert "read as it is meant" in warning
    for name, record in expected.items():
        for key, value in record.items():
            np.testing.assert_array_equal(found[name][key], value)


def test_instances_where_panoptic_is_expected(source):
    content = source.load()
    content["annotations"] = [{"id": 1, "image_id": 1, "category_id": 3, "segmentation": [[0, 0, 5, 5, 0, 5]]}]
    source.save(content)
    for panoptic_dir in (source.panoptic_dir, None):
        source.panoptic_dir = panoptic_dir
        with pytest.raises(InputError, match=r"Received: COCO's instances format .*segments_info"):
            source.convert()
