# SPDX-License-Identifier: Apache-2.0
"""Label spaces of DeepLab2's data sets, and its records, which come without dataset.json."""

import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from deeplab_axial import keys
from deeplab_axial.data import known_label_spaces, pipeline, records, targets, tfrecord_files, transforms
from deeplab_axial.errors import InputError
from deeplab_axial.postprocessing.multi_scale import MultiScale
from deeplab_axial.training.evaluator import Evaluator


@pytest.mark.parametrize(
    ("name", "num_classes", "things", "ignore_label", "divisor", "void"),
    [
        ("cityscapes_panoptic", 19, range(11, 19), 255, 1000, 255000),
        ("coco_panoptic", 134, range(1, 81), 0, 256, 0),
        ("kitti_step", 19, (11, 13), 255, 1000, 255000),
        ("motchallenge_step", 7, (4,), 255, 1000, 255000),
    ],
)
def test_the_numbers_are_those_of_deeplab2(name, num_classes, things, ignore_label, divisor, void):
    space = known_label_spaces.known_label_space(name)
    assert space.name == name
    assert (space.num_classes, space.ignore_label, space.label_divisor) == (num_classes, ignore_label, divisor)
    assert space.thing_ids == tuple(things)
    assert space.void_id == void
    first = 0 if ignore_label == 255 else 1
    assert [c.id for c in space.classes] == list(range(first, num_classes))
    for field in ("name", "category_id", "color"):
        assert len({getattr(c, field) for c in space.classes}) == len(space.classes)
    assert type(space).from_dict(space.to_dict()) == space


def test_names_and_categories():
    cityscapes = known_label_spaces.known_label_space("cityscapes_panoptic")
    assert [cityscapes.by_id[i].name for i in (0, 6, 11, 13, 18)] == [
        "road", "traffic light", "person", "car", "bicycle"
    ]  # fmt: skip
    assert [cityscapes.by_id[i].category_id for i in (0, 11, 18)] == [7, 24, 33]
    coco = known_label_spaces.known_label_space("coco_panoptic")
    assert [(coco.by_id[i].category_id, coco.by_id[i].name) for i in (1, 12, 80, 81, 133)] == [
        (1, "person"), (13, "stop sign"), (90, "toothbrush"), (92, "banner"), (200, "rug-merged")
    ]  # fmt: skip
    step = known_label_spaces.known_label_space("motchallenge_step")
    assert [c.name for c in step.classes if c.is_thing] == ["person"]
    assert known_label_spaces.known_label_space("scenes") is None


def test_the_numbering_of_coco_is_that_of_the_converter():
    sample = pathlib.Path(__file__).parents[3] / "shared" / "data" / "coco_sample" / "panoptic_coco_categories.json"
    if not sample.exists():
        pytest.skip("the folder ../shared with COCO's categories is not beside this checkout")
    categories = sorted(json.loads(sample.read_text()), key=lambda c: (not c["isthing"], c["id"]))
    coco = known_label_spaces.known_label_space("coco_panoptic")
    assert [(c.category_id, c.name) for c in coco.classes] == [(c["id"], c["name"]) for c in categories]


