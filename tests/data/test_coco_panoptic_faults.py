# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a data set in COCO's panoptic format is named before or while it is converted."""

import io

import numpy as np
import pytest
from PIL import Image

from deeplab_axial.data.label_space import LabelClass, LabelSpace
from deeplab_axial.errors import InputError


def _spoil(path, value):
    """A change of the JSON: sets, or with `...` deletes, the entry at the end of the path."""

    def change(content):
        for key in path[:-1]:
            content = content[key]
        if value is ...:
            del content[path[-1]]
        else:
            content[path[-1]] = value

    return change


SEGMENT = ("annotations", 1, "segments_info", 0)
JSON_CASES = {
    "no images": (_spoil(("images",), ...), r"'images' must be a non-empty list.*NoneType"),
    "empty annotations": (_spoil(("annotations",), []), "'annotations' must be a non-empty list.*empty list"),
    "image without name": (_spoil(("images", 2, "file_name"), ...), r"images\[2\].*'file_name'.*None"),
    "repeated image id": (_spoil(("images", 2, "id"), 1), r"images\[2\] \(000003.jpg\): 'id'"),
    "no height": (_spoil(("images", 2, "height"), "48"), r"images\[2\]: 'height'.*Received: '48'"),
    "unknown image": (_spoil(("annotations", 1, "image_id"), 999), r"000002.png.*'image_id'.*999"),
    "annotated twice": (_spoil(("annotations", 1, "image_id"), 1), r"000002.png.*'image_id'.*at most once"),
    "no segments_info": (_spoil(("annotations", 1, "segments_info"), ...), r"000002.png.*'segments_info'"),
    "segment id 0": (_spoil((*SEGMENT, "id"), 0), r"000002.png.*segments_info\[0\]: 'id'.*Received: 0"),
    "bad iscrowd": (_spoil((*SEGMENT, "iscrowd"), 2), r"000002.png.*'iscrowd'.*Received: 2"),
    "unknown category": (_spoil((*SEGMENT, "category_id"), 4), r"000002.png.*category_id.*Received: 4"),
    "two of a name": (_spoil(("categories", 1, "name"), "sky"), r"category names must be distinct.*'sky'"),
    "repeated category": (_spoil(("categories", 1, "id"), 3), r"category ids must be distinct.*\[3\]"),
    "bad color": (_spoil(("categories", 1, "color"), [1, 2]), r"categories\[1\]: 'color'"),
    "no isthing": (_spoil(("categories", 1, "isthing"), ...), r"categories\[1\]: 'isthing'.*None"),
    "missing image": (_spoil(("images", 2, "file_name"), "gone.jpg"), r"gone.jpg does not exist.*1 of 40.*--image_dir"),
    "missing png": (_spoil(("annotations", 2, "file_name"), "gone.png"), r"gone.png does not exist.*--panoptic_dir"),
}


@pytest.mark.parametrize("case", JSON_CASES)
def test_bad_json_is_refused_before_anything_is_written(source, case):
    change, message = JSON_CASES[case]
    content = source.load()
    change(content)
    source.save(content)
    with pytest.raises(InputError, match=message):
        source.convert()
    assert not source.output.exists()


def test_repeated_segment_id_is_refused(source):
    content = source.load()
    segments = content["annotations"][1]["segments_info"]
    segments.append(dict(segments[0]))
    source.save(content)
    with pytest.raises(InputError, match=rf"000002.png.*Received twice: {segments[0]['id']}"):
        source.convert()


@pytest.mark.parametrize("text", ["", "[", "[1]"])
def test_a_file_that_is_no_panoptic_json(source, text):
    source.json.write_text(text)
    with pytest.raises(InputError, match=r"panoptic_train\.json"):
        source.convert()
    source.json.unlink()
    with pytest.raises(InputError, match=r"panoptic_train\.json cannot be read"):
        source.convert()


def test_too_many_instances_name_the_label_divisor(source):
    with pytest.raises(InputError, match=r"\.png.*at most 1 segments.*Received: \d+\. Pass --label_divisor="):
        source.convert(label_divisor=2)
    with pytest.raises(InputError, match="smaller --label_divisor"):
        source.convert(label_divisor=2**22)
    with pytest.raises(InputError, match="at least 2"):
        source.convert(label_divisor=1)


@pytest.mark.parametrize("kwargs", [{"num_shards": 0}, {"name": "a/b"}, {"name": ""}])
def test_bad_arguments(source, kwargs):
    with pytest.raises(InputError, match=f"--{next(iter(kwargs))} .*Received"):
        source.convert(**kwargs)


