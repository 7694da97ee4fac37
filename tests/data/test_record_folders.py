# SPDX-License-Identifier: Apache-2.0
"""Record files against dataset.json, and several folders as one data set."""

import dataclasses
import os
import pathlib

import pytest

from deeplab_axial.data import dataset_info, tfrecord_files
from deeplab_axial.data.label_space import LabelClass, LabelSpace
from deeplab_axial.data.source import Source
from deeplab_axial.errors import InputError

SPACE = LabelSpace(
    "pets", (LabelClass(7, "dog", True, (1, 1, 1), 1), LabelClass(8, "cat", True, (2, 2, 2), 2)), 9, 0, 256
)
EXCHANGED = dataclasses.replace(
    SPACE, classes=(dataclasses.replace(SPACE.classes[1], id=7), dataclasses.replace(SPACE.classes[0], id=8))
)


def _folder(path: pathlib.Path, *counts: int, **changes) -> pathlib.Path:
    """Files 0.tfrecord, 1.tfrecord, ... of so many records, and their dataset.json."""
    path.mkdir()
    shards = [tfrecord_files.write_shard(path, f"{i}.tfrecord", [b"x" * 50] * n) for i, n in enumerate(counts)]
    space = changes.pop("label_space", SPACE)
    info = dataset_info.DatasetInfo(
        space, sum(counts), tuple(shards), 30, 40, {0: 5, 7: 10, 8: 20}, class_counts={7: 1}
    )
    dataclasses.replace(info, **changes).write(path)
    return path


def _refused(*patterns: object, **options) -> str:
    with pytest.raises(InputError) as error:
        Source.open([str(pattern) for pattern in patterns], **options)
    return str(error.value)


def test_what_is_listed_is_read(tmp_path):
    folder = _folder(tmp_path / "a", 3, 2)
    source = Source.open([f"{folder}/*.tfrecord"])
    assert (source.num_records, source.info.num_images, len(source.folders)) == (5, 5, 1)
    assert source.info == dataset_info.DatasetInfo.read(folder)


def test_a_missing_shard_is_named_with_what_is_left(tmp_path):
    folder = _folder(tmp_path / "a", 3, 2, 4)
    (folder / "1.tfrecord").unlink()
    message = _refused(f"{folder}/*.tfrecord")
    assert message.startswith(
        f"{folder}/dataset.json contradicts the records: it lists 1.tfrecord, which is not there. Received: 2 of 3 "
        "files, 7 of 9 images."
    )
    assert "allow_subset: true" in message
    source = Source.open([f"{folder}/*.tfrecord"], allow_subset=True)
    assert (source.num_records, source.info.num_images) == (7, 9)


def test_a_part_must_be_meant(tmp_path):
    folder = _folder(tmp_path / "a", 3, 2, 4)
    message = _refused(f"{folder}/[01].tfrecord")
    assert "it lists 2.tfrecord, which file_pattern does not name. Received: 2 of 3 files, 5 of 9 images." in message
    assert "1.tfrecord and 1 more, which file_pattern does not name" in _refused(folder / "0.tfrecord")
    source = Source.open([f"{folder}/[01].tfrecord"], allow_subset=True)
    assert (source.num_records, source.info.num_images) == (5, 9)


@pytest.mark.parametrize("allow_subset", [False, True])
@pytest.mark.parametrize(
    ("records", "said"),
    [
        (2, "it lists 1.tfrecord with 3 records. Received: 2."),
        (0, "it lists 1.tfrecord with 3 records. Received: 0."),
        (4, "it lists 1.tfrecord with 3 records. Received: 4."),
    ],
)
def test_a_shortened_or_empty_shard_is_no_part(tmp_path, records, said, allow_subset):
    folder = _folder(tmp_path / "a", 2, 3)
    tfrecord_files.write_shard(folder, "1.tfrecord", [b"x" * 50] * records)
    message = _refused(f"{folder}/*.tfrecord", allow_subset=allow_subset)
    assert message == (
        f"{folder}/dataset.json contradicts the records: {said} Copy the folder again, or run `deeplab-axial convert` "
        "again."
    )


def test_a_shard_of_another_conversion(tmp_path):
    folder = _folder(tmp_path / "a", 2, 3)
    tfrecord_files.write_shard(folder, "1.tfrecord", [b"y" * 51] * 3)
    assert "it lists 1.tfrecord with 198 bytes. Received: 201." in _refused(f"{folder}/*.tfrecord")
    tfrecord_files.write_shard(folder, "1.tfrecord", [b"x" * 50] * 3)
    tfrecord_files.write_shard(folder, "old.tfrecord", [b"x"])
    for allow_subset in (False, True):
        message = _refused(f"{folder}/*.tfrecord", allow_subset=allow_subset)
        assert "it does not list old.tfrecord, which file_pattern names: it is left over from another" in message


def test_many_contradictions_are_cut_short(tmp_path):
    folder = _folder(tmp_path / "a", *[2] * 8)
    for i in range(8):
        tfrecord_files.write_shard(folder, f"{i}.tfrecord", [b"x" * 50])
    lines = _refused(f"{folder}/*.tfrecord").splitlines()
    assert len(lines) == 6
    assert lines[-1] == "... and 3 more."


