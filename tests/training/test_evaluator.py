# SPDX-License-Identifier: Apache-2.0
"""The evaluation, with a predictor that knows the answers."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_axial import keys
from deeplab_axial.data import pipeline, records, tfrecord_files
from deeplab_axial.errors import InputError
from deeplab_axial.postprocessing.multi_scale import PLAIN, MultiScale
from deeplab_axial.training import evaluator


@pytest.fixture(scope="module")
def source(scene_records):
    return pipeline.Source.open([scene_records.val])


def _truths(source):
    maps = {}
    for serialized in tf.data.TFRecordDataset(list(source.files)):
        features, _, panoptic = pipeline.decode(serialized)
        maps[features[records.FILENAME].numpy().decode()] = panoptic.numpy()
    return maps


class Oracle:
    """Predicts, image after image, the maps that it is given, at the size of the network's input."""

    def __init__(self, maps, void_id, multi_scale):
        self._maps = list(maps)
        self._void_id = void_id
        self.multi_scale = multi_scale

    def predict_padded(self, images, sizes):
        predictions = []
        for size in sizes.numpy():
            # The images that fill up the last batch come last.
            panoptic = self._maps.pop(0) if self._maps else np.zeros(size, np.int32)
            panoptic = tf.image.resize(panoptic[..., None], size, "nearest")[..., 0]
            margin = np.array(images.shape[1:3]) - size
            predictions.append(np.pad(panoptic, [[0, margin[0]], [0, margin[1]]], constant_values=self._void_id))
        return {keys.PANOPTIC_MAP: tf.constant(np.stack(predictions), tf.int32)}


def _evaluate(source, maps, batch_size=2, on_image=None, multi_scale=PLAIN, **image_options):
    space = source.info.label_space
    options = pipeline.ImageOptions(**{"crop_size": (49, 65), **image_options})
    dataset = pipeline.evaluation_dataset(source, batch_size, options)
    oracle = Oracle(maps, space.void_id, multi_scale)
    return evaluator.Evaluator(oracle, space, source.num_records, False).evaluate(dataset, on_image)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 7])
def test_the_truth_is_perfect(source, batch_size):
    metrics = _evaluate(source, _truths(source).values(), batch_size)
    assert metrics["num_images"] == source.num_records  # not those that fill up the last batch
    for name in ("all", "things", "stuff"):
        quality = metrics["panoptic_quality"][name]
        assert [quality[key] for key in ("sq", "rq", "pq")] == [1, 1, 1]
    rows = metrics["panoptic_quality"]["per_class"]
    assert all(row["fp"] == 0 and row["fn"] == 0 for row in rows.values())
    assert sum(row["tp"] for row in rows.values()) > 10
    assert metrics["mean_iou"]["mean"] == 1


def test_nothing_found_is_nothing(source):
    void = source.info.label_space.void_id
    metrics = _evaluate(source, [np.full_like(truth, void) for truth in _truths(source).values()])
    rows = metrics["panoptic_quality"]["per_class"].values()
    assert all(row["tp"] == 0 and row["fp"] == 0 for row in rows)
    assert metrics["panoptic_quality"]["all"]["pq"] == 0
    assert metrics["mean_iou"]["mean"] == 0


def test_a_resized_image_is_measured_at_its_own_size(source):
    seen = []
    metrics = _evaluate(
        source, _truths(source).values(), on_image=seen.append, crop_size=(97, 129), min_resize=96, max_resize=128
    )
    assert metrics["mean_iou"]["mean"] > 0.95
    assert [result.name for result in seen] == list(_truths(source))
    for result, truth in zip(seen, _truths(source).values()):
        assert result.image.shape == (96, 128, 3)
        assert result.prediction.shape == (48, 64)
        np.testing.assert_array_equal(result.ground_truth, truth)


def test_a_split_without_ground_truth(source, tmp_path):
    image = tf.io.encode_jpeg(np.zeros([48, 64, 3], np.uint8)).numpy()
    shard = tfrecord_files.write_shard(
        tmp_path, "x.tfrecord", [records.encode_example(image, "jpeg", "a.jpg", 48, 64, None)]
    )
    bare = pipeline.Source((str(tmp_path / shard.file),), 1, source.info)
    with pytest.raises(InputError, match=r"Image 'a\.jpg' has no ground truth: evaluate on a split that has"):
        _evaluate(bare, [np.zeros([48, 64], np.int32)], 1)


def test_ground_truth_of_another_label_space(source, tmp_path):
    image = tf.io.encode_jpeg(np.zeros([48, 64, 3], np.uint8)).numpy()
    truth = np.full([48, 64], 200 * 256, np.int32)
    shard = tfrecord_files.write_shard(
        tmp_path, "x.tfrecord", [records.encode_example(image, "jpeg", "a.jpg", 48, 64, truth)]
    )
    other = pipeline.Source((str(tmp_path / shard.file),), 1, source.info)
    with pytest.raises(InputError, match=r"a\.jpg.*dataset\.json: convert again"):
        _evaluate(other, [np.zeros([48, 64], np.int32)], 1)


def test_the_table_has_a_row_for_each_class(source):
    space = source.info.label_space
    metrics = _evaluate(source, _truths(source).values())
    table = evaluator.format_metrics({"step": 7, **metrics}, space)
    assert "step 7, 5 images" in table
    lines = table.splitlines()
    assert [line.split("  ")[0] for line in lines[2:]] == ["all", "things", "stuff", *(c.name for c in space.classes)]
    assert "100.0" in lines[2]


def test_the_table_says_what_was_averaged(source):
    space = source.info.label_space
    metrics = _evaluate(source, _truths(source).values(), multi_scale=MultiScale((0.5, 1.0), True))
    assert metrics["inference"] == {"scales": [0.5, 1.0], "flip": True}
    heading = evaluator.format_metrics(metrics, space).splitlines()[0]
    assert heading.endswith("; 5 images, mean of scales 0.5, 1, plain and mirrored")
    metrics = _evaluate(source, _truths(source).values())
    assert evaluator.format_metrics(metrics, space).splitlines()[0].endswith("; 5 images")


def test_scalars_are_named_after_what_they_average(source):
    values = evaluator.scalars(_evaluate(source, _truths(source).values()))
    assert set(values) == {*(f"{k}_{n}" for k in ("pq", "sq", "rq") for n in ("all", "things", "stuff")), "mean_iou"}
    assert values["mean_iou"] == 1
