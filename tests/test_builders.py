# SPDX-License-Identifier: Apache-2.0
"""Networks from configs: what each combination of decoder options builds, counted."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from deeplab_axial import builders, config, keys
from deeplab_axial.errors import InputError
from deeplab_axial.layers.axial_attention import AxialAttention
from deeplab_axial.losses.classification import ClassificationLoss
from deeplab_axial.losses.panoptic_deeplab import PanopticDeepLabLoss
from deeplab_axial.models.classifier import Classifier
from deeplab_axial.models.panoptic_deeplab import PanopticDeepLab
from tests.compare import assert_close

TINY = pathlib.Path(__file__).parent / "data" / "tiny.textproto"
DECODER = "model_options.decoder"
PANOPTIC = "model_options.panoptic_deeplab"
OVERRIDE = f"{PANOPTIC}.instance.instance_decoder_override"
WITH_ASPP = (f"{DECODER}.aspp_use_only_1x1_proj_conv=false", f"{DECODER}.atrous_rates=6,12,18")

# A config whose instance decoder has no options of its own; the published widths of the decoders.
PLAIN = """
model_options {
  backbone { name: "axial_deeplab_s" output_stride: 16 stem_width_multiplier: 0.25 backbone_width_multiplier: 0.125
             backbone_layer_multiplier: 0.2 }
  decoder { feature_key: "res5" aspp_use_only_1x1_proj_conv: true }
  panoptic_deeplab {
    low_level { feature_key: "res3" channels_project: 64 }
    low_level { feature_key: "res2" channels_project: 32 }
    instance {
      center_head { output_channels: 1 head_channels: 32 }
      regression_head { output_channels: 2 head_channels: 32 }
    }
    semantic_head { output_channels: 19 head_channels: 256 }
  }
}
train_dataset_options { crop_size: 97 crop_size: 129 }
"""
# Channels of the endpoints of this backbone: 4 * 32 * stride * 0.125.
CHANNELS = {"res2": 32, "res3": 64, "res4": 128, "res5": 256}


def _options(folder: pathlib.Path, *overrides: str):
    path = folder / "plain.textproto"
    path.write_text(PLAIN)
    return config.load(path, overrides)


def _parameters(layer) -> int:
    return sum(int(np.prod(w.shape)) for w in layer.trainable_weights)


def _conv(channels: int, filters: int, kernel: int = 1) -> int:
    """Parameters of a convolution without bias and of its normalisation."""
    return kernel**2 * channels * filters + 2 * filters


def _decoder_parameters(
    with_aspp: bool, low_level: list[tuple[str, int]], channels: int = 256, aspp: int = 256, feature: str = "res5"
) -> int:
    """By DeepLab2's description of a decoder."""
    top = CHANNELS[feature]
    total = _conv(top, aspp)
    if with_aspp:
        total = 2 * _conv(top, aspp) + 3 * _conv(top, aspp, 3) + _conv(5 * aspp, aspp)
    running = aspp
    for key, projected in low_level:
        joined = running + projected
        depthwise = 25 * joined + 2 * joined
        total += _conv(CHANNELS[key], projected) + depthwise + _conv(joined, channels)
        running = channels
    return total


BOTH = [("res3", 64), ("res2", 32)]


@pytest.mark.parametrize("with_aspp", [False, True])
def test_without_an_override_a_second_decoder_has_the_options_of_the_first(with_aspp, tmp_path):
    model = builders.build_model(_options(tmp_path, *WITH_ASPP * with_aspp))
    assert model.instance_decoder is not model.semantic_decoder
    assert model.instance_decoder.low_level == model.semantic_decoder.low_level == BOTH
    expected = _decoder_parameters(with_aspp, BOTH)
    assert _parameters(model.semantic_decoder) == _parameters(model.instance_decoder) == expected
    assert not {id(w) for w in model.semantic_decoder.weights} & {id(w) for w in model.instance_decoder.weights}


