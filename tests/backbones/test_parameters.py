# SPDX-License-Identifier: Apache-2.0
"""Every network has exactly as many parameters as DeepLab2's; networks of the paper are pinned to what is reported."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from deeplab_axial import multiply_adds
from deeplab_axial.backbones import presets
from deeplab_axial.backbones.axial_resnet import AxialResNet
from deeplab_axial.models.classifier import Classifier
from deeplab_axial.models.decoder import Decoder
from deeplab_axial.models.heads import Head
from deeplab_axial.models.panoptic_deeplab import PanopticDeepLab

slow = pytest.mark.slow


def _backbone(name: str, flavor: str, width: float = 1.0, layers: float = 1.0, attention=None) -> AxialResNet:
    preset = presets.backbone_kwargs(name, flavor, width, layer_multiplier=layers)
    attention = {"span": presets.default_span(name), **(attention or {})}
    return AxialResNet(**preset, output_stride=16, attention=attention, name="backbone")


@tf.autograph.experimental.do_not_convert  # several times faster
def _parameters(make, graph: tf.Graph | None = None, side: int = 33) -> int:
    """Trainable weights of a model, made and called in a graph, where they take no memory."""
    with (graph or tf.Graph()).as_default():
        model = make()
        model(tf.zeros([1, side, side, 3]))
        count = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    tf_keras.backend.clear_session()
    return count


# Name, width and layer multiplier, trainable weights counted in DeepLab2.
@pytest.mark.parametrize(
    ("name", "width", "layers", "count"),
    [
        ("resnet50", 1, 1, 23_508_032),
        ("resnet50_beta", 1, 1, 23_631_808),
        ("wide_resnet41", 1, 1, 109_014_080),
        ("swidernet", 1, 1, 109_014_080),
        ("axial_resnet_s", 0.5, 1, 11_466_912),
        # With decoders and heads they are below.
        pytest.param("max_deeplab_s_backbone", 1, 1, 41_343_424, marks=slow),
        pytest.param("axial_swidernet", 1, 1, 136_399_392, marks=slow),
        pytest.param("swidernet", 1, 3, 333_245_504, marks=slow),
        pytest.param("axial_resnet_l", 1, 1, 43_714_048, marks=slow),
        pytest.param("axial_deeplab_s", 0.5, 1, 11_565_856, marks=slow),
        pytest.param("axial_deeplab_s", 1, 1, 43_841_920, marks=slow),  # the letter alone changes nothing
        pytest.param("axial_deeplab_m", 0.75, 1, 25_113_296, marks=slow),
        pytest.param("axial_deeplab_l", 1, 1, 43_841_920, marks=slow),
        pytest.param("axial_deeplab_xl", 2, 1, 170_734_656, marks=slow),
        pytest.param("swidernet", 1, 4.5, 487_453_760, marks=slow),
        pytest.param("axial_swidernet", 1, 3, 393_935_520, marks=slow),
        pytest.param("axial_swidernet", 1, 4.5, 570_346_912, marks=slow),
    ],
)
def test_backbones_of_deeplab2(name, width, layers, count):
    assert _parameters(lambda: _backbone(name, "deeplab2", width, layers)) == count


def _panoptic_deeplab(name: str, width: float) -> PanopticDeepLab:
    """With 19 classes, decoders and heads as in the axial configs of DeepLab2."""
    return PanopticDeepLab(
        backbone=_backbone(name, "deeplab2", width),
        semantic_decoder=Decoder("res5", [("res3", 64), ("res2", 32)], 256, 256, name="semantic_decoder"),
        semantic_head=Head(19, 256, name="semantic_head"),
        instance_decoder=Decoder("res5", [("res3", 32), ("res2", 16)], 128, 256, name="instance_decoder"),
        center_head=Head(1, 32, name="center_head"),
        offset_head=Head(2, 32, name="offset_head"),
    )


@pytest.mark.parametrize(
    ("name", "width", "count"),
    [
        ("max_deeplab_s_backbone", 1, 42_788_486),
        ("axial_swidernet", 1, 137_844_454),
        ("axial_deeplab_s", 0.5, 12_455_910),
        pytest.param("axial_deeplab_l", 1, 45_286_982, marks=slow),
        pytest.param("axial_deeplab_xl", 2, 173_289_734, marks=slow),
    ],
)
def test_panoptic_deeplab(name, width, count):
    assert _parameters(lambda: _panoptic_deeplab(name, width)) == count


_QUERY_ONLY = {"key_position": False, "value_position": False}


# ImageNet networks of Table 1 at 224 x 224 with 1000 classes: parameters, and multiply-adds in billions if every query
# meets the keys of its own window (by hand, from the paper's formulas); then what the paper says, in millions and
# billions. This library multiplies a little more: blocks of queries share their windows.
@slow
@pytest.mark.parametrize(
    ("name", "attention", "parameters", "least", "published"),
    [
        ("resnet50", {}, 25_557_032, 4.089, (25.6, 4.1)),
        ("local_resnet_l", _QUERY_ONLY, 18_058_496, 3.483, (18.0, 3.5)),
        ("local_resnet_l", {}, 18_112_560, 3.670, (18.0, 3.7)),
        ("axial_resnet_s", {}, 12_481_000, 2.637, (12.4, 2.8)),
        ("full_axial_resnet_s", {}, 12_532_152, 3.084, (12.5, 3.3)),
    ],
)
def test_imagenet_networks(name, attention, parameters, least, published):
    preset = presets.backbone_kwargs(name, "paper")
    attention = {"span": presets.default_span(name), **attention}
    graph = tf.Graph()
    found = _parameters(
        lambda: Classifier(AxialResNet(**preset, output_stride=32, attention=attention), 1000), graph, 224
    )
    assert found == parameters
    executed = sum(multiply_adds.by_operation(graph).values()) / 1e9
    assert least - 0.001 < executed < 1.1 * least
    assert parameters / 1e6 == pytest.approx(published[0], rel=0.03)
    assert least == pytest.approx(published[1], rel=0.07)
