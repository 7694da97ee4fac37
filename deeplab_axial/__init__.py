# SPDX-License-Identifier: Apache-2.0
"""Axial-DeepLab: panoptic segmentation with position-sensitive axial attention, in TensorFlow.

import deeplab_axial

model = deeplab_axial.load("export")
result = model.predict("photo.jpg")
result.save("overlay.png")
"""

import os
import typing

if typing.TYPE_CHECKING:
    from deeplab_axial.predict import PanopticModel

__version__ = "0.1.0"


def load(path: str | os.PathLike, padding: str | None = None) -> "PanopticModel":
    """Loads a model that segments images.

    TensorFlow is imported by the first call, so that `import deeplab_axial` is quick.

    Args:
      path: an export of this library; a folder of its versions, named by numbers, of which the newest is taken (as
        TensorFlow Serving does); a model folder, of which the newest checkpoint is taken; or a checkpoint's prefix.
      padding: of a checkpoint's images: "evaluation" (None means it, too) pads them to the crop size, as evaluation
        does; "minimal" to the smallest size that the network takes. An export has its own.

    Returns:
      The model; `predict` takes images.

    Raises:
      deeplab_axial.errors.InputError: there is no model, or it is damaged.
    """
    from deeplab_axial import api

    return api.load(path, padding)
