# SPDX-License-Identifier: Apache-2.0
"""What people get wrong ends with exit status 1 and one message: what, where, what was received, what to do."""

import json
import os
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab_axial.data import records, scenes, tfrecord_files
from tests.cli import commands
from tests.cli.conftest import experiment_flags


@pytest.fixture
def experiment(scene_records):
    """Flags of the tiny experiment, with changes."""
    return lambda *overrides: experiment_flags(scene_records.train, scene_records.val, *overrides)


def _copy(records_glob, folder):
    """A copy of a split's records that may be damaged."""
    shutil.copytree(os.path.dirname(records_glob), folder)
    return sorted(folder.glob("*.tfrecord"))


SEMANTIC_HEAD = "model_options.panoptic_deeplab.semantic_head"


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("model_options.backbone.nmae=x", ("model_options.backbone", "no such field", "nmae", 'Did you mean "name"')),
        (
            "model_options.backbone.name=axial_deeplab_x",
            ("model_options.backbone.name", '"axial_deeplab_x"', "Did you"),
        ),
        ("trainer_options.solver_options.optimizer=radm", ("solver_options.optimizer", '"radm"', '"radam"')),
        (
            "train_dataset_options.crop_size=50,65",
            ("train_dataset_options.crop_size", "[50, 65]", "49 x 65 or 65 x 65"),
        ),
        ("eval_dataset_options.crop_size=[]", ("eval_dataset_options.crop_size", "[]", "Give crop_size twice")),
        (
            "eval_dataset_options.file_pattern=[]",
            ("eval_dataset_options.file_pattern", "[]", "Name the TFRecord files"),
        ),
        ("train_dataset_options.file_pattern=no/*.x", ("'no/*.x' matches no file", "working directory", "convert")),
        (
            f"{SEMANTIC_HEAD}.output_channels=5",
            (f"{SEMANTIC_HEAD}.output_channels", "8 classes", "Received: 5", "to 8"),
        ),
        (
            "eval_dataset_options.crop_size=49,49",
            ("eval_dataset_options.crop_size", "48 x 64", "49 x 49", "Enlarge it"),
        ),
        ("trainer_options.solver_options.warmup_steps=6", ("warmup_steps", "less than training_number_of_steps (6)")),
        ("model_options.max_deeplab.auxiliary_semantic_head.output_channels=3", ("model_options.max_deeplab", "MaX-")),
    ],
)
def test_a_config_that_cannot_work(experiment, tmp_path, override, parts):
    result = commands.run("train", *experiment(override), f"--model_dir={tmp_path}/model")
    message = commands.one_message(result)
    for part in parts:
        assert part in message
    assert not (tmp_path / "model").exists()


def test_an_unknown_field_in_the_file_is_named_with_its_line(tmp_path):
    file = tmp_path / "mine.textproto"
    file.write_text(f'base: "{commands.TINY}"\ntrainer_options {{\n  solver_options {{ base_learning_rat: 0.1 }}\n}}\n')
    message = commands.one_message(commands.run("describe", f"--config_file={file}"))
    assert f"{file}:3:20: trainer_options.solver_options.base_learning_rat" in message
    assert 'Did you mean "base_learning_rate"?' in message


def test_all_problems_of_a_config_come_at_once(experiment, tmp_path):
    result = commands.run(
        "train", *experiment("train_dataset_options.batch_size=0", "evaluator_options.nms_kernel=4"), "--model_dir=x"
    )
    lines = commands.one_message(result).splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"{commands.TINY}: ") for line in lines)


def test_a_missing_section(tmp_path):
    file = tmp_path / "mine.textproto"
    file.write_text(f'base: "{commands.REPOSITORY}/configs/demo/axial_deeplab_tiny.textproto"')
    message = commands.one_message(
        commands.run("describe", f"--config_file={file}", "--set=model_options.backbone.name=")
    )
    assert f"{file}: model_options.backbone.name: has no such backbone" in message
    file.write_text('experiment_name: "nothing"')
    message = commands.one_message(commands.run("train", f"--config_file={file}", "--model_dir=x"))
    for section in ("model_options", "train_dataset_options", "eval_dataset_options"):
        assert f"{file}: {section}: must be set" in message


