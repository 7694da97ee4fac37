# SPDX-License-Identifier: Apache-2.0
"""A small tree in ImageNet's layout, converted and read back; and everything that may be wrong with one."""

import io
import pathlib
import tarfile

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab_axial.builders.label_spaces import load_label_space
from deeplab_axial.data import records
from deeplab_axial.data.converters import imagenet
from deeplab_axial.data.dataset_info import DatasetInfo
from deeplab_axial.errors import InputError

TENCH, GOLDFISH, SHARK = "n01440764", "n01443537", "n01484850"


def _picture(seed: int, image_format: str = "JPEG", mode: str = "RGB", size: tuple[int, int] = (21, 34)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, image_format)
    return buffer.getvalue()


def _write_tar(path: pathlib.Path, files: dict[str, bytes], prefix: str = "", mode: str = "w"):
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(prefix + name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def _write_folder(path: pathlib.Path, files: dict[str, bytes]):
    path.mkdir(parents=True)
    for name, data in files.items():
        (path / name).write_bytes(data)


@pytest.fixture
def tree(tmp_path) -> tuple[pathlib.Path, dict[str, bytes]]:
    """(root, {name in the records: bytes}): two folders, one of them with odd images, and a tar."""
    odd = {
        f"{TENCH}_1.JPEG": _picture(1, "PNG"),  # ImageNet's n02105855_2933.JPEG
        f"{TENCH}_2.JPEG": _picture(2, mode="CMYK"),
        f"{TENCH}_3.JPEG": _picture(3, mode="L"),
        "fünf & six.png": _picture(4, "PNG", "RGBA", (1, 1)),
    }
    plain = {f"{GOLDFISH}_{i}.JPEG": _picture(10 + i) for i in range(5)}
    packed = {f"{SHARK}_{i}.JPEG": _picture(20 + i, size=(40 + i, 9)) for i in range(6)}
    root = tmp_path / "train"
    _write_folder(root / TENCH, odd)
    (root / TENCH / ".DS_Store").write_bytes(b"x")
    _write_folder(root / GOLDFISH, plain)
    _write_tar(root / f"{SHARK}.tar", packed)
    files = {f"{c}/{k}": v for c, of in ((TENCH, odd), (GOLDFISH, plain), (SHARK, packed)) for k, v in of.items()}
    return root, files


def _read(folder: pathlib.Path) -> list[dict]:
    """The records of all shards, in order."""
    found = []
    for path in sorted(folder.glob("*.tfrecord")):
        for serialized in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            features = tf.train.Example.FromString(serialized).features.feature
            found.append({"shard": path.name})
            for key, feature in features.items():
                values = feature.bytes_list.value or feature.int64_list.value
                found[-1][key] = values[0] if len(values) == 1 else list(values)
    return found


def _check(found: list[dict], files: dict[str, bytes], labels: dict[str, tuple[int, str]]):
    assert sorted(record[records.FILENAME].decode() for record in found) == sorted(files)
    for record in found:
        name = record[records.FILENAME].decode()
        data = files[name]
        assert record[records.ENCODED] == data
        assert record[records.FORMAT] == (b"png" if data.startswith(b"\x89PNG") else b"jpeg")
        width, height = Image.open(io.BytesIO(data)).size
        assert (record[records.HEIGHT], record[records.WIDTH]) == (height, width)
        label, text = labels[name.split("/")[0]]
        assert record[records.CLASS_LABEL] == label
        assert record[records.CLASS_TEXT].decode() == text


def test_round_trip_with_classes_by_wordnet_id(tree, tmp_path):
    root, files = tree
    info = imagenet.convert(
        root, tmp_path / "out", label_space=load_label_space("imagenet"), num_shards=3, num_workers=2
    )
    found = _read(tmp_path / "out")
    _check(found, files, {TENCH: (0, "tench"), GOLDFISH: (1, "goldfish"), SHARK: (2, "great white shark")})
    assert info == DatasetInfo.read(tmp_path / "out")
    assert (info.task, info.has_labels, info.num_images) == ("classification", True, 15)
    assert {k: v for k, v in info.class_counts.items() if v} == {0: 4, 1: 5, 2: 6}
    assert len(info.class_counts) == 1000
    assert info.class_pixels is None
    assert (info.max_height, info.max_width) == (45, 34)
    assert info.source_bytes == sum(map(len, files.values()))
    assert info.label_space.num_classes == 1000
    # Each shard mixes the classes.
    for shard in {record["shard"] for record in found}:
        assert len({record[records.CLASS_LABEL] for record in found if record["shard"] == shard}) > 1


def test_round_trip_with_classes_by_folder(tree, tmp_path):
    root, files = tree
    (root / GOLDFISH).rename(root / "guppy fish")
    files = {name.replace(f"{GOLDFISH}/", "guppy fish/"): data for name, data in files.items()}
    info = imagenet.convert(root, tmp_path / "out", num_shards=2, name="pets")
    labels = {"guppy fish": (0, "guppy fish"), TENCH: (1, TENCH), SHARK: (2, SHARK)}
    labels = {name: (i, name) for i, name in enumerate(sorted(labels))}
    _check(_read(tmp_path / "out"), files, labels)
    space = info.label_space
    assert [(c.id, c.name) for c in space.classes] == list(labels.values())
    assert [c.category_id for c in space.classes] == [0, 1440764, 1484850]
    assert (space.name, space.num_classes, space.ignore_label, space.label_divisor) == ("pets", 3, 3, 2)
    assert not space.thing_ids
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "dataset.json",
        "pets-00000-of-00002.tfrecord",
        "pets-00001-of-00002.tfrecord",
    ]


