# SPDX-License-Identifier: Apache-2.0
"""From a folder of images for each class to a classifier, and from its backbone to segmentation, by commands."""

import json
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf

from deeplab_axial.data import dataset_info, records, scene_crops, tfrecord_files
from deeplab_axial.training import checkpoints, log
from tests.cli import commands
from tests.cli.conftest import experiment_flags

TINY_CLASSIFIER = commands.TINY.with_name("tiny_classifier.textproto")


def _run(*arguments: object) -> str:
    result = commands.run(*arguments)
    assert result.status == 0, result.err[-4000:]
    return result.out


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> pathlib.Path:
    """Seven classes as records, and a classifier trained on them."""
    folder = tmp_path_factory.mktemp("classification")
    made = ("--num_train=14", "--num_val=9", f"--output_dir={folder}/crops")
    assert "14 training and 9 validation images" in _run("make_scenes", "--task=classification", *made)
    for split in ("train", "val"):
        _run("convert", "imagenet", f"--root={folder}/crops/{split}", f"--output_dir={folder}/records/{split}")
    out = _run("train", "--mode=train_and_eval", *_flags(folder), f"--model_dir={folder}/model")
    (folder / "out.txt").write_text(out)
    return folder


def _flags(root: pathlib.Path) -> tuple[str, ...]:
    patterns = {"train": f"{root}/records/train/*.tfrecord", "eval": f"{root}/records/val/*.tfrecord"}
    fields = [f"--set={split}_dataset_options.file_pattern={pattern}" for split, pattern in patterns.items()]
    return (f"--config_file={TINY_CLASSIFIER}", *fields)


def _values(folder: pathlib.Path, step: int) -> dict[str, np.ndarray]:
    reader = tf.train.load_checkpoint(str(folder / f"ckpt-{step}"))
    names = [name for name in reader.get_variable_to_shape_map() if name.endswith(".ATTRIBUTES/VARIABLE_VALUE")]
    return {name: reader.get_tensor(name) for name in names}


def _only_checkpoint(source: pathlib.Path, target: pathlib.Path, step: int) -> None:
    """What a run leaves that is killed after this step."""
    shutil.copytree(source, target)
    for path in target.glob("ckpt-*"):
        if not path.name.startswith(f"ckpt-{step}."):
            path.unlink()
    (target / "checkpoint").write_text(
        f'model_checkpoint_path: "ckpt-{step}"\nall_model_checkpoint_paths: "ckpt-{step}"\n'
    )


def test_training_leaves_a_run(root):
    folder = root / "model"
    out = (root / "out.txt").read_text()
    for step in (2, 4):
        assert f"Accuracy in percent; step {step}, 9 images\ntop-1 " in out
    assert all(f"  {name}" in out for name in scene_crops.CLASSES)
    assert "Best so far: accuracy/top1 " in out
    history = log.read_history(str(folder))
    assert [entry["step"] for entry in history] == [1, 2, 3, 4]
    assert all(entry["classification_loss"] == entry["total_loss"] > 0 for entry in history)
    assert list((folder / "eval").glob("events.*"))


def test_the_metrics_are_those_of_each_image(root):
    folder = root / "model"
    metrics = json.loads((folder / "metrics.json").read_text())
    rows = [json.loads(line) for line in (folder / "per_image.jsonl").read_text().splitlines()]
    space = dataset_info.DatasetInfo.read(root / "records" / "val").label_space
    assert (metrics["step"], metrics["num_images"], len(rows)) == (4, 9, 9)  # the last batch holds one
    assert len({row["name"] for row in rows}) == 9
    assert all(space.by_id[row["label"]].name == row["name"].split("/")[0] for row in rows)
    assert metrics["accuracy"]["top1"] == np.mean([row["rank"] == 0 for row in rows])
    assert metrics["accuracy"]["top5"] == np.mean([row["rank"] < 5 for row in rows])
    assert all((row["rank"] == 0) == (row["predicted"] == row["label"]) for row in rows)


def test_the_best_is_kept(root):
    folder = root / "model"
    kept = json.loads((folder / "best" / "best.json").read_text())
    metrics = json.loads((folder / "best" / "metrics.json").read_text())
    assert kept["metric"] == "accuracy/top1"
    assert (kept["value"], kept["step"]) == (metrics["accuracy"]["top1"], metrics["step"])
    steps = [json.loads(line)["step"] for line in (folder / "evaluations.jsonl").read_text().splitlines()]
    assert steps == [2, 4]


