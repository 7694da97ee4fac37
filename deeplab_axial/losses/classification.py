# SPDX-License-Identifier: Apache-2.0
"""The loss of image classification: softmax cross-entropy with label smoothing."""

from collections.abc import Mapping

import tensorflow as tf

from deeplab_axial import keys


def cross_entropy(logits: tf.Tensor, target: tf.Tensor, label_smoothing: float = 0.0) -> tf.Tensor:
    """Cross-entropy with a target of which a share is spread evenly over all classes (Szegedy et al. 2016, section 7).

    Args:
      logits: [B, C].
      target: [B] class ids.
      label_smoothing: the share, in [0, 1).

    Returns:
      [B] float32.
    """
    logits = tf.cast(logits, tf.float32)
    of_target = tf.nn.sparse_softmax_cross_entropy_with_logits(target, logits)
    # Minus the mean of the log probabilities.
    of_all = tf.reduce_logsumexp(logits, axis=-1) - tf.reduce_mean(logits, axis=-1)
    return (1.0 - label_smoothing) * of_target + label_smoothing * of_all


class ClassificationLoss:
    """The loss of a classifier, in the form of `PanopticDeepLabLoss`.

    Args:
      label_smoothing: share of the target that is spread evenly over all classes, in [0, 1).

    Call arguments:
      targets: has keys.CLASS_TARGET, see keys.TABLE.
      outputs: of a `Classifier`.

    Returns:
      {keys.CLASSIFICATION_LOSS: [B], keys.TOTAL_LOSS: [B]}, which are the same.

    Raises:
      ValueError: the share is outside its range.
    """

    def __init__(self, label_smoothing: float = 0.0):
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(f"label_smoothing must lie in [0, 1). Received: {label_smoothing}. The paper has 0.1")
        self.label_smoothing = label_smoothing

    @property
    def term_names(self) -> tuple[str, ...]:
        """Names of the terms, the sum last."""
        return (keys.CLASSIFICATION_LOSS, keys.TOTAL_LOSS)

    def __call__(self, targets: Mapping[str, tf.Tensor], outputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        loss = cross_entropy(outputs[keys.CLASS_LOGITS], targets[keys.CLASS_TARGET], self.label_smoothing)
        return {keys.CLASSIFICATION_LOSS: loss, keys.TOTAL_LOSS: loss}