@pytest.mark.parametrize("semantic_aspp", [False, True])
@pytest.mark.parametrize("instance_aspp", [False, True])
def test_each_decoder_has_its_own_aspp(semantic_aspp, instance_aspp, tmp_path):
    overrides = [*WITH_ASPP * semantic_aspp, f"{OVERRIDE}.feature_key=res5", f"{OVERRIDE}.decoder_channels=128"]
    overrides += [f"{OVERRIDE}.atrous_rates=3,6,9" if instance_aspp else f"{OVERRIDE}.aspp_use_only_1x1_proj_conv=true"]
    model = builders.build_model(_options(tmp_path, *overrides))
    assert _parameters(model.semantic_decoder) == _decoder_parameters(semantic_aspp, BOTH)
    assert _parameters(model.instance_decoder) == _decoder_parameters(instance_aspp, BOTH, 128)
    window = [7, 9]  # the map of a training crop of 97 x 129 at stride 16
    assert model.semantic_decoder.aspp.pool_size == (window if semantic_aspp else None)
    assert model.instance_decoder.aspp.pool_size == (window if instance_aspp else None)
    assert model.instance_decoder.aspp.atrous_rates == ([3, 6, 9] if instance_aspp else [])


def test_semantic_segmentation_alone_has_one_decoder(tmp_path):
    model = builders.build_model(_options(tmp_path, f"{PANOPTIC}.instance.enable=false"))
    both = builders.build_model(_options(tmp_path))
    assert list(model(tf.zeros([1, 33, 33, 3]))) == [keys.SEMANTIC_LOGITS]
    assert model.instance_decoder is None
    # Heads: depthwise 5x5 and 1x1 with normalisation, and a 1x1 convolution with bias.
    heads = sum(27 * 256 + _conv(256, 32) + (32 + 1) * outputs for outputs in (1, 2))
    assert _parameters(both) - _parameters(model) == heads + _decoder_parameters(False, BOTH)


