# SPDX-License-Identifier: Apache-2.0
"""A batch of the evaluation, shared out among the replicas of a strategy."""

from collections.abc import Sequence

import tensorflow as tf

from deeplab_axial.training.workers import Workers


def share_out(tensors: Sequence[tf.Tensor], strategy: tf.distribute.Strategy) -> list:
    """Gives each replica its share of a batch, equally many images; the first image fills up the last share.

    Args:
      tensors: [B, ...] each, B static.
      strategy: whose replicas take part, of several workers those of this one; with a single one the tensors stay as
        they are.

    Returns:
      Values for the arguments of `strategy.run`; replica r gets the images from r * ceil(B / replicas) on.
    """
    replicas = strategy.num_replicas_in_sync // Workers(strategy).count
    if replicas == 1:
        return list(tensors)
    size = tensors[0].shape[0]
    places = tf.range(-(-size // replicas) * replicas) % size
    return [_deal(tf.split(tf.gather(value, places), replicas), strategy) for value in tensors]


def _deal(parts: Sequence[tf.Tensor], strategy: tf.distribute.Strategy):
    return strategy.experimental_distribute_values_from_function(
        lambda context: parts[context.replica_id_in_sync_group % len(parts)]
    )
