# SPDX-License-Identifier: Apache-2.0
"""Against the official tool (as cityscapesscripts carries it), a slow reference, and cases counted by hand."""

import json
import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deeplab_axial.metrics.panoptic_quality import PanopticQuality
from deeplab_axial.metrics.segments import Segments
from tests.metrics.panoptic_cases import CATEGORIES, as_segments, make_info, official, random_image

COCO_SAMPLE = pathlib.Path(__file__).parents[3] / "shared" / "data" / "coco_sample"


def _slow(gt_map, gt_info, pred_map, pred_info):
    """{category: [iou, tp, fp, fn]} from sets of pixels, one segment at a time."""
    totals = {c: [0.0, 0, 0, 0] for c in CATEGORIES}
    pixels = lambda ids, i: set(map(tuple, np.argwhere(ids == i)))  # noqa: E731
    void = pixels(gt_map, 0)
    found = set()
    for g in gt_info:
        if g["iscrowd"]:
            continue
        mine, hits = pixels(gt_map, g["id"]), 0
        for p in pred_info:
            theirs = pixels(pred_map, p["id"])
            union = g["area"] + len(theirs - void) - len(mine & theirs)
            if p["category_id"] == g["category_id"] and len(mine & theirs) / max(union, 1) > 0.5:
                totals[g["category_id"]][0] += len(mine & theirs) / union
                totals[g["category_id"]][1] += 1
                found.add(p["id"])
                hits += 1
        totals[g["category_id"]][3] += hits == 0
    for p in pred_info:
        theirs = pixels(pred_map, p["id"])
        crowds = [g["id"] for g in gt_info if g["iscrowd"] and g["category_id"] == p["category_id"]]
        excused = void | (pixels(gt_map, crowds[-1]) if crowds else set())
        totals[p["category_id"]][2] += p["id"] not in found and len(theirs & excused) <= len(theirs) / 2
    return totals


def _update_all(metric, images, with_area=True):
    for gt_map, gt_info, pred_map, pred_info in images:
        metric.update(gt_map, as_segments(gt_info, with_area), pred_map, as_segments(pred_info))
    return metric


def _counts(result):
    return {c: (q.iou_sum, q.tp, q.fp, q.fn) for c, q in result.per_class.items()}


def _assert_equal(actual, expected):
    assert actual.keys() == expected.keys()
    for category in expected:
        np.testing.assert_allclose(actual[category], expected[category], rtol=0, atol=1e-12, err_msg=str(category))


def test_equals_official_tool(tmp_path):
    rng = np.random.default_rng(0)
    images = [random_image(rng) for _ in range(300)]
    crowded = [[s["category_id"] for s in image[1] if s["iscrowd"]] for image in images]
    assert sum(len(set(c)) < len(c) for c in crowded) > 20, "several crowds of one category must be among the cases"
    assert sum(not image[3] for image in images) > 3, "empty predictions must be among the cases"
    for image in images:  # One at a time, so that no two errors cancel.
        expected, means = official([image], tmp_path)
        result = _update_all(PanopticQuality(CATEGORIES), [image]).result()
        _assert_equal(_counts(result), expected)
        for name, mean in means.items():
            np.testing.assert_allclose(getattr(result, name), [mean[k] for k in ("pq", "sq", "rq", "n")], atol=1e-12)
    expected, means = official(images, tmp_path)
    result = _update_all(PanopticQuality(CATEGORIES), images).result()
    assert min(q.tp for q in result.per_class.values()) > 20
    for name, mean in means.items():
        np.testing.assert_allclose(getattr(result, name), [mean[k] for k in ("pq", "sq", "rq", "n")], atol=1e-12)
    _assert_equal(_counts(result), expected)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([40, 2**24]))