def test_folders_by_the_names_of_a_label_space(tmp_path):
    files = {"a.jpg": _picture(1)}
    _write_folder(tmp_path / "root" / "crane (bird)", files)
    imagenet.convert(tmp_path / "root", tmp_path / "out", label_space=load_label_space("imagenet"))
    assert [record[records.CLASS_LABEL] for record in _read(tmp_path / "out")] == [134]


@pytest.mark.parametrize("prefix", ["", "./", f"{TENCH}/", f"./{TENCH}/"])
def test_tars_with_and_without_a_folder_in_front(prefix, tmp_path):
    files = {f"{i}.JPEG": _picture(i) for i in range(3)}
    (tmp_path / "root").mkdir()
    _write_tar(tmp_path / "root" / f"{TENCH}.tar", {**files, "._0.JPEG": b"x"}, prefix)
    imagenet.convert(tmp_path / "root", tmp_path / "out")
    _check(_read(tmp_path / "out"), {f"{TENCH}/{k}": v for k, v in files.items()}, {TENCH: (0, TENCH)})


def test_images_without_classes_have_no_labels(tmp_path):
    files = {f"ILSVRC2012_test_{i}.JPEG": _picture(i) for i in range(4)}
    _write_folder(tmp_path / "test", files)
    info = imagenet.convert(tmp_path / "test", tmp_path / "out", label_space=load_label_space("imagenet"))
    assert (info.has_labels, info.class_counts, info.num_images) == (False, None, 4)
    found = _read(tmp_path / "out")
    assert {record[records.FILENAME].decode() for record in found} == set(files)
    assert not any(records.CLASS_LABEL in record for record in found)
    with pytest.raises(InputError, match=r"must hold a folder or a tar for each class.*pass the --label_space"):
        imagenet.convert(tmp_path / "test", tmp_path / "out2")


def test_the_order_is_always_the_same(tree, tmp_path):
    root, _ = tree
    for out in ("a", "b"):
        imagenet.convert(root, tmp_path / out, num_shards=2, num_workers=2)
    names = [[record[records.FILENAME] for record in _read(tmp_path / out)] for out in ("a", "b")]
    assert names[0] == names[1] != sorted(names[0])


def test_a_faulty_image_is_named_and_the_finished_shards_stay(tree, tmp_path):
    root, files = tree
    broken = root / GOLDFISH / f"{GOLDFISH}_2.JPEG"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError) as caught:
        imagenet.convert(root, tmp_path / "out", num_shards=4)
    assert str(broken) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2  # the fault and the summary
    shards = sorted((tmp_path / "out").glob("*.tfrecord"))
    assert len(shards) == 3
    assert not (tmp_path / "out" / "dataset.json").exists()
    before = {path: path.stat().st_mtime_ns for path in shards}

    broken.write_bytes(whole)
    info = imagenet.convert(root, tmp_path / "out", num_shards=4)
    assert info.num_images == 15
    assert {path: path.stat().st_mtime_ns for path in shards} == before
    labels = {name: (i, name) for i, name in enumerate(sorted([TENCH, GOLDFISH, SHARK]))}
    _check(_read(tmp_path / "out"), files, labels)


def test_a_faulty_image_in_a_tar_is_named(tmp_path):
    (tmp_path / "root").mkdir()
    _write_tar(tmp_path / "root" / "cats.tar", {"good.jpg": _picture(1), "bad.jpg": b"no image"})
    with pytest.raises(InputError, match=r"cats\.tar, cats/bad\.jpg must be a JPEG or PNG image"):
        imagenet.convert(tmp_path / "root", tmp_path / "out")


