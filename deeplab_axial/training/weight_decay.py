# SPDX-License-Identifier: Apache-2.0
"""Which weights decay, and weight decay as a term of the loss."""

import re
from collections.abc import Sequence

import tensorflow as tf

# Of a variable's name, which may end in ":0", of replicas but the first in "replica_1:0": scales and offsets of
# normalisations, of attention logits too, and every bias. Kernels and position tables decay.
NO_DECAY = r"(^|/)(gamma|beta|bias)(/replica_\d+)?(:\d+)?$"


def decays(variable: tf.Variable) -> bool:
    """Whether a weight decays: it is a kernel or a position table."""
    return re.search(NO_DECAY, variable.name) is None


def add_l2(gradients: Sequence[tf.Tensor], variables: Sequence[tf.Variable], weight: float) -> list[tf.Tensor]:
    """Adds the gradients of weight / 2 * (sum of squares) of the variables that decay.

    Args:
      gradients: of the rest of the loss, one for each variable.
      variables: decaying or not.
      weight: of the sum of squares, halved.

    Returns:
      The gradients of the whole.
    """
    return [
        tf.convert_to_tensor(gradient) + weight * variable if decays(variable) else gradient
        for gradient, variable in zip(gradients, variables)
    ]
