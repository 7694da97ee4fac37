# SPDX-License-Identifier: Apache-2.0
"""Mapillary Vistas 1.2 and 2.0 -> TFRecords: pixel by pixel against a slow reading, and every kind of bad tree."""

import dataclasses
import json
import pathlib
import shutil
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab_axial.data import records
from deeplab_axial.data.converters.mapillary import convert
from deeplab_axial.data.dataset_info import DatasetInfo
from deeplab_axial.errors import InputError
from tests.data import layouts


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """The package of 2.0, which holds the labels of both versions."""
    root = tmp_path_factory.mktemp("vistas")
    layouts.write_mapillary(root, "1.2")
    return layouts.write_mapillary(root, "2.0")


@pytest.fixture
def tree(clean, tmp_path):
    return pathlib.Path(shutil.copytree(clean, tmp_path / "Mapillary Vistas (größer) [1]"))


def _convert(tree, split="training", version="2.0", **kwargs) -> DatasetInfo:
    return convert(tree, split, version, tree.parent / "records", **kwargs)


def _parsed(tree, info) -> dict[str, dict]:
    """The records under their file names."""
    files = [str(tree.parent / "records" / shard.file) for shard in info.shards]
    parsed = [records.parse_example(r) for r in tf.data.TFRecordDataset(files)]
    assert len(parsed) == info.num_images
    return {p[records.FILENAME].numpy().decode(): p for p in parsed}


def _json_path(tree, split="training", version="2.0", in_package=True) -> pathlib.Path:
    name = {"1.2": "panoptic_2018.json", "2.0": "panoptic_2020.json"}[version]
    return layouts.mapillary_panoptic_dir(tree, split, version, in_package) / name


def _image_path(tree, path, image) -> pathlib.Path:
    split = path.relative_to(tree).parts[0]
    return tree / split / "images" / image["file_name"]


