# SPDX-License-Identifier: Apache-2.0
"""Named backbones: name and flavor -> plain keyword arguments of `AxialResNet`.

A name has two flavors where the paper and DeepLab2 differ. "paper": the letter fixes the width (S 0.5, M 0.75, L 1,
XL 2), the stem is scaled with it and followed by a max pool, attention strides by average pooling. "deeplab2": what its
textprotos and checkpoints mean: the letter alone changes nothing (the width comes from the config's multipliers), no
max pool, attention strides by subsampling.
"""

from typing import Any

FLAVORS = ("paper", "deeplab2")
RESNET50_BLOCKS = (3, 4, 6, 3)
WIDTHS = {"s": 0.5, "m": 0.75, "l": 1.0, "xl": 2.0}

# name -> (stem, stride from which blocks are axial)
_CONVOLUTIONAL = {
    "resnet50": "conv7x7",
    "resnet50_beta": "three_conv",
}
_AXIAL = {
    "axial_resnet": "conv7x7",
    "axial_deeplab": "three_conv",
}

NAMES = (*_CONVOLUTIONAL, *(f"{family}_{size}" for family in _AXIAL for size in WIDTHS))


def backbone_kwargs(
    name: str,
    flavor: str,
    width_multiplier: float = 1.0,
    stem_width_multiplier: float = 1.0,
    layer_multiplier: float = 1.0,
) -> dict[str, Any]:
    """Keyword arguments of `AxialResNet` for a preset, all but output_stride, attention, keep_prob, block and norm.

    Args:
      name: one of NAMES.
      flavor: one of FLAVORS.
      width_multiplier: scales the stages; on top of the preset's own width in the paper's flavor.
      stem_width_multiplier: scales the stem, likewise.
      layer_multiplier: scales the number of blocks of each stage, rounded down.

    Raises:
      ValueError: the name or the flavor is unknown.
    """
    if name not in NAMES:
        raise ValueError(f"Unknown backbone. Known: {', '.join(NAMES)}. Received: {name!r}")
    if flavor not in FLAVORS:
        raise ValueError(f"Unknown flavor. Known: {', '.join(FLAVORS)}. Received: {flavor!r}")
    paper = flavor == "paper"
    axial = name not in _CONVOLUTIONAL
    family, _, size = name.rpartition("_")
    own_width = WIDTHS[size] if paper and axial else 1.0
    return {
        "num_blocks": [max(1, int(n * layer_multiplier)) for n in RESNET50_BLOCKS],
        "stem": {
            "kind": _AXIAL[family] if axial else _CONVOLUTIONAL[name],
            "width_multiplier": own_width * stem_width_multiplier,
            "max_pool": paper,
        },
        "width_multiplier": own_width * width_multiplier,
        "axial_from_stride": 2 if axial else None,
        "striding": "average_pool" if paper else "subsample",
    }
