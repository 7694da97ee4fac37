# SPDX-License-Identifier: Apache-2.0
"""The crops of the synthetic scenes: same arguments, same files, in the layout that the converter takes."""

import hashlib
import pathlib

import numpy as np
import pytest
from PIL import Image

from deeplab_axial.data import dataset_info, scene_crops
from deeplab_axial.data.converters import imagenet
from deeplab_axial.errors import InputError


def _hashes(root: pathlib.Path) -> dict[str, str]:
    return {str(f.relative_to(root)): hashlib.sha256(f.read_bytes()).hexdigest() for f in root.rglob("*.jpg")}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crops")
    scene_crops.write_scene_crops(folder, 30, 7, seed=1)
    return folder


def test_each_class_has_its_share(root):
    for split, counts in (("train", {4, 5}), ("val", {1})):
        files = {folder.name: sorted(folder.iterdir()) for folder in (root / split).iterdir()}
        assert tuple(sorted(files)) == scene_crops.CLASSES
        assert {len(images) for images in files.values()} == counts
    for path in root.rglob("*.jpg"):
        image = np.asarray(Image.open(path))
        assert image.shape[0] == image.shape[1]
        assert 32 <= image.shape[0] <= 128
        assert image.std() > 1


def test_same_arguments_give_the_same_files_and_other_seeds_others(root, tmp_path):
    for folder, count, seed in (("same", 30, 1), ("more", 40, 1), ("other", 30, 2)):
        scene_crops.write_scene_crops(tmp_path / folder, count, 7, seed=seed)
    found = _hashes(root)
    assert _hashes(tmp_path / "same") == found
    assert len(set(found.values())) == 37
    assert found.items() <= _hashes(tmp_path / "more").items()
    assert not set(found.values()) & set(_hashes(tmp_path / "other").values())


def test_an_existing_set_is_kept_and_another_one_replaced(tmp_path):
    scene_crops.write_scene_crops(tmp_path, 14, 7)
    image, own = tmp_path / "train" / "ball" / "000001.jpg", tmp_path / "train" / "ball" / "notes.txt"
    image.write_bytes(b"touched")
    own.write_text("mine")
    scene_crops.write_scene_crops(tmp_path, 14, 7)
    assert image.read_bytes() == b"touched"
    scene_crops.write_scene_crops(tmp_path, 7, 7)
    assert image.read_bytes() != b"touched"
    assert not (tmp_path / "train" / "ball" / "000002.jpg").exists()
    assert own.read_text() == "mine"


def test_the_converter_takes_it(root, tmp_path):
    info = imagenet.convert(root / "val", tmp_path)
    assert (info.task, info.num_images) == (dataset_info.CLASSIFICATION, 7)
    assert tuple(c.name for c in info.label_space.classes) == scene_crops.CLASSES


def test_files_of_others_are_not_replaced(tmp_path):
    path = tmp_path / "val" / "ball" / "000002.jpg"
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(InputError, match=r"000002\.jpg would be replaced, but no scene_crops\.json says"):
        scene_crops.write_scene_crops(tmp_path, 7, 7)
    assert path.read_text() == "mine"


@pytest.mark.parametrize("arguments", [{"num_train": 6}, {"num_val": 0}, {"seed": -1}])
def test_arguments_out_of_range(tmp_path, arguments):
    with pytest.raises(InputError, match=f"{next(iter(arguments))} must be at least"):
        scene_crops.write_scene_crops(tmp_path, **arguments)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="Name a folder that can be written"):
        scene_crops.write_scene_crops(tmp_path / "file", 7, 7)
