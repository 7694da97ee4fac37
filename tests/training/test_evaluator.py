# SPDX-License-Identifier: Apache-2.0
"""The evaluation, with a predictor that knows the answers."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from deeplab_axial import keys
from deeplab_axial.data import pipeline, records, tfrecord_files
from deeplab_axial.errors import InputError
from deeplab_axial.postprocessing.multi_scale import PLAIN, MultiScale
from deeplab_axial.training import evaluation_metrics, evaluator
from deeplab_axial.training.evaluation_metrics import EvaluationMetrics, MetricOptions


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
    """Predicts, image after image, the maps that it is given, at the size of the network's input.

    It is sure of instances, less so of those of number 200.
    """

    def __init__(self, maps, space, multi_scale, score_of_200=0.1):
        self._maps = list(maps)
        self._space = space
        self._score_of_200 = score_of_200
        self.multi_scale = multi_scale

    def predict_padded(self, images, sizes):
        predictions, slots = [], []
        for size in sizes.numpy():
            # The images that fill up the last batch come last.
            panoptic = self._maps.pop(0) if self._maps else np.full(size, self._space.void_id, np.int32)
            slots.append(self._slots(panoptic))
            panoptic = tf.image.resize(panoptic[..., None], size, "nearest")[..., 0]
            margin = np.array(images.shape[1:3]) - size
            padding = [[0, margin[0]], [0, margin[1]]]
            predictions.append(np.pad(panoptic, padding, constant_values=self._space.void_id))
        ids, scores = zip(*slots)
        predictions = np.stack(predictions)
        return {
            keys.SEMANTIC_MAP: tf.constant(self._semantic(predictions), tf.int32),
            keys.PANOPTIC_MAP: tf.constant(predictions, tf.int32),
            keys.INSTANCE_PANOPTIC_IDS: tf.constant(np.stack(ids)),
            keys.INSTANCE_SCORES: tf.constant(np.stack(scores)),
        }

    def _semantic(self, panoptic):
        return panoptic // self._space.label_divisor

    def _slots(self, panoptic):
        found = np.unique(panoptic)
        found = found[np.isin(found // self._space.label_divisor, self._space.thing_ids)]
        ids, scores = np.full(32, self._space.void_id, np.int32), np.zeros(32, np.float32)
        ids[: found.size] = found
        scores[: found.size] = np.where(found % self._space.label_divisor == 200, self._score_of_200, 0.5)
        return ids, scores


def _evaluate(source, maps, batch_size=2, on_image=None, multi_scale=PLAIN, metrics=None, score=0.1, **image_options):
    space = source.info.label_space
    options = pipeline.ImageOptions(**{"crop_size": (49, 65), **image_options})
    dataset = pipeline.evaluation_dataset(source, batch_size, options)
    oracle = Oracle(maps, space, multi_scale, score)
    return evaluator.Evaluator(oracle, space, source.num_records, False, metrics).evaluate(dataset, on_image)


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


class _Crowded(Oracle):
    """Has two instances too many on each image but the first."""

    def predict_padded(self, images, sizes):
        self._started = hasattr(self, "_started")
        count = tf.fill([len(sizes)], 2 if self._started else 0)
        return {**super().predict_padded(images, sizes), keys.NUM_SURPLUS: count}


def test_instances_without_an_id_are_counted_and_said_once(source, caplog):
    space, count = source.info.label_space, source.num_records
    dataset = pipeline.evaluation_dataset(source, 1, pipeline.ImageOptions((49, 65)))
    oracle = _Crowded(_truths(source).values(), space, PLAIN)
    metrics = evaluator.Evaluator(oracle, space, count, False).evaluate(dataset)
    assert metrics["num_surplus"] == 2 * (count - 1)
    (said,) = [record.getMessage() for record in caplog.records if "are void" in record.getMessage()]
    assert said.startswith(f"{2 * (count - 1)} predicted instances in {count - 1} images are void: panoptic ids hold ")
    assert f"The first image: {list(_truths(source))[1]}." in said
    table = evaluation_metrics.format_metrics(metrics, space)
    assert f"(label_divisor {space.label_divisor}): {2 * (count - 1)} predicted instances" in table


def test_nothing_found_is_nothing(source):
    void = source.info.label_space.void_id
    metrics = _evaluate(source, [np.full_like(truth, void) for truth in _truths(source).values()])
    rows = metrics["panoptic_quality"]["per_class"].values()
    assert all(row["tp"] == 0 and row["fp"] == 0 for row in rows)
    assert metrics["panoptic_quality"]["all"]["pq"] == 0
    assert metrics["mean_iou"]["mean"] == 0


def test_mean_iou_is_that_of_the_semantic_map(source, monkeypatch):
    # A panoptic map has void where a thing pixel found no instance; the semantic map has its class there.
    maps = list(_truths(source).values())
    semantic = [truth // source.info.label_space.label_divisor for truth in maps]
    void = [np.full_like(truth, source.info.label_space.void_id) for truth in maps]
    monkeypatch.setattr(Oracle, "_semantic", lambda oracle, panoptic: np.stack([_padded(semantic.pop(0), panoptic)]))
    metrics = _evaluate(source, void, batch_size=1)
    assert (metrics["panoptic_quality"]["all"]["pq"], metrics["mean_iou"]["mean"]) == (0, 1)


def _padded(semantic, panoptic):
    return np.pad(semantic, [(0, side - own) for side, own in zip(panoptic.shape[1:], semantic.shape)])


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
    rule = (
        r"Image 'a\.jpg': the ground truth is not of the label space 'scenes', whose classes are 1 \(.*divisor 256\. "
    )
    remedy = (
        r"Received: class 200\. .*label_space, else of dataset\.json beside.*eval_dataset_options\.dataset: correct"
    )
    with pytest.raises(InputError, match=rule + remedy):
        _evaluate(other, [np.zeros([48, 64], np.int32)], 1)


def test_the_table_has_a_row_for_each_class(source):
    space = source.info.label_space
    metrics = _evaluate(source, _truths(source).values())
    table = evaluation_metrics.format_metrics({"step": 7, **metrics}, space)
    assert "step 7, 5 images" in table
    lines = table.splitlines()
    assert [line.split("  ")[0] for line in lines[2:]] == ["all", "things", "stuff", *(c.name for c in space.classes)]
    assert "100.0" in lines[2]


def test_the_table_says_that_there_is_no_ground_truth(source):
    space = source.info.label_space
    metrics = EvaluationMetrics(space, MetricOptions())
    void = np.full([4, 4], space.void_id, np.int32)
    nothing = np.zeros([0], np.int32)
    metrics.update("a", void, nothing, void, np.zeros([4, 4], np.int32), nothing, np.zeros([0]))
    result = {**metrics.result(), "inference": {"scales": [1.0], "flip": False}}
    last = evaluation_metrics.format_metrics(result, space).splitlines()[-1]
    assert last.startswith(
        "No image has a segment of ground truth, all is void or crowd: no figure above tells anything."
    )
    metrics = _evaluate(source, _truths(source).values())
    assert "No image" not in evaluation_metrics.format_metrics(metrics, space)


def test_the_table_says_what_was_averaged(source):
    space = source.info.label_space
    metrics = _evaluate(source, _truths(source).values(), multi_scale=MultiScale((0.5, 1.0), True))
    assert metrics["inference"] == {"scales": [0.5, 1.0], "flip": True}
    heading = evaluation_metrics.format_metrics(metrics, space).splitlines()[0]
    assert heading.endswith("; 5 images, mean of scales 0.5, 1, plain and mirrored")
    metrics = _evaluate(source, _truths(source).values())
    assert evaluation_metrics.format_metrics(metrics, space).splitlines()[0].endswith("; 5 images")


def test_scalars_are_named_after_what_they_average(source):
    values = evaluation_metrics.scalars(_evaluate(source, _truths(source).values()))
    assert set(values) == {*(f"{k}_{n}" for k in ("pq", "sq", "rq") for n in ("all", "things", "stuff")), "mean_iou"}
    assert values["mean_iou"] == 1


EVERYTHING = {rules: MetricOptions(rules, deeplab2_panoptic_quality=True) for rules in ("coco", "cityscapes")}


@pytest.mark.parametrize("rules", EVERYTHING)
def test_average_precision_of_the_truth(source, rules):
    metrics = _evaluate(source, _truths(source).values(), metrics=EVERYTHING[rules])
    precision = metrics["average_precision"]
    assert precision["rules"] == rules
    assert precision["ap"] == pytest.approx(1)
    assert precision["ap50"] == pytest.approx(1)
    assert set(precision["per_class"]) == {str(c) for c in source.info.label_space.thing_ids}
    assert metrics["panoptic_quality_deeplab2"] == metrics["panoptic_quality"]  # there is no crowd
    assert json.loads(json.dumps(metrics)) == metrics


def test_average_precision_follows_the_scores(source):
    """A false instance that is surer than the true ones costs more than one that is less sure."""
    space = source.info.label_space
    thing = space.thing_ids[0] * space.label_divisor
    maps = []
    for truth in _truths(source).values():
        is_thing = np.isin(truth // space.label_divisor, space.thing_ids)
        maps.append(np.where(is_thing, truth, thing + 200))
    found = []
    for score in (0.1, 0.9):
        metrics = _evaluate(source, maps, metrics=EVERYTHING["coco"], score=score)
        found.append(metrics["average_precision"]["per_class"][str(space.thing_ids[0])]["ap50"])
    assert found[0] == pytest.approx(1)
    assert found[1] < 0.8


def test_without_instance_heads_there_is_no_average_precision(source):
    space = source.info.label_space
    assert "average_precision" not in _evaluate(source, _truths(source).values())
    stuff = dataclasses.replace(space, classes=tuple(dataclasses.replace(c, is_thing=False) for c in space.classes))
    assert "average_precision" not in EvaluationMetrics(stuff, EVERYTHING["coco"]).result()


def test_things_that_are_stuff_now_are_one_segment(source):
    space = source.info.label_space
    turned = space.thing_ids[0]
    classes = tuple(dataclasses.replace(c, is_thing=c.is_thing and c.id != turned) for c in space.classes)
    info = dataclasses.replace(source.info, label_space=dataclasses.replace(space, classes=classes))
    truths = _truths(source)
    assert any(np.unique(t[t // space.label_divisor == turned]).size > 1 for t in truths.values())
    maps = [np.where(t // 256 == turned, turned * 256, t) for t in truths.values()]
    seen = []
    metrics = _evaluate(dataclasses.replace(source, info=info), maps, on_image=seen.append)
    row = metrics["panoptic_quality"]["per_class"][str(turned)]
    assert (row["pq"], row["fp"], row["fn"]) == (1, 0, 0)
    assert row["tp"] == sum(turned * 256 in truth for truth in maps)
    assert all(turned * 256 + 1 not in result.ground_truth for result in seen)


def test_a_channel_that_is_no_class_is_void(source):
    metrics = _evaluate(source, [np.full_like(truth, 99 * 256) for truth in _truths(source).values()])
    assert metrics["panoptic_quality"]["all"]["pq"] == 0
    assert all(row["fp"] == 0 for row in metrics["panoptic_quality"]["per_class"].values())


def test_repeated_crowd_ids(source, tmp_path):
    image = tf.io.encode_jpeg(np.zeros([48, 64, 3], np.uint8)).numpy()
    thing = source.info.label_space.thing_ids[0] * 256 + 1
    example = records.encode_example(image, "jpeg", "a.jpg", 48, 64, np.full([48, 64], thing), [thing, thing])
    shard = tfrecord_files.write_shard(tmp_path, "x.tfrecord", [example])
    other = pipeline.Source((str(tmp_path / shard.file),), 1, source.info)
    with pytest.raises(
        InputError, match=rf"Image 'a\.jpg': .*crowd_ids must be distinct. Received: \[{thing}, {thing}\]"
    ):
        _evaluate(other, [np.zeros([48, 64], np.int32)], 1)


def test_each_image_has_its_own_metrics(source):
    space = source.info.label_space
    maps = list(_truths(source).values())
    maps[1] = np.full_like(maps[1], space.void_id)
    rows = []
    metrics = _evaluate(source, maps, on_image=lambda result: rows.append(result.metrics))
    assert [row["name"] for row in rows] == list(_truths(source))
    assert [row["pq"] for row in rows] == [1, 0, 1, 1, 1]
    assert [row["miou"] for row in rows] == [1, 0, 1, 1, 1]
    for key in ("tp", "fp", "fn"):
        assert sum(row[key] for row in rows) == sum(c[key] for c in metrics["panoptic_quality"]["per_class"].values())
    assert json.loads(json.dumps(rows)) == rows


@pytest.mark.parametrize("rules", EVERYTHING)
def test_the_order_of_merging_does_not_matter(source, rules):
    space = source.info.label_space
    thing = space.thing_ids[0] * space.label_divisor

    def parts():
        metrics = []
        for i, truth in enumerate(_truths(source).values()):
            ids = np.unique(truth)
            ids = ids[np.isin(ids // space.label_divisor, space.thing_ids)]
            prediction = np.where(np.arange(64) < 8 * i, thing + 200, truth)
            metrics.append(EvaluationMetrics(space, EVERYTHING[rules]))
            scores = (ids % 7 + 1) / 8
            metrics[-1].update(
                str(i),
                truth,
                ids[:1],
                prediction,
                prediction // space.label_divisor,
                np.append(ids, thing + 200),
                np.append(scores, 0.9),
            )
        return metrics

    one, other = parts(), parts()
    for metric in one[1:]:
        one[0].merge(metric)
    for metric in reversed(other[:-1]):
        metric.merge(other[other.index(metric) + 1])
    assert json.dumps(_rounded(one[0].result())) == json.dumps(_rounded(other[0].result()))
    assert one[0].result()["num_images"] == 5
    assert one[0].quality.per_image == other[0].quality.per_image
    with pytest.raises(ValueError, match="must measure the same"):
        one[0].merge(EvaluationMetrics(space, MetricOptions()))


def _rounded(value):
    """Sums of fractions depend on their order in the last places."""
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    return round(value, 12) if isinstance(value, float) else value


def test_the_table_tells_average_precision(source):
    space = source.info.label_space
    metrics = _evaluate(source, _truths(source).values(), metrics=EVERYTHING["coco"])
    plain = evaluation_metrics.format_metrics(metrics, space)
    assert plain.splitlines()[1].endswith("    IoU     AP")
    assert plain.splitlines()[2].endswith("  100.0  100.0")
    assert "Instances (COCO's rules): AP  100.0, AP50  100.0\n" in plain
    assert plain.endswith("PQ as DeepLab2 measures it (crowd is void): all  100.0, things  100.0, stuff  100.0")
    detailed = evaluation_metrics.format_metrics(metrics, space, detailed_ap=True)
    assert "AP50  100.0, AP75  100.0, AP small  100.0, " in detailed
    assert "AP large      -, AR 1 " in detailed
    for line in plain.splitlines()[5:-2]:
        is_thing = {c.name: c.is_thing for c in space.classes}[line[:20].strip()]
        assert len(line) == len(plain.splitlines()[1]) - 7 * (not is_thing)


def test_scalars_of_average_precision(source):
    metrics = _evaluate(source, _truths(source).values(), metrics=EVERYTHING["coco"])
    plain, detailed = evaluation_metrics.scalars(metrics), evaluation_metrics.scalars(metrics, detailed_ap=True)
    assert {"ap", "ap50", "pq_all_deeplab2"} <= set(plain)
    assert {"ap75", "ap_small", "ar_100"} == set(detailed) - set(plain) - {"ap_medium", "ar_1", "ar_10"} - {
        "ar_small",
        "ar_medium",
    }
    assert "ap_large" not in detailed  # there are no such instances


def test_no_such_rules():
    with pytest.raises(ValueError, match=r"must be none, coco or cityscapes\. Received: 'lvis'"):
        MetricOptions("lvis")


@pytest.mark.slow
def test_two_replicas_measure_what_one_measures(scene_records):
    """Of five images in batches of three: shares of two, of which one is filled up."""
    command = [sys.executable, "-m", "tests.training.evaluate_on_replicas", scene_records.val]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    one, two = (json.loads(line) for line in result.stdout.splitlines()[-2:])
    assert one["metrics"]["num_images"] == 5
    assert one["metrics"]["average_precision"]["rules"] == "coco"
    assert one["metrics"]["panoptic_quality"]["all"]["n"] > 0
    assert two == one
