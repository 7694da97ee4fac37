# SPDX-License-Identifier: Apache-2.0
"""Records that a config names but cannot use are refused before anything is trained."""

import dataclasses
import os
import pathlib
import re
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


@pytest.fixture
def exchanged(scene_records, tmp_path) -> str:
    """The validation records with the numbers of ball and crate exchanged."""
    space = pipeline.Source.open([scene_records.val]).info.label_space
    first, second, *rest = space.classes
    classes = (dataclasses.replace(second, id=first.id), dataclasses.replace(first, id=second.id), *rest)
    return _copy(scene_records.val, tmp_path, label_space=dataclasses.replace(space, classes=classes))


def test_both_splits_number_the_classes_alike(scene_records, exchanged):
    train, same, other = (pipeline.Source.open([p]) for p in (scene_records.train, scene_records.val, exchanged))
    builders.check_same_classes(train, same)
    first, second = (c.name for c in train.info.label_space.classes[:2])
    with pytest.raises(InputError) as error:
        builders.check_same_classes(train, other)
    message = str(error.value)
    assert f"id 1 is {first} in training and {second} in evaluation, 2 is {second} and {first} (" in message
    for source in (train, other):
        assert os.path.join(os.path.dirname(source.files[0]), "dataset.json") in message
    assert "Convert both with one --label_space" in message


def test_names_of_the_config_do_not_hide_an_exchange(scene_records, exchanged):
    options = _options(scene_records.train)
    options.eval_dataset_options.file_pattern[:] = [exchanged]
    section = options.label_space
    section.name, section.ignore_label, section.label_divisor = "own", 0, 256
    for c in pipeline.Source.open([scene_records.train]).info.label_space.classes:
        section.label_class.add(id=c.id, name=f"my {c.name}", is_thing=c.is_thing)
    train, evaluation = (builders.open_records(options, split) for split in ("train", "eval"))
    with pytest.raises(InputError, match="id 1 is ball in training and crate in evaluation"):
        builders.check_same_classes(train, evaluation)
    for label in section.label_class:
        label.name = label.name.removeprefix("my ")
    builders.open_records(options, "train")
    with pytest.raises(InputError, match="id 1 is ball in label_space and crate in the records, 2 is crate and ball"):
        builders.open_records(options, "eval")


def test_a_file_is_not_evaluated_twice(scene_records):
    options = _options(scene_records.val)
    options.eval_dataset_options.file_pattern.append(scene_records.val.replace("*", "scenes-00000-*"))
    with pytest.raises(InputError, match=r"must name each file once\. Received twice: .*scenes-00000-of-00002"):
        builders.open_source(options, "eval")


def test_a_file_of_two_spellings_is_not_evaluated_twice(scene_records):
    folder, name = os.path.split(scene_records.val)
    options = _options(scene_records.val)
    options.eval_dataset_options.file_pattern.append(os.path.join(folder, "..", os.path.basename(folder), name))
    with pytest.raises(InputError, match=rf"Received twice: {re.escape(folder)}/scenes-00000-of-00002"):
        builders.open_source(options, "eval")


def test_both_splits_are_of_one_value_range(scene_records, tmp_path):
    ranges = {"a": (0, 4095), "b": (0, 1023)}
    for name in ranges:
        (tmp_path / name).mkdir()
    first, other = (
        pipeline.Source.open([_copy(scene_records.val, tmp_path / name, value_range=value)])
        for name, value in ranges.items()
    )
    plain = pipeline.Source.open([scene_records.train])
    for train, evaluation in ((first, first), (first, plain), (plain, first)):
        builders.check_same_classes(train, evaluation)
    with pytest.raises(InputError) as error:
        builders.check_same_classes(first, other)
    assert str(error.value) == (
        "train_dataset_options and eval_dataset_options must hold images of 16 bits that were scaled from one "
        f"value_range. Received: {tmp_path}/a/dataset.json and {tmp_path}/b/dataset.json, of 0:4095 and 0:1023. "
        "Convert both with one --value_range."
    )


def test_a_folder_without_labels_is_named(scene_records, tmp_path):
    options = _options(scene_records.train)
    bare = _copy(scene_records.val, tmp_path, has_labels=False)
    options.train_dataset_options.file_pattern.append(bare)
    with pytest.raises(InputError, match=rf"with ground truth to train and to evaluate. Received: {tmp_path}, whose"):
        builders.open_source(options, "train")


def test_the_largest_image_of_all_folders_must_fit(scene_records, tmp_path):
    options = _options(scene_records.val)
    options.eval_dataset_options.file_pattern.insert(0, _copy(scene_records.train, tmp_path, max_height=99))
    with pytest.raises(InputError, match=r"crop_size must hold the largest image of the data set, 99 x 64"):
        builders.open_source(options, "eval")


def test_how_many_images_an_evaluation_reads(scene_records):
    options = _options(scene_records.val, "eval_dataset_options.batch_size=2")
    source = builders.open_source(options, "eval")
    for steps, images in ((-1, 5), (1, 2), (3, 5)):
        options.evaluator_options.eval_steps = steps
        assert builders.expected_images(options, source) == images


def test_void_everywhere_is_told(scene_records, tmp_path):
    options = _options(_copy(scene_records.val, tmp_path, class_pixels={0: 80, 1: 20}))
    (message,) = builders.data_warnings(options, "eval", builders.open_source(options, "eval"))
    assert message.startswith(f"eval_dataset_options ({tmp_path}/dataset.json): 80.0% of the pixels are void")
    options = _options(scene_records.val)
    assert builders.data_warnings(options, "eval", builders.open_source(options, "eval")) == []


def test_a_subset_is_told(scene_records):
    options = _options(scene_records.train.replace("*", "*-0000[01]-*"))
    with pytest.raises(InputError, match=r"Received: 2 of 3 files, 5 of 7 images\."):
        builders.open_source(options, "train")
    options.train_dataset_options.allow_subset = True
    (message,) = builders.data_warnings(options, "train", builders.open_source(options, "train"))
    folder = os.path.dirname(scene_records.train)
    assert message == f"train_dataset_options ({folder}/dataset.json): 5 of 7 images are read, as allow_subset says."


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
    with pytest.raises(InputError, match=r"id 1 is ball in training and x in evaluation \(.*Convert both"):
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
