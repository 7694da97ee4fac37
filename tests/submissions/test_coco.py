# SPDX-License-Identifier: Apache-2.0
"""COCO's zip file, read again by panopticapi's algorithm (cityscapesScripts carries it)."""

import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from deeplab_axial.data import pipeline, scenes
from deeplab_axial.data.converters import coco_panoptic
from deeplab_axial.errors import InputError
from deeplab_axial.submissions import coco, panoptic_png, predictions
from deeplab_axial.training import evaluator
from tests.submissions import fakes

TITLE = "panoptic_val_axial-s_results"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    scenes.write_scenes(root, num_train=1, num_val=7, height=96, width=128, seed=4)
    paths = (root / "val", root / "panoptic_val.json", root / "panoptic_val")
    coco_panoptic.convert(*paths, root / "records", num_shards=2, name="scenes")
    return root


@pytest.fixture(scope="module")
def source(data):
    return pipeline.Source.open([str(data / "records" / "*.tfrecord")])


@pytest.fixture(scope="module")
def maps(source):
    rng = np.random.default_rng(3)
    space = source.info.label_space
    return [fakes.perturb(truth, space, rng) for truth in fakes.truths(source).values()]


def _dataset(source):
    return pipeline.evaluation_dataset(source, 3, pipeline.ImageOptions(crop_size=(97, 129)))


def _predict(source, maps):
    space = source.info.label_space
    return predictions.predict(fakes.NearlyRight(maps, space), _dataset(source), space, source.num_records, False)


def _write(path, source, maps, images):
    return coco.write(str(path), _predict(source, maps), images, source.info.label_space, "axial-s")


@pytest.fixture
def images(data):
    return coco.ImageList.read(str(data / "panoptic_val.json"))


def _one(**changes: str) -> str:
    """A list of one image, some of whose values are other JSON texts."""
    values = {"id": "1", "file_name": '"a.jpg"', "height": "4", "width": "6", **changes}
    return '{"images": [{' + ", ".join(f'"{key}": {value}' for key, value in values.items()) + "}]}"


def _changed(data, tmp_path, change) -> coco.ImageList:
    """The image list after `change` of its entries."""
    content = json.loads((data / "panoptic_val.json").read_text())
    change(content["images"])
    path = tmp_path / "image_info_test-dev2017.json"
    path.write_text(json.dumps({"images": content["images"]}))
    return coco.ImageList.read(str(path))


def test_the_official_panoptic_quality_is_ours(data, source, maps, images, tmp_path):
    tool = pytest.importorskip("cityscapesscripts.evaluation.evalPanopticSemanticLabeling")
    images.check_count(source.num_records)
    assert _write(tmp_path / "out" / "submission.zip", source, maps, images) == 7
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["submission.zip"]
    with zipfile.ZipFile(tmp_path / "out" / "submission.zip") as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"out", TITLE, f"{TITLE}.json"}
    truth = json.loads((data / "panoptic_val.json").read_text())
    found = json.loads((tmp_path / f"{TITLE}.json").read_text())
    by_id = {annotation["image_id"]: annotation for annotation in found["annotations"]}
    pairs = [(annotation, by_id[annotation["image_id"]]) for annotation in truth["annotations"]]
    categories = {c["id"]: c for c in truth["categories"]}
    stat = tool.pq_compute_single_core(0, pairs, str(data / "panoptic_val"), str(tmp_path / TITLE), categories)
    space = source.info.label_space
    fake = fakes.NearlyRight(maps, space)
    quality = evaluator.Evaluator(fake, space, 7, False).evaluate(_dataset(source))["panoptic_quality"]
    for name, is_thing in (("all", None), ("things", True), ("stuff", False)):
        mean, _ = stat.pq_average(categories, is_thing)
        assert 0.05 < mean["pq"] < 0.95
        for key in ("pq", "sq", "rq"):
            assert quality[name][key] == pytest.approx(mean[key], abs=1e-12)


