# SPDX-License-Identifier: Apache-2.0
"""The synthetic scenes: same arguments, same files; annotations that fit the pictures; every difficulty present."""

import hashlib
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from deeplab_axial.data import scenes
from deeplab_axial.errors import InputError

NUM_TRAIN, NUM_VAL = 60, 3


def _hashes(root: pathlib.Path) -> dict[str, str]:
    files = [f for f in root.rglob("*") if f.is_file()]
    return {str(f.relative_to(root)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def _segment_ids(path: pathlib.Path) -> np.ndarray:
    return np.asarray(Image.open(path), np.int64) @ np.array([1, 256, 65536])


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    scenes.write_scenes(str(folder), NUM_TRAIN, NUM_VAL)
    return folder


@pytest.fixture(scope="module")
def train(root):
    """[(annotation, map of segment ids)] of the training split."""
    content = json.loads((root / "panoptic_train.json").read_text())
    return [(a, _segment_ids(root / "panoptic_train" / a["file_name"])) for a in content["annotations"]]


def _is_thing() -> dict[int, int]:
    return {c["id"]: c["isthing"] for c in scenes.CATEGORIES}


def test_same_arguments_give_the_same_files_and_other_seeds_others(tmp_path):
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        scenes.write_scenes(str(tmp_path / folder), 3, 2, 48, 64, seed)
    assert _hashes(tmp_path / "a") == _hashes(tmp_path / "b")
    a, c = _hashes(tmp_path / "a"), _hashes(tmp_path / "c")
    assert a.keys() == c.keys()
    assert all(a[f] != c[f] for f in a if f.endswith(("jpg", "png")))
    assert a["train/000001.jpg"] != a["val/000001.jpg"]


def test_an_image_does_not_depend_on_the_number_of_images(tmp_path):
    scenes.write_scenes(str(tmp_path / "a"), 2, 1, 48, 64)
    scenes.write_scenes(str(tmp_path / "b"), 4, 1, 48, 64)
    a, b = _hashes(tmp_path / "a"), _hashes(tmp_path / "b")
    assert a["train/000002.jpg"] == b["train/000002.jpg"]
    assert a["panoptic_train/000002.png"] == b["panoptic_train/000002.png"]


def test_an_existing_set_is_kept_and_another_one_replaced(tmp_path):
    scenes.write_scenes(str(tmp_path), 3, 1, 48, 64)
    image = tmp_path / "train" / "000001.jpg"
    image.write_bytes(b"touched")
    scenes.write_scenes(str(tmp_path), 3, 1, 48, 64)
    assert image.read_bytes() == b"touched"
    own = tmp_path / "train" / "notes.txt"
    own.write_text("mine")
    scenes.write_scenes(str(tmp_path), 2, 1, 48, 64)
    assert image.read_bytes() != b"touched"
    assert not (tmp_path / "train" / "000003.jpg").exists()
    assert own.read_text() == "mine"


@pytest.mark.parametrize("name", ["train/000001.jpg", "panoptic_val/000009.png", "panoptic_val.json", "scenes.json"])
def test_files_of_others_are_not_replaced(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(
        InputError, match=rf"{name} would be replaced, but no scenes\.json says that deeplab-axial wrote"
    ):
        scenes.write_scenes(str(tmp_path), 1, 1, 48, 64)
    assert (tmp_path / name).read_text() == "mine"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / name]


def test_an_interrupted_set_is_written_again(tmp_path, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    scenes.write_scenes(str(tmp_path), 2, 1, 48, 64)
    complete = _hashes(tmp_path)
    monkeypatch.setattr(scenes, "_annotate", fail)
    with pytest.raises(KeyboardInterrupt):
        scenes.write_scenes(str(tmp_path), 2, 1, 48, 64, seed=5)
    monkeypatch.undo()
    assert json.loads((tmp_path / "scenes.json").read_text())["is_complete"] is False
    scenes.write_scenes(str(tmp_path), 2, 1, 48, 64)
    assert _hashes(tmp_path) == complete


def test_layout_and_json_follow_cocos_panoptic_format(root):
    for split, count in (("train", NUM_TRAIN), ("val", NUM_VAL)):
        content = json.loads((root / f"panoptic_{split}.json").read_text())
        assert content.keys() >= {"info", "licenses", "images", "annotations", "categories"}
        assert len(content["images"]) == len(content["annotations"]) == count
        for image, annotation in zip(content["images"], content["annotations"]):
            assert image["id"] == annotation["image_id"]
            with Image.open(root / split / image["file_name"]) as picture:
                assert picture.format == "JPEG"
                assert picture.size == (image["width"], image["height"]) == (160, 128)
    ids = sorted(_is_thing())
    assert ids != list(range(1, len(ids) + 1))


def test_segments_fit_the_png(train):
    for annotation, ids in train:
        found, counts = np.unique(ids[ids > 0], return_counts=True)
        segments = {s["id"]: s for s in annotation["segments_info"]}
        assert sorted(segments) == found.tolist()
        for segment_id, count in zip(found.tolist(), counts.tolist()):
            y, x = np.nonzero(ids == segment_id)
            box = [x.min(), y.min(), x.max() - x.min() + 1, y.max() - y.min() + 1]
            assert segments[segment_id]["area"] == count >= 12
            assert segments[segment_id]["bbox"] == box


def _touching(ids: np.ndarray) -> set[tuple[int, int]]:
    """Pairs of segment ids that are neighbours somewhere."""
    pairs = [(ids[:, :-1], ids[:, 1:]), (ids[:-1], ids[1:])]
    return {
        (a, b) for left, right in pairs for a, b in zip(left[left != right].tolist(), right[left != right].tolist())
    }


def test_every_difficulty_is_there(train):
    is_thing = _is_thing()
    categories, numbers, sizes = set(), [], []
    touching = void = crowd = several_stuff = 0
    for annotation, ids in train:
        category = {s["id"]: s["category_id"] for s in annotation["segments_info"]}
        things = [s for s in annotation["segments_info"] if is_thing[s["category_id"]] and not s["iscrowd"]]
        categories |= set(category.values())
        numbers.append(len(things))
        sizes += [max(s["bbox"][2:]) for s in things]
        crowds = [s for s in annotation["segments_info"] if s["iscrowd"]]
        assert all(is_thing[s["category_id"]] for s in crowds)
        crowd += bool(crowds)
        void += bool((ids == 0).any())
        several_stuff += sum(not is_thing[c] for c in category.values()) >= 2
        same = {(a, b) for a, b in _touching(ids) if a in category and category.get(a) == category.get(b)}
        touching += any(is_thing[category[a]] for a, _ in same)
        stuff = [c for c in category.values() if not is_thing[c]]
        assert len(stuff) == len(set(stuff))
    assert categories == set(is_thing)
    assert max(numbers) >= 6
    assert min(numbers) <= 3
    assert np.percentile(sizes, 10) < 20
    assert np.percentile(sizes, 90) > 40
    assert touching > 0.3 * len(train)
    assert several_stuff > 0.8 * len(train)
    assert 0.2 * len(train) < void < len(train)
    assert 0 < crowd < 0.25 * len(train)
    void_fraction = np.mean([np.mean(ids == 0) for _, ids in train])
    assert 0.001 < void_fraction < 0.05


def test_bad_arguments(tmp_path):
    with pytest.raises(InputError, match=r"num_train must be at least 1\. Received: 0"):
        scenes.write_scenes(str(tmp_path), num_train=0)
    with pytest.raises(InputError, match="height must be at least 32"):
        scenes.write_scenes(str(tmp_path), height=8)
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(InputError, match="Name a folder that can be written"):
        scenes.write_scenes(str(blocked / "below"), 1, 1)
