# SPDX-License-Identifier: Apache-2.0
"""A model that takes photographs; `deeplab_axial.load` makes one."""

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO, overload

import numpy as np
import tensorflow as tf
from PIL import Image

from deeplab_axial.data import exif
from deeplab_axial.data import value_range as ranges
from deeplab_axial.data.label_space import LabelSpace
from deeplab_axial.data.value_range import ValueRange
from deeplab_axial.errors import InputError
from deeplab_axial.postprocessing.surplus import Surplus
from deeplab_axial.predict import images
from deeplab_axial.predict.result import Result

# Sides of an image, pixels: time grows with pixels times height + width, and docs/predict.md says with how much.
MIN_SIDE = 1
MAX_SIDE = 32_768
# Memory grows with the pixels of a batch. A model may be told another limit.
MAX_PIXELS = 1 << 25
# What one image may be.
ImageLike = str | os.PathLike | bytes | BinaryIO | Image.Image | np.ndarray


class PanopticModel:
    """Segments images.

    Args:
      function: images [B, H, W, 3] uint8 RGB -> the prediction entries of keys.TABLE.
      label_space: meaning of the class ids.
      description: where it comes from, for people.
      static_shape: (B, H, W) that the function needs, None where it takes any.
      value_range: (low, high) that images of 16 bits were scaled from in its training data; None for none.

    Attributes:
      max_pixels: most pixels of an image; may be set, where memory holds more or less.
    """

    def __init__(
        self,
        function: Callable[[tf.Tensor], Mapping[str, tf.Tensor]],
        label_space: LabelSpace,
        description: str,
        static_shape: tuple[int | None, int | None, int | None] = (None, None, None),
        value_range: ValueRange | None = None,
    ):
        self.function = function
        self.label_space = label_space
        self.description = description
        self.static_shape = static_shape
        self._surplus = Surplus(label_space.label_divisor)
        self.max_pixels = MAX_PIXELS
        self.value_range = value_range

    def __repr__(self) -> str:
        space = self.label_space
        return f"PanopticModel({self.description}, {len(space.classes)} classes of {space.name!r})"

    @overload
    def predict(
        self, image: ImageLike, *, batch_size: int = ..., upright: bool = ..., value_range: ValueRange | None = ...
    ) -> Result: ...

    @overload
    def predict(
        self,
        image: Sequence[ImageLike],
        *,
        batch_size: int = ...,
        upright: bool = ...,
        value_range: ValueRange | None = ...,
    ) -> list[Result]: ...

    def predict(self, image, *, batch_size=1, upright=False, value_range=None):
        """Segments one image, or several.

        Args:
          image: a path, the bytes of an image file, a file object opened in binary mode, a PIL image, or an array
            [H, W, 3] in RGB order, uint8 or floats from 0 to 1; or a list of them, of any sizes.
          batch_size: most images of a list that the network sees at once; images of one size are put together.
          upright: turns photographs as their EXIF orientation says before they are segmented. By default pixels count
            as stored, as in training and evaluation, and a warning names images with an orientation.
          value_range: (low, high), the values of images of 16 bits that are black and white, as (0, 4095) for 12 bits.
            None for that of the training data, `self.value_range`.

        Returns:
          A `Result`; for a list, a list of them in its order.

        Raises:
          InputError: a file is no image that decodes, an image is too large, does not have the one size that the
            export takes or has 16 bits that it does not use while no value range is known, or memory does not hold it.
          ValueError: something else was given than an image.
        """
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1. Received: {batch_size}.")
        value_range = ranges.checked(value_range, "value_range") or self.value_range
        if not isinstance(image, (list, tuple)):
            return self._predict_arrays([_pixels(image, "The image", upright, value_range)], [image], 1)[0]
        arrays = [_pixels(one, f"Image {i} of the list", upright, value_range) for i, one in enumerate(image)]
        return self._predict_arrays(arrays, image, batch_size)

    def _predict_arrays(self, arrays: list[np.ndarray], given: Sequence[ImageLike], batch_size: int) -> list[Result]:
        """Results for images [H, W, 3] uint8, in their order, and what they were read from."""
        names = [os.fspath(one) if isinstance(one, (str, os.PathLike)) else "an image" for one in given]
        groups: dict[tuple[int, int], list[int]] = {}
        for i, array in enumerate(arrays):
            self.check_size(names[i], *array.shape[:2])
            groups.setdefault(array.shape[:2], []).append(i)
        results: dict[int, Result] = {}
        size = self.static_shape[0] or batch_size
        for group in groups.values():
            for start in range(0, len(group), size):
                batch = group[start : start + size]
                predictions = self._run(np.stack([arrays[i] for i in batch]))
                for position, i in enumerate(batch):
                    one = {key: value[position] for key, value in predictions.items()}
                    results[i] = Result.from_predictions(arrays[i], one, self.label_space)
                    self._count_surplus(results[i])
        return [results[i] for i in range(len(arrays))]

    def _count_surplus(self, result: Result) -> None:
        """Says once that there are instances for which no id was left; results count them."""
        if result.num_surplus and not self._surplus.num_images:
            height, width = result.panoptic.shape
            self._surplus.add(result.num_surplus, f"one of {height} x {width} pixels")
            self._surplus.say()

    def check_size(self, name: str, height: int, width: int) -> None:
        """Refuses sizes beyond the limits, and what an export for one size (`--input_size`) does not take.

        Args:
          name: the image's, for the message.
          height: pixels.
          width: pixels.

        Raises:
          InputError: says which sizes it takes.
        """
        _, needed_height, needed_width = self.static_shape
        if (needed_height or height, needed_width or width) != (height, width):
            raise InputError(
                f"{self.description} takes images of {needed_height} x {needed_width} pixels (height x width) only. "
                f"Received: {name} of {height} x {width}. Resize it, or export without --input_size."
            )
        received = f"Received: {name} of {height} x {width} (height x width)."
        if min(height, width) < MIN_SIDE or max(height, width) > MAX_SIDE:
            raise InputError(
                f"The sides of an image must be {MIN_SIDE} to {MAX_SIDE:,} pixels. {received} Cut it into parts, or "
                "make it smaller."
            )
        if height * width > self.max_pixels:
            raise InputError(
                f"An image may have {self.max_pixels:,} pixels, for memory's sake. {received} Make it smaller, cut "
                "it into parts, or allow more: --max_pixels, or the model's max_pixels."
            )

    def _run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        """Predictions for images [B, H, W, 3]; B is filled up where the function needs more."""
        missing = (self.static_shape[0] or 0) - len(batch)
        if missing > 0:
            batch = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)])
        try:
            return {key: value.numpy() for key, value in self.function(tf.constant(batch)).items()}
        except tf.errors.ResourceExhaustedError as error:
            count, height, width, _ = batch.shape
            raise InputError(
                f"Memory does not hold the prediction of {count} images of {height} x {width} pixels (height x width). "
                "Make the image or the batch size smaller."
            ) from error


def _pixels(image: Any, name: str, upright: bool, value_range: ValueRange | None) -> np.ndarray:
    decoded = images.decode(image, name, value_range)
    if upright:
        return np.ascontiguousarray(decoded.turned())
    if decoded.orientation != exif.UPRIGHT:
        named = os.fspath(image) if isinstance(image, (str, os.PathLike)) else name
        warnings.warn(
            f"{named} has EXIF orientation {decoded.orientation}, which is not applied: pixels count as stored, as in "
            "training. predict(..., upright=True) turns it first.",
            stacklevel=3,
        )
    return decoded.pixels
