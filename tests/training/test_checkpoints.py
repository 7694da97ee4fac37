# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: what fits is restored, what does not is refused with a reason."""

import gc
import logging
import os
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf

from deeplab_axial import builders, config
from deeplab_axial.errors import InputError
from deeplab_axial.training import checkpoint_files, checkpoints

TINY = pathlib.Path(__file__).parents[1] / "data" / "tiny.textproto"
HEADS = ("semantic_head", "center_head", "offset_head")


def _model(*overrides, backbone="resnet50"):
    options = config.load(TINY, [f"model_options.backbone.name={backbone}", *overrides])
    return builders.build_model(options)


def _values(layer):
    return [v.numpy() for v in layer.variables]


def _same(layer, expected):
    return [np.array_equal(v.numpy(), e) for v, e in zip(layer.variables, expected, strict=True)]


@pytest.fixture(scope="module")
def model():
    """A convolutional network; its weights are random, so that no two networks agree by chance."""
    network = _model()
    for variable in network.variables:
        variable.assign(tf.random.normal(variable.shape))
    return network


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    """Folder with the checkpoint of `model` at step 3."""
    folder = str(tmp_path_factory.mktemp("saved"))
    checkpoints.Manager(folder, {"model": model}, tf.Variable(3, dtype=tf.int64), 1).save()
    return folder


def test_restores_every_variable(model, saved):
    other, step = _model(), tf.Variable(0, dtype=tf.int64)
    checkpoints.restore(f"{saved}/ckpt-3", {"model": other, "step": step}, "--checkpoint")
    assert all(_same(other, _values(model)))
    assert step.numpy() == 3


@pytest.mark.parametrize("name", ["run", "run[1]*?"])  # TensorFlow would take the second for a pattern
def test_keeps_as_many_checkpoints_as_it_should(tmp_path, name):
    tmp_path = tmp_path / name
    tmp_path.mkdir()
    step = tf.Variable(0, dtype=tf.int64)
    manager = checkpoints.Manager(str(tmp_path), {}, step, max_to_keep=2)
    assert manager.restore_latest() is None
    for number in (1, 2, 2, 5):
        step.assign(number)
        assert manager.save() == str(tmp_path / f"ckpt-{number}")
    assert sorted(p.name for p in tmp_path.glob("*.index")) == ["ckpt-2.index", "ckpt-5.index"]
    step.assign(0)
    assert manager.restore_latest() == str(tmp_path / "ckpt-5")
    assert step.numpy() == 5
    assert checkpoint_files.why_unreadable(str(tmp_path / "ckpt-2")) is None
    shutil.copy(tmp_path / "ckpt-5.index", tmp_path / "my[5].index")
    shutil.copy(tmp_path / "ckpt-5.data-00000-of-00001", tmp_path / "my[5].data-00000-of-00001")
    step.assign(0)
    checkpoints.restore(str(tmp_path / "my[5]"), {"step": step}, "--checkpoint")
    assert step.numpy() == 5


def test_a_checkpoint_of_this_step_is_not_written_again(tmp_path):
    step = tf.Variable(4, dtype=tf.int64)
    written = checkpoints.Manager(str(tmp_path), {}, step, 2).save() + ".index"
    os.utime(written, (1, 1))
    checkpoints.Manager(str(tmp_path), {}, step, 2).save()
    assert os.path.getmtime(written) == 1


@pytest.mark.parametrize("semantic", [True, False])
@pytest.mark.parametrize("instance", [True, False])
def test_initial_checkpoint_with_and_without_last_layers(model, saved, semantic, instance):
    other = _model("model_options.backbone.drop_path_keep_prob=1")
    fresh = {name: _values(getattr(other, name).last) for name in HEADS}
    checkpoints.restore_initial(saved, other, semantic, instance)
    for name in ("backbone", "semantic_decoder", "instance_decoder"):
        assert all(_same(getattr(other, name), _values(getattr(model, name))))
    for name, restored in zip(HEADS, (semantic, instance, instance)):
        head = getattr(other, name)
        assert all(_same(head.conv, _values(getattr(model, name).conv)))
        expected = _values(getattr(model, name).last) if restored else fresh[name]
        assert all(_same(head.last, expected))


