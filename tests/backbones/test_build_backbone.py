# SPDX-License-Identifier: Apache-2.0
"""Backbones from their config messages."""

import pytest
from google.protobuf import text_format

from deeplab_axial import builders
from deeplab_axial.backbones import presets
from deeplab_axial.backbones.axial_resnet import AxialResNet
from deeplab_axial.errors import InputError
from deeplab_axial.layers.switchable_atrous import SwitchableConvBN
from deeplab_axial.protos import model_pb2


def _build(text: str) -> AxialResNet:
    return builders.build_backbone(text_format.Parse(text, model_pb2.BackboneOptions()), {"momentum": 0.9})


@pytest.mark.parametrize("name", presets.NAMES)
def test_every_name(name):
    flavor = "paper" if name.startswith(("full_axial", "local")) else "deeplab2"
    model = _build(f'name: "{name}" flavor: "{flavor}" output_stride: 16')
    expected = presets.backbone_kwargs(name, flavor)
    config = model.get_config()
    assert {key: tuple(v) if isinstance(v, list) else v for key, v in config.items() if key in expected} == {
        key: tuple(v) if isinstance(v, list) else v for key, v in expected.items()
    }
    assert (model.name, model.output_stride, model.norm) == (name, 16, {"momentum": 0.9})
    assert model.attention["span"] == presets.default_span(name)
    assert model.sac_from_stride is None


def test_fields_reach_the_network():
    model = _build(
        'name: "axial_swidernet" stem_width_multiplier: 0.5 backbone_width_multiplier: 0.25 drop_path_keep_prob: 0.75 '
        'backbone_layer_multiplier: 0.5 drop_path_schedule: "linear" use_squeeze_and_excite: true '
        "use_sac_beyond_stride: 16 attention_key_position: false attention_batch_norm: false"
    )
    assert model.num_blocks == [3, 1, 3, 1, 1]
    assert (model.stem["width_multiplier"], model.width_multiplier, model.output_stride) == (0.5, 0.25, 32)
    assert model.keep_prob == (0.75, "linear")
    assert model.stages[3][0].keep_prob == pytest.approx(0.8125)
    assert model.stages[3][0].squeeze_excite is not None
    assert isinstance(model.stages[2][0].conv1, SwitchableConvBN)
    assert not isinstance(model.stages[1][0].conv1, SwitchableConvBN)
    attention = model.stages[3][0].attention_layer.height_axis
    assert (attention.key_position, attention.query_position, attention.use_batch_norm) == (False, True, False)


def test_the_span_of_a_config_goes_before_that_of_the_preset():
    paper = 'name: "full_axial_resnet_s" flavor: "paper"'
    assert [_build(f"{paper} {span}").attention["span"] for span in ("", "attention_span: 9", "attention_span: 0")] == [
        15,
        9,
        None,
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('name: "vgg"', r'model_options\.backbone \(name "vgg"\): Unknown backbone\. Known: resnet50, '),
        ('name: "max_deeplab_l_backbone"', r"is not part of this project: it holds a decoder of MaX-DeepLab"),
        (
            'name: "swidernet" flavor: "paper"',
            'flavor must be "deeplab2", the only one of swidernet. Received: "paper"',
        ),
        ('name: "local_resnet_l"', 'flavor must be "paper", the only one of local_resnet_l. Received: "deeplab2"'),
        ('name: "axial_resnet_l" backbone_width_multiplier: 0.01', "Widen the layer"),
        ('name: "local_resnet_l" flavor: "paper" attention_span: 0', "span must be odd and at least 3"),
    ],
)
def test_mistakes_in_a_config_name_the_backbone(text, said):
    with pytest.raises(InputError, match=said):
        _build(text)
