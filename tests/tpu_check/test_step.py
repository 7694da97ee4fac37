# SPDX-License-Identifier: Apache-2.0
"""Training steps as programs of XLA; what they need on a TPU is tested in test_compiler.py."""

import pytest

from deeplab_axial import builders, config, keys
from deeplab_axial.tpu_check import step
from tests.cli import commands

SMALL = (
    "model_options.backbone.stem_width_multiplier=0.25",
    "model_options.backbone.backbone_width_multiplier=0.25",
    "model_options.backbone.backbone_layer_multiplier=0.1",
)


def _parameters(options) -> int:
    model = builders.build_model(options)
    return sum(int(variable.shape.num_elements()) for variable in model.trainable_variables)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(commands.TINY, marks=pytest.mark.slow, id="panoptic"),
        pytest.param(commands.REPOSITORY / "configs" / "imagenet" / "resnet50.textproto", id="classification"),
    ],
)
def test_the_step_of_a_config(path):
    options = config.load(path, [*SMALL, "train_dataset_options.crop_size=33,33"])
    program = builders.build_step_program(options, 2)
    assert program.batch_size == 2
    assert program.gradient_bytes == 4 * _parameters(options)
    assert 0 < program.statistics_bytes < program.gradient_bytes
    assert len(program.hlo) > 10_000


def test_the_batch_is_what_the_input_pipeline_gives():
    batch = step.segmentation_batch(2, 33, 65)
    for key, spec in batch.items():
        sizes = {"B": 2, "H": 33, "W": 65}
        letters = keys.TABLE[key].shape.strip("[]").split(", ")
        assert spec.shape.as_list() == [sizes.get(letter) or int(letter) for letter in letters]
        assert spec.dtype.name == keys.TABLE[key].dtype
    assert set(step.classification_batch(2, 33, 65)) == {keys.IMAGE, keys.CLASS_TARGET}