@pytest.mark.slow
def test_an_interrupted_training_resumes(root, tmp_path):
    folder = tmp_path / "model"
    _only_checkpoint(root / "model", folder, 3)
    out = _run("train", "--mode=train_and_eval", *_flags(root), f"--model_dir={folder}")
    assert f"Resuming from {folder}/ckpt-3" in out
    expected, found = _values(root / "model", 4), _values(folder, 4)
    assert found.keys() == expected.keys()
    for name in set(expected) - {"save_counter/.ATTRIBUTES/VARIABLE_VALUE"}:
        np.testing.assert_array_equal(found[name], expected[name], name)
    assert json.loads((folder / "metrics.json").read_text()) == json.loads((root / "model/metrics.json").read_text())


@pytest.mark.slow
def test_continuous_evaluation_measures_the_same(root, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(root / "model", folder)
    expected = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").unlink()
    (folder / "evaluations.jsonl").unlink()
    _run("train", "--mode=continuous_eval", "--best_metric=accuracy/top5", *_flags(root), f"--model_dir={folder}")
    assert json.loads((folder / "metrics.json").read_text()) == expected
    (folder / "metrics.json").unlink()
    _run("train", "--mode=eval", *_flags(root), f"--model_dir={folder}")
    assert json.loads((folder / "metrics.json").read_text()) == expected


def _segmentation(records, *fields: str) -> tuple[str, ...]:
    """Flags of one step of segmentation, with a learning rate that changes nothing."""
    steps = (
        "trainer_options.solver_options.training_number_of_steps=1",
        "trainer_options.solver_options.warmup_steps=0",
    )
    rate = "trainer_options.solver_options.base_learning_rate=1e-30"
    return ("train", "--mode=train", *experiment_flags(records.train, records.val, *steps, rate, *fields))


@pytest.mark.slow
def test_segmentation_starts_from_the_backbone(root, scene_records, tmp_path):
    start = f"model_options.initial_checkpoint={root}/model"
    out = _run(*_segmentation(scene_records, start), f"--model_dir={tmp_path}")
    text = " ".join(out.split())
    classifier, network = _values(root / "model", 4), _values(tmp_path, 1)
    backbone = [name for name in classifier if name.startswith("model/backbone/")]
    assert f"Starting from another checkpoint. Read {len(backbone)} variables from {root}/model/ckpt-4" in text
    assert "Not restored: semantic_head/last (not in the checkpoint); it keeps its initialisation." in text
    assert "2 of parts that are not restored" in text  # the classifier's last layer
    assert {name for name in network if name.startswith("model/backbone/")} == set(backbone)
    moving = [name for name in backbone if "/moving_" in name]  # changed by the step
    assert len(backbone) > len(moving) > 0
    for name in set(backbone) - set(moving):
        np.testing.assert_allclose(network[name], classifier[name], atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_segmentation_starts_from_one_of_other_classes(scene_records, tmp_path):
    """As Cityscapes starts from Mapillary Vistas: everything but the last layer of the semantic head is taken."""
    first, second = tmp_path / "first", tmp_path / "second"
    _run(*_segmentation(scene_records), f"--model_dir={first}")
    info = dataset_info.DatasetInfo.read(pathlib.Path(scene_records.train).parent)
    classes = "".join(
        f'label_class {{ id: {c.id} name: "{c.name}" is_thing: {str(c.is_thing).lower()} }}'
        for c in info.label_space.classes
    )
    space = info.label_space
    config = tmp_path / "more.textproto"
    config.write_text(
        f'base: "{commands.TINY}"\nmodel_options {{ panoptic_deeplab {{ semantic_head {{ output_channels: 11 }} }} }}\n'
        f'label_space {{ name: "more" num_classes: 11 ignore_label: {space.ignore_label} '
        f"label_divisor: {space.label_divisor} {classes} }}"
    )
    flags = [flag for flag in _segmentation(scene_records) if not flag.startswith("--config_file")]
    flags += [f"--config_file={config}", f"--set=model_options.initial_checkpoint={first}", f"--model_dir={second}"]
    message = commands.one_message(commands.run(*flags))
    assert "model_options.initial_checkpoint: checkpoint" in message
    assert "model_options.restore_semantic_last_layer_from_initial_checkpoint: false" in message
    assert checkpoints.latest(str(second)) is None

    out = _run(*flags, "--set=model_options.restore_semantic_last_layer_from_initial_checkpoint=false")
    text = " ".join(out.split())
    assert "Not restored: semantic_head/last (as the config says); it keeps its initialisation." in text
    before, after = _values(first, 1), _values(second, 1)
    kernel = "model/semantic_head/last/kernel/.ATTRIBUTES/VARIABLE_VALUE"
    assert (before[kernel].shape[-1], after[kernel].shape[-1]) == (8, 11)
    for name, value in before.items():
        if name.startswith("model/") and "semantic_head/last" not in name and "/moving_" not in name:
            np.testing.assert_allclose(after[name], value, atol=1e-6, err_msg=name)


def test_what_is_for_segmentation_alone_refuses_a_classifier(root, tmp_path):
    experiment = (*_flags(root), f"--model_dir={root}/model")
    for command, flags in (
        ("export", (*experiment, f"--output_dir={tmp_path}/export")),
        ("submit", (*experiment, "--format=cityscapes", f"--output_dir={tmp_path}/submission")),
    ):
        message = commands.one_message(commands.run(command, *flags))
        assert message.startswith(
            f"{TINY_CLASSIFIER}: `deeplab-axial {command}` is for segmentation. Received: model_options.classification."
        )
    image = next((root / "crops").rglob("*.jpg"))
    result = commands.run("predict", f"--saved_model={root}/model", f"--input={image}", f"--output_dir={tmp_path}")
    assert "is a classifier, which segments nothing" in commands.one_message(result)
    message = commands.one_message(commands.run("report", f"--model_dir={root}/model", f"--output={tmp_path}/a.html"))
    assert "a classifier" in message


def test_metrics_of_segmentation_do_not_choose_a_classifier(root, tmp_path):
    result = commands.run("train", *_flags(root), "--best_metric=mean_iou/mean", f"--model_dir={tmp_path}/new")
    message = "--best_metric must be one of accuracy/top1, accuracy/top5 for this model. Received: mean_iou/mean."
    assert commands.one_message(result) == message
    assert not (tmp_path / "new").exists()


def test_five_classes_have_no_top5(root, tmp_path):
    for split in ("train", "val"):
        for folder in sorted((root / "crops" / split).iterdir())[:5]:
            shutil.copytree(folder, tmp_path / "crops" / split / folder.name)
        made = (f"--root={tmp_path}/crops/{split}", f"--output_dir={tmp_path}/records/{split}")
        _run("convert", "imagenet", *made)
    flags = (*_flags(tmp_path), "--set=model_options.classification.num_classes=5", "--best_metric=accuracy/top5")
    message = commands.one_message(commands.run("train", *flags, f"--model_dir={tmp_path}/new"))
    assert message.startswith("--best_metric=accuracy/top5 needs more than five classes")
    assert not (tmp_path / "new").exists()


def test_a_broken_image_is_named(root, tmp_path):
    shutil.copytree(root / "records" / "train", tmp_path / "train")
    last = sorted((tmp_path / "train").glob("*.tfrecord"))[-1]
    *before, record = tf.data.TFRecordDataset(str(last)).as_numpy_iterator()
    example = tf.train.Example.FromString(record)
    encoded = example.features.feature[records.ENCODED].bytes_list.value
    encoded[0] = b"\xff\xd8\xff nothing that decodes".ljust(len(encoded[0]))
    tfrecord_files.write_shard(last.parent, last.name, [*before, example.SerializeToString()])
    flags = (*_flags(root), f"--set=train_dataset_options.file_pattern={tmp_path}/train/*.tfrecord")
    result = commands.run("train", "--mode=train", *flags, f"--model_dir={tmp_path}/new")
    message = commands.one_message(result)
    assert message.startswith(f"{last}, record {len(before) + 1}: image ")
    assert "does not decode" in message


def test_records_of_scenes_are_refused(root, scene_records, tmp_path):
    flags = (*_flags(root), f"--set=train_dataset_options.file_pattern={scene_records.train}")
    message = commands.one_message(commands.run("train", *flags, f"--model_dir={tmp_path}/new"))
    assert "train_dataset_options.file_pattern must name classification records for this model" in message


def test_crops_are_drawn(root, tmp_path):
    out = _run("visualize_data", *_flags(root), "--num_images=5", f"--output_dir={tmp_path}/sheets")
    assert out == f"5 images: {tmp_path}/sheets\n"
    assert [path.name for path in (tmp_path / "sheets").iterdir()] == ["sheet-000.png"]
