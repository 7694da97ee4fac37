# SPDX-License-Identifier: Apache-2.0
"""The synthetic scenes as a classification data set: crops of things and of textures, in ImageNet's layout.

A crop shows one thing with what is around it, or one texture. So the network learns what the segmentation of the scenes
needs, from other scenes.
"""

import contextlib
import json
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from deeplab_axial import json_files
from deeplab_axial.data import scene_drawing as drawing
from deeplab_axial.data import scenes
from deeplab_axial.errors import InputError
from deeplab_axial.progress import Bar

CLASSES = tuple(sorted(category["name"].replace(" ", "_") for category in scenes.CATEGORIES))
_THINGS = {category["name"] for category in scenes.CATEGORIES if category["isthing"]}
_MARK = "scene_crops.json"
_FORMAT_VERSION = 1
# All in pixels of a scene.
_SCENE = (128, 160)
_MIN_AREA = 150
_MARGIN = 1.3  # side of a crop over the longer side of its thing
_MIN_SIDE = 32
_MAX_SIDE = 80
_TRIES = 10
# A thing fills so much of all things' pixels in its crop, a texture of all pixels.
_MIN_SHARE = 0.7


def _thing_window(mask: np.ndarray, all_things: np.ndarray) -> tuple[int, int, int] | None:
    """(y, x, side) of a square around a thing, inside the scene; None if there is more of others in it."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    extent = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    side = int(np.clip(_MARGIN * extent, _MIN_SIDE, min(mask.shape)))
    y, x = (
        int(np.clip((places[0] + places[-1] + 1 - side) // 2, 0, size - side))
        for places, size in zip((rows, columns), mask.shape)
    )
    inside = np.s_[y : y + side, x : x + side]
    return (y, x, side) if mask[inside].sum() >= _MIN_SHARE * all_things[inside].sum() else None


def _texture_window(rng: drawing.Rng, mask: np.ndarray) -> tuple[int, int, int] | None:
    """(y, x, side) of a square that a texture fills; None if none is found."""
    for _ in range(_TRIES):
        side = int(rng.integers(_MIN_SIDE, _MAX_SIDE))
        y, x = (int(rng.integers(size - side + 1)) for size in mask.shape)
        if mask[y : y + side, x : x + side].mean() >= _MIN_SHARE:
            return y, x, side
    return None


def _crops(rng: drawing.Rng) -> Iterator[tuple[str, np.ndarray]]:
    """Draws a scene and yields the crops it gives, as (class, uint8 [side, side, 3])."""
    picture, scene = scenes.draw_scene(rng, *_SCENE)
    things = [label for label, (name, _) in enumerate(scene.segments) if name in _THINGS]
    all_things = np.isin(scene.labels, things)
    for label, (name, is_crowd) in enumerate(scene.segments):
        mask = scene.labels == label
        if label == drawing.VOID or is_crowd or mask.sum() < _MIN_AREA:
            continue
        window = _thing_window(mask, all_things) if name in _THINGS else _texture_window(rng, mask)
        if window is not None:
            y, x, side = window
            yield name.replace(" ", "_"), picture[y : y + side, x : x + side]


def _write_split(root: pathlib.Path, split: str, count: int, seed: list[int]) -> None:
    """Draws scenes until each class has its share of the images."""
    missing = {name: count // len(CLASSES) + (i < count % len(CLASSES)) for i, name in enumerate(CLASSES)}
    for name in CLASSES:
        (root / split / name).mkdir(parents=True, exist_ok=True)
    written = dict.fromkeys(CLASSES, 0)
    with Bar(total=count, desc=f"{split} crops") as progress:
        number = 0
        while any(missing.values()):
            for name, crop in _crops(np.random.default_rng([*seed, number])):
                if missing[name]:
                    missing[name] -= 1
                    written[name] += 1
                    path = root / split / name / f"{written[name]:06d}.jpg"
                    Image.fromarray(crop).save(path, quality=scenes.JPEG_QUALITY)
                    progress.update()
            number += 1


def _old_files(root: pathlib.Path) -> Iterator[pathlib.Path]:
    """The numbered files of an earlier set."""
    for split in ("train", "val"):
        for name in CLASSES:
            folder = root / split / name
            for file in sorted(folder.iterdir()) if folder.is_dir() else ():
                if re.fullmatch(r"\d{6}\.jpg", file.name):
                    yield file


def write_scene_crops(output_dir: str | os.PathLike, num_train: int = 2800, num_val: int = 350, seed: int = 0) -> None:
    """Writes the data set, unless the folder already holds the same one.

    Writes, below `output_dir`, `train/ball/000001.jpg` and so on for each of CLASSES, the same for `val`, and at last a
    file with the arguments, which marks the set as complete. All classes have equally many images, of 32 to 128 pixels
    a side.

    Args:
      output_dir: folder of the set, made if missing. Numbered files of another set there are replaced.
      num_train: training images of all classes.
      num_val: validation images of all classes.
      seed: the same arguments give the same files.

    Raises:
      InputError: an argument is out of range, or `output_dir` cannot be written or holds files of others there.
    """
    for key, value, low in (
        ("num_train", num_train, len(CLASSES)),
        ("num_val", num_val, len(CLASSES)),
        ("seed", seed, 0),
    ):
        if value < low:
            raise InputError(f"{key} must be at least {low}. Received: {value}. Choose a larger value.")
    mark = {"format_version": _FORMAT_VERSION, "num_train": num_train, "num_val": num_val, "seed": seed}
    root = pathlib.Path(output_dir)
    with contextlib.suppress(InputError):  # damaged: as if there were none
        if json_files.read(root / _MARK, Any, "") == mark:
            return
    try:
        root.mkdir(parents=True, exist_ok=True)
        scenes.replace_old_set(root / _MARK, mark, _old_files(root))
        # Scenes that `write_scenes` does not draw.
        for index, (split, count) in enumerate((("train", num_train), ("val", num_val)), start=2):
            _write_split(root, split, count, [seed, index])
        (root / _MARK).write_text(json.dumps(mark))
    except OSError as error:
        raise InputError(
            f"The crops cannot be written. Received output_dir: {output_dir} ({error}). Name a folder that can be "
            "written and has space."
        ) from error
