# SPDX-License-Identifier: Apache-2.0
"""A model that takes photographs; `deeplab_axial.load` makes one."""

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, overload

import numpy as np
import tensorflow as tf
from PIL import Image

from deeplab_axial.data import exif
from deeplab_axial.data.label_space import LabelSpace
from deeplab_axial.errors import InputError
from deeplab_axial.predict import images
from deeplab_axial.predict.result import Result

# What one image may be.
ImageLike = str | os.PathLike | bytes | Image.Image | np.ndarray


class PanopticModel:
    """Segments images.

    Args:
      function: images [B, H, W, 3] uint8 RGB -> the prediction entries of keys.TABLE.
      label_space: meaning of the class ids.
      description: where it comes from, for people.
      static_shape: (B, H, W) that the function needs, None where it takes any.
    """

    def __init__(
        self,
        function: Callable[[tf.Tensor], Mapping[str, tf.Tensor]],
        label_space: LabelSpace,
        description: str,
        static_shape: tuple[int | None, int | None, int | None] = (None, None, None),
    ):
        self.function = function
        self.label_space = label_space
        self.description = description
        self.static_shape = static_shape

    def __repr__(self) -> str:
        space = self.label_space
        return f"PanopticModel({self.description}, {len(space.classes)} classes of {space.name!r})"

    @overload
    def predict(self, image: ImageLike, *, batch_size: int = ..., upright: bool = ...) -> Result: ...

    @overload
    def predict(self, image: Sequence[ImageLike], *, batch_size: int = ..., upright: bool = ...) -> list[Result]: ...

    def predict(self, image, *, batch_size=1, upright=False):
        """Segments one image, or several.

        Args:
          image: a path, the bytes of an image file, a PIL image, or a uint8 array [H, W, 3] in RGB order; or a list of
            them, of any sizes.
          batch_size: most images of a list that the network sees at once; images of one size are put together.
          upright: turns photographs as their EXIF orientation says before they are segmented. By default pixels count
            as stored, as in training and evaluation, and a warning names images with an orientation.

        Returns:
          A `Result`; for a list, a list of them in its order.

        Raises:
          InputError: a file is no image that decodes, an image does not have the one size that the export takes, or
            memory does not hold it.
          ValueError: something else was given than an image.
        """
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1. Received: {batch_size}.")
        if not isinstance(image, (list, tuple)):
            return self._predict_arrays([_pixels(image, "The image", upright)], 1)[0]
        arrays = [_pixels(one, f"Image {i} of the list", upright) for i, one in enumerate(image)]
        return self._predict_arrays(arrays, batch_size)

    def _predict_arrays(self, arrays: list[np.ndarray], batch_size: int) -> list[Result]:
        """Results for images [H, W, 3] uint8, in their order."""
        groups: dict[tuple[int, int], list[int]] = {}
        for i, array in enumerate(arrays):
            self.check_size("an image", *array.shape[:2])
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
        return [results[i] for i in range(len(arrays))]

    def check_size(self, name: str, height: int, width: int) -> None:
        """Refuses what an export for one size (`--input_size`) does not take; `name` is the image's, for the message.

        Raises:
          InputError: says which size it takes.
        """
        _, needed_height, needed_width = self.static_shape
        if (needed_height or height, needed_width or width) != (height, width):
            raise InputError(
                f"{self.description} takes images of {needed_height} x {needed_width} pixels (height x width) only. "
                f"Received: {name} of {height} x {width}. Resize it, or export without --input_size."
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


def _pixels(image: Any, name: str, upright: bool) -> np.ndarray:
    decoded = images.decode(image, name)
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