def test_equals_slow_reference(seed, max_id):
    image = random_image(np.random.default_rng(seed), max(max_id, 40))
    image = (*image[:3], [s for s in image[3] if s["id"] != 0])
    result = _update_all(PanopticQuality(CATEGORIES), [image]).result()
    _assert_equal(_counts(result), _slow(*image))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_numbers_of_the_ids_do_not_matter(seed):
    rng = np.random.default_rng(seed)
    gt_map, gt_info, pred_map, pred_info = random_image(rng, 50)
    pred_info = [s for s in pred_info if s["id"] != 0]
    tables = [np.append(0, 2**24 - 50 + rng.permutation(50)) for _ in range(2)]
    assert min(t[1:].min() for t in tables) > 2**24 - 51
    gt_moved, pred_moved = ([{**s, "id": t[s["id"]]} for s in i] for t, i in zip(tables, (gt_info, pred_info)))
    moved = (tables[0][gt_map], gt_moved, tables[1][pred_map], pred_moved)
    result = [
        _counts(_update_all(PanopticQuality(CATEGORIES), [image]).result())
        for image in ((gt_map, gt_info, pred_map, pred_info), moved)
    ]
    _assert_equal(*result)  # Not bit by bit: the order of summation follows the ids.


def test_merge_equals_joint():
    rng = np.random.default_rng(1)
    images = [random_image(rng) for _ in range(20)]
    joint = _update_all(PanopticQuality(CATEGORIES), images)
    parts = [_update_all(PanopticQuality(CATEGORIES), images[i : i + 7]) for i in range(0, 20, 7)]
    merged = PanopticQuality(CATEGORIES)
    before = _counts(parts[1].result())
    for part in parts:
        merged.merge(part)
    assert _counts(parts[1].result()) == before
    _assert_equal(_counts(merged.result()), _counts(joint.result()))
    assert merged.per_image == joint.per_image
    assert sum(image.tp for image in merged.per_image) == sum(q.tp for q in merged.result().per_class.values())
    with pytest.raises(ValueError, match="same categories"):
        merged.merge(PanopticQuality({1: True}))


def test_hand_computed():
    # Category 1: gt 4 pixels, prediction 5 of which 1 is void and 1 on category 7. Category 7: gt 4, prediction 3.
    gt = np.array([[1, 1, 7, 7], [1, 1, 7, 7], [0, 0, 0, 0]])
    pred = np.array([[1, 1, 1, 7], [1, 3, 7, 7], [1, 0, 0, 0]])
    metric = PanopticQuality({1: True, 7: False, 9: False})
    image = metric.update(gt, Segments([1, 7], [1, 7]), pred, Segments([1, 7, 3], [1, 7, 1]), "a")
    result = metric.result()
    # 1: intersection 3, union 4 + 5 - 3 - 1 = 5; the segment 3 is a false positive. 7: 3 / 4.
    assert result.per_class[1] == pytest.approx((0.6 / 1.5, 0.6, 1 / 1.5, 0.6, 1, 1, 0))
    assert result.per_class[7] == pytest.approx((0.75, 0.75, 1.0, 0.75, 1, 0, 0))
    assert result.per_class[9] == (0, 0, 0, 0, 0, 0, 0)
    assert result.all == pytest.approx((0.575, 0.675, (1 / 1.5 + 1) / 2, 2))
    assert result.things == pytest.approx((0.4, 0.6, 1 / 1.5, 1))
    assert result.stuff == pytest.approx((0.75, 0.75, 1.0, 1))
    assert image == pytest.approx(("a", *result.all, 2, 1, 0))
    assert metric.per_image == [image]
    assert json.loads(json.dumps(result.to_dict()))["per_class"]["1"]["fp"] == 1


def test_iou_of_one_half_is_no_match():
    gt, pred = np.array([[5, 5, 9]]), np.array([[5, 6, 6]])
    metric = PanopticQuality({1: True, 7: False})
    metric.update(gt, Segments([5, 9], [1, 7]), pred, Segments([5, 6], [1, 7]))
    assert _counts(metric.result()) == {1: (0, 0, 1, 1), 7: (0, 0, 1, 1)}


@pytest.mark.parametrize(("void", "false_positives"), [(2, 1), (3, 0)])
def test_prediction_is_forgiven_above_half_void(void, false_positives):
    gt = np.where(np.arange(4) < void, 0, 9)[None]
    metric = PanopticQuality(CATEGORIES)
    metric.update(gt, Segments([9], [7]), np.full([1, 4], 3), Segments([3], [1]))
    assert metric.result().per_class[1].fp == false_positives


