# SPDX-License-Identifier: Apache-2.0
"""Pictures of the report, as data URLs."""

import base64

import numpy as np
from PIL import Image

from deeplab_axial import contact_sheet, visualization
from deeplab_axial.data.label_space import LabelSpace
from deeplab_axial.report import details
from deeplab_axial.report.details import Picture

# Larger pictures are shrunk by a whole number, pixels.
_LONGEST_SIDE = 800
# As PNG, the pictures of a page would take tens of megabytes.
_JPEG_QUALITY = 80
_GLOW = np.array([255, 214, 70], np.float32)
_OUTLINE = np.array([120, 190, 255], np.float32)
_LEGEND_SIDE = 96


def draw(picture: Picture, space: LabelSpace, heads: bool = False) -> dict[str, str]:
    """What is shown of one image.

    Args:
      picture: the image with its maps.
      space: the classes.
      heads: whether the heatmap and the offsets are drawn, if the picture has them.

    Returns:
      Title -> data URL: "Image", "Ground truth", "Prediction", and "Centre heatmap" and "Offsets".
    """
    scale = visualization.display_scale(*picture.image.shape[:2])
    drawn = {
        "Image": visualization.enlarge(picture.image, scale),
        "Ground truth": visualization.panoptic_overlay(picture.image, picture.truth, space),
        "Prediction": visualization.panoptic_overlay(picture.image, picture.prediction, space),
    }
    if heads and picture.heatmap is not None:
        drawn["Centre heatmap"] = _heatmap(picture, space, scale)
        drawn["Offsets"] = picture.offsets.repeat(scale, axis=0).repeat(scale, axis=1)
    return {title: data_url(_reduce(image)) for title, image in drawn.items()}


def legend() -> dict[str, str]:
    """Data URLs of a "heatmap" peak and of the "wheel" of offset colours: the colour at the place it points to."""
    steps = np.arange(_LEGEND_SIDE) - (_LEGEND_SIDE - 1) / 2
    vectors = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1)  # [side, side, 2], (y, x) from the middle
    lengths = np.linalg.norm(vectors, axis=-1)
    wheel = contact_sheet.offset_colors(vectors, lengths <= _LEGEND_SIDE / 2, _LEGEND_SIDE / 2)
    heat = np.exp(-np.square(lengths) / (2 * (_LEGEND_SIDE / 6) ** 2))
    peak = _glow(np.full((_LEGEND_SIDE, _LEGEND_SIDE, 3), 70, np.float32), heat)
    return {"heatmap": data_url(np.rint(peak).astype(np.uint8)), "wheel": data_url(wheel)}


def data_url(image: np.ndarray) -> str:
    """uint8 [H, W, 3] as a JPEG inside an address."""
    encoded = details.encode(image, "JPEG", quality=_JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(encoded).decode("ascii")


def _heatmap(picture: Picture, space: LabelSpace, scale: int) -> np.ndarray:
    """The heatmap as a glow over the faint image, with the outlines of the predicted things."""
    canvas = 0.35 * visualization.enlarge(picture.image, scale).mean(axis=-1, keepdims=True).repeat(3, axis=-1) + 25
    is_thing = np.isin(picture.prediction // space.label_divisor, space.thing_ids)
    things = np.where(is_thing, picture.prediction, 0).repeat(scale, axis=0).repeat(scale, axis=1)
    edges = visualization.contours(things, width=max(1, min(things.shape) // 400))
    canvas = np.where(edges[..., None], 0.4 * canvas + 0.6 * _OUTLINE, canvas)
    # As colour, for that is what `enlarge` takes.
    heat = visualization.enlarge(picture.heatmap[..., None].repeat(3, axis=-1), scale)[..., 0] / 255
    return np.rint(_glow(canvas, heat)).astype(np.uint8)


def _glow(canvas: np.ndarray, heat: np.ndarray) -> np.ndarray:
    return canvas + heat[..., None] * (_GLOW - canvas)


def _reduce(image: np.ndarray) -> np.ndarray:
    factor = -(-max(image.shape[:2]) // _LONGEST_SIDE)
    return np.asarray(Image.fromarray(image).reduce(factor))
