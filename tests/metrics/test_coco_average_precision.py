# SPDX-License-Identifier: Apache-2.0
"""Against pycocotools, given masks and results as people give them, and cases counted by hand."""

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from deeplab_axial.metrics.average_precision import InstanceClasses
from deeplab_axial.metrics.coco_average_precision import CocoAveragePrecision, encode_masks
from tests.metrics.instance_cases import CLASSES, DIVISOR, random_case


def _encode(ids, i):
    return mask.encode(np.asfortranarray(ids == i, dtype=np.uint8))


def _reference(cases):
    """The twelve figures, by the usual way through COCO's own objects, and the precisions."""
    content = {"images": [], "annotations": [], "categories": [{"id": c} for c in CLASSES.thing_ids]}
    results = []
    for number, case in enumerate(cases, 100):
        content["images"].append({"id": number, "height": case.gt.shape[0], "width": case.gt.shape[1]})
        for i in np.unique(case.gt):
            if i // DIVISOR in CLASSES.thing_ids:
                content["annotations"].append(
                    {
                        "id": len(content["annotations"]) + 1,
                        "image_id": number,
                        "category_id": int(i // DIVISOR),
                        "iscrowd": int(i in case.crowd_ids),
                        "area": int(np.sum(case.gt == i)),
                        "segmentation": _encode(case.gt, i),
                    }
                )
        for i, score in sorted(zip(case.pred_ids.tolist(), case.scores.tolist())):
            found = {"image_id": number, "category_id": i // DIVISOR, "score": score}
            results.append({**found, "segmentation": _encode(case.pred, i)})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = content
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats, evaluation.eval["precision"]


def _measure(cases):
    metric = CocoAveragePrecision(CLASSES)
    for case in cases:
        metric.update(*case)
    return metric.result()


@pytest.mark.parametrize("seed", range(3))
def test_equals_pycocotools(seed, capsys):
    rng = np.random.default_rng(seed)
    cases = [random_case(rng) for _ in range(30)] + [random_case(rng, (120, 150)) for _ in range(5)]
    result = _measure(cases)
    assert capsys.readouterr().out == ""
    stats, precision = _reference(cases)
    assert list(result.means) == [
        *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
        *("ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large"),
    ]
    expected = np.where(stats < 0, np.nan, stats)
    np.testing.assert_allclose(list(result.means.values()), expected, rtol=0, atol=1e-12)
    assert 0.05 < result.means["ap"] < 0.95
    for k, c in enumerate(CLASSES.thing_ids):
        assert result.per_class[c]["ap"] == pytest.approx(precision[:, :, k, 0, 2].mean())
        assert result.per_class[c]["ap50"] == pytest.approx(precision[0, :, k, 0, 2].mean())


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_masks_are_encoded_as_by_pycocotools(seed):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 4, rng.integers(1, 9, 2)).repeat(rng.integers(1, 4), 1)
    present = np.unique(ids)
    for i, encoded in zip(present, encode_masks(ids, present)):
        assert encoded == _encode(ids, i)


def test_what_is_perfect_and_what_is_missed():
    gt = np.full([40, 40], 7000, np.int32)
    gt[:10, :10], gt[20:30, :10], gt[20:, 20:] = 24001, 24002, 26001
    metric = CocoAveragePrecision(CLASSES)
    metric.update(gt, np.where(gt == 24002, 0, gt), [], [24001, 26001], [0.9, 0.8])
    result = metric.result()
    assert result.per_class[26] == pytest.approx({"ap": 1.0, "ap50": 1.0})
    assert result.per_class[24]["ap"] == pytest.approx(51 / 101)  # of 101 recalls those up to one half
    assert np.isnan(result.per_class[25]["ap"])
    assert result.means["ap"] == pytest.approx((1 + 51 / 101) / 2)
    assert result.to_dict()["per_class"]["25"] == {"ap": None, "ap50": None}
    assert result.to_dict()["ap_large"] is None


def test_crowd_is_neither_missed_nor_wrong():
    gt = np.full([40, 40], 7000, np.int32)
    gt[:10, :10], gt[20:, 20:] = 24001, 24000
    pred = gt.copy()
    pred[20:, 20:] = 24009
    with_crowd, without = CocoAveragePrecision(CLASSES), CocoAveragePrecision(CLASSES)
    with_crowd.update(gt, pred, [24000, -1], [24001, 24009], [0.5, 0.9])
    without.update(gt, pred, [], [24001, 24009], [0.5, 0.4])
    assert with_crowd.result().per_class[24] == pytest.approx({"ap": 1.0, "ap50": 1.0})
    assert without.result().per_class[24] == pytest.approx({"ap": 1.0, "ap50": 1.0})
    without.update(gt, np.zeros_like(gt), [], [], [])
    assert without.result().per_class[24]["ap"] == pytest.approx(51 / 101)


def test_merge_equals_joint_in_any_order():
    rng = np.random.default_rng(4)
    cases = [random_case(rng) for _ in range(9)]

    def parts():
        metrics = [CocoAveragePrecision(CLASSES) for _ in range(3)]
        for i, case in enumerate(cases):
            metrics[i // 3].update(*case)
        return metrics

    left, right = parts(), parts()
    before = right[1].result().to_dict()
    left[0].merge(left[1])
    left[0].merge(left[2])
    merged = CocoAveragePrecision(CLASSES)
    merged.merge(right[1])
    assert right[1].result().to_dict() == before == merged.result().to_dict()
    right[1].merge(right[2])
    right[0].merge(right[1])
    assert left[0].result().to_dict() == right[0].result().to_dict() == _measure(cases).to_dict()
    with pytest.raises(ValueError, match="same classes"):
        left[0].merge(CocoAveragePrecision(InstanceClasses((24,), DIVISOR, 0)))


def test_nothing_gives_nothing():
    metric = CocoAveragePrecision(CLASSES)
    assert set(metric.result().to_dict()) == {"rules", *metric.result().means, "per_class"}
    assert metric.result().to_dict()["ar_100"] is None
    empty = np.zeros([4, 5], np.int32)
    metric.update(empty, empty, [], [], [])
    assert metric.result().to_dict()["ap"] is None


def test_an_instance_without_pixels_is_left_out():
    gt = np.full([20, 20], 26001, np.int32)
    metric = CocoAveragePrecision(CLASSES)
    metric.update(gt, gt, [], [26002, 26001], [0.9, 0.5])
    assert metric.result().means["ap"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("pred_ids", "scores", "message"),
    [
        ([26001], [], "needs a finite score"),
        ([26001], [np.nan], r"Image 'x'.*finite score. Received: \[nan\]"),
        ([26001, 26001], [0.5, 0.5], "distinct. Received: 26001, 26001"),
        ([26001, 7000], [0.5, 0.5], "thing classes. Received: 7000"),
        ([], [], "needs a score. Received none: 26001"),
        ([1.5], [0.5], "vector of integers"),
    ],
)
def test_bad_instances_are_refused_and_leave_no_trace(pred_ids, scores, message):
    gt = np.full([4, 5], 26001, np.int32)
    metric = CocoAveragePrecision(CLASSES)
    with pytest.raises(ValueError, match=message):
        metric.update(gt, gt, [], pred_ids, scores, "x")
    assert metric.result().to_dict()["ap"] is None


@pytest.mark.parametrize(("thing_ids", "divisor"), [((), 1000), ((1, 1), 1000), ((1,), 0)])
def test_bad_classes_are_refused(thing_ids, divisor):
    with pytest.raises(ValueError, match="Received: "):
        InstanceClasses(thing_ids, divisor, 0)
