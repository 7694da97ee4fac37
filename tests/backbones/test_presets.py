# SPDX-License-Identifier: Apache-2.0
"""Presets: what a name means in each flavor."""

import pytest

from deeplab_axial.backbones import presets


@pytest.mark.parametrize(("size", "width"), [("s", 0.5), ("m", 0.75), ("l", 1.0), ("xl", 2.0)])
@pytest.mark.parametrize(("family", "stem"), [("axial_resnet", "conv7x7"), ("axial_deeplab", "three_conv")])
def test_the_paper_scales_stem_and_stages_by_the_letter(family, stem, size, width):
    assert presets.backbone_kwargs(f"{family}_{size}", "paper") == {
        "num_blocks": [3, 4, 6, 3],
        "stem": {"kind": stem, "width_multiplier": width, "max_pool": True},
        "width_multiplier": width,
        "axial_from_stride": 2,
        "striding": "average_pool",
    }


@pytest.mark.parametrize("size", ["s", "m", "l", "xl"])
def test_deeplab2_takes_widths_from_the_multipliers_alone(size):
    assert presets.backbone_kwargs(f"axial_deeplab_{size}", "deeplab2", 0.5, 0.25) == {
        "num_blocks": [3, 4, 6, 3],
        "stem": {"kind": "three_conv", "width_multiplier": 0.25, "max_pool": False},
        "width_multiplier": 0.5,
        "axial_from_stride": 2,
        "striding": "subsample",
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


def test_names():
    assert len(presets.NAMES) == 10
    for name in presets.NAMES:
        for flavor in presets.FLAVORS:
            presets.backbone_kwargs(name, flavor)


def test_refuses_unknown_names_and_flavors():
    with pytest.raises(ValueError, match=r"Unknown backbone\. Known: resnet50.*Received: 'vgg'"):
        presets.backbone_kwargs("vgg", "paper")
    with pytest.raises(ValueError, match=r"Unknown flavor\. Known: paper, deeplab2\. Received: 'lemon'"):
        presets.backbone_kwargs("resnet50", "lemon")