def test_the_maps_come_back_pixel_by_pixel(source, maps, images, tmp_path):
    space = source.info.label_space
    _write(tmp_path / "x.zip", source, maps, images)
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        annotations = json.loads(archive.read(f"{TITLE}.json"))["annotations"]
        for annotation, expected in zip(annotations, maps):
            with archive.open(f"{TITLE}/{annotation['file_name']}") as file:
                ids = np.asarray(Image.open(file), np.int64) @ [1, 256, 65536]
            categories = {0: 0, **{s["id"]: s["category_id"] for s in annotation["segments_info"]}}
            for segment in np.unique(expected):
                (number,) = np.unique(ids[expected == segment]).tolist()
                assert (ids == number).sum() == (expected == segment).sum()
                label = space.by_id.get(segment // space.label_divisor)
                assert categories[number] == (0 if label is None else label.category_id)


def test_names_of_deeplab2_have_no_extension(images):
    (name, entry), *_ = images.entries.items()
    assert images.find(name) == images.find(f"{name}.jpg") == entry


@pytest.mark.parametrize(
    ("file", "subset"),
    [
        ("image_info_test-dev2017.json", "test-dev2017"),
        ("panoptic_image_info_test-dev2017.json", "test-dev2017"),
        ("panoptic_val2017.json", "val2017"),
        ("mine.json", "mine"),
    ],
)
def test_the_list_is_named_after_its_images(file, subset, tmp_path):
    entry = {"id": 9, "file_name": "000000000009.jpg", "height": 4, "width": 6}
    (tmp_path / file).write_text(json.dumps({"images": [entry]}))
    read = coco.ImageList.read(str(tmp_path / file))
    assert read.subset == subset
    assert read.find("000000000009") == coco.ImageEntry(9, (4, 6))


@pytest.mark.parametrize(
    ("text", "found"), [("7", 7), ('"007"', 7), ("7.0", 7), ('"a7"', "a7"), ('"' + "9" * 30 + '"', "9" * 30)]
)
def test_ids_of_digits_are_numbers(text, found, tmp_path):
    path = tmp_path / "image_info_x.json"
    path.write_text(_one(id=text))
    assert coco.ImageList.read(str(path)).find("a") == coco.ImageEntry(found, (4, 6))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("[1", "is not valid JSON"),
        ("[1]", "must be a JSON with a list `images`"),
        ('{"annotations": []}', "must be a JSON with a list `images`"),
        ('{"images": {}}', "must be a JSON with a list `images`"),
        ('{"images": [3]}', r"^--image_list=.*, images\[0\]: 'file_name' must be a non-empty string"),
        ('{"images": [{"id": 1, "file_name": "a.jpg"}]}', r"images\[0\]: 'height' must be an integer .*: None"),
        (_one(height="Infinity"), "'height' must be an integer of at least 1. Received: inf"),
        (_one(width="1e999"), "'width' must be an integer of at least 1. Received: inf"),
        (_one(height="-3"), "'height' must be an integer of at least 1. Received: -3"),
        (_one(id="[1]"), r"'id' must be an integer of at least 0. Received: \[1\]"),
        (_one(id="{}"), r"'id' must be an integer of at least 0. Received: \{\}"),
        (_one(id='"\\ud800"'), "'id' must be valid Unicode"),
        (_one(file_name='"\\ud800"'), "'file_name' must be valid Unicode"),
        ('{"images": []}', "Received: 0 entries"),
    ],
)
def test_other_files_are_no_lists(text, message, tmp_path):
    path = tmp_path / "image_info_test-dev2017.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message):
        coco.ImageList.read(str(path))


def test_images_must_be_those_of_the_list(data, source, maps, tmp_path):
    def check(change, message):
        with pytest.raises(InputError, match=message):
            _write(tmp_path / "x.zip", source, maps, _changed(data, tmp_path, change))
        assert [p.name for p in tmp_path.iterdir()] == ["image_info_test-dev2017.json"]

    check(lambda entries: entries[2].update(file_name="other.jpg"), r"Image '0*3.jpg' of the records is not in --image")
    check(lambda entries: entries[2].update(width=127), r"as large as .* 96 x 127 .*Received: 96 x 128")
    extra = {"id": 77, "file_name": "extra.jpg", "height": 96, "width": 128}
    check(lambda entries: entries.append(extra), r"Received: 7 of 8; missing are the ids \[77\]")


def test_a_wrong_number_of_images_is_told_before_predicting(data, tmp_path):
    images = _changed(data, tmp_path, lambda entries: entries.pop())
    with pytest.raises(InputError, match=r"exactly the images of .*, 6. Received: 7"):
        images.check_count(7)


def test_an_image_that_is_there_twice(source, maps, images, tmp_path):
    twice = [p for _ in range(2) for p in _predict(source, maps)]
    with pytest.raises(InputError, match="is twice in the records"):
        coco.write(str(tmp_path / "x.zip"), twice, images, source.info.label_space, "a")
    assert not list(tmp_path.iterdir())


def test_a_png_that_was_damaged_on_its_way(source, maps, images, tmp_path, monkeypatch):
    encode = panoptic_png.encode
    monkeypatch.setattr(panoptic_png, "encode", lambda *args: (encode(*args)[0], encode(*args)[1][:-1]))
    with pytest.raises(InputError, match="was not written as it should be: it shows segments"):
        _write(tmp_path / "x.zip", source, maps, images)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_full(source, maps, images, tmp_path, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    with pytest.raises(InputError, match=r"cannot be written \(\[Errno 28\] No space left"):
        _write(tmp_path / "x.zip", source, maps, images)
    assert not list(tmp_path.iterdir())


def test_places_where_the_file_cannot_go(tmp_path):
    with pytest.raises(InputError, match=r"must end in .zip"):
        coco.check_output(str(tmp_path / "x.tar"))
    (tmp_path / "x.zip").write_text("mine")
    with pytest.raises(InputError, match=r"exists. Name a new file"):
        coco.check_output(str(tmp_path / "x.zip"))
    with pytest.raises(InputError, match="cannot be written"):
        coco.check_output(str(tmp_path / "x.zip" / "y.zip"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda png, segments: (png, segments[1:]), "the JSON lists"),
        (lambda png, segments: (png, [*segments, {"id": 9, "category_id": 1}]), "the JSON lists"),
        (lambda png, segments: (png, [*segments, segments[0]]), "the JSON lists"),
        (lambda png, segments: (png[:-30], segments), "does not decode"),
        (lambda png, segments: (panoptic_png.to_png(np.zeros([4, 5, 3], np.uint8)), segments), "its shape is"),
        (lambda png, segments: (png, segments), None),
    ],
)
def test_what_may_be_wrong_with_a_map(change, message, source):
    space = source.info.label_space
    panoptic = np.full([40, 50], space.void_id, np.int32)
    panoptic[:20] = space.classes[0].id * space.label_divisor + 1
    panoptic[:, :9] = space.classes[-1].id * space.label_divisor
    png, segments = panoptic_png.encode(panoptic, space)
    assert len(segments) == 2
    found = panoptic_png.problem(*change(png, segments), (40, 50))
    assert found is None if message is None else message in found
