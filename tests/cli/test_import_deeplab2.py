# SPDX-License-Identifier: Apache-2.0
"""`import_deeplab2`: from a DeepLab2 checkpoint to an evaluated, exported model, or to one message."""

import json

import pytest
import tensorflow as tf

from deeplab_axial import builders, config
from deeplab_axial.importing import deeplab2_names
from deeplab_axial.training import checkpoints
from tests import golden
from tests.cli import commands
from tests.importing import dl2_checkpoints as dl2

FLAVOR = "model_options.backbone.flavor=deeplab2"


@pytest.fixture(scope="module")
def deeplab2(tmp_path_factory):
    """Prefix of a DeepLab2 checkpoint for the tiny config."""
    arrays = dl2.of_model(builders.build_model(config.load(commands.TINY, [FLAVOR])))
    return dl2.write(str(tmp_path_factory.mktemp("deeplab2") / "ckpt"), arrays, global_step=60000, with_optimizer=True)


def _import(checkpoint, output_dir, *overrides, config_file=commands.TINY):
    sets = [f"--set={override}" for override in overrides]
    flags = (f"--config_file={config_file}", f"--checkpoint={checkpoint}", f"--output_dir={output_dir}")
    return commands.run("import_deeplab2", *flags, *sets)


def test_a_recorded_checkpoint(tmp_path):
    folder = golden.FOLDER / "checkpoint_panoptic_deeplab_tiny"
    golden.load("panoptic_deeplab_tiny")  # skips where it is not there
    result = _import(folder, tmp_path / "out", config_file=folder / "config.textproto")
    assert result.status == 0, result.err
    assert "Read 808 variables from" in result.out
    assert f"Imported step 123: {tmp_path}/out/ckpt-123" in result.out
    assert "Not restored" not in result.out
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"checkpoint", "ckpt-123.index", "ckpt-123.data-00000-of-00001", "config.textproto"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # no temporary folder


def test_import_evaluate_and_train_on(scene_records, tmp_path):
    network = (FLAVOR, "model_options.backbone.name=resnet50")  # is traced faster than an axial one
    model = builders.build_model(config.load(commands.TINY, network))
    arrays = dl2.of_model(model)
    deeplab2 = dl2.write(str(tmp_path / "deeplab2" / "ckpt"), arrays, global_step=60000)
    model_dir = tmp_path / "imported"
    model_dir.mkdir()  # an empty folder is fine
    result = _import(deeplab2, model_dir, *network)
    assert result.status == 0, result.err
    assert checkpoints.latest(str(model_dir)) == str(model_dir / "ckpt-60000")
    checkpoints.restore(str(model_dir / "ckpt-60000"), {"model": model}, "--checkpoint")
    for part in deeplab2_names.parts(model):
        for entry in part.entries:
            assert (arrays[entry.key].ravel() == entry.variable.numpy().ravel()).all(), entry.key

    data = (
        f"train_dataset_options.file_pattern={scene_records.train}",
        f"eval_dataset_options.file_pattern={scene_records.val}",
    )
    flags = (f"--config_file={commands.TINY}", *(f"--set={field}" for field in (*network, *data)))
    result = commands.run("train", "--mode=eval", *flags, f"--model_dir={model_dir}")
    assert result.status == 0, result.err
    assert json.loads((model_dir / "metrics.json").read_text())["step"] == 60000

    more = ("model_options.initial_checkpoint", "trainer_options.solver_options.training_number_of_steps")
    sets = (f"--set={more[0]}={deeplab2}", f"--set={more[1]}=3")
    result = commands.run("train", "--mode=train", *flags, *sets, f"--model_dir={tmp_path}/trained")
    assert result.status == 0, result.err
    assert f"Starting from another checkpoint. Read {len(arrays)} variables from {deeplab2} (Deep" in result.out


def test_a_backbone_alone(deeplab2, tmp_path):
    reader = tf.train.load_checkpoint(deeplab2)
    encoder = {
        key.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE"): reader.get_tensor(key)
        for key in reader.get_variable_to_shape_map()
        if key.startswith("encoder/") and ".OPTIMIZER_SLOT" not in key
    }
    path = dl2.write(str(tmp_path / "imagenet" / "ckpt"), encoder, global_step=None)
    result = _import(path, tmp_path / "out", FLAVOR)
    assert result.status == 0, result.err
    assert "Not restored: semantic_decoder (not in the checkpoint)" in result.out
    assert "It holds a part of the model only" in result.out
    model = builders.build_model(config.load(commands.TINY, [FLAVOR]))
    report = checkpoints.restore_initial(str(tmp_path / "out"), model)
    assert list(report.restored) == ["backbone"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], 'its flavor is "paper"'),
        ([FLAVOR, "model_options.backbone.backbone_width_multiplier=1"], "backbone.backbone_width_multiplier"),
        ([FLAVOR, "model_options.backbone.attention_span=9"], "its attention has a span"),
    ],
)
def test_a_checkpoint_that_does_not_fit_leaves_nothing(deeplab2, tmp_path, overrides, said):
    message = commands.one_message(_import(deeplab2, tmp_path / "out", *overrides))
    assert message.startswith("--checkpoint: ")
    assert said in message
    assert not list(tmp_path.iterdir())


def test_places_that_will_not_do(deeplab2, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    assert "is not empty" in commands.one_message(_import(deeplab2, tmp_path / "full", FLAVOR))
    assert "is a file. Name a folder" in commands.one_message(_import(deeplab2, tmp_path / "full" / "file", FLAVOR))
    assert "cannot be written" in commands.one_message(_import(deeplab2, tmp_path / "full" / "file" / "x", FLAVOR))
    assert (tmp_path / "full" / "file").read_text() == "mine"
    (tmp_path / "none").mkdir()
    assert "is a folder without checkpoint" in commands.one_message(_import(tmp_path / "none", tmp_path / "out"))
    assert "is no readable checkpoint" in commands.one_message(_import(tmp_path / "gone", tmp_path / "out"))
