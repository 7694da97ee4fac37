# SPDX-License-Identifier: Apache-2.0
"""A synthetic panoptic data set in COCO's panoptic format, for the quickstart and the tests.

Pictures show balls, crates and stars before sky, meadows, water and brick walls. Colours are shared by all classes, so
shape and texture decide. Things occlude each other and often touch one of their own class and colour. Some pixels are
void and some clusters are crowd, as in real sets.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from deeplab_axial import json_files
from deeplab_axial.data import scene_drawing as drawing
from deeplab_axial.errors import InputError
from deeplab_axial.progress import Bar

_FORMAT_VERSION = 1
_MIN_VISIBLE = 12  # pixels; smaller remains of a segment are void
_MIN_SIDE = 32
JPEG_QUALITY = 90
# Like COCO's, the ids have holes and mix things and stuff, so that whatever reads them has to map them.
CATEGORIES = (
    {"id": 3, "name": "sky", "isthing": 0, "color": [110, 160, 220], "supercategory": "outdoor"},
    {"id": 5, "name": "ball", "isthing": 1, "color": [220, 60, 60], "supercategory": "toy"},
    {"id": 8, "name": "crate", "isthing": 1, "color": [200, 150, 60], "supercategory": "box"},
    {"id": 21, "name": "meadow", "isthing": 0, "color": [90, 160, 70], "supercategory": "outdoor"},
    {"id": 22, "name": "star", "isthing": 1, "color": [150, 80, 200], "supercategory": "toy"},
    {"id": 25, "name": "water", "isthing": 0, "color": [40, 110, 150], "supercategory": "outdoor"},
    {"id": 31, "name": "brick wall", "isthing": 0, "color": [150, 90, 80], "supercategory": "building"},
)
_BY_NAME = {c["name"]: c for c in CATEGORIES}


@dataclasses.dataclass
class Scene:
    """A picture and what it shows.

    Attributes:
      picture: float32 [H, W, 3], RGB, about 0 to 1; as `draw_scene` returns it, before light and noise.
      labels: int32 [H, W], numbers of segments; 0 is void.
      segments: of each label, its category's name and whether it is a crowd.
    """

    picture: np.ndarray
    labels: np.ndarray
    segments: list[tuple[str, bool]]

    def add(self, name: str, is_crowd: bool = False) -> int:
        self.segments.append((name, is_crowd))
        return len(self.segments) - 1


def _wave(rng: drawing.Rng, length: int, scale: float) -> np.ndarray:
    """A wavy line around 0: float [length], pixels."""
    t = np.arange(length) / length
    line = rng.normal(0, 0.8) * (t - 0.5)
    for cycles, height in ((1.2, 0.5), (3.1, 0.3), (9.0, 0.12)):
        line = line + height * np.sin(2 * np.pi * (cycles * rng.uniform(0.7, 1.3) * t + rng.random()))
    return scale * line


def _paint_background(rng: drawing.Rng, scene: Scene):
    height, width = shape = scene.labels.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    ground = list(rng.permutation(["meadow", "water", "brick wall"]))
    layers = ["sky", *ground] if rng.random() < 0.8 else ground
    count = int(rng.integers(2, 4))
    tops = np.linspace(0, 1, count + 1)[1:-1] + rng.uniform(-0.1, 0.1, count - 1)
    for i, name in enumerate(layers[:count]):
        border = height * tops[i - 1] + _wave(rng, width, 0.1 * height) if i else np.full(width, -height)
        texture = drawing.TEXTURES[name](rng, shape)
        drawing.paint_region(scene.picture, scene.labels, texture, border - y, scene.add(name))
    if count < len(layers) and rng.random() < 0.6:
        name = layers[count]
        texture = drawing.TEXTURES[name](rng, shape)
        if name == "brick wall":  # stands at one side of the picture
            border = width * rng.uniform(0.15, 0.35) + _wave(rng, height, 0.06 * width)
            distance = x - border[:, None] if rng.random() < 0.5 else (width - 1 - border)[:, None] - x
        else:  # a pond or a patch of grass, low in the picture
            v = (y - height * rng.uniform(0.65, 0.9)) / rng.uniform(0.3, 0.5)
            u = x - width * rng.uniform(0.2, 0.8)
            wobble = 1 + 0.12 * np.sin(3 * np.arctan2(v, u) + rng.uniform(0, 6)) + 0.04 * np.sin(8 * np.arctan2(v, u))
            distance = (np.hypot(v, u) - width * rng.uniform(0.2, 0.35) * wobble) * 0.5
        drawing.paint_region(scene.picture, scene.labels, texture, distance, scene.add(name))


def _random_shape(rng: drawing.Rng, shape: tuple[int, int], radius: float | None = None) -> drawing.Shape:
    """A thing at a random place of an image of `shape` = (height, width)."""
    unit = min(shape) / 128
    return drawing.Shape(
        kind=str(rng.choice(list(drawing.SHAPES))),
        center=(shape[0] * rng.uniform(0.12, 0.95), shape[1] * rng.uniform(0.03, 0.97)),
        radius=unit * float(np.exp(rng.uniform(np.log(6), np.log(30)))) if radius is None else radius,
        angle=rng.uniform(-np.pi, np.pi),
        color=drawing.random_color(rng),
        variant=rng.random(),
        void_band=bool(rng.random() < 0.15),
    )


def _neighbour(rng: drawing.Rng, other: drawing.Shape, shape: tuple[int, int]) -> drawing.Shape:
    """A thing of the other's class, and often of its colour, that touches or overlaps it."""
    new = _random_shape(rng, shape, other.radius * rng.uniform(0.75, 1.25))
    direction = rng.uniform(0, 2 * np.pi)
    gap = {"ball": (0.7, 0.98), "crate": (0.6, 0.9), "star": (0.5, 0.75)}[other.kind]
    step = (other.radius + new.radius) * rng.uniform(*gap)
    center = (
        float(np.clip(other.center[0] + step * np.sin(direction), 0, shape[0])),
        float(np.clip(other.center[1] + step * np.cos(direction), 0, shape[1])),
    )
    color = other.color if rng.random() < 0.5 else new.color
    return dataclasses.replace(new, kind=other.kind, center=center, color=color)


