# SPDX-License-Identifier: Apache-2.0
"""Drop path (stochastic depth, Huang et al. 2016)."""

import tf_keras


def drop_path(keep_prob: float, **kwargs) -> tf_keras.layers.Layer:
    """A layer that drops a residual branch [B, H, W, C] for a whole image during training.

    Args:
      keep_prob: probability of keeping the branch, in (0, 1].
      **kwargs: of the layer, as `name`.
    """
    if not 0 < keep_prob <= 1:
        raise ValueError(f"keep_prob must lie in (0, 1]. Received: {keep_prob}")
    return tf_keras.layers.Dropout(1.0 - keep_prob, noise_shape=(None, 1, 1, 1), **kwargs)


def keep_probability(stride: int, last: float, schedule: str, from_stride: int = 16) -> float:
    """Probability of keeping the branch of a block.

    Args:
      stride: total stride at the block's input for the first block of a stage, at its output for the others, as in the
        classification network, whatever the output stride.
      last: the probability at stride 32.
      schedule: "constant", or "linear" in log2 of the stride.
      from_stride: blocks of smaller stride are always kept.
    """
    if schedule not in ("constant", "linear"):
        raise ValueError(f'schedule must be "constant" or "linear". Received: {schedule!r}')
    if stride < from_stride:
        return 1.0
    if schedule == "constant":
        return last
    return 1.0 - (1.0 - last) * (stride.bit_length() - 2) / 4
