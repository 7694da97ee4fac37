# SPDX-License-Identifier: Apache-2.0
"""Which fields of a config to look at when a DeepLab2 checkpoint does not fit it."""

import re
from collections.abc import Mapping, Sequence

# Shape that the model needs, and shape in the checkpoint.
ShapePair = tuple[tuple[int, ...], tuple[int, ...]]

_ATTENTION = ("backbone.attention_batch_norm", "backbone.attention_{query,key,value}_position")
_ASPP = ("decoder.aspp_use_only_1x1_proj_conv", "decoder.aspp_channels")
_LOW_LEVEL = ("panoptic_deeplab.low_level", "panoptic_deeplab.instance.low_level_override")
# Pattern of a key -> fields of model_options; the first match counts.
_WHERE_KEYS_DIFFER = (
    (r"/_squeeze_and_excite/", ("backbone.use_squeeze_and_excite",)),
    (r"/_switch/|_global_context/", ("backbone.use_sac_beyond_stride",)),
    (r"_rpe/|/_batch_norm_(qkv|similarity|retrieved_output)/", ("backbone.name", *_ATTENTION)),
    # A block has a projection on its shortcut where the number of channels changes.
    (r"^encoder/_stage.*/_shortcut/", ("backbone.name", "backbone.backbone_width_multiplier")),
    (r"^encoder/_stage", ("backbone.name", "backbone.backbone_layer_multiplier")),
    (r"^encoder/", ("backbone.name",)),
    (r"/_aspp/", _ASPP),
    (r"_decoder/", _LOW_LEVEL),
)
_WHERE_SHAPES_DIFFER = (
    (r"^encoder/_stem/", ("backbone.stem_width_multiplier",)),
    (r"/_batch_norm_similarity/", _ATTENTION),
    (r"^encoder/", ("backbone.name", "backbone.backbone_width_multiplier")),
    (r"/_aspp/", _ASPP),
    (r"_decoder/", ("decoder.decoder_channels", "panoptic_deeplab.instance.instance_decoder_override", *_LOW_LEVEL)),
    (r"^semantic_last_layer/", ("panoptic_deeplab.semantic_head.output_channels",)),
    (r"_head_", ("head_channels of the heads",)),
)


def remedy(keys: Sequence[str], shapes: Mapping[str, ShapePair]) -> str:
    """What to do about a checkpoint that does not fit.

    Args:
      keys: those that only the model or only the checkpoint has.
      shapes: of the keys that both have, but with another shape.

    Returns:
      One or two sentences.
    """
    bias = shapes.get("semantic_last_layer/bias")
    if bias and not keys and all(key.startswith("semantic_last_layer/") for key in shapes):
        return (
            f"The checkpoint has {bias[1][0]} classes, the config {bias[0][0]}: set "
            f"model_options.panoptic_deeplab.semantic_head.output_channels: {bias[1][0]}, or start a training with "
            "model_options.restore_semantic_last_layer_from_initial_checkpoint: false."
        )
    found = [(key, _first(key, _WHERE_KEYS_DIFFER)) for key in keys]
    found += [(key, _first(key, _WHERE_SHAPES_DIFFER)) for key in shapes]
    # What comes after another backbone differs because of it.
    fields = [fields for key, fields in found if key.startswith("encoder/")] or [fields for _, fields in found]
    names = ", ".join(dict.fromkeys(name for group in fields for name in group))
    return f"Compare with the DeepLab2 config that it was trained with, in model_options: {names}.{_width(shapes)}"


def _first(key: str, table: Sequence[tuple[str, tuple[str, ...]]]) -> tuple[str, ...]:
    return next((fields for pattern, fields in table if re.search(pattern, key)), ())


def _width(shapes: Mapping[str, ShapePair]) -> str:
    """How much wider the checkpoint's backbone is, if all its stages agree on that."""
    ratios = {
        theirs[-1] / ours[-1]
        for key, (ours, theirs) in shapes.items()
        if re.match(r"encoder/_stage\d/.*/_conv[23]_bn/_conv/kernel$", key)
    }
    if len(ratios) != 1 or 1 in ratios:
        return ""
    return f" Its backbone is {ratios.pop():g} times as wide as the config's."
