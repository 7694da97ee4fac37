# SPDX-License-Identifier: Apache-2.0
"""ResNets whose blocks are convolutional or attend (Axial-DeepLab, ECCV 2020, sections 3.3 and 3.4)."""

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
import tf_keras

from deeplab_axial.backbones.presets import AttentionWidths
from deeplab_axial.layers import drop_path, recompute, residual_block, stems

# Total stride at the input and at the output of each stage in a classification network, whatever the output stride.
STAGE_STRIDES = {2: (2, 4), 3: (4, 8), 4: (8, 16), 5: (16, 32)}
BLOCK_KINDS = ("bottleneck", "wide")


@tf_keras.utils.register_keras_serializable("deeplab_axial")
class AxialResNet(tf_keras.Model):
    """A stem and four or five stages of residual blocks.

    Stage i of 2..5 has 64 * 2^(i - 2) * width_multiplier filters and puts out four times that. Its first block has
    stride 2 until the output stride is reached; from there on convolutions are atrous, while attention is left as it
    is. A block attends if the stride of its input (in the classification network) is at least `axial_from_stride`.
    Stage 1, where there is one, belongs to the stem: it has 32 filters times the width of the stem. Behind a stem of
    convolutions it keeps their stride; without one (`stem` kind "none") it has stride 2 on the image.

    Args:
      num_blocks: blocks of stages 2 to 5, or of stages 1 to 5.
      output_stride: input pixels to a position of the last stage: 8, 16 or 32.
      stem: keyword arguments of `Stem`.
      width_multiplier: scales the stages.
      axial_from_stride: 2 for attention in every block, 1 in stage 1 too; None for none.
      attention: keyword arguments shared by all attention layers (span, ablations), but no depths.
      striding: of the attention, "average_pool" or "subsample".
      block: further keyword arguments of every block: use_squeeze_and_excite.
      keep_prob: (probability of keeping a branch at stride 32, "constant" or "linear") for drop path.
      norm: momentum, epsilon and synchronized of the batch normalisations; None: those of Keras.
      attention_kind: "axial" or "local" (windows of span x span).
      attention_widths: (bottleneck, key, value): see `AttentionWidths`.
      conv_block: blocks without attention: "bottleneck" (of ResNet), or "wide" (of Wide-ResNet): two 3x3 convolutions,
        but at stride 32 a bottleneck with a 3x3 convolution of twice the filters.
      drop_path_from_stride: branches at smaller strides are always kept.
      sac_from_stride: 3x3 convolutions of stages with at least this stride (in the classification network) are
        switchable atrous ones; None for none.
      recompute: whether training keeps only the inputs of the blocks for the backward pass, which computes their inside
        and the stem's again.

    Attributes:
      stem_layer: the `Stem`.
      stage1: list of the blocks of stage 1, empty where there is none.
      stages: list of the lists of blocks of stages 2 to 5.

    Call arguments:
      inputs: [B, H, W, 3], normalised to about [-1, 1].
      training: whether batch normalisation uses the statistics of the batch and drop path is on.
      seed: [2] integers, of drop path; None draws them.

    Returns:
      {"res1", ..., "res5"}: activated outputs of the stem (stage 1 included) and the stages; res2 to res5 have stride
      4, 8, 16, 32 or the output stride where that is less.

    Raises:
      ValueError: an argument is outside its range, or the network is too narrow for its heads.
    """

    def __init__(
        self,
        num_blocks: Sequence[int],
        output_stride: int,
        stem: Mapping[str, Any],
        width_multiplier: float = 1.0,
        axial_from_stride: int | None = 2,
        attention: Mapping[str, Any] | None = None,
        striding: str = "average_pool",
        block: Mapping[str, Any] | None = None,
        keep_prob: tuple[float, str] = (1.0, "constant"),
        norm: Mapping[str, Any] | None = None,
        attention_kind: str = "axial",
        attention_widths: tuple[int, int, int] = AttentionWidths(),
        conv_block: str = "bottleneck",
        drop_path_from_stride: int = 16,
        sac_from_stride: int | None = None,
        recompute: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if len(num_blocks) not in (4, 5) or min(num_blocks) < 1:
            raise ValueError(
                "num_blocks must be four positive numbers, for stages 2 to 5, or five, for stages 1 to 5. "
                f"Received: {num_blocks}"
            )
        if output_stride not in (8, 16, 32):
            raise ValueError(f"output_stride must be 8, 16 or 32. Received: {output_stride}")
        if conv_block not in BLOCK_KINDS:
            raise ValueError(f'conv_block must be "bottleneck" or "wide". Received: {conv_block!r}')
        self.num_blocks = list(num_blocks)
        self.output_stride = output_stride
        self.stem = dict(stem)
        self.width_multiplier = width_multiplier
        self.axial_from_stride = axial_from_stride
        self.attention = dict(attention or {})
        self.striding = striding
        self.block = dict(block or {})
        self.keep_prob = tuple(keep_prob)
        self.norm = dict(norm or {})
        self.attention_kind = attention_kind
        self.attention_widths = list(attention_widths)
        self.conv_block = conv_block
        self.drop_path_from_stride = drop_path_from_stride
        self.sac_from_stride = sac_from_stride
        self.recompute = recompute
        self.stem_layer = stems.Stem(norm=norm, name="stem", **stem)
        if self.stem_layer.stride == 1 and len(num_blocks) == 4:
            raise ValueError(f'A stem of kind "none" needs a stage 1: five num_blocks. Received: {num_blocks}')
        if self.stem_layer.stride == 4 and len(num_blocks) == 5:
            raise ValueError(f"Behind a max pool there is no stage 1: use four num_blocks. Received: {num_blocks}")
        self._add_stages()

    def _add_stages(self) -> None:
        self.stage1 = []
        self.stages = []
        reached = self.stem_layer.stride
        strides = {1: (reached, 2), **STAGE_STRIDES} if len(self.num_blocks) == 5 else STAGE_STRIDES
        for (stage, (before, after)), num_blocks in zip(strides.items(), self.num_blocks):
            # The max pool has already done the stride of stage 2.
            stride = 2 if reached == before < min(after, self.output_stride) else 1
            reached *= stride
            blocks = [self._block(stage, number, stride, before, after) for number in range(num_blocks)]
            if stage == 1:
                self.stage1 = blocks
            else:
                self.stages.append(blocks)

    def _block(self, stage: int, number: int, stride: int, before: int, after: int) -> residual_block.ResidualBlock:
        """A block of a stage with these strides in the classification network, its stride here if it is the first."""
        first = number == 0
        current = before if first else after  # the first block goes by its input
        filters = round(32 * (self.stem_layer.width_multiplier if stage == 1 else before * self.width_multiplier))
        shared = {
            "stride": stride if first else 1,
            "keep_prob": drop_path.keep_probability(current, *self.keep_prob, self.drop_path_from_stride),
            "norm": self.norm,
            "name": f"stage{stage}_block{number + 1}",
            **self.block,
        }
        if self.axial_from_stride is not None and current >= self.axial_from_stride:
            widths = AttentionWidths(*self.attention_widths)
            return residual_block.BottleneckBlock(
                filters,
                attention={"key_depth": widths.key * filters, "value_depth": widths.value * filters, **self.attention},
                attention_kind=self.attention_kind,
                expansion=widths.bottleneck,
                striding=self.striding,
                activate_input=not (first and before == 1),
                **shared,
            )
        shared["use_sac"] = self.sac_from_stride is not None and after >= self.sac_from_stride
        shared["dilation"] = max(1, current // self.output_stride)
        if self.conv_block == "wide" and after < 32:
            return residual_block.BasicBlock(filters, second_dilation=max(1, after // self.output_stride), **shared)
        return residual_block.BottleneckBlock(filters, conv_expansion=2 if self.conv_block == "wide" else 1, **shared)

    def call(self, inputs: tf.Tensor, training: bool = False, seed: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        recomputed = training and self.recompute
        if seed is None and recomputed:  # both passes must draw the same
            seed = tf.random.uniform([2], maxval=2**31 - 1, dtype=tf.int32)

        def run(layer, x, **kwargs):
            def function(x):
                return layer(x, training=training, **kwargs)

            return recompute.recompute(function, x) if recomputed else function(x)

        x = run(self.stem_layer, inputs)
        endpoints = {}
        for stage, blocks in enumerate((self.stage1, *self.stages), start=1):
            for number, block in enumerate(blocks):
                block_seed = None
                if training and seed is not None and block.drop_path is not None:
                    block_seed = tf.random.experimental.stateless_fold_in(seed, 1000 * stage + number)
                x = run(block, x, seed=block_seed)
            endpoints[f"res{stage}"] = tf.nn.relu(x)
        return endpoints

    def get_config(self):
        return {
            "name": self.name,
            "num_blocks": self.num_blocks,
            "output_stride": self.output_stride,
            "stem": self.stem,
            "width_multiplier": self.width_multiplier,
            "axial_from_stride": self.axial_from_stride,
            "attention": self.attention,
            "striding": self.striding,
            "block": self.block,
            "keep_prob": list(self.keep_prob),
            "norm": self.norm,
            "attention_kind": self.attention_kind,
            "attention_widths": self.attention_widths,
            "conv_block": self.conv_block,
            "drop_path_from_stride": self.drop_path_from_stride,
            "sac_from_stride": self.sac_from_stride,
            "recompute": self.recompute,
        }
