# SPDX-License-Identifier: Apache-2.0
"""dataset.json: round trips, files of older versions, and clear errors for damaged ones."""

import dataclasses
import json

import pytest

from deeplab_axial.data import dataset_info, tfrecord_files
from deeplab_axial.data.label_space import LabelClass, LabelSpace
from deeplab_axial.errors import InputError


@pytest.fixture
def info():
    space = LabelSpace("toy", (LabelClass(1, "ball", True, (1, 2, 3), 17),), 2, 0, 256)
    return dataset_info.DatasetInfo(
        space, 5, (tfrecord_files.Shard("a", 3, 90), tfrecord_files.Shard("b", 2, 60)), 48, 64, {0: 7, 1: 9}
    )


def test_dataset_info_round_trip(tmp_path, info):
    info = dataclasses.replace(info, class_counts={1: 4}, source_bytes=120, fingerprint="abc", value_range=(0, 4095))
    info.write(tmp_path)
    assert dataset_info.DatasetInfo.read(tmp_path) == info
    assert [f.name for f in tmp_path.iterdir()] == ["dataset.json"]


@pytest.mark.parametrize("damage", ["{", "[]", "{}", "shards", "num_images", "value_range"])
def test_a_damaged_dataset_info_names_the_remedy(tmp_path, info, damage):
    info.write(tmp_path)
    path = tmp_path / "dataset.json"
    content = json.loads(path.read_text())
    if damage in content:
        content[damage] = 6
        damage = json.dumps(content)
    path.write_text(damage)
    with pytest.raises(InputError, match=r"dataset\.json is damaged.*deeplab-axial convert"):
        dataset_info.DatasetInfo.read(tmp_path)


def test_a_missing_dataset_info_names_the_remedy(tmp_path):
    with pytest.raises(InputError, match=r"dataset\.json cannot be read.*deeplab-axial convert"):
        dataset_info.DatasetInfo.read(tmp_path)


def test_classification_without_labels_round_trip(tmp_path, info):
    info = dataclasses.replace(info, task=dataset_info.CLASSIFICATION, has_labels=False, class_pixels=None)
    info.write(tmp_path)
    assert dataset_info.DatasetInfo.read(tmp_path) == info


def test_a_file_of_version_0_1_is_read(tmp_path, info):
    info.write(tmp_path)
    path = tmp_path / "dataset.json"
    content = json.loads(path.read_text())
    for key in ("task", "has_labels", "class_counts", "source_bytes", "fingerprint"):
        del content[key]
    path.write_text(json.dumps(content))
    assert dataset_info.DatasetInfo.read(tmp_path) == info


def test_an_unknown_task_is_refused(tmp_path, info):
    dataclasses.replace(info, task="poetry").write(tmp_path)
    with pytest.raises(InputError, match=r"task must be 'panoptic' or 'classification'\. Received: 'poetry'"):
        dataset_info.DatasetInfo.read(tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path, info):
    with pytest.raises(InputError, match=r"dataset\.json cannot be written"):
        info.write(tmp_path / "gone")
