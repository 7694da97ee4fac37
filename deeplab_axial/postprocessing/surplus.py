# SPDX-License-Identifier: Apache-2.0
"""Counts instances that are void because the label divisor holds no more of their class."""

from absl import logging


class Surplus:
    """A count over images; see `merging.merge` for which instances of an image are kept.

    Args:
      label_divisor: panoptic id = class * label_divisor + instance id.

    Attributes:
      num_instances: that are void.
      num_images: that have some.
    """

    def __init__(self, label_divisor: int):
        self.label_divisor = label_divisor
        self.num_instances = self.num_images = 0
        self._first = ""

    def add(self, count: int, name: str) -> None:
        """Adds an image with so many instances too many (keys.NUM_SURPLUS)."""
        if count and not self.num_images:
            self._first = name
        self.num_instances += count
        self.num_images += count > 0

    def say(self) -> None:
        """Writes the count to the log, if there is something to say."""
        if self.num_images:
            logging.warning(
                "%d predicted instances in %d images are void: panoptic ids hold %d instances of a class in an image "
                "(label_divisor - 1), and those with the highest centre scores are kept. The first image: %s. Convert "
                "with a larger --label_divisor to keep more.",
                self.num_instances,
                self.num_images,
                self.label_divisor - 1,
                self._first,
            )