def _paint_things(rng: drawing.Rng, scene: Scene, light: np.ndarray):
    shape = scene.labels.shape
    things: list[drawing.Shape] = []
    for _ in range(rng.integers(2, 9)):
        if things and rng.random() < 0.55:
            things.append(_neighbour(rng, things[rng.integers(len(things))], shape))
        else:
            things.append(_random_shape(rng, shape))
    for thing in sorted(things, key=lambda s: s.center[0] + s.radius):  # what stands lower is nearer
        drawing.paint_shape(scene.picture, scene.labels, thing, light, scene.add(thing.kind))


def _paint_crowd(rng: drawing.Rng, scene: Scene, light: np.ndarray):
    shape = scene.labels.shape
    unit = min(shape) / 128
    first = dataclasses.replace(_random_shape(rng, shape), void_band=False)
    label = scene.add(first.kind, is_crowd=True)
    centers = rng.normal(0, 1, (rng.integers(14, 26), 2)) * np.array([6, 12]) * unit + first.center
    for center in centers[np.argsort(centers[:, 0])]:
        small = _random_shape(rng, shape, rng.uniform(3.5, 5.0) * unit)
        small = dataclasses.replace(small, kind=first.kind, center=tuple(center), void_band=False)
        drawing.paint_shape(scene.picture, scene.labels, small, light, label)


def _void_polygon(rng: drawing.Rng, scene: Scene):
    """Takes the labels from a rough polygon: pixels that nobody annotated."""
    height, width = scene.labels.shape
    angles = np.sort(rng.uniform(0, 2 * np.pi, 7))
    radii = rng.uniform(0.04, 0.12, 7) * min(height, width)
    y, x = rng.uniform(0, height), rng.uniform(0, width)
    mask = Image.new("1", (width, height))
    ImageDraw.Draw(mask).polygon(list(zip(x + radii * np.cos(angles), y + radii * np.sin(angles))), fill=1)
    scene.labels[np.asarray(mask)] = drawing.VOID


