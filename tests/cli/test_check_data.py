# SPDX-License-Identifier: Apache-2.0
"""`deeplab-axial check_data`: exit statuses, and what a person reads."""

import os
import shutil

import pytest
import tensorflow as tf

from deeplab_axial.data import records, tfrecord_files
from tests.cli import commands
from tests.cli.conftest import experiment_flags


def test_healthy_records(scene_records):
    result = commands.run("check_data", *experiment_flags(scene_records.train, scene_records.val))
    assert result.status == 0, result.err
    assert "error: " not in result.out
    train, evaluation = result.out.split("eval_dataset_options: ")
    assert train.startswith(f"train_dataset_options: {scene_records.train} (3 files)\n")
    assert f"\nimages     {scene_records.num_train} read\n" in train
    assert f"\nimages     {scene_records.num_val} read\n" in evaluation
    assert "crop       49 x 65 holds 100% of the images whole; crop_size is the same" in train
    assert "crop       49 x 65 holds the largest image; crop_size is the same" in evaluation
    for name in ("sky", "ball", "instances  an image: mean", "void"):
        assert name in train


@pytest.fixture
def spoilt(scene_records, tmp_path):
    """Validation records: the first image is none, the second file's first record has a broken checksum."""
    folder = tmp_path / "spoilt"
    shutil.copytree(os.path.dirname(scene_records.val), folder)
    first, second = sorted(folder.glob("*.tfrecord"))
    serialized = list(tf.data.TFRecordDataset(str(first)).as_numpy_iterator())
    example = tf.train.Example.FromString(serialized[0])
    encoded = example.features.feature[records.ENCODED].bytes_list.value
    encoded[0] = b"no image".ljust(len(encoded[0]))
    tfrecord_files.write_shard(folder, first.name, [example.SerializeToString(), *serialized[1:]])
    data = bytearray(second.read_bytes())
    data[200] ^= 1
    second.write_bytes(data)
    return folder


def test_spoilt_records(scene_records, spoilt):
    flags = experiment_flags(scene_records.train, f"{spoilt}/*.tfrecord")
    result = commands.run("check_data", *flags)
    message = commands.one_message(result)
    assert "have errors (eval_dataset_options: 2). They are listed above." in message
    first, second = sorted(spoilt.glob("*.tfrecord"))
    lines = [line for line in result.out.splitlines() if line.startswith("error: ")]
    assert lines[0].startswith(f"error: {second}, record 1: it is damaged (")
    assert lines[1].startswith(f"error: {first}, record 1, image '00000")
    assert "the image does not decode (" in lines[1]
    assert len(lines) == 2
    assert "faults     2 errors" in result.out
    assert commands.run("check_data", *flags, "--split=train").status == 0


def test_a_model_of_other_classes_is_a_fault_of_the_config(scene_records):
    channels = "model_options.panoptic_deeplab.semantic_head.output_channels=5"
    flags = experiment_flags(scene_records.train, scene_records.val, channels)
    result = commands.run("check_data", *flags, "--split=train", "--limit=2")
    assert result.status == 1
    assert f"error: {commands.TINY}: model_options.panoptic_deeplab.semantic_head.output_channels" in result.out
    assert "Received: 5. Set it to 8." in result.out
    assert f"images     2 of {scene_records.num_train} read" in result.out


def test_what_cannot_be_checked_at_all(scene_records):
    flags = experiment_flags("no/*.tfrecord", scene_records.val)
    assert "'no/*.tfrecord' matches no file" in commands.one_message(commands.run("check_data", *flags))
    none = experiment_flags("[]", "[]")
    assert "file_pattern must name files" in commands.one_message(commands.run("check_data", *none))
    unfilled = commands.run("check_data", *experiment_flags("${TRAIN}", scene_records.val))
    assert unfilled.status == 0, unfilled.err
    assert "train_dataset_options.file_pattern has a placeholder that is not filled: not checked." in unfilled.out
