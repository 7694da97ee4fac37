# SPDX-License-Identifier: Apache-2.0
"""Drop path (stochastic depth, Huang et al. 2016)."""

import tensorflow as tf
import tf_keras


@tf_keras.utils.register_keras_serializable("deeplab_axial")
class DropPath(tf_keras.layers.Layer):
    """Drops a residual branch for whole images during training, and scales up what is kept.

    Which images lose the branch depends on the seed alone. A seed made from the number of the step lets a run that
    resumes drop what an undisturbed one would have dropped.

    Args:
      keep_prob: probability of keeping the branch, in (0, 1].

    Call arguments:
      inputs: [B, H, W, C].
      training: whether to drop.
      seed: [2] integers; None draws them.

    Returns:
      [B, H, W, C], 0 where the branch is dropped.
    """

    def __init__(self, keep_prob: float, **kwargs):
        super().__init__(**kwargs)
        if not 0 < keep_prob <= 1:
            raise ValueError(f"keep_prob must lie in (0, 1]. Received: {keep_prob}")
        self.keep_prob = keep_prob

    def call(self, inputs: tf.Tensor, training: bool = False, seed: tf.Tensor | None = None) -> tf.Tensor:
        if not training:
            return inputs
        if seed is None:
            seed = tf.random.uniform([2], maxval=2**31 - 1, dtype=tf.int32)
        kept = tf.random.stateless_uniform([tf.shape(inputs)[0], 1, 1, 1], seed) < self.keep_prob
        return inputs * (tf.cast(kept, inputs.dtype) / self.keep_prob)

    def get_config(self):
        return {**super().get_config(), "keep_prob": self.keep_prob}


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