@pytest.mark.parametrize(("order", "false_positives"), [([4, 5], 0), ([5, 4], 1)])
def test_only_last_crowd_of_category_forgives(order, false_positives):
    gt = np.array([[4, 5, 5, 5]])
    metric = PanopticQuality(CATEGORIES)
    metric.update(gt, Segments(order, [1, 1], [True, True]), np.full([1, 4], 3), Segments([3], [1]))
    assert _counts(metric.result())[1] == (0, 0, false_positives, 0)
    joint = PanopticQuality(CATEGORIES)
    joint.update_from_panoptic_ids(gt + 1000, np.full([1, 4], 1009), 1000, 0, [i + 1000 for i in order] + [-1, -1])
    assert _counts(joint.result()) == _counts(metric.result())


def test_crowd_of_another_category_does_not_forgive():
    metric = PanopticQuality(CATEGORIES)
    metric.update(np.full([1, 4], 4), Segments([4], [2], [1]), np.full([1, 4], 3), Segments([3], [1]))
    assert _counts(metric.result())[1] == (0, 0, 1, 0)
    assert _counts(metric.result())[2] == (0, 0, 0, 0)


def test_nothing_gives_zero():
    metric = PanopticQuality(CATEGORIES)
    assert metric.result().all == (0, 0, 0, 0)
    none = Segments([], [])
    assert metric.update(np.zeros([2, 2], int), none, np.zeros([2, 2], int), none).n == 0
    metric.update(np.ones([2, 2], int), Segments([1], [1]), np.zeros([2, 2], int), none)
    assert metric.result().all == (0, 0, 0, 1)
    assert metric.result().stuff == (0, 0, 0, 0)


def test_cityscapes_ids(tmp_path):
    """Road is class 0 with instance 0, void 255000: the same as through a map where neither is 0."""
    rng = np.random.default_rng(2)
    categories = {0: False, 1: False, 11: True, 13: True}
    ids = np.array([0, 1000, 11001, 11002, 11003, 13001, 13000, 255000])
    crowds = np.array([11003, 13000])
    images, metric = [], PanopticQuality(categories)
    for _ in range(60):
        gt = ids[rng.integers(0, 8, [4, 4])].repeat(2, 0).repeat(2, 1)
        pred = np.where(rng.random(gt.shape) < 0.3, ids[rng.integers(0, 8)], gt)
        metric.update_from_panoptic_ids(gt.astype(np.int32), pred.astype(np.int32), 1000, 255000, crowds)
        maps = [np.where(x == 255000, 0, x + 7) for x in (gt, pred)]
        listed = [np.setdiff1d(x, [255000]) for x in (gt, pred)]
        info = [
            make_info(i + 7, i // 1000, np.isin(i, crowds) & (k == 0), [np.count_nonzero(m == j + 7) for j in i])
            for k, (i, m) in enumerate(zip(listed, maps))
        ]
        images.append((maps[0], info[0], maps[1], info[1]))
    expected, means = official(images, tmp_path, categories)
    result = metric.result()
    _assert_equal(_counts(result), expected)
    assert result.per_class[0].tp > 20
    np.testing.assert_allclose(result.all, [means["all"][k] for k in ("pq", "sq", "rq", "n")], atol=1e-12)


def test_areas_are_counted_when_not_given():
    rng = np.random.default_rng(3)
    for _ in range(30):
        gt_map, gt_info, pred_map, pred_info = random_image(rng)
        counted = [{**s, "area": np.count_nonzero(gt_map == s["id"])} for s in gt_info]
        given_areas = _update_all(PanopticQuality(CATEGORIES), [(gt_map, counted, pred_map, pred_info)])
        no_areas = _update_all(PanopticQuality(CATEGORIES), [(gt_map, gt_info, pred_map, pred_info)], with_area=False)
        assert no_areas.result() == given_areas.result()


_GOOD = {
    "gt_map": np.array([[1, 2]]),
    "gt_segments": Segments([1, 2], [1, 7]),
    "pred_map": np.array([[1, 2]]),
    "pred_segments": Segments([1, 2], [1, 7]),
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pred_map": np.array([[1, 3]])}, "ids without segment: 3"),
        ({"pred_map": np.array([[1, 0]])}, "ids without pixels: 2"),
        ({"pred_segments": Segments([1, 2], [1, 8])}, r"prediction: every .* Received: 8\."),
        ({"gt_segments": Segments([1, 2], [1, 8])}, r"ground truth: every .* Received: 8\."),
        ({"gt_segments": Segments([1, 0], [1, 7])}, "id 0 is void"),
        ({"gt_segments": Segments([1, 2], [1, 7], areas=[0, 1])}, "need an area. Received: 0 for ids 1"),
        ({"gt_map": np.array([[1.0, 2.0]])}, "integers. Received: float64"),
        ({"pred_map": np.array([[1, -2]])}, "Received: -2 to 1"),
        ({"pred_map": np.array([[1, 2**33]])}, "Received: 1 to 8589934592"),
        ({"gt_map": np.array([[1], [2]])}, r"one shape. Received: \(2, 1\) and \(1, 2\)"),
        ({"gt_map": np.array([1, 2]), "pred_map": np.array([1, 2])}, r"must be \[H, W\]"),
    ],
)
def test_bad_image_is_refused_and_leaves_no_trace(change, message):
    metric = PanopticQuality(CATEGORIES)
    with pytest.raises(ValueError, match=f"Image 'x.*{message}"):
        metric.update(**{**_GOOD, **change}, image_name="x")
    assert metric.result().all.n == 0
    assert not metric.per_image


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 1], [1, 1]), "distinct .* Received more than once: 1"),
        (([1, 2], [1]), r"categories must have one entry a segment, shape \(2,\)"),
        (([1], [1], [True, False]), "is_crowd must have one entry"),
        (([1], [1], None, [-4]), "areas must not be negative. Received: -4"),
        (([-1], [1]), "ids must not be negative"),
        (([1.5], [1]), "vector of integers. Received: float64"),
    ],
)
def test_bad_segments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Segments(*arguments)


