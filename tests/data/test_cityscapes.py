# SPDX-License-Identifier: Apache-2.0
"""Cityscapes -> TFRecords: pixel by pixel against cityscapesScripts' own label table, and every kind of bad tree."""

import dataclasses
import json
import pathlib
import shutil
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
from cityscapesscripts.helpers.labels import id2label
from PIL import Image

from deeplab_axial.builders.label_spaces import load_label_space
from deeplab_axial.data import records
from deeplab_axial.data.converters.cityscapes import convert
from deeplab_axial.data.dataset_info import DatasetInfo
from deeplab_axial.errors import InputError
from tests.data import layouts

SPACE = load_label_space("cityscapes_panoptic")
VOID = 255 * 1000


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    return layouts.write_cityscapes(tmp_path_factory.mktemp("city scapes, größer"))


@pytest.fixture
def tree(clean, tmp_path):
    return pathlib.Path(shutil.copytree(clean, tmp_path / "Straßen [1]"))


def _convert(tree, split="train", **kwargs) -> DatasetInfo:
    return convert(tree, split, tree.parent / "records", label_space=kwargs.pop("label_space", SPACE), **kwargs)


def _serialized(tree, info) -> list[bytes]:
    files = [str(tree.parent / "records" / shard.file) for shard in info.shards]
    return [r.numpy() for r in tf.data.TFRecordDataset(files)]


def _parsed(tree, info) -> dict[str, dict]:
    """The records under their file names."""
    parsed = [records.parse_example(r) for r in _serialized(tree, info)]
    assert len(parsed) == info.num_images
    return {p[records.FILENAME].numpy().decode(): p for p in parsed}


def _one(tree, kind, pattern) -> pathlib.Path:
    return sorted((tree / kind / "train").glob(pattern))[0]