def test_a_config_that_is_not_there(tmp_path):
    near = tmp_path / "coco.textproto"
    near.write_text("")
    message = commands.one_message(commands.run("train", f"--config_file={tmp_path}/coko.textproto", "--model_dir=x"))
    assert message.startswith(
        f"{tmp_path}/coko.textproto: must be a textproto that can be read. Received: No such file"
    )
    assert 'Did you mean "coco.textproto"?' in message


def test_a_model_folder_that_cannot_be_written(experiment, tmp_path):
    (tmp_path / "file").write_text("")
    message = commands.one_message(commands.run("train", *experiment(), f"--model_dir={tmp_path}/file/model"))
    assert message.startswith(f"--model_dir={tmp_path}/file/model cannot be written (")
    assert message.endswith("Name another folder.")


def test_devices_that_are_not_there(experiment, tmp_path):
    message = commands.one_message(commands.run("train", *experiment(), "--num_gpus=99", f"--model_dir={tmp_path}/m"))
    assert message.startswith("--num_gpus=99: TensorFlow sees ")


@pytest.mark.parametrize(
    ("command", "flags"), [("train", ["--mode=eval"]), ("export", ["--output_dir={folder}/export"])]
)
def test_nothing_trained_yet(experiment, tmp_path, command, flags):
    flags = [flag.format(folder=tmp_path) for flag in flags]
    message = commands.one_message(commands.run(command, *experiment(), *flags, f"--model_dir={tmp_path}/model"))
    assert message.startswith(f"--model_dir={tmp_path}/model holds no checkpoint. Train first")
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize("is_there", [False, True])
def test_a_refused_initial_checkpoint_leaves_the_folder_as_it_was(experiment, tmp_path, is_there):
    folder = tmp_path / "model"
    if is_there:
        folder.mkdir()
        (folder / "config.textproto").write_text("of another run")
    flags = experiment("model_options.initial_checkpoint=no/such/ckpt", "model_options.backbone.name=resnet50")
    message = commands.one_message(commands.run("train", *flags, f"--model_dir={folder}"))
    assert message.startswith("model_options.initial_checkpoint: 'no/such/ckpt' is no readable checkpoint")
    assert folder.exists() == is_there
    if is_there:
        assert [path.name for path in folder.iterdir()] == ["config.textproto"]
        assert (folder / "config.textproto").read_text() == "of another run"


def test_a_config_that_has_changed_since_the_run_began(chain, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("checkpoint", "config.textproto"):
        shutil.copy(chain.root / "model" / name, folder)
    flags = (*chain.flags, "--set=trainer_options.seed=5", "--set=train_dataset_options.batch_size=2")
    message = commands.one_message(commands.run("train", *flags, f"--model_dir={folder}"))
    assert message.splitlines()[:3] == [
        f"The config has changed since the run in {folder} was last started:",
        "  trainer_options.seed: was 0, now 5",
        "  train_dataset_options.batch_size: was 4, now 2",
    ]
    result = commands.run("train", *flags, f"--model_dir={folder}", "--allow_config_change")
    # The checkpoints were not copied: that comes next.
    assert "Going on as --allow_config_change says." in result.err
    assert "error: " in result.err
    assert "holds no checkpoint that can be read" in result.err


def test_a_disk_that_is_full_in_an_evaluation(chain, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(chain.root / "model", folder, ignore=shutil.ignore_patterns("best", "eval", "train"))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    flags = ("--mode=eval", *chain.flags, f"--model_dir={folder}")
    message = commands.one_message(commands.run("train", *flags, largest_file=8192))
    assert message.startswith(str(folder))
    assert message.endswith(
        "cannot be written (File too large). Free or change the place and run the command again: what was written "
        "before is kept."
    )
    left = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert left.keys() == before.keys()
    assert left["report_data.zip"] == before["report_data.zip"]


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        (("export", "--model_dir=x", "--output_dir=gs://bucket/export"), "output_dir"),
        (("predict", "--saved_model=gs://bucket/export", "--input=x", "--output_dir=x"), "saved_model"),
        (("report", "--model_dir=x", "--output=gs://bucket/report.html"), "output"),
    ],
)
def test_what_must_be_on_this_machine(experiment, arguments, flag):
    config = experiment() if arguments[0] == "export" else ()
    message = commands.one_message(commands.run(*arguments, *config))
    assert message.startswith(f"--{flag} must be on this machine: ")
    assert message.endswith("Name a local place, and copy from or to the store.")


