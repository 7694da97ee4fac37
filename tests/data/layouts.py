# SPDX-License-Identifier: Apache-2.0
"""The synthetic scenes, written in the folder layouts of Cityscapes and Mapillary Vistas.

Cityscapes trees are what its download unpacks to; `panoptic_json` adds what cityscapesScripts' createPanopticImgs makes
of them. Both data sets have crowd groups, void pixels and, as the real ones, classes that are not evaluated.
"""

import json
import pathlib
import tempfile
from typing import NamedTuple

import numpy as np
from PIL import Image

from deeplab_axial.data import scenes

# Cityscapes' label id of each scene category. Parking is not evaluated; nor are trailers, which have instances.
_CITYSCAPES_IDS = {"sky": 23, "ball": 24, "crate": 26, "meadow": 22, "star": 33, "water": 9, "brick wall": 12}
_TRAILER = 30
_OUT_OF_ROI = 3
_THINGS = ("ball", "crate", "star")
_CITIES = ("aachen", "köln am rhein")  # an accent and spaces, which the real ones lack
_MAPILLARY_JSON = {"1.2": "panoptic_2018.json", "2.0": "panoptic_2020.json"}


class Scene(NamedTuple):
    """One synthetic scene.

    Attributes:
      picture: uint8 [H, W, 3].
      ids: segment ids, int64 [H, W]; 0 is void.
      segments: {segment id: (category name, is crowd)}.
    """

    picture: np.ndarray
    ids: np.ndarray
    segments: dict[int, tuple[str, bool]]


def read_png_ids(path: str | pathlib.Path) -> np.ndarray:
    """The 24-bit ids of a panoptic PNG: int64 [H, W]."""
    return np.asarray(Image.open(path).convert("RGB"), np.int64) @ [1, 256, 65536]


def make_scenes(count: int, height: int = 48, width: int = 64, seed: int = 3) -> list[Scene]:
    """Synthetic scenes in memory; in every second one the largest thing is a crowd group."""
    made = []
    with tempfile.TemporaryDirectory() as folder:
        scenes.write_scenes(folder, count, 1, height, width, seed)
        root = pathlib.Path(folder)
        content = json.loads((root / "panoptic_train.json").read_text())
        names = {c["id"]: c["name"] for c in content["categories"]}
        for i, (image, annotation) in enumerate(zip(content["images"], content["annotations"])):
            segments = {
                s["id"]: (names[s["category_id"]], bool(s["iscrowd"]))
                for s in sorted(annotation["segments_info"], key=lambda s: s["area"])
            }
            things = [k for k, (name, _) in segments.items() if name in _THINGS]
            if i % 2 and things:
                segments[things[-1]] = (segments[things[-1]][0], True)
            picture = np.asarray(Image.open(root / "train" / image["file_name"]))
            made.append(Scene(picture, read_png_ids(root / "panoptic_train" / annotation["file_name"]), segments))
    return made


def _instance_ids(scene: Scene, with_trailers: bool) -> np.ndarray:
    """Cityscapes' instance ids, uint16 [H, W]: the label id, or for a single thing 1000 label id + number."""
    ids = np.where(np.arange(scene.ids.shape[0])[:, None] % 2, 0, _OUT_OF_ROI) * np.ones_like(scene.ids)
    used: dict[int, int] = {}
    for segment_id, (name, is_crowd) in scene.segments.items():
        label_id = _TRAILER if with_trailers and name == "star" else _CITYSCAPES_IDS[name]
        value = label_id
        if name in _THINGS and not is_crowd:
            value = 1000 * label_id + used.get(label_id, 0)
            used[label_id] = used.get(label_id, 0) + 1
        ids[scene.ids == segment_id] = value
    return ids.astype(np.uint16)


def add_cityscapes_panoptic(root: pathlib.Path, splits: tuple[str, ...] = ("train", "val"), train_ids: bool = False):
    """Adds gtFine/cityscapes_panoptic_{split}[_trainId].json and its PNGs, made by cityscapesScripts."""
    from cityscapesscripts.preparation.createPanopticImgs import convert2panoptic

    with tempfile.TemporaryDirectory() as folder:  # it takes brackets in a folder's name for a pattern
        link = pathlib.Path(folder, "gtFine")
        link.symlink_to(root / "gtFine")
        convert2panoptic(str(link), useTrainId=train_ids, setNames=list(splits))