def test_initial_checkpoint_of_another_number_of_classes(model, saved):
    other = _model("model_options.panoptic_deeplab.semantic_head.output_channels=5")
    with pytest.raises(InputError) as error:
        checkpoints.restore_initial(f"{saved}/ckpt-3", other, True, True)
    message = str(error.value)
    assert message.startswith("model_options.initial_checkpoint: checkpoint ")
    assert f"{saved}/ckpt-3" in message
    assert "does not fit this config" in message
    assert "(5,)" in message or "5)" in message
    assert "restore_semantic_last_layer_from_initial_checkpoint" in message
    checkpoints.restore_initial(f"{saved}/ckpt-3", other, False, True)
    assert all(_same(other.backbone, _values(model.backbone)))
    assert other.semantic_head.last.kernel.shape[-1] == 5


def test_tensorflow_does_not_list_what_the_error_tells(saved):
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logger = tf.get_logger()
    logger.removeFilter(checkpoints._is_no_list_of_values)  # that an earlier test has left
    logger.addHandler(handler)
    try:
        other = _model("model_options.panoptic_deeplab.semantic_head.output_channels=5")
        with pytest.raises(ValueError, match="5"):
            tf.train.Checkpoint(model=other).restore(f"{saved}/ckpt-3")
        del other
        gc.collect()
        assert any("could not be found in the restored object" in line for line in records)
        records.clear()
        other = _model("model_options.panoptic_deeplab.semantic_head.output_channels=5")
        with pytest.raises(InputError, match="does not fit this config"):
            checkpoints.restore_initial(saved, other)
        del other
        gc.collect()
        assert records == []
    finally:
        logger.removeHandler(handler)


def test_initial_checkpoint_for_semantic_segmentation_alone(model, saved):
    other = _model("model_options.panoptic_deeplab.instance.enable=false")
    checkpoints.restore_initial(saved, other, True, True)
    assert all(_same(other.semantic_head, _values(model.semantic_head)))


def test_initial_checkpoint_of_a_classifier_starts_a_backbone(tmp_path):
    options = config.load(TINY, ["model_options.backbone.name=resnet50"])
    options.model_options.classification.num_classes = 4
    classifier, segmentation = builders.build_model(options), _model()
    for variable in classifier.variables:
        variable.assign(tf.random.normal(variable.shape))
    path = checkpoints.Manager(str(tmp_path), {"model": classifier}, tf.Variable(3, dtype=tf.int64), 1).save()
    fresh = _values(segmentation.semantic_decoder)
    report = checkpoints.restore_initial(path, segmentation)
    assert all(_same(segmentation.backbone, _values(classifier.backbone)))
    assert all(_same(segmentation.semantic_decoder, fresh))
    assert report.restored == {"backbone": len(classifier.backbone.variables)}
    assert report.absent["semantic_decoder"] == report.absent["center_head/last"] == "not in the checkpoint"
    assert report.left == {"of parts that are not restored": 2, "counters": 2}
    assert "Not restored: offset_head/last (not in the checkpoint)" in str(report)
    assert len(report.taken) == len(classifier.backbone.variables)
    assert len(report.new) == len(segmentation.variables) - len(segmentation.backbone.variables)
    assert len(report.left_over) == 4
    new, left_over = report.first_names().replace("\n  ", " ").splitlines()
    assert new.startswith(f"New: {len(report.new)} in all, ")
    assert len(new.split(", ")) == 12  # ten names between the number and the dots
    assert new.endswith(", ...")
    assert left_over.startswith("Left over: 4 in all, ")
    assert set(left_over.removeprefix("Left over: 4 in all, ").split(", ")) == set(report.left_over)
    lines = report.all_names().splitlines()
    assert {f"  {name}" for name in (*report.taken, *report.new, *report.left_over)} <= set(lines)
    assert f"New: {len(report.new)}" in lines

    options.model_options.classification.num_classes = 7
    other = builders.build_model(options)
    with pytest.raises(InputError, match="does not fit this config"):
        checkpoints.restore_initial(path, other)
    report = checkpoints.restore_initial(path, other, semantic_last_layer=False)
    assert report.absent == {"classification_head": "as the config says"}
    assert all(_same(other.backbone, _values(classifier.backbone)))