def _jpeg(width, height) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: data[: len(data) // 2], r"000002.jpg must be a JPEG or PNG image that decodes"),
        (lambda data: b"", r"000002.jpg must be a JPEG or PNG image\. Received: 0 bytes"),
        (lambda data: _jpeg(48, 64), r"000002.jpg must be as large as the annotation says, 48 x 64.*64 x 48"),
    ],
)
def test_bad_images(source, spoil, message):
    path = source.image_dir / "000002.jpg"
    source.convert(num_shards=2)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(InputError, match=message):
        source.convert(num_shards=1)
    # No half shard, and no dataset.json that would vouch for one.
    assert {file.name[-17:] for file in source.output.iterdir()} == {"-of-00002.tfrecord"[1:]}


def _edit_png(source, edit):
    path = source.panoptic_dir / "000002.png"
    edit(Image.open(path)).save(path)


def _with_new_id(image):
    colors = np.array(image)
    colors[0, 0] = (9, 1, 0)
    return Image.fromarray(colors)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_with_new_id, r"000002.png must show exactly the segments.*ids \[265\] in the PNG only"),
        (lambda image: Image.new("RGB", image.size), r"000002.png.*ids \[\] in the PNG only, ids \[\d+"),
        (
            lambda image: image.resize((64, 40), 0),
            r"000002.png must be as large as the annotation says, 48 x 64.*40 x 64",
        ),
        (lambda image: image.convert("L"), r"000002.png must be an RGB image.*mode L"),
    ],
)
def test_bad_pngs(source, edit, message):
    _edit_png(source, edit)
    with pytest.raises(InputError, match=message):
        source.convert()
    assert not (source.output / "dataset.json").exists()


def test_a_png_that_does_not_decode(source):
    path = source.panoptic_dir / "000002.png"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"000002.png must be a PNG that decodes"):
        source.convert()


def test_an_output_folder_that_cannot_be_written(source, tmp_path):
    (tmp_path / "file").write_text("")
    source.output = tmp_path / "file" / "below"
    with pytest.raises(InputError, match=r"--output_dir must be a folder that can be written"):
        source.convert()


def test_folders_that_do_not_exist(source, tmp_path):
    source.image_dir = tmp_path / "nowhere"
    with pytest.raises(InputError, match=r"--image_dir must be a folder.*nowhere"):
        source.convert()


def test_a_name_that_is_no_unicode(source):
    source.json.write_text(source.json.read_text().replace("000002.jpg", "\\ud800.jpg"))
    with pytest.raises(InputError, match=r"images\[1\]: 'file_name' must be valid Unicode"):
        source.convert()


def test_label_spaces_that_do_not_go_with_the_json(source):
    ball = LabelClass(1, "ball", True, (1, 2, 3), 5)
    space = LabelSpace("mine", (ball, LabelClass(2, "moon", True, (1, 2, 3), 77)), 3, 0, 256)
    with pytest.raises(InputError, match=r"panoptic_train.json. Received, which it lacks: moon \(77\)"):
        source.convert(label_space=space)
    with pytest.raises(InputError, match=r"what a PNG holds. Received: 25500000"):
        source.convert(label_space=LabelSpace("mine", (ball,), 3, 255, 100_000))
    exchanged = (LabelClass(1, "ball", True, (1, 2, 3), 22), LabelClass(2, "star", True, (1, 2, 3), 5))
    with pytest.raises(InputError, match=r"ball is 22 there and 5 in the JSON, star is 5 there and 22 in the JSON\."):
        source.convert(label_space=LabelSpace("mine", exchanged, 3, 0, 256))
    assert not source.output.exists()


def test_ground_truth_without_its_pngs(source):
    source.panoptic_dir = None
    with pytest.raises(InputError, match=r"panoptic_train.json has ground truth, so --panoptic_dir must name"):
        source.convert()


def test_faults_of_several_files_are_told_together(source):
    (source.image_dir / "000003.jpg").write_bytes(b"text")
    (source.panoptic_dir / "000005.png").write_bytes(b"text")
    with pytest.raises(InputError) as error:
        source.convert(num_shards=8)
    first, second, summary = str(error.value).splitlines()
    assert first.startswith(f"{source.image_dir}/000003.jpg must be a JPEG or PNG image")
    assert second.startswith(f"{source.panoptic_dir}/000005.png must be a PNG that decodes")
    assert summary.startswith("2 faults. 6 of 8 files are finished and stay.")
