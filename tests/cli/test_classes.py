# SPDX-License-Identifier: Apache-2.0
"""The classes of a model against those of the data that it is used with."""

import dataclasses
import json
import os
import shutil

import pytest

from deeplab_axial.cli import experiment, train
from deeplab_axial.data.dataset_info import DatasetInfo
from deeplab_axial.data.source import Source
from deeplab_axial.errors import InputError
from deeplab_axial.protos import model_pb2
from deeplab_axial.training import label_space_file
from tests.cli import commands
from tests.cli.conftest import experiment_flags

HEAD = "restore_semantic_last_layer_from_initial_checkpoint"


def _exchange(space):
    """Ball and crate have each other's number."""
    first, second, *rest = space.classes
    classes = (dataclasses.replace(second, id=first.id), dataclasses.replace(first, id=second.id), *rest)
    return dataclasses.replace(space, classes=classes)


@pytest.fixture
def source(scene_records):
    return Source.open([scene_records.val])


def test_data_of_other_classes_than_the_model(source, tmp_path):
    space = source.info.label_space
    experiment.check_classes(str(tmp_path), source)  # an older folder, which tells none
    label_space_file.write(str(tmp_path), space)
    experiment.check_classes(str(tmp_path), source)
    label_space_file.write(str(tmp_path / "best"), _exchange(space))
    experiment.check_classes(str(tmp_path), source)
    with pytest.raises(InputError) as error:
        experiment.check_classes(str(tmp_path), source, str(tmp_path / "best" / "ckpt-3"))
    message = str(error.value)
    assert "id 1 is crate in the model and ball in the records, 2 is ball and crate" in message
    assert f"{tmp_path}/best/label_space.json; {os.path.dirname(source.files[0])}" in message


@pytest.mark.parametrize("asked", [None, True, False])
@pytest.mark.parametrize("theirs", ["same", "others", "unknown"])
def test_the_head_of_an_initial_checkpoint(source, tmp_path, theirs, asked):
    space = source.info.label_space
    if theirs != "unknown":
        label_space_file.write(str(tmp_path), space if theirs == "same" else _exchange(space))
    for path in (tmp_path, tmp_path / "ckpt-3"):
        options = model_pb2.ModelOptions(initial_checkpoint=str(path))
        if asked is not None:
            setattr(options, HEAD, asked)
        found = train._InitialClasses.of(options, space)
        assert found.restored == (asked is not False and (theirs != "others" or asked is True))
        if asked is False:
            assert (found.reason, found.note) == ("as the config says", "")
        elif theirs == "unknown":
            assert found.note.startswith("nothing tells the classes of this checkpoint.")
        elif theirs == "same":
            assert found.note == ""
        else:
            told = found.note or found.reason
            assert "id 1 is crate in the checkpoint and ball in the data, 2 is ball and crate" in told
            assert f"model_options.{HEAD}" in told


@pytest.fixture(scope="module")
def exchanged(chain, tmp_path_factory):
    """The experiment's validation records with the numbers of ball and crate exchanged."""
    folder = tmp_path_factory.mktemp("exchanged") / "val"
    shutil.copytree(chain.root / "records" / "val", folder)
    info = DatasetInfo.read(folder)
    dataclasses.replace(info, label_space=_exchange(info.label_space)).write(folder)
    return folder


@pytest.mark.slow
def test_commands_refuse_exchanged_classes(chain, exchanged, tmp_path):
    flags = experiment_flags(f"{chain.root}/records/train/*.tfrecord", f"{exchanged}/*.tfrecord")
    model = f"--model_dir={chain.root}/model"
    checked = commands.run("check_data", *flags)
    assert checked.status == 1
    assert "id 1 is ball in training and crate in evaluation, 2 is crate and ball" in checked.out
    for command in (
        ("train", f"--model_dir={tmp_path}/new"),
        ("train", "--mode=eval", model),
        ("export", model, f"--output_dir={tmp_path}/export"),
        ("submit", "--format=coco", model, "--image_list=x", f"--output={tmp_path}/x.zip"),
    ):
        message = commands.one_message(commands.run(command[0], *flags, *command[1:]))
        assert "id 1 is ball in " in message, message
    assert not list(tmp_path.iterdir())
    # With ground truth whose categories are exchanged; the model tells its classes by itself.
    truth = json.loads((chain.root / "data" / "panoptic_val.json").read_text())
    one, other = truth["categories"][:2]
    one["name"], other["name"] = other["name"], one["name"]
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    arguments = (f"--panoptic_json={tmp_path}/truth.json", f"--panoptic_dir={chain.root}/data/panoptic_val")
    predict = ("predict", f"--saved_model={chain.root}/model", f"--input={chain.root}/data/val", *arguments)
    message = commands.one_message(commands.run(*predict, f"--output_dir={tmp_path}/out"))
    assert f"category {one['id']} is {one['name']} there and {other['name']} in the model" in message


@pytest.mark.slow
def test_a_subset_is_told_wherever_its_figures_are(chain, tmp_path):
    """Three of five images; the folder is one of before, which tells no classes."""
    model = tmp_path / "model"
    shutil.copytree(chain.root / "model", model)
    (model / "label_space.json").unlink()
    part = f"{chain.root}/records/val/scenes-0000[0-2]-of-00005.tfrecord"
    flags = (*experiment_flags(f"{chain.root}/records/train/*.tfrecord", part), f"--model_dir={model}")
    message = commands.one_message(commands.run("train", "--mode=eval", *flags))
    assert "Received: 3 of 5 files, 3 of 5 images." in message
    result = commands.run("train", "--mode=eval", *flags, "--set=eval_dataset_options.allow_subset=true")
    assert result.status == 0, result.err
    assert "step 30, 3 of 5 images" in result.out
    metrics = json.loads((model / "metrics.json").read_text())
    assert (metrics["num_images"], metrics["num_images_in_data_set"]) == (3, 5)
    report = commands.run("report", f"--model_dir={model}", f"--output={tmp_path}/report.html")
    assert report.status == 0, report.err
    assert "at step 30 on 3 of 5 images" in (tmp_path / "report.html").read_text()