def write_cityscapes(
    root: str | pathlib.Path,
    num_train: int = 6,
    num_val: int = 3,
    num_test: int = 2,
    height: int = 48,
    width: int = 64,
    panoptic_json: bool = False,
) -> pathlib.Path:
    """Writes a Cityscapes tree: leftImg8bit/{split}/CITY/ and gtFine/{split}/CITY/.

    As in the download, gtFine/test holds maps without any label.

    Returns:
      The root as path.
    """
    root = pathlib.Path(root)
    made = iter(make_scenes(num_train + num_val + num_test, height, width))
    for split, count in (("train", num_train), ("val", num_val), ("test", num_test)):
        for i in range(count):
            scene, city = next(made), _CITIES[i % 2]
            images, truth = root / "leftImg8bit" / split / city, root / "gtFine" / split / city
            images.mkdir(parents=True, exist_ok=True)
            truth.mkdir(parents=True, exist_ok=True)
            name = f"{city}_{i:06d}_000019"
            ids = _instance_ids(scene, with_trailers=i % 2 == 0)
            Image.fromarray(scene.picture).save(images / f"{name}_leftImg8bit.png")
            ids = np.full_like(ids, _OUT_OF_ROI) if split == "test" else ids
            Image.fromarray(ids).save(truth / f"{name}_gtFine_instanceIds.png")
            Image.fromarray(np.where(ids < 1000, ids, ids // 1000).astype(np.uint8)).save(
                truth / f"{name}_gtFine_labelIds.png"
            )
    if panoptic_json:
        add_cityscapes_panoptic(root)
    return root


def mapillary_categories(version: str) -> list[dict]:
    """Categories in the style of the version; the two versions number and name them differently."""
    shift = 0 if version == "1.2" else 11
    return [{**c, "id": c["id"] + shift, "name": f"{c['name']} ({version})"} for c in scenes.CATEGORIES]


def mapillary_panoptic_dir(root: pathlib.Path, split: str, version: str, in_package: bool) -> pathlib.Path:
    """The folder of a version's PNGs and JSON; the 2.0 package has one a version, the old 1.2 download just one."""
    return root / split / f"v{version}" / "panoptic" if in_package else root / split / "panoptic"


def _write_mapillary_split(root: pathlib.Path, split: str, made: list[Scene], version: str, in_package: bool):
    folder = mapillary_panoptic_dir(root, split, version, in_package)
    categories = mapillary_categories(version)
    by_name = {scene["name"]: category["id"] for scene, category in zip(scenes.CATEGORIES, categories)}
    content: dict[str, list] = {"images": [], "annotations": [], "categories": categories}
    for i, scene in enumerate(made):
        name = f"--jRsD9anHdGxv_{split[0]}{i}"
        (root / split / "images").mkdir(parents=True, exist_ok=True)
        ids = scene.ids[i % 3 :, : scene.ids.shape[1] - i % 2]  # sizes differ, as in Mapillary
        height, width = ids.shape
        Image.fromarray(scene.picture[i % 3 :, :width]).save(root / split / "images" / f"{name}.jpg", quality=90)
        if split == "testing":
            continue
        folder.mkdir(parents=True, exist_ok=True)
        planes = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], -1).astype(np.uint8)
        Image.fromarray(planes).save(folder / f"{name}.png")
        areas = {s: int((ids == s).sum()) for s in scene.segments}
        segments = [
            {"id": s, "category_id": by_name[label], "area": areas[s], "bbox": [], "iscrowd": int(is_crowd)}
            for s, (label, is_crowd) in scene.segments.items()
            if areas[s]
        ]
        content["images"].append({"id": name, "file_name": f"{name}.jpg", "height": height, "width": width})
        content["annotations"].append({"image_id": name, "file_name": f"{name}.png", "segments_info": segments})
    if split != "testing":
        (folder / _MAPILLARY_JSON[version]).write_text(json.dumps(content))


def write_mapillary(
    root: str | pathlib.Path,
    version: str = "2.0",
    in_package: bool = True,
    num_training: int = 6,
    num_validation: int = 3,
    num_testing: int = 2,
    height: int = 48,
    width: int = 64,
) -> pathlib.Path:
    """Writes a Mapillary tree with the labels of one version; another call adds the other version's.

    Args:
      root: folder of the tree, made if missing.
      version: "1.2" or "2.0".
      in_package: as the package of 2.0 holds them, {split}/v{version}/panoptic; otherwise as the older download of 1.2
        does, {split}/panoptic.
      num_training: images in training.
      num_validation: images in validation.
      num_testing: images in testing, which has no labels.
      height: height of the tallest image, pixels.
      width: width of the widest image, pixels.

    Returns:
      The root as path.
    """
    root = pathlib.Path(root)
    made = make_scenes(num_training + num_validation + num_testing, height, width)
    first, second = num_training, num_training + num_validation
    splits = {"training": made[:first], "validation": made[first:second], "testing": made[second:]}
    for split, part in splits.items():
        _write_mapillary_split(root, split, part, version, in_package)
    return root