def _check_round_trip(tree, info, path) -> bool:
    """Compares every pixel with a direct reading of the JSON; says whether any segment was crowd."""
    content = json.loads(path.read_text())
    space = info.label_space
    by_category = {c.category_id: c for c in space.classes}
    parsed = _parsed(tree, info)
    assert len(parsed) == len(content["images"])
    pixels, seen_crowd = Counter(), False
    for image, annotation in zip(content["images"], content["annotations"]):
        record = parsed[image["file_name"]]
        assert record[records.ENCODED].numpy() == _image_path(tree, path, image).read_bytes()
        ids = layouts.read_png_ids(path.parent / annotation["file_name"])
        assert ids.shape == (image["height"], image["width"])
        expected, crowd, used = np.full(ids.shape, space.void_id), [], Counter()
        for segment in annotation["segments_info"]:
            label = by_category[segment["category_id"]]
            used[label.id] += 1
            panoptic_id = label.id * space.label_divisor + used[label.id] - (0 if label.is_thing else 1)
            expected[ids == segment["id"]] = panoptic_id
            crowd += [panoptic_id] * segment["iscrowd"]
        found = records.decode_panoptic(record[records.SEGMENTATION].numpy(), records.PNG, *ids.shape)
        np.testing.assert_array_equal(found, expected)
        assert record[records.CROWD_IDS].numpy().tolist() == crowd
        assert record[records.SEGMENT_AREAS].numpy().tolist() == [s["area"] for s in annotation["segments_info"]]
        pixels.update((expected // space.label_divisor).ravel().tolist())
        seen_crowd |= bool(crowd)
    assert {k: v for k, v in info.class_pixels.items() if v} == dict(pixels)
    return seen_crowd


@pytest.mark.parametrize("split", ["training", "validation"])
@pytest.mark.parametrize("version", ["1.2", "2.0"])
def test_round_trip_of_both_versions(tree, version, split):
    info = _convert(tree, split, version, num_shards=2)
    assert _check_round_trip(tree, info, _json_path(tree, split, version))
    assert info.has_labels
    assert info.label_space.name == f"mapillary_vistas_{version}"
    assert [s.file for s in info.shards] == [f"mapillary_vistas_{version}-0000{i}-of-00002.tfrecord" for i in range(2)]
    assert DatasetInfo.read(tree.parent / "records") == info


def test_round_trip_of_the_download_of_1_2(tmp_path):
    tree = layouts.write_mapillary(tmp_path / "vistas", "1.2", in_package=False)
    assert _check_round_trip(tree, _convert(tree, version="1.2"), _json_path(tree, version="1.2", in_package=False))
    with pytest.raises(InputError, match=r"training/v2.0/panoptic/panoptic_2020.json.*--mapillary_version"):
        _convert(tree, version="2.0")


def test_classes_are_things_then_stuff_by_category_id(tree):
    space = _convert(tree, version="2.0").label_space
    assert [(c.id, c.name, c.category_id, c.is_thing) for c in space.classes] == [
        (1, "ball (2.0)", 16, True),
        (2, "crate (2.0)", 19, True),
        (3, "star (2.0)", 33, True),
        (4, "sky (2.0)", 14, False),
        (5, "meadow (2.0)", 32, False),
        (6, "water (2.0)", 36, False),
        (7, "brick wall (2.0)", 42, False),
    ]
    assert (space.num_classes, space.ignore_label, space.label_divisor) == (8, 0, 256)


def test_testing_has_images_only_and_needs_a_label_space(tree):
    with pytest.raises(InputError, match=r"testing has no labels.*--label_space"):
        _convert(tree, "testing")
    space = _convert(tree, "validation").label_space
    shutil.rmtree(tree.parent / "records")
    info = _convert(tree, "testing", label_space=space)
    assert not info.has_labels
    assert info.label_space == space
    parsed = _parsed(tree, info)
    assert len(parsed) == 2
    for name, record in parsed.items():
        assert record[records.ENCODED].numpy() == (tree / "testing" / "images" / name).read_bytes()
        assert record[records.SEGMENTATION].numpy() == b""


def test_images_of_12_bits(tree):
    space = _convert(tree, num_shards=1).label_space
    for split in ("training", "testing"):
        path = sorted((tree / split / "images").iterdir())[0]
        pixels = np.asarray(Image.open(path), np.uint16)
        path.write_bytes(tf.io.encode_png(pixels << 4).numpy())  # decoders go by the content, not by the name
        with pytest.raises(InputError, match=r"not converted: its largest value of 16 bits.*--value_range=0:4095"):
            _convert(tree, split, label_space=space)
        info = _convert(tree, split, label_space=space, value_range=(0, 4095))
        assert info.value_range == DatasetInfo.read(tree.parent / "records").value_range == (0, 4095)
        np.testing.assert_array_equal(tf.io.decode_image(_parsed(tree, info)[path.name][records.ENCODED]), pixels)
        assert _convert(tree, split, label_space=space, value_range=(0, 8191)).fingerprint != info.fingerprint
        shutil.rmtree(tree.parent / "records")


def test_a_label_space_of_ones_own(tree):
    """Its own class ids, ignore label and divisor; the classes are those of the JSON."""
    space = _convert(tree).label_space
    shutil.rmtree(tree.parent / "records")
    classes = tuple(
        dataclasses.replace(c, id=i) for i, c in enumerate(sorted(space.classes, key=lambda c: c.category_id))
    )
    own = dataclasses.replace(space, classes=classes, num_classes=7, ignore_label=255, label_divisor=1000)
    info = _convert(tree, label_space=own)
    assert info.label_space == own
    assert _check_round_trip(tree, info, _json_path(tree))


def test_a_label_space_of_the_other_version_is_refused(tree):
    space = _convert(tree, version="1.2").label_space
    with pytest.raises(InputError, match=r"--label_space.*panoptic_2020.json.*ball \(1.2\) \(5\)"):
        _convert(tree, version="2.0", label_space=space)


def test_an_image_that_the_json_does_not_name_is_left_out_with_a_warning(tree, caplog):
    path = sorted((tree / "training" / "images").iterdir())[0]
    shutil.copy(path, path.with_name("more.jpg"))
    info = _convert(tree)
    assert info.num_images == 6
    assert "more.jpg: 1 of 7 images are not in" in caplog.text


def _remove_image(tree):
    sorted((tree / "training" / "images").iterdir())[0].unlink()


def _remove_png(tree):
    sorted((tree / "training" / "v2.0" / "panoptic").glob("*.png"))[0].unlink()


BAD_TREES = {
    "no images": (lambda tree: shutil.rmtree(tree / "training" / "images"), r"training/images.*--root"),
    "no labels": (lambda tree: shutil.rmtree(tree / "training" / "v2.0"), r"panoptic_2020.json.*--root"),
    "image missing": (_remove_image, r"images/--jRsD9anHdGxv_t0.jpg does not exist.*1 of 6"),
    "png missing": (_remove_png, r"v2.0/panoptic/--jRsD9anHdGxv_t0.png does not exist.*1 of 6"),
}


@pytest.mark.parametrize("case", BAD_TREES)
def test_bad_trees_are_refused_before_anything_is_written(tree, case):
    spoil, message = BAD_TREES[case]
    spoil(tree)
    with pytest.raises(InputError, match=message):
        _convert(tree)
    assert not (tree.parent / "records").exists()


def test_a_png_of_another_size(tree):
    folder = tree / "training" / "v2.0" / "panoptic"
    shutil.copy(folder / "--jRsD9anHdGxv_t0.png", folder / "--jRsD9anHdGxv_t1.png")
    with pytest.raises(InputError, match=r"--jRsD9anHdGxv_t1.png must be as large as .*47 x 63.*48 x 64"):
        _convert(tree)
    assert not (tree.parent / "records" / "dataset.json").exists()


def test_a_second_run_makes_only_what_is_missing(tree):
    broken = tree / "training" / "v2.0" / "panoptic" / "--jRsD9anHdGxv_t0.png"
    good = broken.read_bytes()
    broken.write_bytes(good[:80])
    with pytest.raises(InputError, match=r"--jRsD9anHdGxv_t0.png must be a PNG that decodes"):
        _convert(tree, num_shards=3)
    shards = sorted((tree.parent / "records").glob("*.tfrecord"))
    assert len(shards) == 2
    times = [s.stat().st_mtime_ns for s in shards]
    broken.write_bytes(good)
    _check_round_trip(tree, _convert(tree, num_shards=3, num_workers=2), _json_path(tree))
    assert [s.stat().st_mtime_ns for s in shards] == times


@pytest.mark.parametrize(
    ("split", "version", "message"),
    [
        ("train", "2.0", "--split must be one of training, validation, testing. Received: 'train'"),
        ("training", "2", "--mapillary_version must be 1.2 or 2.0. Received: '2'"),
    ],
)
def test_unknown_split_or_version(tree, split, version, message):
    with pytest.raises(InputError, match=message):
        _convert(tree, split, version)