def draw_scene(rng: drawing.Rng, height: int, width: int) -> tuple[np.ndarray, Scene]:
    """Draws a scene: the finished picture, uint8 [height, width, 3], and the scene behind it."""
    scene = Scene(np.zeros((height, width, 3), np.float32), np.zeros((height, width), np.int32), [("void", False)])
    side = rng.uniform(-0.6, 0.6)
    light = np.array([-0.6, side, np.sqrt(1 - 0.36 - side**2)])  # from above, left or right
    _paint_background(rng, scene)
    if rng.random() < 1 / 12:
        _paint_crowd(rng, scene, light)
    _paint_things(rng, scene, light)
    if rng.random() < 0.15:
        _void_polygon(rng, scene)
    exposure = rng.uniform(0.85, 1.12) * (1 + rng.normal(0, 0.03, 3))
    grain = rng.normal(0, 0.012, (height, width, 1))
    picture = np.clip((scene.picture * exposure + grain) * 255, 0, 255)
    visible = np.bincount(scene.labels.ravel(), minlength=len(scene.segments)) >= _MIN_VISIBLE
    scene.labels = np.where(visible[scene.labels], scene.labels, drawing.VOID)
    return picture.round().astype(np.uint8), scene


def _segment_ids(rng: drawing.Rng, names: list[str]) -> list[int]:
    """Distinct 24-bit ids whose colour is near that of the category, so that the PNG is readable."""
    ids: list[int] = []
    for name in names:
        while True:
            color = np.clip(np.array(_BY_NAME[name]["color"]) + rng.integers(-30, 31, 3), 1, 255)
            segment_id = int(color @ [1, 256, 65536])
            if segment_id not in ids:
                ids.append(segment_id)
                break
    return ids


def _annotate(rng: drawing.Rng, scene: Scene) -> tuple[np.ndarray, list[dict]]:
    """Returns the PNG's pixels, uint8 [H, W, 3], and segments_info."""
    present = [int(i) for i in np.unique(scene.labels) if i != drawing.VOID]
    ids = _segment_ids(rng, [scene.segments[i][0] for i in present])
    table = np.zeros(len(scene.segments), np.int32)
    segments = []
    for label, segment_id in zip(present, ids):
        table[label] = segment_id
        name, is_crowd = scene.segments[label]
        mask = scene.labels == label
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
        segments.append(
            {
                "id": segment_id,
                "category_id": _BY_NAME[name]["id"],
                "area": int(mask.sum()),
                "bbox": [int(b) for b in box],
                "iscrowd": int(is_crowd),
            }
        )
    ids_map = table[scene.labels]
    return np.stack([ids_map & 255, ids_map >> 8 & 255, ids_map >> 16], axis=-1).astype(np.uint8), segments


def _write_split(root: pathlib.Path, split: str, seeds: list[list[int]], height: int, width: int):
    images, annotations = [], []
    (root / split).mkdir(exist_ok=True)
    (root / f"panoptic_{split}").mkdir(exist_ok=True)
    for number, seed in enumerate(Bar(seeds, desc=f"{split} scenes"), start=1):
        rng = np.random.default_rng(seed)  # one an image, so that image i does not depend on how many there are
        picture, scene = draw_scene(rng, height, width)
        colors, segments = _annotate(rng, scene)
        name = f"{number:06d}"
        Image.fromarray(picture).save(root / split / f"{name}.jpg", quality=JPEG_QUALITY)
        Image.fromarray(colors).save(root / f"panoptic_{split}" / f"{name}.png")
        images.append({"id": number, "file_name": f"{name}.jpg", "height": height, "width": width, "license": 1})
        annotations.append({"image_id": number, "file_name": f"{name}.png", "segments_info": segments})
    content = {
        "info": {"description": "Synthetic scenes of deeplab-axial", "version": str(_FORMAT_VERSION)},
        "licenses": [{"id": 1, "name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"}],
        "images": images,
        "annotations": annotations,
        "categories": list(CATEGORIES),
    }
    (root / f"panoptic_{split}.json").write_text(json.dumps(content))