def test_folders_that_agree_are_one_data_set(tmp_path):
    first = _folder(tmp_path / "a", 3, 2)
    second = _folder(tmp_path / "b", 4, max_height=90, class_pixels={0: 1, 7: 2}, class_counts=None)
    source = Source.open([f"{first}/*.tfrecord", f"{second}/*.tfrecord"])
    assert (source.num_records, source.info.num_images) == (9, 9)
    assert (source.info.max_height, source.info.max_width) == (90, 40)
    assert source.info.class_pixels == {0: 6, 7: 12, 8: 20}
    assert source.info.class_counts is None
    assert [shard.file for shard in source.info.shards] == [
        *(f"{first}/{i}.tfrecord" for i in range(2)),
        f"{second}/0.tfrecord",
    ]
    assert source.info.has_labels
    third = _folder(tmp_path / "c", 1, has_labels=False)
    assert not Source.open([f"{first}/*.tfrecord", f"{third}/*.tfrecord"]).info.has_labels


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"label_space": EXCHANGED}, "id 7 is dog in the first and cat in the second, 8 is cat and dog"),
        ({"label_space": dataclasses.replace(SPACE, label_divisor=1000)}, "of label_divisor 256 and 1000"),
        ({"label_space": dataclasses.replace(SPACE, ignore_label=255)}, "of ignore_label 0 and 255"),
        ({"label_space": dataclasses.replace(SPACE, num_classes=12)}, "of num_classes 9 and 12"),
        ({"task": "classification"}, "of the tasks 'panoptic' and 'classification'"),
    ],
)
def test_folders_that_do_not_agree_are_refused(tmp_path, changes, said):
    first, second = _folder(tmp_path / "a", 1), _folder(tmp_path / "b", 1, **changes)
    message = _refused(f"{first}/*.tfrecord", f"{second}/*.tfrecord")
    assert message.startswith("The folders of file_pattern must hold records of one label space. Received: ")
    assert f"{first}/dataset.json and {second}/dataset.json" in message
    assert said in message


def test_one_value_range_holds_for_all_folders(tmp_path):
    plain, first = _folder(tmp_path / "a", 1), _folder(tmp_path / "b", 1, value_range=(0, 4095))
    same, other = _folder(tmp_path / "c", 1, value_range=(0, 4095)), _folder(tmp_path / "d", 1, value_range=(0, 1023))
    for folders in ([plain, first, same], [first, plain], [first]):
        assert Source.open([f"{folder}/*.tfrecord" for folder in folders]).info.value_range == (0, 4095)
    assert Source.open([f"{plain}/*.tfrecord"]).info.value_range is None
    assert _refused(*(f"{folder}/*.tfrecord" for folder in (plain, first, other))) == (
        "The folders of file_pattern must hold images of 16 bits that were scaled from one value_range. Received: "
        f"{first}/dataset.json and {other}/dataset.json, of 0:4095 and 0:1023. Convert both with one --value_range."
    )


def test_a_folder_that_is_spelled_in_several_ways_is_one(tmp_path, monkeypatch):
    folder = _folder(tmp_path / "a", 3, 2, 1)
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    source = Source.open(["a/0.tfrecord", "./a/1.tfrecord", f"{tmp_path}/link/../link/2.tfrecord"])
    assert (source.num_records, source.info.num_images) == (6, 6)
    assert [(one.path, sorted(one.shards)) for one in source.folders] == [
        ("a", ["0.tfrecord", "1.tfrecord", "2.tfrecord"])
    ]
    assert _refused("./a/0.tfrecord", "a/1.tfrecord").startswith(
        f"{os.path.join('.', 'a', 'dataset.json')} contradicts the records: it lists 2.tfrecord, which file_pattern"
    )
    monkeypatch.chdir(folder)
    assert [one.path for one in Source.open(["0.tfrecord", "./[12].tfrecord"]).folders] == [""]


def test_a_config_may_rename_but_not_exchange(tmp_path):
    renamed = dataclasses.replace(
        SPACE, classes=(dataclasses.replace(SPACE.classes[0], name="hound"), SPACE.classes[1])
    )
    first, second = _folder(tmp_path / "a", 1), _folder(tmp_path / "b", 1, label_space=renamed)
    third = _folder(tmp_path / "c", 1, label_space=EXCHANGED)
    patterns = [f"{folder}/*.tfrecord" for folder in (first, second, third)]
    assert "id 7 is dog in the first and hound in the second" in _refused(*patterns[:2])
    assert Source.open(patterns[:2], SPACE, renames=True).num_records == 2
    assert "id 7 is dog in the first and cat in the second" in _refused(*patterns, label_space=SPACE, renames=True)


def test_a_folder_without_dataset_json_beside_one_with_it(tmp_path):
    first, bare = _folder(tmp_path / "a", 1), _folder(tmp_path / "b", 2)
    (bare / "dataset.json").unlink()
    patterns = [f"{first}/*.tfrecord", f"{bare}/*.tfrecord"]
    assert f"{bare}/dataset.json cannot be read" in _refused(*patterns)
    assert Source.open(patterns, SPACE).num_records == 3
    assert "id 7 is dog in the first and cat in the second" in _refused(*patterns, label_space=EXCHANGED)


def test_a_folder_for_a_pattern(tmp_path):
    folder = _folder(tmp_path / "a", 1)
    assert _refused(folder) == (
        f"file_pattern must name TFRecord files. Received: '{folder}', a folder. Name the files in it: "
        f"'{folder}/*.tfrecord'."
    )
    assert _refused(f"{folder}/*").endswith(f"which matches dataset.json, too. Name '{folder}/*.tfrecord'.")
    (folder / "sub.tfrecord").mkdir()
    assert f"{folder}/sub.tfrecord cannot be read ([Errno 22] a folder, where a file is expected" in _refused(
        f"{folder}/*.tfrecord"
    )