@pytest.mark.parametrize(
    ("low_level", "stride"), [([], 16), ([("res2", 16)], 4), ([("res3", 48)], 8), ([("res4", 8), ("res2", 4)], 4)]
)
def test_low_level_features(low_level, stride, tmp_path):
    options = _options(tmp_path, *WITH_ASPP)
    section = options.model_options.panoptic_deeplab
    del section.low_level[:]
    for key, channels in low_level:
        section.low_level.add(feature_key=key, channels_project=channels)
    assert config.validate(options, "config", backbone_names=None) == []
    model = builders.build_model(options)
    assert _parameters(model.semantic_decoder) == _decoder_parameters(True, low_level)
    outputs = model(tf.zeros([1, 97, 129, 3]))
    assert outputs[keys.SEMANTIC_LOGITS].shape == (1, 96 // stride + 1, 128 // stride + 1, 19)
    assert outputs[keys.OFFSET_MAP].shape == (1, 96 // stride + 1, 128 // stride + 1, 2)


def test_the_window_of_aspp_is_that_of_the_training_crop(tmp_path):
    model = builders.build_model(_options(tmp_path, *WITH_ASPP))
    seen = []
    branch = model.semantic_decoder.aspp.pooled_branch
    original = branch.call
    branch.call = lambda x, **kwargs: (seen.append(tuple(x.shape[1:3])), original(x, **kwargs))[1]
    # The crop itself, a larger evaluation map (7 + 3 rows, 9 + 4 columns), a smaller one, a small and a large scale.
    for height, width, scale in ((97, 129, 1.0), (145, 193, 1.0), (65, 33, 1.0), (49, 65, 0.5), (193, 257, 2.0)):
        model(tf.zeros([1, height, width, 3]), scale=scale)
    assert seen == [(1, 1), (4, 5), (1, 1), (1, 1), (1, 1)]
    unknown = _options(tmp_path, *WITH_ASPP)
    unknown.ClearField("train_dataset_options")
    assert builders.build_model(unknown).semantic_decoder.aspp.pool_size is None


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_classification(policy):
    options = config.load(TINY, [f"trainer_options.precision={policy}"])
    options.model_options.classification.num_classes = 10
    options.model_options.backbone.output_stride = 32
    try:
        builders.set_precision_and_seed(options.trainer_options)
        model = builders.build_model(options)
        logits = model(tf.zeros([2, 64, 48, 3]))[keys.CLASS_LOGITS]
    finally:
        options.trainer_options.precision = "float32"
        builders.set_precision_and_seed(options.trainer_options)
    assert isinstance(model, Classifier)
    assert (logits.shape, logits.dtype) == ((2, 10), tf.float32)
    assert not any("decoder" in weight.name for weight in model.weights)
    channels = model.backbone(tf.zeros([1, 64, 64, 3]))["res5"].shape[-1]
    assert _parameters(model) - _parameters(model.backbone) == (channels + 1) * 10


def test_a_program_whose_keras_is_set_otherwise():
    backend = tf_keras.backend
    options = config.load(TINY)
    images = tf.random.stateless_uniform([1, 33, 33, 3], [1, 2])
    expected = builders.build_model(options)
    backend.set_image_data_format("channels_first")
    backend.set_floatx("float16")
    try:
        model = builders.build_model(options)
        assert (backend.image_data_format(), backend.floatx()) == ("channels_first", "float16")
        model.set_weights(expected.get_weights())
        found = tf.function(model, autograph=False)(images, training=False, scale=1.0)
        builders.set_precision_and_seed(options.trainer_options)
        assert (backend.image_data_format(), backend.floatx()) == ("channels_last", "float32")
    finally:
        backend.set_image_data_format("channels_last")
        backend.set_floatx("float32")
    assert {weight.dtype for weight in model.weights} == {tf.float32}
    for key, value in tf.function(expected, autograph=False)(images, training=False, scale=1.0).items():
        np.testing.assert_array_equal(found[key], value)


def test_the_loss_is_that_of_the_model():
    options = config.load(TINY)
    space = builders.load_label_space("coco_panoptic")
    assert isinstance(builders.build_loss(options, space), PanopticDeepLabLoss)
    options.model_options.classification.num_classes = 10
    options.trainer_options.loss_options.classification_loss.label_smoothing = 0.25
    loss = builders.build_loss(options, space)
    assert isinstance(loss, ClassificationLoss)
    assert loss.label_smoothing == 0.25


def test_panoptic_segmentation():
    assert isinstance(builders.build_model(config.load(TINY)), PanopticDeepLab)


def test_a_shared_decoder_feeds_all_heads(tmp_path):
    share = f"{PANOPTIC}.instance.share_decoder=true"
    shared, both = (builders.build_model(_options(tmp_path, *flags)) for flags in ((share,), ()))
    assert shared.instance_decoder is None
    assert set(shared(tf.zeros([1, 33, 33, 3]))) == {keys.SEMANTIC_LOGITS, keys.CENTER_HEATMAP, keys.OFFSET_MAP}
    assert _parameters(both) - _parameters(shared) == _decoder_parameters(False, BOTH)
    with pytest.raises(InputError, match="instance_decoder_override: must not be set with share_decoder"):
        _options(tmp_path, share, f"{OVERRIDE}.feature_key=res5")


def test_fewer_logits_at_once_give_the_same_output(tmp_path):
    flag = "model_options.backbone.attention_logits_at_once"
    few, many = (builders.build_model(_options(tmp_path, f"{flag}={count}")) for count in (1, 2**40))
    few.set_weights(many.get_weights())
    [first, *_] = [layer for layer in few.submodules if isinstance(layer, AxialAttention)]
    assert first.logits_at_once == 1
    image = tf.random.uniform([1, 65, 33, 3], 0, 255)
    few_endpoints, many_endpoints = few.backbone(image / 255), many.backbone(image / 255)
    assert_close(few_endpoints["res2"], many_endpoints["res2"])
