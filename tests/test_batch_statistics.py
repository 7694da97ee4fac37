# SPDX-License-Identifier: Apache-2.0
"""Trainings whose batch normalisation would see one value a channel are refused, and no others."""

import math
import pathlib

import pytest
import tensorflow as tf

from deeplab_axial import builders, config
from deeplab_axial.errors import InputError
from deeplab_axial.layers import normalization

ROOT = pathlib.Path(__file__).parents[1]
TINY = ROOT / "tests" / "data" / "tiny.textproto"
PARTS = "trainer_options.solver_options.gradient_accumulation_steps"
BATCH = "train_dataset_options.batch_size"
CROP = "train_dataset_options.crop_size"
INSTANCE = "model_options.panoptic_deeplab.instance"
ASPP = ("model_options.decoder.aspp_use_only_1x1_proj_conv=false", "model_options.decoder.atrous_rates=1,2,3")
INSTANCE_ASPP = tuple(
    override.replace("model_options.decoder", f"{INSTANCE}.instance_decoder_override") for override in ASPP
)


def _refusal(*overrides: str, replicas: int = 1, held: str = "", path: pathlib.Path = TINY) -> str:
    """What is said of a config; nothing if it is accepted."""
    options = config.load(path, overrides)
    if held:
        options.trainer_options.solver_options.learning_rate_multiplier.add(part=held, hold_statistics=True)
    try:
        builders.check_batch_statistics(options, replicas)
    except InputError as error:
        return str(error)
    return ""


def test_the_pooled_branch_of_aspp():
    said = _refusal(*ASPP, f"{BATCH}=4", f"{PARTS}=4")
    assert said == (
        "train_dataset_options.batch_size must give batch normalisation two images or more together: the pooled branch "
        "of ASPP (semantic_decoder) has one position an image, and of one image it would learn nothing and spoil "
        "inference. Received: batch_size 4, for 1 device x gradient_accumulation_steps 4. Take a larger batch_size, "
        "fewer parts or aspp_use_only_1x1_proj_conv: true."
    )
    assert "Take a larger batch_size or aspp_use" in _refusal(*ASPP, f"{BATCH}=1")
    assert not _refusal(*ASPP, f"{BATCH}=4", f"{PARTS}=2")
    assert not _refusal(f"{BATCH}=1")  # the projection alone


def test_either_decoder_counts_but_not_one_that_is_held_or_unused():
    one = f"{BATCH}=1"
    assert "ASPP (instance_decoder)" in _refusal(*INSTANCE_ASPP, one)
    assert not _refusal(*INSTANCE_ASPP, f"{INSTANCE}.enable=false", one)
    assert not _refusal(*INSTANCE_ASPP, one, held="instance_decoder")
    assert "ASPP (instance_decoder)" in _refusal(*ASPP, *INSTANCE_ASPP, one, held="semantic_decoder")


@pytest.mark.parametrize(("synchronised", "refused"), [("true", False), ("false", True)])
def test_synchronised_statistics_are_of_all_devices(synchronised, refused):
    sync = f"trainer_options.solver_options.use_sync_batchnorm={synchronised}"
    said = _refusal(*ASPP, sync, f"{BATCH}=4", f"{PARTS}=2", replicas=2)
    assert ("for 2 devices x gradient_accumulation_steps 2. Take" in said) == refused
    assert ("use_sync_batchnorm: true" in said) == refused
    assert not _refusal(*ASPP, sync, f"{BATCH}=8", f"{PARTS}=2", replicas=2)


@pytest.mark.parametrize(("batch", "parts", "refused"), [(8, 4, False), (8, 8, True), (1, 1, True), (2, 1, False)])
def test_the_example_of_own_data(batch, parts, refused):
    """That of docs/data.md, with the memory saver of docs/training.md."""
    overrides = [f"{BATCH}={batch}", f"{PARTS}={parts}", f"{CROP}=641,641"]
    said = _refusal(*overrides, path=ROOT / "configs" / "coco" / "resnet50_stride16.textproto")
    assert ("two images or more together" in said) == refused


def _fewest_values(options) -> int:
    """Values a channel that the batch normalisation with the fewest sees in a step, counted where they are computed."""
    counts = []

    class Counted(normalization.BatchNormalization):
        def call(self, inputs, training=None):
            if training:
                counts.append(math.prod(inputs.shape[:-1]))
            return super().call(inputs, training=training)

    with pytest.MonkeyPatch.context() as patch, tf.Graph().as_default():
        patch.setattr(normalization, "BatchNormalization", Counted)
        model = builders.build_symbolic_model(options)
        dataset, solver = options.train_dataset_options, options.trainer_options.solver_options
        images = dataset.batch_size // solver.gradient_accumulation_steps
        model(tf.zeros([images, *dataset.crop_size, 3]), training=True, seed=tf.zeros([2], tf.int32))
    assert len(counts) > 30
    return min(counts)


@pytest.mark.parametrize(
    "overrides",
    [
        (f"{CROP}=17,17",),  # maps of 2 x 2 at the end
        (f"{CROP}=17,17", *ASPP),
        pytest.param(
            ("model_options.backbone.use_squeeze_and_excite=true", f"{CROP}=33,33", f"{BATCH}=2", f"{PARTS}=2", *ASPP),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            (
                *("model_options.backbone.name=swidernet", "model_options.backbone.flavor=deeplab2"),
                *("model_options.backbone.use_sac_beyond_stride=32", f"{CROP}=33,33"),
            ),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_is_refused_is_what_has_one_value(overrides):
    options = config.load(TINY, [f"{BATCH}=1", *overrides])
    assert (_fewest_values(options) == 1) == bool(_refusal(f"{BATCH}=1", *overrides))


@pytest.mark.parametrize(
    ("crop", "batch", "stride", "refused"),
    [(16, 1, 16, True), (16, 2, 16, False), (17, 1, 16, False), (32, 1, 32, True), (32, 1, 16, False)],
)
def test_maps_of_one_position_at_the_end_of_a_classifier(crop, batch, stride, refused):
    overrides = [f"{BATCH}={batch}", f"{CROP}={crop},{crop}", f"model_options.backbone.output_stride={stride}"]
    path = ROOT / "configs" / "demo" / "axial_resnet_tiny.textproto"
    said = _refusal(*overrides, path=path)
    assert (f"the backbone ends at one position for crop_size {crop} x {crop}" in said) == refused
    assert ("or a larger crop_size" in said) == refused
    if crop <= 17 and batch == 1:
        assert (_fewest_values(config.load(path, overrides)) == 1) == refused