def _slow_reading(path) -> tuple[np.ndarray, list[int]]:
    """(panoptic map, crowd ids) of an instanceIds file, by cityscapesScripts' table of labels."""
    ids = np.asarray(Image.open(path)).astype(np.int64)
    panoptic, crowd, used = np.full(ids.shape, VOID), [], Counter()
    for value in np.unique(ids).tolist():
        label = id2label[value if value < 1000 else value // 1000]
        if label.ignoreInEval:
            continue
        used[label.trainId] += 1
        panoptic_id = label.trainId * 1000 + used[label.trainId] - (0 if label.hasInstances else 1)
        panoptic[ids == value] = panoptic_id
        if value < 1000 and label.hasInstances:
            crowd.append(panoptic_id)
    return panoptic, crowd


def _check_round_trip(tree, split, info):
    parsed = _parsed(tree, info)
    truths = sorted((tree / "gtFine" / split).glob("*/*_gtFine_instanceIds.png"))
    assert len(parsed) == len(truths)
    pixels = Counter()
    for path in truths:
        name = path.name.replace("_gtFine_instanceIds", "_leftImg8bit")
        record = parsed[name]
        image = tree / "leftImg8bit" / split / path.parent.name / name
        assert record[records.ENCODED].numpy() == image.read_bytes()
        panoptic, crowd = _slow_reading(path)
        found = records.decode_panoptic(record[records.SEGMENTATION].numpy(), records.PNG, *panoptic.shape)
        np.testing.assert_array_equal(found, panoptic)
        assert record[records.CROWD_IDS].numpy().tolist() == crowd
        pixels.update((panoptic // 1000).ravel().tolist())
        ids = record[records.SEGMENT_IDS].numpy().tolist()
        assert sorted(ids) == sorted(set(panoptic.ravel().tolist()) - {VOID})
        assert record[records.SEGMENT_AREAS].numpy().tolist() == [int((panoptic == i).sum()) for i in ids]
    assert {k: v for k, v in info.class_pixels.items() if v} == dict(pixels)


@pytest.mark.parametrize("split", ["train", "val"])
def test_round_trip_of_the_download(tree, split):
    info = _convert(tree, split, num_shards=2, num_workers=2)
    _check_round_trip(tree, split, info)
    assert info.label_space == SPACE
    assert info.has_labels
    assert (info.max_height, info.max_width) == (48, 64)
    assert [s.file for s in info.shards] == [f"cityscapes_panoptic-0000{i}-of-00002.tfrecord" for i in range(2)]
    assert DatasetInfo.read(tree.parent / "records") == info


def test_the_trees_show_crowd_and_ignored_things(clean):
    """What the round trips lean on."""
    values = set()
    for path in (clean / "gtFine" / "train").glob("*/*_instanceIds.png"):
        values |= set(np.unique(np.asarray(Image.open(path))).tolist())
    assert values & {24, 26, 33}, "no group"
    assert any(33000 <= v < 34000 for v in values), "no star that is a bicycle"
    assert any(30000 <= v < 31000 for v in values), "no trailer, a thing that evaluation ignores"
    assert {0, 3, 9} <= values, "no void labels"


@pytest.mark.parametrize("train_ids", [False, True])
def test_the_panoptic_json_gives_the_same_records(tree, train_ids):
    from_maps = _serialized(tree, _convert(tree, num_shards=2))
    shutil.rmtree(tree.parent / "records")
    layouts.add_cityscapes_panoptic(tree, ("train",), train_ids)
    for path in (tree / "gtFine" / "train").glob("*/*_instanceIds.png"):
        path.unlink()  # so that nothing but the JSON and its PNGs can have been read
    assert _serialized(tree, _convert(tree, num_shards=2)) == from_maps


@pytest.mark.parametrize("kind", ["maps", "json", "test"])
def test_images_of_12_bits(tree, kind):
    if kind == "json":
        layouts.add_cityscapes_panoptic(tree, ("train",))
    split = "test" if kind == "test" else "train"
    path = sorted((tree / "leftImg8bit" / split).glob("*/*.png"))[0]
    pixels = np.asarray(Image.open(path), np.uint16)
    path.write_bytes(tf.io.encode_png(pixels << 4).numpy())
    with pytest.raises(InputError, match=r"not converted: its largest value of 16 bits.*--value_range=0:4095"):
        _convert(tree, split)
    info = _convert(tree, split, value_range=(0, 4095))
    assert info.value_range == DatasetInfo.read(tree.parent / "records").value_range == (0, 4095)
    np.testing.assert_array_equal(tf.io.decode_image(_parsed(tree, info)[path.name][records.ENCODED]), pixels)
    again = _convert(tree, split, value_range=(0, 8191))
    assert again.fingerprint != info.fingerprint
    np.testing.assert_array_equal(tf.io.decode_image(_parsed(tree, again)[path.name][records.ENCODED]), pixels >> 1)
    with pytest.raises(InputError, match="--value_range must be two whole numbers"):
        _convert(tree, split, value_range=(5, 5))


def test_test_split_has_images_only(tree):
    shutil.rmtree(tree / "gtFine" / "test")
    info = _convert(tree, "test")
    assert not info.has_labels
    assert info.label_space == SPACE
    for name, record in _parsed(tree, info).items():
        (path,) = (tree / "leftImg8bit" / "test").glob(f"*/{name}")
        assert record[records.ENCODED].numpy() == path.read_bytes()
        assert record[records.SEGMENTATION].numpy() == b""


@pytest.mark.parametrize("panoptic_json", [False, True])
def test_labels_that_the_label_space_lacks_are_void(tree, panoptic_json):
    if panoptic_json:
        layouts.add_cityscapes_panoptic(tree, ("train",))
    space = dataclasses.replace(SPACE, classes=tuple(c for c in SPACE.classes if c.name not in ("sky", "car")))
    found = _parsed(tree, _convert(tree, label_space=space))
    for path in (tree / "gtFine" / "train").glob("*/*_instanceIds.png"):
        record = found[path.name.replace("_gtFine_instanceIds", "_leftImg8bit")]
        panoptic, crowd = _slow_reading(path)
        expected = np.where(np.isin(panoptic // 1000, [10, 13]), VOID, panoptic)
        np.testing.assert_array_equal(
            records.decode_panoptic(record[records.SEGMENTATION].numpy(), records.PNG, *panoptic.shape), expected
        )
        assert record[records.CROWD_IDS].numpy().tolist() == [i for i in crowd if i // 1000 != 13]


def _space_with(name: str, category_id: int):
    """The label space with its last class replaced."""
    odd = dataclasses.replace(SPACE.classes[-1], name=name, category_id=category_id)
    return dataclasses.replace(SPACE, classes=(*SPACE.classes[:-1], odd))


def test_a_label_that_evaluation_ignores_can_be_a_class(tree):
    space = _space_with("parking", 9)
    info = _convert(tree, label_space=space)
    maps = [np.asarray(Image.open(p)) for p in (tree / "gtFine" / "train").glob("*/*_instanceIds.png")]
    assert info.class_pixels[18] == sum(int((m == 9).sum()) for m in maps) > 0
    layouts.add_cityscapes_panoptic(tree, ("train",), train_ids=True)
    with pytest.raises(InputError, match=r"_trainId.json lacks the labels.*Received in the label space: parking.*Move"):
        _convert(tree, label_space=space)


def test_a_category_id_that_is_no_label_id_is_refused(tree):
    with pytest.raises(InputError, match=r"--label_space.*Cityscapes' label ids.*licence plate \(40\)"):
        _convert(tree, label_space=_space_with("licence plate", 40))


def test_more_instances_than_the_label_divisor_allows(tree):
    path = _one(tree, "gtFine", "*/*_instanceIds.png")
    ids = np.asarray(Image.open(path)).astype(np.uint16)
    ids[0, :20] = 26000 + np.arange(20)
    Image.fromarray(ids).save(path)
    with pytest.raises(InputError, match=r"_instanceIds\.png: at most 15 segments of class 'car'.*Received: 2\d\."):
        _convert(tree, label_space=dataclasses.replace(SPACE, label_divisor=16))


def _remove_images(tree):
    shutil.rmtree(tree / "leftImg8bit")


def _remove_truth(tree):
    shutil.rmtree(tree / "gtFine" / "train")


def _empty_truth(tree):
    for path in (tree / "gtFine" / "train").glob("*/*_instanceIds.png"):
        path.unlink()


BAD_TREES = {
    "no images": (_remove_images, r"leftImg8bit/train must be a folder.*Unpack Cityscapes' leftImg8bit below --root"),
    "no gtFine": (_remove_truth, r"gtFine/train must be a folder.*Unpack Cityscapes' gtFine below --root"),
    "no maps": (_empty_truth, r"gtFine/train must hold files CITY/\*_gtFine_instanceIds.png. Received: none"),
    "image without truth": (
        lambda tree: _one(tree, "gtFine", "*/*_instanceIds.png").unlink(),
        r"aachen_000000_000019_leftImg8bit.png without counterpart.*1 of 6 files.*Complete",
    ),
    "truth without image": (
        lambda tree: _one(tree, "leftImg8bit", "*/*.png").unlink(),
        r"aachen_000000_000019_gtFine_instanceIds.png without counterpart in .*leftImg8bit.*1 of 6 files",
    ),
}


@pytest.mark.parametrize("case", BAD_TREES)
def test_bad_trees_are_refused_before_anything_is_written(tree, case):
    spoil, message = BAD_TREES[case]
    spoil(tree)
    with pytest.raises(InputError, match=message):
        _convert(tree)
    assert not (tree.parent / "records").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("leftImg8bit", r"cityscapes_panoptic_train.json.*aachen_000000_000019.*leftImg8bit"),
        ("gtFine", r"aachen_000000_000019_gtFine_panoptic.png does not exist.*1 of 6"),
        ("images", r"aachen_000000_000019_leftImg8bit.png without counterpart in .*cityscapes_panoptic_train.json"),
        ("categories", r"--label_space.*cityscapes_panoptic_train.json.*which it lacks: road \(7\)"),
    ],
)
def test_panoptic_jsons_that_do_not_fit_the_tree(tree, name, message):
    layouts.add_cityscapes_panoptic(tree, ("train",))
    path = tree / "gtFine" / "cityscapes_panoptic_train.json"
    content = json.loads(path.read_text())
    if name == "leftImg8bit":
        _one(tree, "leftImg8bit", "*/*.png").unlink()
    elif name == "gtFine":
        (tree / "gtFine" / "cityscapes_panoptic_train" / content["annotations"][0]["file_name"]).unlink()
    else:
        for key in ["categories"] if name == "categories" else ["images", "annotations"]:
            del content[key][0]
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        _convert(tree)
    assert not (tree.parent / "records").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda ids: ids[:, :50],
            r"000000_000019_gtFine_instanceIds.png must be as large as its image, 48 x 64.*48 x 50",
        ),
        (lambda ids: ids.astype(np.uint8), r"instanceIds.png must be a 16-bit map.*mode L"),
        (lambda ids: np.full_like(ids, 34), r"instanceIds.png must hold label ids of Cityscapes.*Received: 34"),
        (lambda ids: ids * 0 + 65000, r"instanceIds.png must hold label ids of Cityscapes.*Received: 65000"),
    ],
)
def test_bad_maps(tree, spoil, message):
    path = _one(tree, "gtFine", "*/*_instanceIds.png")
    Image.fromarray(spoil(np.asarray(Image.open(path)).astype(np.uint16))).save(path)
    with pytest.raises(InputError, match=message):
        _convert(tree)
    assert not (tree.parent / "records" / "dataset.json").exists()


def test_files_that_do_not_decode(tree):
    path = _one(tree, "gtFine", "*/*_instanceIds.png")
    path.write_bytes(path.read_bytes()[:80])
    image = sorted((tree / "leftImg8bit" / "train").glob("*/*.png"))[-1]
    image.write_bytes(b"no image")
    with pytest.raises(InputError, match=rf"(?s){path.name}.*{image.name}"):
        _convert(tree)


def test_a_second_run_makes_only_what_is_missing(tree):
    broken = _one(tree, "gtFine", "*/*_instanceIds.png")
    good = broken.read_bytes()
    broken.write_bytes(good[:80])
    with pytest.raises(InputError, match=broken.name):
        _convert(tree, num_shards=3)
    shards = sorted((tree.parent / "records").glob("*.tfrecord"))
    assert len(shards) == 2
    times = [s.stat().st_mtime_ns for s in shards]
    broken.write_bytes(good)
    _check_round_trip(tree, "train", _convert(tree, num_shards=3))
    assert [s.stat().st_mtime_ns for s in shards] == times


@pytest.mark.parametrize("split", ["training", ""])
def test_unknown_split(tree, split):
    with pytest.raises(InputError, match=r"--split must be one of train, val, test. Received"):
        _convert(tree, split)
