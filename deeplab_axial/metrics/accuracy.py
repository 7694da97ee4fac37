# SPDX-License-Identifier: Apache-2.0
"""Accuracy of image classification: how often the true class is the first, or among the first five."""

import numpy as np

TOP = 5


class Accuracy:
    """Top-1 and top-5 accuracy. Streaming: `update` per batch, `merge` across workers, `result` at any time.

    Of classes with equal scores the one with the lower id comes first, so that no image counts for a network that
    tells nothing apart.

    Args:
      num_classes: C.

    Raises:
      ValueError: there are no classes.
    """

    def __init__(self, num_classes: int):
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1. Received: {num_classes}. ImageNet has 1000")
        self.num_classes = num_classes
        self._images = np.zeros(num_classes, np.int64)  # of each true class, as are the following two
        self._first = np.zeros(num_classes, np.int64)
        self._among_first = np.zeros(num_classes, np.int64)

    def update(self, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Adds images.

        Args:
          scores: [B, C], more is better.
          labels: [B] true classes.

        Returns:
          [B] int64: how many classes come before the true one; 0 if it is the first.

        Raises:
          ValueError: shapes do not fit, a score is no number or a label is no class; nothing is counted then.
        """
        scores, labels = np.asarray(scores), np.asarray(labels)
        if scores.shape != (labels.size, self.num_classes) or labels.ndim != 1:
            raise ValueError(
                f"scores must be [B, {self.num_classes}] and labels [B]. Received: {scores.shape} and {labels.shape}"
            )
        if not np.isfinite(scores).all():
            raise ValueError("scores must be finite. Received: infinite ones or NaN. Did the training diverge?")
        if np.any((labels < 0) | (labels >= self.num_classes)):
            raise ValueError(f"labels must lie in [0, {self.num_classes}). Received: {labels.tolist()}")
        own = np.take_along_axis(scores, labels[:, None].astype(np.int64), axis=1)
        is_before = np.arange(self.num_classes) < labels[:, None]
        ranks = np.sum((scores > own) | ((scores == own) & is_before), axis=1)
        np.add.at(self._images, labels, 1)
        np.add.at(self._first, labels, ranks == 0)
        np.add.at(self._among_first, labels, ranks < TOP)
        return ranks

    def merge(self, other: "Accuracy") -> None:
        """Adds the images of another instance, which must have as many classes."""
        if other.num_classes != self.num_classes:
            raise ValueError(f"Metrics to merge must have {self.num_classes} classes. Received: {other.num_classes}")
        self._images += other._images
        self._first += other._first
        self._among_first += other._among_first

    @property
    def num_images(self) -> int:
        """Images so far."""
        return int(self._images.sum())

    def result(self) -> dict:
        """The accuracy over all images so far; plain types, fractions between 0 and 1.

        Returns:
          {"top1", "top5", "per_class": {class id: top-1 of its images}}; None where there is no image, and for top5
          where there are no more than five classes.
        """
        count = self.num_images
        tells_top = count and self.num_classes > TOP
        return {
            "top1": int(self._first.sum()) / count if count else None,
            "top5": int(self._among_first.sum()) / count if tells_top else None,
            "per_class": {
                str(i): int(first) / int(images) if images else None
                for i, (first, images) in enumerate(zip(self._first, self._images))
            },
        }
