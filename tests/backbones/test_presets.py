# SPDX-License-Identifier: Apache-2.0
"""Presets: what a name means in each flavor."""

import pytest

from deeplab_axial.backbones import presets

AXIAL = {"attention_kind": "axial", "attention_widths": (2, 1, 2)}
PLAIN = {"conv_block": "bottleneck", "drop_path_from_stride": 16}


@pytest.mark.parametrize(("size", "width"), [("s", 0.5), ("m", 0.75), ("l", 1.0), ("xl", 2.0)])
@pytest.mark.parametrize(("family", "stem"), [("axial_resnet", "conv7x7"), ("axial_deeplab", "three_conv")])
def test_the_paper_scales_stem_and_stages_by_the_letter(family, stem, size, width):
    assert presets.backbone_kwargs(f"{family}_{size}", "paper") == {
        "num_blocks": [3, 4, 6, 3],
        "stem": {"kind": stem, "width_multiplier": width, "max_pool": True},
        "width_multiplier": width,
        "axial_from_stride": 2,
        "striding": "average_pool",
        **AXIAL,
        **PLAIN,
    }


@pytest.mark.parametrize("size", ["s", "m", "l", "xl"])
def test_deeplab2_takes_widths_from_the_multipliers_alone(size):
    assert presets.backbone_kwargs(f"axial_deeplab_{size}", "deeplab2", 0.5, 0.25) == {
        "num_blocks": [3, 4, 6, 3],
        "stem": {"kind": "three_conv", "width_multiplier": 0.25, "max_pool": False},
        "width_multiplier": 0.5,
        "axial_from_stride": 2,
        "striding": "subsample",
        **AXIAL,
        **PLAIN,
    }


def test_multipliers_come_on_top_in_the_paper():
    found = presets.backbone_kwargs("axial_resnet_s", "paper", 0.5, 2.0, 0.5)
    assert found["width_multiplier"] == 0.25
    assert found["stem"]["width_multiplier"] == 1.0
    assert found["num_blocks"] == [1, 2, 3, 1]
    assert presets.backbone_kwargs("resnet50", "paper", layer_multiplier=0.1)["num_blocks"] == [1, 1, 1, 1]


@pytest.mark.parametrize(("name", "stem"), [("resnet50", "conv7x7"), ("resnet50_beta", "three_conv")])
@pytest.mark.parametrize("flavor", presets.FLAVORS)
def test_convolutional_presets(flavor, name, stem):
    found = presets.backbone_kwargs(name, flavor)
    assert found["axial_from_stride"] is None
    assert found["stem"] == {"kind": stem, "width_multiplier": 1.0, "max_pool": flavor == "paper"}


@pytest.mark.parametrize("name", ["wide_resnet41", "swidernet"])
def test_wide_networks(name):
    assert presets.backbone_kwargs(name, "deeplab2", 1.5, 2.0, 4.5) == {
        "num_blocks": [3, 13, 27, 13, 13],  # stage 1 is not scaled
        "stem": {"kind": "conv3x3", "width_multiplier": 2.0, "max_pool": False},
        "width_multiplier": 1.5,
        "axial_from_stride": None,
        "striding": "subsample",
        **AXIAL,
        "conv_block": "wide",
        "drop_path_from_stride": 4,
    }


def test_networks_that_attend_from_stride_16_on():
    wide = presets.backbone_kwargs("axial_swidernet", "deeplab2")
    assert wide == {
        **presets.backbone_kwargs("swidernet", "deeplab2"),
        "axial_from_stride": 16,
        "attention_widths": (4, 2, 4),
    }
    found = presets.backbone_kwargs("max_deeplab_s_backbone", "deeplab2")
    assert found == {**presets.backbone_kwargs("resnet50_beta", "deeplab2"), "axial_from_stride": 16}


@pytest.mark.parametrize(("size", "width"), [("s", 0.5), ("m", 0.75), ("l", 1.0), ("xl", 2.0)])
def test_full_axial_networks(size, width):
    name = f"full_axial_resnet_{size}"
    assert presets.backbone_kwargs(name, "paper") == {
        **presets.backbone_kwargs(f"axial_resnet_{size}", "paper"),
        "num_blocks": [3, 3, 4, 6, 3],
        "stem": {"kind": "none", "width_multiplier": width, "max_pool": False},
        "axial_from_stride": 1,
    }
    assert presets.default_span(name) == 15


@pytest.mark.parametrize("family", ["resnet", "deeplab"])
@pytest.mark.parametrize("size", ["s", "m", "l", "xl"])
def test_local_networks(family, size):
    name = f"local_{family}_{size}"
    assert presets.backbone_kwargs(name, "paper") == {
        **presets.backbone_kwargs(f"axial_{family}_{size}", "paper"),
        "attention_kind": "local",
        "attention_widths": (1, 1, 1),
    }
    assert presets.default_span(name) == 7


def test_names():
    assert len(presets.NAMES) == len(set(presets.NAMES)) == 26
    only = {"paper": ("full_axial_resnet", "local_"), "deeplab2": ("swidernet", "wide_", "axial_swi", "max_")}
    for name in presets.NAMES:
        for flavor, other in zip(presets.FLAVORS, reversed(presets.FLAVORS)):
            if name.startswith(only[other]):
                with pytest.raises(
                    ValueError, match=f'flavor must be "{other}", the only one of {name}. Received: "{flavor}". Set '
                ):
                    presets.backbone_kwargs(name, flavor)
            else:
                presets.backbone_kwargs(name, flavor)
    assert presets.default_span("axial_deeplab_l") is None


@pytest.mark.parametrize("name", presets.REFUSED)
def test_says_why_a_backbone_of_deeplab2_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} is not part of this project: .*Known: resnet50,"):
        presets.backbone_kwargs(name, "deeplab2")


def test_refuses_unknown_names_and_flavors():
    with pytest.raises(ValueError, match=r"Unknown backbone\. Known: resnet50.*Received: 'vgg'"):
        presets.backbone_kwargs("vgg", "paper")
    with pytest.raises(ValueError, match=r"Unknown flavor\. Known: paper, deeplab2\. Received: 'lemon'"):
        presets.backbone_kwargs("resnet50", "lemon")
