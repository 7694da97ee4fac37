# SPDX-License-Identifier: Apache-2.0
"""`deeplab-axial convert`: each data set by its command, and flags that are missing or would be ignored."""

import json

import pytest
from PIL import Image

from deeplab_axial.data import scenes
from deeplab_axial.data.dataset_info import DatasetInfo
from tests.cli import commands
from tests.data import layouts


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data set")
    scenes.write_scenes(root, num_train=5, num_val=1, height=48, width=64, seed=3)
    return root


def _flags(data, *without):
    flags = {
        "image_dir": data / "train",
        "panoptic_json": data / "panoptic_train.json",
        "panoptic_dir": data / "panoptic_train",
    }
    return [f"--{name}={value}" for name, value in flags.items() if name not in without]


def test_coco_panoptic_and_again(data, tmp_path):
    command = ("convert", "coco_panoptic", *_flags(data), f"--output_dir={tmp_path}", "--num_shards=2")
    first = commands.run(*command, "--num_workers=2")
    assert first.status == 0, first.err
    info = DatasetInfo.read(tmp_path)
    size = sum(shard.bytes for shard in info.shards)
    head, *rest = first.out.splitlines()
    ratio = f"{size / info.source_bytes:.2f} times the original files"
    assert head == f"5 images in 2 files ({size / 2**20:.1f} MiB, {ratio}): {tmp_path}"
    empty = [c.name for c in info.label_space.classes if not info.class_pixels[c.id]]
    assert rest == ([f"{len(empty)} of 7 classes have no pixel: {', '.join(empty)}"] if empty else [])
    assert "convert coco_panoptic: 100%" in first.err
    second = commands.run(*command)
    assert (second.status, second.out) == (0, first.out)
    assert f"{tmp_path} is complete already" in second.err


def test_images_without_ground_truth_and_a_label_space_of_other_records(data, tmp_path):
    flags = [*_flags(data), "--label_divisor=512", "--name=scenes"]
    assert commands.run("convert", "coco_panoptic", *flags, f"--output_dir={tmp_path}/train").status == 0
    content = json.loads((data / "panoptic_train.json").read_text())
    del content["annotations"]
    (tmp_path / "images.json").write_text(json.dumps(content))
    flags = [f"--image_dir={data}/train", f"--panoptic_json={tmp_path}/images.json", f"--output_dir={tmp_path}/test"]
    space = f"--label_space={tmp_path}/train/dataset.json"
    result = commands.run("convert", "coco_panoptic", *flags, space)
    assert result.status == 0, result.err
    assert result.out.splitlines()[1:] == ["The records have no ground truth."]
    train, test = DatasetInfo.read(tmp_path / "train"), DatasetInfo.read(tmp_path / "test")
    assert test.label_space == train.label_space
    assert (test.label_space.name, test.label_space.label_divisor, test.has_labels) == ("scenes", 512, False)
    assert [shard.file[:14] for shard in test.shards] == ["coco_panoptic-"] * 5


def test_cityscapes(tmp_path):
    layouts.write_cityscapes(tmp_path / "cityscapes")
    flags = (f"--root={tmp_path}/cityscapes", "--split=val", f"--output_dir={tmp_path}/out")
    result = commands.run("convert", "cityscapes", *flags, "--label_divisor=2000", "--value_range=0:4095")
    assert result.status == 0, result.err
    info = DatasetInfo.read(tmp_path / "out")
    space = info.label_space
    assert info.value_range == (0, 4095)
    assert (space.num_classes, space.ignore_label, space.label_divisor) == (19, 255, 2000)


def test_mapillary(tmp_path):
    layouts.write_mapillary(tmp_path / "mapillary", version="1.2")
    flags = (f"--root={tmp_path}/mapillary", "--split=validation", f"--output_dir={tmp_path}/out")
    message = commands.one_message(commands.run("convert", "mapillary", *flags))
    assert message == "convert mapillary needs --mapillary_version. Received: none. Pass what is missing."
    result = commands.run("convert", "mapillary", *flags, "--mapillary_version=1.2", "--value_range=0:1023")
    assert result.status == 0, result.err
    info = DatasetInfo.read(tmp_path / "out")
    assert (info.num_images, info.value_range) == (3, (0, 1023))


def test_imagenet(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "train" / name).mkdir(parents=True)
        Image.new("RGB", (9, 7)).save(tmp_path / "train" / name / "1.JPEG", "JPEG")
    result = commands.run("convert", "imagenet", f"--root={tmp_path}/train", f"--output_dir={tmp_path}/out")
    assert result.status == 0, result.err
    info = DatasetInfo.read(tmp_path / "out")
    assert (info.task, info.num_images, sorted(info.class_counts.values())) == ("classification", 2, [1, 1])
    assert "classes have no" not in result.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["coco_panoptic"], "convert coco_panoptic needs --image_dir and --panoptic_json. Received: none. Pass"),
        (["cityscapes", "--root=x"], "convert cityscapes needs --split."),
        (
            ["cityscapes", "--root=x", "--split=val", "--image_dir=y"],
            "convert cityscapes takes no --image_dir. It takes",
        ),
        (["imagenet", "--root=x", "--split=train", "--label_divisor=9"], "takes no --label_divisor and no --split. It"),
        (["coco_panoptic", "--image_dir=x", "--panoptic_json=y", "--mapillary_version=2.0"], "no --mapillary_version."),
        (["cityscapes", "--root=x", "--split=val", "--label_space=citiscapes"], "Received: 'citiscapes'"),
    ],
)
def test_flags_that_do_not_fit_the_data_set(tmp_path, arguments, message):
    assert message in commands.one_message(commands.run("convert", *arguments, f"--output_dir={tmp_path}/out"))
    assert not (tmp_path / "out").exists()


def test_a_faulty_file_and_the_same_command_again(data, tmp_path):
    content = json.loads((data / "panoptic_train.json").read_text())
    (tmp_path / "images").mkdir()
    for path in (data / "train").iterdir():
        (tmp_path / "images" / path.name).write_bytes(path.read_bytes())
    bad = tmp_path / "images" / content["images"][1]["file_name"]
    bad.write_bytes(b"text")
    flags = [*_flags(data, "image_dir"), f"--image_dir={tmp_path}/images", f"--output_dir={tmp_path}/out"]
    fault, summary = commands.one_message(commands.run("convert", "coco_panoptic", *flags)).splitlines()
    assert fault.startswith(f"{bad} must be a JPEG or PNG image.")
    assert summary.startswith("1 fault. 4 of 5 files are finished and stay.")
    kept = {path: path.stat() for path in (tmp_path / "out").glob("*.tfrecord")}
    bad.write_bytes((data / "train" / bad.name).read_bytes())
    assert commands.run("convert", "coco_panoptic", *flags).status == 0
    assert all(path.stat() == stat for path, stat in kept.items())
    assert DatasetInfo.read(tmp_path / "out").num_images == 5