def _write(folder: pathlib.Path, maps: list[np.ndarray]) -> str:
    """Records as DeepLab2 writes them: raw int32 maps, no crowd ids, no dataset.json."""
    examples = []
    for i, panoptic in enumerate(maps):
        image = np.full([*panoptic.shape, 3], 40 * i, np.uint8)
        values = {
            records.ENCODED: tf.io.encode_png(image).numpy(),
            records.FILENAME: f"image{i}".encode(),
            records.FORMAT: b"png",
            records.SEGMENTATION: panoptic.astype("<i4").tobytes(),
            records.SEGMENTATION_FORMAT: b"raw",
        }
        features = {k: tf.train.Feature(bytes_list=tf.train.BytesList(value=[v])) for k, v in values.items()}
        for key, size in zip((records.HEIGHT, records.WIDTH, records.CHANNELS), image.shape):
            features[key] = tf.train.Feature(int64_list=tf.train.Int64List(value=[size]))
        examples.append(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    tfrecord_files.write_shard(folder, "train-00000-of-00001.tfrecord", examples)
    return str(folder / "*.tfrecord")


def _cityscapes_map() -> np.ndarray:
    panoptic = np.full([32, 48], 255000, np.int32)  # void
    panoptic[:20] = 0  # road
    panoptic[4:10, 4:10] = 13001
    panoptic[4:10, 20:26] = 13002
    panoptic[20:25, 30:40] = 11000  # a crowd of persons
    return panoptic


def test_records_of_deeplab2_train_and_evaluate_without_dataset_json(tmp_path):
    truth = _cityscapes_map()
    pattern = _write(tmp_path, [truth, truth[:, ::-1]])
    source = pipeline.Source.open([pattern], "cityscapes_panoptic")
    assert (source.num_records, source.info.num_images) == (2, 2)
    assert source.info.label_space.name == "cityscapes_panoptic"
    images = pipeline.ImageOptions(crop_size=(33, 49))
    plain = pipeline.AugmentOptions(flip=False)
    (batch,) = pipeline.training_dataset(source, 2, images, plain, targets.TargetOptions(2)).take(1)
    order = [int(i) for i in batch[keys.IMAGE][:, 0, 0, 0].numpy() // 40]
    expected = np.stack([truth, truth[:, ::-1]])[order]
    np.testing.assert_array_equal(batch[keys.SEMANTIC_TARGET][:, :32, :48], expected // 1000)
    np.testing.assert_array_equal(batch[keys.OFFSET_WEIGHT][:, :32, :48], (expected // 1000 == 13))
    np.testing.assert_array_equal(batch[keys.CENTER_WEIGHT][:, :32, :48], np.isin(expected // 1000, (0, 13)))
    assert (batch[keys.CENTER_TARGET].numpy() == 1).sum() == 4

    class Perfect:
        """Predicts the ground truth, and a person on its crowd, which costs nothing."""

        multi_scale = MultiScale()

        def predict_padded(self, images, sizes):
            panoptic = np.where(truth == 11000, 11001, truth)
            return {keys.PANOPTIC_MAP: tf.constant(np.pad(panoptic, [(0, 1), (0, 1)])[None])}

    first = pipeline.Source.open([_write(tmp_path, [truth])], "cityscapes_panoptic")
    dataset = pipeline.evaluation_dataset(first, 1, images)
    metrics = Evaluator(Perfect(), first.info.label_space, 1, use_tf_function=False).evaluate(dataset)
    assert metrics["panoptic_quality"]["all"]["pq"] == 1.0
    assert metrics["panoptic_quality"]["per_class"]["11"]["fp"] == 0


def test_void_may_be_class_0(tmp_path):
    truth = np.array([[0, 0, 81 * 256, 81 * 256], [257, 257, 258, 0]], np.int32)
    source = pipeline.Source.open([_write(tmp_path, [truth])], "coco_panoptic")
    space = source.info.label_space
    made = targets.make_targets(tf.constant(truth), tf.zeros([0], tf.int32), space, targets.TargetOptions(1))
    np.testing.assert_array_equal(made[keys.SEMANTIC_TARGET], truth // 256)
    np.testing.assert_array_equal(made[keys.CENTER_WEIGHT], truth != 0)
    np.testing.assert_array_equal(made[keys.OFFSET_WEIGHT], truth // 256 == 1)


@pytest.mark.parametrize("dataset", ["", "city"])
def test_records_without_json_and_name_are_refused(tmp_path, dataset):
    pattern = _write(tmp_path, [_cityscapes_map()])
    with pytest.raises(InputError) as error:
        pipeline.Source.open([pattern], dataset)
    assert str(error.value) == (
        f"{tmp_path}/dataset.json cannot be read (there is no such file). Run `deeplab-axial convert` to make the data "
        "set; for records that DeepLab2 has made, set the field dataset to their name. "
        f"Received: {dataset!r}. Known names: cityscapes_panoptic, coco_panoptic, kitti_step, motchallenge_step."
    )


def test_dataset_json_counts_more_than_the_name(scene_records):
    source = pipeline.Source.open([scene_records.val], "coco_panoptic")
    assert source.info.label_space.name == "scenes"


def test_sizes_after_resizing_are_those_of_deeplab2():
    # (size, min, max, factor) -> size, by DeepLab2's rule: fit the least sides, then the largest, then round up.
    for size, low, high, factor, expected in [
        ((480, 640), None, 320, None, (240, 320)),
        ((480, 640), None, 1000, None, (480, 640)),
        ((400, 600), (500, 600), None, None, (500, 750)),
        ((400, 600), (100, 900), None, None, (600, 900)),
        ((400, 600), None, (200, 900), None, (200, 300)),
        ((400, 600), None, 641, 32, (417, 609)),
        ((480, 640), 800, 640, 32, (481, 609)),  # The limit is 609 = 19 * 32 + 1: the long side must not reach 641.
    ]:
        found = tuple(transforms.resized_size(tf.constant(size), low, high, factor).numpy())
        assert found == expected, (size, low, high, factor)
