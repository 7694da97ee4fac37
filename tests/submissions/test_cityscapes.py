# SPDX-License-Identifier: Apache-2.0
"""The three kinds of Cityscapes files, read again by the scripts that the evaluation server runs."""

import copy
import importlib
import json
import os

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab_axial.builders.label_spaces import load_label_space
from deeplab_axial.data import pipeline, records, tfrecord_files
from deeplab_axial.data.converters import cityscapes as converter
from deeplab_axial.data.dataset_info import DatasetInfo
from deeplab_axial.data.label_space import LabelClass, LabelSpace
from deeplab_axial.errors import InputError
from deeplab_axial.submissions import cityscapes, predictions
from deeplab_axial.training import evaluator
from deeplab_axial.training.evaluation_metrics import MetricOptions
from tests.data import layouts
from tests.submissions import fakes

SPACE = load_label_space("cityscapes_panoptic")
CROP = (161, 209)
NUM_IMAGES = 7


def _tool(name, monkeypatch):
    if not hasattr(np, "in1d"):  # removed from NumPy 2.4; the tool still calls it
        monkeypatch.setattr(np, "in1d", lambda a, b: np.isin(a, b).ravel(), raising=False)
    tool = importlib.import_module(f"cityscapesscripts.evaluation.{name}")
    if name.startswith("evalInstance"):  # its file of matches, not needed, cannot hold the integers of NumPy 2
        monkeypatch.setattr(tool, "writeDict2JSON", lambda *_: None)
    return tool


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = layouts.write_cityscapes(tmp_path_factory.mktemp("tree"), 1, NUM_IMAGES, 1, height=160, width=208)
    for path in (root / "gtFine").glob("*/*/*_instanceIds.png"):
        # Single trailers, which panoptic maps hold as void, are the one thing that the official AP takes otherwise.
        ids = np.asarray(Image.open(path))
        Image.fromarray(np.where(ids // 1000 == 30, 30, ids).astype(np.uint16)).save(path)
    layouts.add_cityscapes_panoptic(root)
    return root


@pytest.fixture(scope="module")
def source(tree, tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    converter.convert(tree, "val", folder, label_space=SPACE, num_shards=2)
    return pipeline.Source.open([str(folder / "*.tfrecord")])


@pytest.fixture(scope="module")
def maps(source):
    rng = np.random.default_rng(5)
    return {name: fakes.perturb(truth, SPACE, rng) for name, truth in fakes.truths(source).items()}


def _predict(source, maps, batch_size=3, semantic=None, crop_size=CROP, **image_options):
    options = pipeline.ImageOptions(crop_size=crop_size, **image_options)
    dataset = pipeline.evaluation_dataset(source, batch_size, options)
    fake = fakes.NearlyRight(maps.values(), SPACE, semantic=semantic)
    return predictions.predict(fake, dataset, SPACE, source.num_records, use_tf_function=False)


@pytest.fixture(scope="module")
def submission(source, maps, tmp_path_factory):
    folder = tmp_path_factory.mktemp("submission") / "nested" / "out"
    assert cityscapes.write(str(folder), _predict(source, maps), SPACE, "val") == NUM_IMAGES
    return folder


@pytest.fixture(scope="module")
def metrics(source, maps):
    fake = fakes.NearlyRight(maps.values(), SPACE)
    dataset = pipeline.evaluation_dataset(source, 3, pipeline.ImageOptions(crop_size=CROP))
    options = MetricOptions(instance_ap="cityscapes")
    return evaluator.Evaluator(fake, SPACE, source.num_records, False, options).evaluate(dataset)


def test_the_files_are_named_as_the_server_wants(submission, maps):
    names = {name.removesuffix("_leftImg8bit.png") for name in maps}
    assert {p.name for p in submission.iterdir()} == {"panoptic", "instance", "pixel"}
    assert not list(submission.parent.glob(".*"))  # nothing temporary stays
    title = "cityscapes_panoptic_val"
    assert {p.name for p in (submission / "panoptic").iterdir()} == {title, f"{title}.json"}
    assert {p.name for p in (submission / "panoptic" / title).iterdir()} == {f"{n}.png" for n in names}
    assert {p.name for p in (submission / "instance").glob("*.txt")} == {f"{n}.txt" for n in names}
    assert {p.name for p in (submission / "pixel").iterdir()} == {f"{n}_labelIds.png" for n in names}
    assert len(names) == NUM_IMAGES


def test_the_official_panoptic_quality_is_ours(submission, tree, metrics, monkeypatch, capsys):
    tool = _tool("evalPanopticSemanticLabeling", monkeypatch)
    truth = json.loads((tree / "gtFine" / "cityscapes_panoptic_val.json").read_text())
    found = json.loads((submission / "panoptic" / "cityscapes_panoptic_val.json").read_text())
    by_id = {annotation["image_id"]: annotation for annotation in found["annotations"]}
    pairs = [(annotation, by_id[annotation["image_id"]]) for annotation in truth["annotations"]]
    categories = {c["id"]: c for c in truth["categories"]}
    folders = [str(root / "cityscapes_panoptic_val") for root in (tree / "gtFine", submission / "panoptic")]
    stat = tool.pq_compute_single_core(0, pairs, *folders, categories)
    quality = metrics["panoptic_quality"]
    for name, is_thing in (("all", None), ("things", True), ("stuff", False)):
        mean, _ = stat.pq_average(categories, is_thing)
        assert 0.05 < mean["pq"] < 0.95
        for key in ("pq", "sq", "rq"):
            assert quality[name][key] == pytest.approx(mean[key], abs=1e-12)


def test_the_official_average_precision_is_ours(submission, tree, metrics, monkeypatch, tmp_path):
    tool = _tool("evalInstanceLevelSemanticLabeling", monkeypatch)
    args = copy.copy(tool.args)
    args.quiet, args.JSONOutput = True, False
    args.gtInstancesFile = str(tmp_path / "gtInstances.json")
    args.predictionPath, args.predictionWalk = os.path.abspath(submission / "instance"), None
    truths = sorted(str(p) for p in (tree / "gtFine" / "val").glob("*/*_gtFine_instanceIds.png"))
    result = tool.evaluateImgLists([tool.getPrediction(path, args) for path in truths], truths, args)["averages"]
    precision = metrics["average_precision"]
    assert 0.01 < result["allAp"] < 0.95
    assert precision["ap"] == pytest.approx(result["allAp"], abs=1e-12)
    assert precision["ap50"] == pytest.approx(result["allAp50%"], abs=1e-12)
    for label in SPACE.classes:
        if label.is_thing:
            ours = precision["per_class"][str(label.id)]["ap"]
            assert (np.nan if ours is None else ours) == pytest.approx(result["classes"][label.name]["ap"], nan_ok=True)


def test_the_official_mean_iou_is_ours(submission, tree, metrics, monkeypatch):
    tool = _tool("evalPixelLevelSemanticLabeling", monkeypatch)
    args = copy.copy(tool.args)
    args.quiet, args.JSONOutput, args.evalInstLevelScore = True, False, False
    args.predictionPath, args.predictionWalk = str(submission / "pixel"), None
    truths = sorted(str(p) for p in (tree / "gtFine" / "val").glob("*/*_gtFine_labelIds.png"))
    files = [tool.getPrediction(args, path) for path in truths]
    result = tool.evaluateImgLists(files, truths, args)
    assert 0.1 < result["averageScoreClasses"] < 0.95
    for label in SPACE.classes:
        ours = metrics["mean_iou"]["per_class"][str(label.id)]
        official = result["classScores"][label.name]
        assert (np.nan if ours is None else ours) == pytest.approx(official, abs=1e-12, nan_ok=True), label.name


def test_instances_are_the_masks_of_the_panoptic_map(submission, maps):
    for name, panoptic in maps.items():
        stem = name.removesuffix("_leftImg8bit.png")
        seen = set()
        for line in (submission / "instance" / f"{stem}.txt").read_text().splitlines():
            path, label_id, confidence = line.split(" ")
            mask = np.asarray(Image.open(submission / "instance" / path))
            assert mask.shape == panoptic.shape
            assert set(np.unique(mask)) <= {0, 255}
            (panoptic_id,) = np.unique(panoptic[mask > 0]).tolist()
            np.testing.assert_array_equal(mask > 0, panoptic == panoptic_id)
            assert SPACE.by_id[panoptic_id // 1000].category_id == int(label_id)
            assert 0 < float(confidence) < 1
            seen.add(panoptic_id)
        ids = np.unique(panoptic)
        assert seen == set(ids[np.isin(ids // 1000, SPACE.thing_ids)].tolist())


def test_pixels_are_the_semantic_map(source, maps, tmp_path):
    """The semantic head names a class also where post-processing leaves void."""
    semantic = [np.full_like(m, i) for i, m in enumerate(maps.values())]
    semantic[0][0, 0] = SPACE.ignore_label
    cityscapes.write(str(tmp_path / "out"), _predict(source, maps, semantic=semantic), SPACE, "test")
    assert (tmp_path / "out" / "panoptic" / "cityscapes_panoptic_test.json").exists()
    for i, name in enumerate(maps):
        stem = name.removesuffix("_leftImg8bit.png")
        pixels = np.asarray(Image.open(tmp_path / "out" / "pixel" / f"{stem}_labelIds.png")).copy()
        if i == 0:
            assert pixels[0, 0] == 0
            pixels[0, 0] = SPACE.by_id[0].category_id
        assert set(np.unique(pixels)) == {SPACE.by_id[i].category_id}


def test_resized_images_are_submitted_at_their_own_size(source, maps):
    found = list(_predict(source, maps, crop_size=(321, 417), min_resize=320, max_resize=416))
    assert [p.name for p in found] == list(maps)
    for prediction, expected in zip(found, maps.values()):
        assert prediction.panoptic.shape == prediction.semantic.shape == expected.shape
        assert np.mean(prediction.panoptic == expected) > 0.9
        assert set(prediction.instance_ids.tolist()) <= set(np.unique(prediction.panoptic).tolist())


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("berlin_000123_000019_leftImg8bit.png", "berlin_000123_000019"),
        ("berlin_000123_000019", "berlin_000123_000019"),
        ("leftImg8bit/test/berlin/berlin_000123_000019_leftImg8bit.png", "berlin_000123_000019"),
        ("bad_honnef_000123_000019", "bad_honnef_000123_000019"),
    ],
)
def test_names_of_our_records_and_of_deeplab2(name, stem):
    assert cityscapes.image_name(name) == stem


@pytest.mark.parametrize("name", ["000000000139.jpg", "berlin_123_19", "berlin_000123_000019_gtFine.png", ""])
def test_other_names(name):
    with pytest.raises(
        InputError, match=r"Images of Cityscapes are named CITY_xxxxxx_yyyyyy_leftImg8bit.png. Received"
    ):
        cityscapes.image_name(name)


def test_labels_must_be_those_of_the_server():
    cityscapes.check_label_space(SPACE, SPACE)
    train_ids = LabelSpace("mine", (LabelClass(0, "road", False, (0, 0, 0), 0),), 1, 255, 1000)
    with pytest.raises(InputError, match=r"label id of a class that Cityscapes.*Received: road \(0\) of 'mine'"):
        cityscapes.check_label_space(train_ids, SPACE)
    person_as_stuff = LabelSpace("mine", (LabelClass(0, "person", False, (0, 0, 0), 24),), 1, 255, 1000)
    with pytest.raises(InputError, match=r"person \(24\)"):
        cityscapes.check_label_space(person_as_stuff, SPACE)


def test_a_folder_in_use_stays_as_it_is(source, maps, tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(InputError, match=r"is not empty. Name a new folder"):
        cityscapes.write(str(tmp_path), _predict(source, maps), SPACE, "val")
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_a_failure_leaves_nothing(source, maps, tmp_path):
    def cut_short():
        for i, prediction in enumerate(_predict(source, maps)):
            if i == 2:
                raise OSError(28, "No space left on device")
            yield prediction

    with pytest.raises(InputError, match=r"cannot be written .*No space left"):
        cityscapes.write(str(tmp_path / "out"), cut_short(), SPACE, "val")
    assert not list(tmp_path.iterdir())


def test_an_image_that_is_there_twice(source, maps, tmp_path):
    twice = [p for _ in range(2) for p in _predict(source, maps)]
    with pytest.raises(InputError, match="is twice in the records"):
        cityscapes.write(str(tmp_path / "out"), iter(twice), SPACE, "val")


def test_records_without_ground_truth(tmp_path):
    image = tf.io.encode_png(np.zeros([32, 40, 3], np.uint8)).numpy()
    name = "berlin_000000_000019"
    shard = tfrecord_files.write_shard(
        tmp_path, "x.tfrecord", [records.encode_example(image, "png", name, 32, 40, None)]
    )
    DatasetInfo(SPACE, 1, (shard,), 32, 40, has_labels=False).write(tmp_path)
    bare = pipeline.Source.open([str(tmp_path / "x.tfrecord")])
    (prediction,) = _predict(bare, {name: np.full([32, 40], 11001, np.int32)}, crop_size=(33, 41))
    assert prediction.panoptic.shape == (32, 40)
    folder = tmp_path / "out"
    assert cityscapes.write(str(folder), [prediction], SPACE, "test") == 1
    assert (folder / "instance" / f"{name}.txt").read_text().startswith(f"masks/{name}_000.png 24 ")