def test_initial_checkpoint_with_half_a_part(model, tmp_path):
    decoder = model.semantic_decoder
    half = tf.train.Checkpoint(aspp=decoder.aspp, projections=decoder.projections)
    part = tf.train.Checkpoint(backbone=model.backbone, semantic_decoder=half)
    path = tf.train.Checkpoint(model=part).save(str(tmp_path / "ckpt"))
    with pytest.raises(
        InputError, match=r"does not fit this config: it lacks variables, as \S*semantic_decoder/fuse_res3"
    ):
        checkpoints.restore_initial(path, _model())


def test_initial_checkpoint_with_more_in_a_part(tmp_path):
    other = _model("model_options.backbone.use_squeeze_and_excite=true")
    path = checkpoints.Manager(str(tmp_path), {"model": other}, tf.Variable(3, dtype=tf.int64), 1).save()
    with pytest.raises(InputError, match=r"its backbone has .* variables that the model's has not"):
        checkpoints.restore_initial(path, _model())


def test_initial_checkpoint_of_something_else(tmp_path):
    path = tf.train.Checkpoint(net=tf.train.Checkpoint(v=tf.Variable(1.0))).save(str(tmp_path / "ckpt"))
    with pytest.raises(InputError, match=r"neither a checkpoint of this library.*nor of DeepLab2.*under net, save_"):
        checkpoints.restore_initial(path, _model())


def _restore_initial(folder, model):
    checkpoints.restore_initial(folder, model, True, True)


def _resume(folder, model):
    checkpoints.Manager(folder, {"model": model}, tf.Variable(0, dtype=tf.int64), 2).restore_latest()


@pytest.mark.parametrize("restore", [_restore_initial, _resume])
def test_a_checkpoint_of_another_network_is_refused(saved, restore):
    other = _model(backbone="axial_deeplab_s")
    with pytest.raises(InputError) as error:
        restore(saved, other)
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 1000
    assert "does not fit this config" in message
    assert "under model, save_counter, step" in message


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("{saved}/ckpt-4", "is no readable checkpoint"),
        ("{saved}/nothing/here", "is no readable checkpoint"),
        ("{saved}/ckpt-3.index", "is no readable checkpoint.*without .index"),
        ("{empty}", "holds no checkpoint. Name a checkpoint's prefix or its folder"),
    ],
)
def test_a_checkpoint_that_is_not_there(model, saved, tmp_path, path, message):
    path = path.format(saved=saved, empty=tmp_path)
    with pytest.raises(InputError, match=message) as error:
        checkpoints.restore_initial(path, model, True, True)
    assert path in str(error.value)
    assert "model_options.initial_checkpoint" in str(error.value)


@pytest.mark.parametrize("suffix", [".index", ".data-00000-of-00001"])
@pytest.mark.parametrize("damage", ["cut", "garbage"])
def test_a_damaged_checkpoint(saved, tmp_path, suffix, damage):
    folder = tmp_path / "copy"
    shutil.copytree(saved, folder)
    file = folder / f"ckpt-3{suffix}"
    data = file.read_bytes()
    if damage == "cut":
        file.write_bytes(data[: len(data) // 2])
    else:
        file.write_bytes(b"garbage!" * (len(data) // 8))
    other, step = _model(), tf.Variable(0, dtype=tf.int64)
    with pytest.raises(InputError, match=r"--checkpoint.*ckpt-3.*is no readable checkpoint") as error:
        checkpoints.restore(f"{folder}/ckpt-3", {"model": other, "step": step}, "--checkpoint")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600
    with pytest.raises(InputError, match=r"copy holds no checkpoint that can be read: \S*ckpt-3: ") as error:
        _resume(str(folder), other)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize("suffix", [".index", ".data-00000-of-00001"])
def test_training_does_not_start_over_when_its_checkpoint_is_gone(saved, tmp_path, suffix):
    folder = tmp_path / "copy"
    shutil.copytree(saved, folder)
    (folder / f"ckpt-3{suffix}").unlink()
    with pytest.raises(InputError, match=r"holds no checkpoint that can be read: \S*ckpt-3: .*Bring the files back"):
        _resume(str(folder), _model())


def test_a_folder_that_cannot_be_written(tmp_path):
    folder = tmp_path / "file"
    folder.write_text("not a folder")
    manager = checkpoints.Manager(str(folder / "model"), {}, tf.Variable(1, dtype=tf.int64), 2)
    with pytest.raises(InputError, match=r"Cannot write a checkpoint to .*training resumes from the start"):
        manager.save()
