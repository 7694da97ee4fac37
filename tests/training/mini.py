# SPDX-License-Identifier: Apache-2.0
"""The smallest thing that the trainer can train: it is traced in a second, where a real network takes half a minute."""

import tensorflow as tf
import tf_keras

from deeplab_axial import keys
from deeplab_axial.layers.drop_path import DropPath
from deeplab_axial.losses.panoptic_deeplab import LossTerm, PanopticDeepLabLoss
from deeplab_axial.training.trainer import Optimizer, StepOptions, Trainer

BATCH_SIZE = 4
IGNORE_LABEL = 0
TERMS = ("semantic_loss", "total_loss", "gradient_norm", "learning_rate")


class MiniNetwork(tf_keras.Model):
    """Two 1x1 convolutions with a batch normalisation between them, and a branch with drop path."""

    def __init__(self, keep_prob: float = 1.0, with_norm: bool = True):
        super().__init__()
        self.first = tf_keras.layers.Conv2D(8, 1)
        self.norm = tf_keras.layers.BatchNormalization(synchronized=True) if with_norm else None
        self.branch = tf_keras.layers.Conv2D(8, 1)
        self.drop_path = DropPath(keep_prob)
        self.last = tf_keras.layers.Conv2D(3, 1)
        self(tf.zeros([1, 9, 9, 3]))

    def call(self, images, training=False, seed=None):
        x = self.first(images / 127.5 - 1.0)
        if self.norm is not None:
            x = self.norm(x, training=training)
        x += self.drop_path(self.branch(x), training=training, seed=seed)
        return {keys.SEMANTIC_LOGITS: self.last(tf.nn.relu(x))}


def dataset(first_step: int, bad_image: int | None = None) -> tf.data.Dataset:
    """Images of red and blue pixels under green noise; the class is the colour. Image number `bad_image` is NaN."""

    def example(index):
        is_red = tf.random.stateless_uniform([9, 9], [5, index]) < 0.5
        noise = tf.random.stateless_uniform([9, 9], [6, index])
        image = 255.0 * tf.stack([tf.cast(is_red, tf.float32), noise, tf.cast(~is_red, tf.float32)], -1)
        if bad_image is not None:
            image = tf.where(index == bad_image, image * float("nan"), image)
        target = {keys.SEMANTIC_TARGET: tf.where(is_red, 1, 2), keys.SEMANTIC_WEIGHT: tf.ones([9, 9])}
        return {keys.IMAGE: image, **target}

    images = tf.data.Dataset.range(first_step * BATCH_SIZE, 2**31)
    return images.map(example).batch(BATCH_SIZE, drop_remainder=True)


def make_trainer(
    optimizer: Optimizer,
    keep_prob: float = 1.0,
    strategy: tf.distribute.Strategy | None = None,
    part_optimizers: dict[str, Optimizer | None] | None = None,
    with_norm: bool = True,
    **kwargs,
) -> Trainer:
    """A trainer with a network of its own, the same each time; `kwargs` are of `StepOptions`."""
    strategy = strategy or tf.distribute.get_strategy()
    tf_keras.utils.set_random_seed(1)
    with strategy.scope():
        network = MiniNetwork(keep_prob, with_norm)
    loss = PanopticDeepLabLoss(IGNORE_LABEL, LossTerm())
    return Trainer(strategy, network, loss, optimizer, StepOptions(BATCH_SIZE, **kwargs), part_optimizers)


def iterator(trainer: Trainer, first_step: int = 0, **kwargs):
    """Batches for a trainer."""
    return iter(trainer.strategy.experimental_distribute_dataset(dataset(first_step, **kwargs)))
