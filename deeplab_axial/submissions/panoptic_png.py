# SPDX-License-Identifier: Apache-2.0
"""COCO's panoptic format for predictions: a PNG of segment ids R + 256 G + 65536 B, 0 is void, and their categories."""

import io
from collections.abc import Iterable

import numpy as np
from PIL import Image

from deeplab_axial.data import image_bytes
from deeplab_axial.data.label_space import LabelSpace


def encode(panoptic: np.ndarray, space: LabelSpace) -> tuple[bytes, list[dict]]:
    """Encodes a panoptic map.

    Args:
      panoptic: [H, W] panoptic ids.
      space: their classes.

    Returns:
      The PNG, and its segments as [{"id", "category_id"}]; ids count from 1.
    """
    found, index = np.unique(panoptic, return_inverse=True)
    segments, numbers = [], np.zeros(found.size, np.int32)
    for i in np.flatnonzero(found != space.void_id):
        numbers[i] = len(segments) + 1
        category_id = space.by_id[int(found[i]) // space.label_divisor].category_id
        segments.append({"id": len(segments) + 1, "category_id": category_id})
    ids = numbers[index].reshape(panoptic.shape)
    return to_png(np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1).astype(np.uint8)), segments


def to_png(array: np.ndarray) -> bytes:
    """The PNG of a uint8 array [H, W] or [H, W, 3]."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


def problem(png: bytes, segments: Iterable[dict], size: tuple[int, int]) -> str | None:
    """What is wrong with an encoded map, or None.

    Args:
      png: the PNG.
      segments: [{"id", "category_id"}].
      size: (height, width) that it must have, pixels.
    """
    try:
        with image_bytes.opened(png) as image:
            pixels = np.asarray(image)
    except image_bytes.UnreadableImage as error:
        return f"it does not decode ({error})"
    if pixels.shape != (*size, 3):
        return f"its shape is {pixels.shape}, not {(*size, 3)}"
    shown = set(np.unique(pixels.astype(np.int32) @ [1, 256, 65536]).tolist()) - {0}
    listed = [segment["id"] for segment in segments]
    if len(set(listed)) < len(listed) or shown != set(listed):
        return f"it shows segments {sorted(shown)[:8]}, and the JSON lists {listed[:8]}"
    return None
