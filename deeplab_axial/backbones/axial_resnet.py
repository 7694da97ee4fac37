# SPDX-License-Identifier: Apache-2.0
"""ResNets whose blocks are convolutional or axial (Axial-DeepLab, ECCV 2020, section 3.4)."""

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
import tf_keras

from deeplab_axial.layers import drop_path, residual_block, stems

# Total input stride of stages 2 to 5 in a classification network.
STAGE_STRIDES = (2, 4, 8, 16)


@tf_keras.utils.register_keras_serializable("deeplab_axial")
class AxialResNet(tf_keras.Model):
    """A stem and four stages of residual bottleneck blocks.

    Stage i of 2..5 is 64 * 2^(i - 2) * width_multiplier wide and puts out four times that. Its first block has stride 2
    until the output stride is reached; from there on convolutions are atrous, while attention, which spans the axis
    anyway, is left as it is. A block is axial if the stride of its input (in the classification network) is at least
    `axial_from_stride`.

    Args:
      num_blocks: blocks of stages 2 to 5.
      output_stride: input pixels to a position of the last stage: 8, 16 or 32.
      stem: keyword arguments of `Stem`.
      width_multiplier: scales the stages.
      axial_from_stride: 2 for axial blocks everywhere; None for none.
      attention: keyword arguments of `AxialAttention` shared by all blocks (span, ablations), but no depths.
      striding: of the attention, "average_pool" or "subsample".
      block: further keyword arguments of every `BottleneckBlock`: use_squeeze_and_excite.
      keep_prob: (probability of keeping a branch at stride 32, "constant" or "linear") for drop path.
      norm: momentum, epsilon and synchronized of the batch normalisations; None: those of Keras.

    Call arguments:
      inputs: [B, H, W, 3], normalised to about [-1, 1].
      training: whether batch normalisation uses the statistics of the batch and drop path is on.
      seed: [2] integers, of drop path; None draws them.

    Returns:
      {"res1", ..., "res5"}: activated outputs of the stem and the stages; res2 to res5 have stride 4, 8, 16, 32 or the
      output stride where that is less.
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
        **kwargs,
    ):
        super().__init__(**kwargs)
        if len(num_blocks) != 4 or min(num_blocks) < 1:
            raise ValueError(f"num_blocks must be four positive numbers, for stages 2 to 5. Received: {num_blocks}")
        if output_stride not in (8, 16, 32):
            raise ValueError(f"output_stride must be 8, 16 or 32. Received: {output_stride}")
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
        self.stem_layer = stems.Stem(norm=norm, name="stem", **stem)
        self.stages = []
        reached = self.stem_layer.stride
        dilation = 1
        for index, input_stride in enumerate(STAGE_STRIDES):
            stride = 2 if reached == input_stride and reached < output_stride else 1
            reached *= stride
            self.stages.append(self._stage(index, input_stride, stride, dilation, 2 * input_stride // reached))
            dilation = 2 * input_stride // reached

    def _stage(self, index: int, input_stride: int, stride: int, first_dilation: int, dilation: int) -> list:
        """The blocks of stage index + 2; its first block keeps the atrous rate of the stage before."""
        filters = round(32 * input_stride * self.width_multiplier)
        blocks = []
        for number in range(self.num_blocks[index]):
            first = number == 0
            original_stride = input_stride if first else 2 * input_stride
            axial = self.axial_from_stride is not None and original_stride >= self.axial_from_stride
            attention = {"key_depth": filters, "value_depth": 2 * filters, **self.attention} if axial else None
            blocks.append(
                residual_block.BottleneckBlock(
                    filters,
                    stride=stride if first else 1,
                    dilation=1 if axial else first_dilation if first else dilation,
                    attention=attention,
                    expansion=2 if axial else 1,
                    striding=self.striding,
                    keep_prob=drop_path.keep_probability(original_stride, *self.keep_prob),
                    norm=self.norm,
                    name=f"stage{index + 2}_block{number + 1}",
                    **self.block,
                )
            )
        return blocks

    def call(self, inputs: tf.Tensor, training: bool = False, seed: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        x = self.stem_layer(inputs, training=training)
        endpoints = {"res1": tf.nn.relu(x)}
        for index, stage in enumerate(self.stages):
            for number, block in enumerate(stage):
                block_seed = None
                if training and seed is not None and block.drop_path is not None:
                    block_seed = tf.random.experimental.stateless_fold_in(seed, 1000 * index + number)
                x = block(x, training=training, seed=block_seed)
            endpoints[f"res{index + 2}"] = tf.nn.relu(x)
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
        }