def test_bad_panoptic_ids_are_refused():
    metric = PanopticQuality({1: True})
    ids = np.array([[1001, 1002]])
    with pytest.raises(ValueError, match="not void"):
        metric.update_from_panoptic_ids(ids, ids, 1000, 0, [0])
    with pytest.raises(ValueError, match=r"distinct .* Received: 1001, 1001"):
        metric.update_from_panoptic_ids(ids, ids, 1000, 0, [1001, 1001])
    with pytest.raises(ValueError, match="label_divisor"):
        metric.update_from_panoptic_ids(ids, ids, 0, 0)
    with pytest.raises(ValueError, match=r"number 0 .* Received: 2\."):
        metric.update_from_panoptic_ids(ids, ids + 1000, 1000, 0)
    with pytest.raises(ValueError, match="at least one"):
        PanopticQuality({})


@pytest.mark.skipif(not COCO_SAMPLE.is_dir(), reason="COCO sample pictures (../shared beside the checkout) are absent")
def test_coco_ground_truth_against_itself(tmp_path):
    data = json.loads((COCO_SAMPLE / "panoptic_examples.json").read_text())
    listed = json.loads((COCO_SAMPLE / "panoptic_coco_categories.json").read_text())
    metric = PanopticQuality({c["id"]: bool(c["isthing"]) for c in listed})
    images = []
    for annotation in data["annotations"]:
        rgb = np.array(Image.open(COCO_SAMPLE / "panoptic_examples" / annotation["file_name"])).astype(np.int64)
        ids, info = rgb @ [1, 256, 65536], annotation["segments_info"]
        metric.update(ids, as_segments(info), ids, as_segments(info), annotation["file_name"])
        images.append((ids, info, ids, info))
    result = metric.result()
    assert result.all[:3] == pytest.approx((1, 1, 1), abs=1e-12)
    assert sum(q.tp for q in result.per_class.values()) == 47
    assert sum(len(image[1]) for image in images) == 50
    _assert_equal(_counts(result), official(images, tmp_path, metric.categories)[0])