def test_a_store_that_nobody_knows(experiment):
    message = commands.one_message(commands.run("train", *experiment(), "--model_dir=nowhere://bucket/run"))
    assert message.startswith("--model_dir=nowhere://bucket/run cannot be written (")


def test_a_truncated_record_file(experiment, scene_records, tmp_path):
    files = _copy(scene_records.train, tmp_path / "records")
    files[1].write_bytes(files[1].read_bytes()[:-100])
    flags = experiment(f"train_dataset_options.file_pattern={tmp_path}/records/*.tfrecord")
    message = commands.one_message(commands.run("train", *flags, f"--model_dir={tmp_path}/model"))
    assert message.startswith(f"{files[1]} is cut short: the record at byte ")
    assert "Run `deeplab-axial convert` again" in message


def test_records_without_their_description(experiment, scene_records, tmp_path):
    _copy(scene_records.train, tmp_path / "records")
    (tmp_path / "records" / "dataset.json").unlink()
    flags = experiment(f"train_dataset_options.file_pattern={tmp_path}/records/*.tfrecord")
    message = commands.one_message(commands.run("train", *flags, f"--model_dir={tmp_path}/model"))
    assert message.startswith(f"{tmp_path}/records/dataset.json cannot be read")


def test_a_record_whose_image_does_not_decode(experiment, scene_records, tmp_path):
    files = _copy(scene_records.train, tmp_path / "records")
    for file in files:
        broken = []
        for serialized in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
            example = tf.train.Example.FromString(serialized)
            encoded = example.features.feature[records.ENCODED].bytes_list.value
            encoded[0] = b"\xff\xd8\xff no image".ljust(len(encoded[0]))
            broken.append(example.SerializeToString())
        tfrecord_files.write_shard(tmp_path / "records", file.name, broken)
    flags = experiment(
        f"train_dataset_options.file_pattern={tmp_path}/records/*.tfrecord",
        # The error comes with the first step, which a network of convolutions traces sooner.
        "model_options.backbone.name=resnet50",
    )
    message = commands.one_message(commands.run("train", "--mode=train", *flags, f"--model_dir={tmp_path}/model"))
    assert message.startswith(f"{files[0]}, record 1: image '000001.jpg' does not decode (")
    assert message.endswith("Replace it. Convert the data set again.")
    assert not list((tmp_path / "model").glob("ckpt-*"))


@pytest.fixture
def tiny_scenes(tmp_path):
    """(folder, flags of convert) of a data set of one image a split."""
    scenes.write_scenes(tmp_path / "data", num_train=1, num_val=1, height=48, width=64)
    data = tmp_path / "data"
    flags = [f"--image_dir={data}/val", f"--panoptic_json={data}/panoptic_val.json", f"--output_dir={tmp_path}/out"]
    return data, [*flags, f"--panoptic_dir={data}/panoptic_val"]


def test_a_png_with_segments_that_the_json_lacks(tiny_scenes, tmp_path):
    data, flags = tiny_scenes
    json_file = data / "panoptic_val.json"
    content = json.loads(json_file.read_text())
    removed = content["annotations"][0]["segments_info"].pop()
    json_file.write_text(json.dumps(content))
    message = commands.one_message(commands.run("convert", "coco_panoptic", *flags))
    assert message.startswith(f"{data}/panoptic_val/000001.png must show exactly the segments that the JSON lists")
    assert f"ids [{removed['id']}] in the PNG only" in message
    assert not (tmp_path / "out").exists()


