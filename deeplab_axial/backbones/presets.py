# SPDX-License-Identifier: Apache-2.0
"""Named backbones: name and flavor -> plain keyword arguments of `AxialResNet`.

A name has two flavors where the paper and DeepLab2 differ. "paper": the letter fixes the width (S 0.5, M 0.75, L 1,
XL 2), the stem is scaled with it and followed by a max pool, attention strides by average pooling. "deeplab2": what its
textprotos and checkpoints mean: the letter alone changes nothing (the width comes from the config's multipliers), no
max pool, attention strides by subsampling. Networks of DeepLab2 alone have only the flavor "deeplab2", networks of the
paper alone only "paper".

full_axial_resnet: three axial blocks, the first with stride 2 on the image, instead of the stem, no max pool, and span
15 everywhere.

local_resnet: the paper's comparison, ResNet-50 with 7 x 7 attention of Ramachandran et al. 2019 (keys and values as
wide as the 3x3 convolution that they replace), L being its width. local_deeplab has the stem of axial_deeplab, for
segmentation.

Parameters and multiply-adds beside the paper's: docs/multiply_adds.md.
"""

from typing import Any, NamedTuple

FLAVORS = ("paper", "deeplab2")
WIDTHS = {"s": 0.5, "m": 0.75, "l": 1.0, "xl": 2.0}
RESNET50_BLOCKS = (3, 4, 6, 3)
WIDE_RESNET41_BLOCKS = (3, 6, 3, 3)
STAGE1_BLOCKS = 3


class AttentionWidths(NamedTuple):
    """Widths of a block with attention over its number of filters.

    Attributes:
      bottleneck: of the first 1x1 convolution.
      key: of queries and of keys, all heads together.
      value: of values, all heads together.
    """

    bottleneck: int = 2
    key: int = 1
    value: int = 2


class _Family(NamedTuple):
    """What a name means, its letter aside.

    Attributes:
      stem: kind of the stem.
      axial_from_stride: see `AxialResNet`, as are the following three.
      attention_kind:
      attention_widths:
      conv_block:
      has_stage1: whether three blocks come before stage 2.
      drop_path_from_stride: see `AxialResNet`.
      flavors: those that exist.
      span: of the attention if a config does not say; None: the whole axis.
    """

    stem: str
    axial_from_stride: int | None = None
    attention_kind: str = "axial"
    attention_widths: AttentionWidths = AttentionWidths()
    conv_block: str = "bottleneck"
    has_stage1: bool = False
    drop_path_from_stride: int = 16
    flavors: tuple[str, ...] = FLAVORS
    span: int | None = None


_SWIDERNET = _Family("conv3x3", conv_block="wide", has_stage1=True, drop_path_from_stride=4, flavors=("deeplab2",))
_LOCAL = _Family(
    "conv7x7", 2, attention_kind="local", attention_widths=AttentionWidths(1, 1, 1), flavors=("paper",), span=7
)
_SINGLE = {
    "resnet50": _Family("conv7x7"),
    "resnet50_beta": _Family("three_conv"),
    "wide_resnet41": _SWIDERNET,
    "swidernet": _SWIDERNET,
    "axial_swidernet": _SWIDERNET._replace(axial_from_stride=16, attention_widths=AttentionWidths(4, 2, 4)),
    "max_deeplab_s_backbone": _Family("three_conv", 16, flavors=("deeplab2",)),
}
_SIZED = {
    "axial_resnet": _Family("conv7x7", 2),
    "axial_deeplab": _Family("three_conv", 2),
    "full_axial_resnet": _Family("none", 1, has_stage1=True, flavors=("paper",), span=15),
    "local_resnet": _LOCAL,
    "local_deeplab": _LOCAL._replace(stem="three_conv"),
}
# Name -> (family, width of the letter).
_PRESETS = {name: (family, 1.0) for name, family in _SINGLE.items()} | {
    f"{name}_{size}": (family, width) for name, family in _SIZED.items() for size, width in WIDTHS.items()
}
NAMES = tuple(_PRESETS)
# Backbones of DeepLab2 that are not part of this project: name -> reason.
REFUSED = {
    "max_deeplab_l_backbone": "it holds a decoder of MaX-DeepLab",
    "max_deeplab_s": "it is a MaX-DeepLab; max_deeplab_s_backbone is its convolutional and axial part",
    "max_deeplab_l": "it is a MaX-DeepLab",
    "mobilenet_v3_small": "there are no MobileNets",
    "mobilenet_v3_large": "there are no MobileNets",
}


def backbone_kwargs(
    name: str,
    flavor: str,
    width_multiplier: float = 1.0,
    stem_width_multiplier: float = 1.0,
    layer_multiplier: float = 1.0,
) -> dict[str, Any]:
    """Keyword arguments of `AxialResNet` for a preset, all that a preset decides.

    Args:
      name: one of NAMES.
      flavor: one of FLAVORS that the name has.
      width_multiplier: scales the stages; on top of the preset's own width in the paper's flavor.
      stem_width_multiplier: scales the stem (and stage 1), likewise.
      layer_multiplier: scales the number of blocks of stages 2 to 5, rounded down.

    Raises:
      ValueError: the name or the flavor is unknown, or the name does not have this flavor.
    """
    if name in REFUSED:
        raise ValueError(f"{name} is not part of this project: {REFUSED[name]}. Known: {', '.join(NAMES)}")
    if name not in NAMES:
        raise ValueError(f"Unknown backbone. Known: {', '.join(NAMES)}. Received: {name!r}")
    if flavor not in FLAVORS:
        raise ValueError(f"Unknown flavor. Known: {', '.join(FLAVORS)}. Received: {flavor!r}")
    family, letter = _PRESETS[name]
    if flavor not in family.flavors:
        only = family.flavors[0]
        raise ValueError(f'flavor must be "{only}", the only one of {name}. Received: "{flavor}". Set flavor: "{only}"')
    paper = flavor == "paper"
    own_width = letter if paper else 1.0
    blocks = WIDE_RESNET41_BLOCKS if family.conv_block == "wide" else RESNET50_BLOCKS
    return {
        "num_blocks": [STAGE1_BLOCKS] * family.has_stage1 + [max(1, int(n * layer_multiplier)) for n in blocks],
        "stem": {
            "kind": family.stem,
            "width_multiplier": own_width * stem_width_multiplier,
            "max_pool": paper and not family.has_stage1,
        },
        "width_multiplier": own_width * width_multiplier,
        "axial_from_stride": family.axial_from_stride,
        "striding": "average_pool" if paper else "subsample",
        "attention_kind": family.attention_kind,
        "attention_widths": family.attention_widths,
        "conv_block": family.conv_block,
        "drop_path_from_stride": family.drop_path_from_stride,
    }


def default_span(name: str) -> int | None:
    """Span of the attention of a preset if a config does not set it; None: the whole axis."""
    return _PRESETS[name][0].span