def test_unknown_folders_are_listed_with_the_nearest_names(tree, tmp_path):
    root, _ = tree
    _write_folder(root / "goldfsh", {"a.jpg": _picture(1)})
    _write_folder(root / "n99999999", {"a.jpg": _picture(1)})
    with pytest.raises(InputError) as caught:
        imagenet.convert(root, tmp_path / "out", label_space=load_label_space("imagenet"))
    message = str(caught.value)
    assert "'goldfsh' (nearest: 'goldfish'), 'n99999999'. Rename them" in message
    assert TENCH not in message
    assert not (tmp_path / "out").exists()


def _cut(path: pathlib.Path):
    path.write_bytes(path.read_bytes()[:-3000])


def _gzip(path: pathlib.Path):
    _write_tar(path, {"1.JPEG": _picture(1)}, mode="w:gz")


FAULTS = {
    "empty class folder": (
        lambda root: (root / "empty").mkdir(),
        r"empty must hold images. Received: none",
    ),
    "empty tar": (
        lambda root: _write_tar(root / "empty.tar", {}),
        r"empty\.tar must hold images. Received: none",
    ),
    "nested folder": (
        lambda root: _write_folder(root / TENCH / "more", {"a.jpg": _picture(1)}),
        rf"{TENCH}/more must be an image .* no folders",
    ),
    "nested folder in a tar": (
        lambda root: _write_tar(root / "deep.tar", {"more/1.JPEG": _picture(1)}),
        r"deep\.tar/more/1\.JPEG must be an image",
    ),
    "another file in a class": (
        lambda root: (root / TENCH / "notes.txt").write_text("x"),
        rf"{TENCH}/notes\.txt must be an image",
    ),
    "another file beside the classes": (
        lambda root: (root / "notes.txt").write_text("x"),
        r"notes\.txt must be the folder or the tar of a class",
    ),
    "images beside the classes": (
        lambda root: (root / "a.jpg").write_bytes(_picture(1)),
        r"a\.jpg must be the folder or the tar of a class",
    ),
    "folder and tar of one class": (
        lambda root: _write_folder(root / SHARK, {"a.jpg": _picture(1)}),
        rf"{SHARK}\.tar: a class must have one folder or one tar. Received: both",
    ),
    "truncated tar": (
        lambda root: _cut(root / f"{SHARK}.tar"),
        rf"{SHARK}\.tar must be a tar file that is complete",
    ),
    "compressed tar": (
        lambda root: _gzip(root / "packed.tar"),
        r"packed\.tar must be a tar file that is complete and not compressed",
    ),
    "no tar": (
        lambda root: (root / "text.tar").write_text("x" * 2000),
        r"text\.tar must be a tar file",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_wrong_tree_is_refused_before_anything_is_written(name, tree, tmp_path):
    root, _ = tree
    make, message = FAULTS[name]
    make(root)
    with pytest.raises(InputError, match=message):
        imagenet.convert(root, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_wrong_arguments_are_refused(tree, tmp_path):
    root, _ = tree
    with pytest.raises(InputError, match=r"--root must be a folder"):
        imagenet.convert(root / "missing", tmp_path / "out")
    with pytest.raises(InputError, match=r"--num_shards must lie in"):
        imagenet.convert(root, tmp_path / "out", num_shards=0)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match=r"must hold images. Received: an empty folder"):
        imagenet.convert(tmp_path / "nothing", tmp_path / "out", label_space=load_label_space("imagenet"))


def test_the_shipped_classes_are_those_of_ilsvrc2012():
    space = load_label_space("imagenet")
    assert [c.id for c in space.classes] == list(range(1000))
    assert (space.num_classes, space.ignore_label, space.label_divisor) == (1000, 1000, 2)
    assert not space.thing_ids
    numbers = [c.category_id for c in space.classes]
    assert numbers == sorted(set(numbers))
    assert len({c.name for c in space.classes}) == 1000
    # Landmarks of the usual list, and the two names that two classes have.
    known = {
        0: ("tench", 1440764),
        134: ("crane (bird)", 2012849),
        207: ("golden retriever", 2099601),
        281: ("tabby", 2123045),
        388: ("giant panda", 2510455),
        517: ("crane (machine)", 3126707),
        638: ("maillot (tights)", 3710637),
        639: ("maillot (swimsuit)", 3710721),
        817: ("sports car", 4285008),
        999: ("toilet tissue", 15075141),
    }
    assert {i: (space.by_id[i].name, space.by_id[i].category_id) for i in known} == known