def test_an_image_that_does_not_convert(tiny_scenes, tmp_path):
    data, flags = tiny_scenes
    (data / "val" / "000001.jpg").write_bytes(b"\xff\xd8\xff no image")
    message = commands.one_message(commands.run("convert", "coco_panoptic", *flags))
    assert message.startswith(f"{data}/val/000001.jpg must be a JPEG or PNG image that decodes")


def test_a_data_set_that_nobody_knows(tiny_scenes):
    message = commands.one_message(commands.run("convert", "coco_panoptik", *tiny_scenes[1]))
    known = "coco_panoptic, cityscapes, mapillary, imagenet"
    assert message == f"Unknown data set 'coco_panoptik'. Known: {known}."


class TestPredict:
    """With an export that works, but for what a test breaks."""

    @pytest.fixture
    def export_copy(self, chain, tmp_path) -> pathlib.Path:
        shutil.copytree(chain.root / "export", tmp_path / "export")
        return tmp_path / "export"

    @pytest.mark.parametrize(
        ("file", "change"),
        [
            ("saved_model.pb", "cut"),
            ("saved_model.pb", "gone"),
            ("variables/variables.index", "gone"),
            ("variables/variables.index", "cut"),
            ("variables/variables.data-00000-of-00001", "cut"),
            ("assets.extra/deeplab_axial.json", "cut"),
            ("assets.extra/deeplab_axial.json", "gone"),
        ],
    )
    def test_a_damaged_export(self, chain, export_copy, tmp_path, file, change):
        path = export_copy / file
        if change == "gone":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        images = f"--input={chain.root}/data/val"
        result = commands.run("predict", f"--saved_model={export_copy}", images, f"--output_dir={tmp_path}/out")
        message = commands.one_message(result)
        assert message.startswith(f"'{export_copy}' is no export of deeplab-axial (")
        assert message.endswith("Make one with `deeplab-axial export`.")
        assert len(message) < 600
        assert not (tmp_path / "out").exists()

    def test_a_broken_image(self, chain, tmp_path):
        broken = tmp_path / "broken.jpg"
        broken.write_bytes(b"\xff\xd8\xff no image")
        export = f"--saved_model={chain.root}/export"
        message = commands.one_message(
            commands.run("predict", export, f"--input={broken}", f"--output_dir={tmp_path}/o")
        )
        assert message.startswith(f"1 of 1 inputs were not predicted:\n{broken} is no readable image (")
        assert message.endswith("Replace or remove it.\nTo try them again, add --resume to the command.")

    @pytest.mark.parametrize("pattern", ["{folder}/*.jpg", "{folder}", "{folder}/none.png"])
    def test_no_image(self, chain, tmp_path, pattern):
        pattern = pattern.format(folder=tmp_path)
        export = f"--saved_model={chain.root}/export"
        message = commands.one_message(
            commands.run("predict", export, f"--input={pattern}", f"--output_dir={tmp_path}/o")
        )
        assert message.startswith(f"--input={pattern} leads to no image (")

    def test_half_a_ground_truth(self, chain, tmp_path):
        flags = [f"--saved_model={chain.root}/export", "--input=x", f"--output_dir={tmp_path}"]
        message = commands.one_message(commands.run("predict", *flags, "--panoptic_json=x.json"))
        assert message == "--panoptic_json and --panoptic_dir come together. Give both or neither."

    def test_ground_truth_of_other_images(self, chain, tmp_path):
        Image.fromarray(np.zeros([48, 64, 3], np.uint8)).save(tmp_path / "other.png")
        data = chain.root / "data"
        flags = [f"--saved_model={chain.root}/export", f"--input={tmp_path}/other.png", f"--output_dir={tmp_path}/out"]
        truth = [f"--panoptic_json={data}/panoptic_val.json", f"--panoptic_dir={data}/panoptic_val"]
        message = commands.one_message(commands.run("predict", *flags, *truth))
        assert message.startswith("The ground truth has no annotation for other.png.")
