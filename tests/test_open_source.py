# SPDX-License-Identifier: Apache-2.0
"""Records that a config names but cannot use are refused before anything is trained."""

import dataclasses
import os
import pathlib
import shutil

import pytest

from deeplab_axial import builders, config
from deeplab_axial.builders import data
from deeplab_axial.data import dataset_info, pipeline
from deeplab_axial.errors import InputError

TINY = pathlib.Path(__file__).parent / "data" / "tiny.textproto"


def _options(pattern: str, *overrides: str):
    files = [f"{split}_dataset_options.file_pattern={pattern}" for split in ("train", "eval")]
    return config.load(TINY, [*files, *overrides])


def _copy(pattern: str, folder: pathlib.Path, **changes) -> str:
    """The records in a new folder, with another dataset.json."""
    source = pipeline.Source.open([pattern])
    for path in source.files:
        shutil.copy(path, folder)
    dataclasses.replace(source.info, **changes).write(folder)
    return os.path.join(folder, "*.tfrecord")


@pytest.mark.parametrize("split", ["train", "eval"])
def test_a_config_without_ground_truth(split, scene_records):
    options = _options(scene_records.val, f"{split}_dataset_options.decode_groundtruth_label=false")
    message = rf"{split}_dataset_options\.decode_groundtruth_label must be true .* Received: false\. Remove the field"
    with pytest.raises(InputError, match=message):
        builders.open_source(options, split)
    assert builders.open_source(options, split, with_labels=False).num_records == scene_records.num_val


@pytest.mark.parametrize("split", ["train", "eval"])
def test_records_without_ground_truth(split, scene_records, tmp_path):
    options = _options(_copy(scene_records.val, tmp_path, has_labels=False))
    message = rf"{split}_dataset_options\.file_pattern .*with ground truth.* Received: {tmp_path}.*Name a split with"
    with pytest.raises(InputError, match=message):
        builders.open_source(options, split)
    assert builders.open_source(options, split, with_labels=False).info.has_labels is False


@pytest.mark.parametrize("with_labels", [True, False])
def test_records_of_classification(with_labels, scene_records, tmp_path):
    options = _options(_copy(scene_records.val, tmp_path, task=dataset_info.CLASSIFICATION))
    with pytest.raises(InputError, match=r"must name panoptic records.*says task 'classification'"):
        builders.open_source(options, "eval", with_labels)


def _classifier(pattern: str, num_classes: int):
    options = _options(pattern)
    options.model_options.classification.num_classes = num_classes
    return options


@pytest.mark.parametrize("split", ["train", "eval"])
def test_a_classifier_takes_records_of_classification_alone(split, scene_records, tmp_path):
    with pytest.raises(InputError, match=rf"{split}_dataset_options.*must name classification records.*'panoptic'"):
        builders.open_source(_classifier(scene_records.val, 8), split)
    pattern = _copy(scene_records.val, tmp_path, task=dataset_info.CLASSIFICATION)
    assert builders.open_source(_classifier(pattern, 8), split).num_records == scene_records.num_val
    message = (
        rf"model_options\.classification\.num_classes contradicts the data set of {split}_dataset_options: it has 8 "
        r"classes.*Received: 1000\. Set it to 8\."
    )
    with pytest.raises(InputError, match=message):
        builders.open_source(_classifier(pattern, 1000), split)


def test_both_splits_of_classification_have_the_same_classes(scene_records, tmp_path):
    source = pipeline.Source.open([scene_records.val])
    builders.check_same_classes(source, pipeline.Source.open([scene_records.train]))
    space = source.info.label_space
    renamed = dataclasses.replace(space, classes=(dataclasses.replace(space.classes[0], name="x"), *space.classes[1:]))
    infos = [
        dataclasses.replace(source.info, task=dataset_info.CLASSIFICATION, label_space=own) for own in (space, renamed)
    ]
    train, other = (dataclasses.replace(source, info=info) for info in infos)
    builders.check_same_classes(train, train)
    with pytest.raises(InputError, match=r"class 1 is 'x' there and 'ball' in training; 1 ids differ\. Convert both"):
        builders.check_same_classes(train, other)


def test_a_classifier_needs_labels(scene_records, tmp_path):
    pattern = _copy(scene_records.val, tmp_path, task=dataset_info.CLASSIFICATION, has_labels=False)
    with pytest.raises(InputError, match=r"with ground truth to train and to evaluate"):
        builders.open_source(_classifier(pattern, 8), "train")


def test_the_images_of_a_classifier_may_be_larger_than_its_crop(scene_records, tmp_path):
    options = _classifier(_copy(scene_records.val, tmp_path, task=dataset_info.CLASSIFICATION), 8)
    options.eval_dataset_options.crop_size[:] = [17, 17]
    assert builders.open_source(options, "eval")


@pytest.mark.parametrize(
    "address", ["10.0.0.2:5000", "grpc://10.0.0.2", "grpc://10.0.0.2:port", "http://a:1", "grpc://:"]
)
def test_service_addresses_of_another_form(address, scene_records):
    with pytest.raises(InputError, match=r"data_service_address: must be grpc://host:port\. Received"):
        _options(scene_records.train, f"train_dataset_options.data_service_address={address}")


def test_the_service_is_for_training(scene_records):
    with pytest.raises(InputError, match=r"eval_dataset_options\.data_service_address: is of no use"):
        _options(scene_records.val, "eval_dataset_options.data_service_address=grpc://10.0.0.2:5000")


def test_the_shuffle_buffer_is_counted_in_bytes(scene_records):
    options = _options(scene_records.train, "train_dataset_options.shuffle_buffer_mebibytes=1")
    source = builders.open_source(options, "train")
    info = dataclasses.replace(source.info, shards=(source.info.shards[0]._replace(bytes=2**21),))
    source = dataclasses.replace(source, info=info)  # 2 MiB in 7 records
    augment = data.build_augment_options(options.train_dataset_options, source)
    assert augment.shuffle_buffer == 3
    paste = options.train_dataset_options.augmentations.panoptic_copy_paste
    paste.panoptic_copy_paste_scale = 1.0  # two buffers
    assert data.build_augment_options(options.train_dataset_options, source).shuffle_buffer == 1