def _old_files(root: pathlib.Path) -> Iterator[pathlib.Path]:
    """The numbered files and the annotation of an earlier set."""
    for split in ("train", "val"):
        for folder in (root / split, root / f"panoptic_{split}"):
            for file in sorted(folder.iterdir()) if folder.is_dir() else ():
                if re.fullmatch(r"\d{6}\.(jpg|png)", file.name):
                    yield file
        if (root / f"panoptic_{split}.json").exists():
            yield root / f"panoptic_{split}.json"


def replace_old_set(mark_file: pathlib.Path, mark: dict, old_files: Iterable[pathlib.Path]) -> None:
    """Removes the files of an earlier set, whether or not it is complete, and marks the folder as one of a set.

    Args:
      mark_file: is there if a set is, or one that was interrupted.
      mark: the arguments of the new set.
      old_files: that would be removed or written over.

    Raises:
      InputError: there are old files, but no mark: they are somebody else's.
    """
    try:
        is_ours = json.loads(mark_file.read_text())["format_version"] is not None
    except (OSError, ValueError, LookupError, TypeError):
        is_ours = False
    old_files = list(old_files)
    if not is_ours and (old_files or mark_file.exists()):
        raise InputError(
            f"--output_dir: {(old_files or [mark_file])[0]} would be replaced, but no {mark_file.name} says that "
            "deeplab-axial wrote it. Name another folder, or move it away."
        )
    # First, so that a set that is interrupted counts as ours.
    mark_file.write_text(json.dumps({**mark, "is_complete": False}))
    for file in old_files:
        file.unlink()


def write_scenes(
    output_dir: str | os.PathLike,
    num_train: int = 500,
    num_val: int = 64,
    height: int = 128,
    width: int = 160,
    seed: int = 0,
) -> None:
    """Writes the synthetic data set, unless the folder already holds the same one.

    Writes, below `output_dir`: `train/000001.jpg` ..., `panoptic_train/000001.png` ..., `panoptic_train.json`, the same
    for `val`, and at last `scenes.json` with the arguments, which marks the set as complete.

    Args:
      output_dir: folder of the set, made if missing. Numbered files of another set there are replaced.
      num_train: training images.
      num_val: validation images.
      height: height of the images, pixels.
      width: width of the images, pixels.
      seed: the same arguments give the same files.

    Raises:
      InputError: an argument is out of range, or `output_dir` cannot be written or holds files of others there.
    """
    for key, value, low in (
        ("num_train", num_train, 1),
        ("num_val", num_val, 1),
        ("height", height, _MIN_SIDE),
        ("width", width, _MIN_SIDE),
        ("seed", seed, 0),
    ):
        if value < low:
            raise InputError(f"{key} must be at least {low}. Received: {value}. Choose a larger value.")
    arguments = {"num_train": num_train, "num_val": num_val, "height": height, "width": width, "seed": seed}
    mark = {"format_version": _FORMAT_VERSION, **arguments}
    root = pathlib.Path(output_dir)
    with contextlib.suppress(InputError):  # damaged: as if there were none
        if json_files.read(root / "scenes.json", Any, "") == mark:
            return
    try:
        root.mkdir(parents=True, exist_ok=True)
        replace_old_set(root / "scenes.json", mark, _old_files(root))
        for index, (split, count) in enumerate((("train", num_train), ("val", num_val))):
            _write_split(root, split, [[seed, index, i] for i in range(count)], height, width)
        (root / "scenes.json").write_text(json.dumps(mark))
    except OSError as error:
        raise InputError(
            f"The scenes cannot be written. Received output_dir: {output_dir} ({error}). Name a folder that can be "
            "written and has space."
        ) from error
