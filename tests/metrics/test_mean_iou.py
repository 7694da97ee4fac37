# SPDX-License-Identifier: Apache-2.0
"""Against sets of pixels, and cases counted by hand."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deeplab_axial.metrics.mean_iou import MeanIoU


def _slow_iou(images, num_classes, ignore_label):
    """IoU of each class, NaN where absent, pixel by pixel."""
    both, either = [0] * num_classes, [0] * num_classes
    for gt, pred in images:
        for g, p in zip(gt.ravel().tolist(), pred.ravel().tolist()):
            if g == ignore_label:
                continue
            p = p if 0 <= p < num_classes and p != ignore_label else None
            both[g] += g == p
            for c in {g, p} - {None}:
                either[c] += 1
    return [b / e if e else math.nan for b, e in zip(both, either)]


def _random_images(rng, num_classes, ignore_label, count):
    labels = np.append(np.arange(num_classes), ignore_label)
    images = []
    for _ in range(count):
        shape = rng.integers(1, 9, 2)
        gt = rng.choice(labels[: rng.integers(1, num_classes + 2)], shape)
        pred = np.where(rng.random(shape) < 0.5, gt, rng.choice([*labels, -1, num_classes + 3], shape))
        images.append((gt, pred))
    return images


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.sampled_from([0, 255, -1]))
def test_equals_slow_reference(seed, num_classes, ignore_label):
    images = _random_images(np.random.default_rng(seed), num_classes, ignore_label, 3)
    metric = MeanIoU(num_classes, ignore_label)
    for gt, pred in images:
        metric.update(gt, pred)
    expected = _slow_iou(images, num_classes, ignore_label)
    present = [iou for iou in expected if not math.isnan(iou)]
    result = metric.result()
    np.testing.assert_allclose(result.per_class, expected, atol=1e-12)
    assert result.n == len(present)
    assert result.mean_iou == pytest.approx(sum(present) / max(len(present), 1), abs=1e-12)
    alone = _slow_iou(images[:1], num_classes, ignore_label)
    if metric.per_image[0].n:
        assert metric.per_image[0].mean_iou == pytest.approx(np.nanmean(alone), abs=1e-12)


def test_hand_computed():
    gt = np.array([[0, 0, 1, 1, 255, 255]], np.uint8)
    pred = np.array([[0, 1, 1, 1, 0, 2]], np.uint8)
    metric = MeanIoU(4, 255)
    metric.update(gt, pred, "a")
    result = metric.result()
    assert result.per_class[:2] == pytest.approx((1 / 2, 2 / 3))
    assert np.isnan(result.per_class[2:]).all()
    assert (result.mean_iou, result.n) == pytest.approx((7 / 12, 2))
    assert metric.per_image == [("a", result.mean_iou, 2)]
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["per_class"][2:] == [None, None]


@pytest.mark.parametrize("no_class", [0, 9, -1])
def test_prediction_of_no_class_misses_and_charges_nobody(no_class):
    metric = MeanIoU(3, ignore_label=0)
    metric.update(np.array([1, 1, 2, 0]), np.array([1, no_class, 2, 2]))
    np.testing.assert_equal(metric.result().per_class, (np.nan, 0.5, 1.0))
    assert metric.confusion[1].tolist() == [0, 1, 0, 1]


def test_merge_equals_joint():
    images = _random_images(np.random.default_rng(0), 5, 255, 9)
    joint, parts = MeanIoU(5, 255), [MeanIoU(5, 255) for _ in range(3)]
    for i, (gt, pred) in enumerate(images):
        joint.update(gt, pred, str(i))
        parts[i // 3].update(gt, pred, str(i))
    parts[0].merge(parts[1])
    parts[0].merge(parts[2])
    np.testing.assert_equal(parts[0].result().to_dict(), joint.result().to_dict())
    assert parts[0].per_image == joint.per_image
    assert parts[1].confusion.sum() == sum(np.count_nonzero(gt != 255) for gt, _ in images[3:6])
    with pytest.raises(ValueError, match=r"same \(num_classes, ignore_label\). Received: \(5, 0\)"):
        joint.merge(MeanIoU(5, 0))


def test_nothing_gives_zero():
    metric = MeanIoU(3, 255)
    assert (metric.result().mean_iou, metric.result().n) == (0, 0)
    assert metric.update(np.full([2, 2], 255), np.zeros([2, 2], int)) == (None, 0, 0)


@pytest.mark.parametrize(
    ("gt", "pred", "message"),
    [
        ([0, 3], [0, 0], r"gt must be a class in \[0, 3\) .* Received: 0 to 3"),
        ([0, -1], [0, 0], "Received: -1 to 0"),
        ([0, 1], [0, 0, 1], r"same shape. Received: \(2,\) and \(3,\)"),
        ([0, 1], [0.0, 0.3], "integers. Received: int64 and float64"),
    ],
)
def test_bad_maps_are_refused_and_leave_no_trace(gt, pred, message):
    metric = MeanIoU(3, 255)
    with pytest.raises(ValueError, match=f"Image 'x.*{message}"):
        metric.update(gt, pred, "x")
    assert not metric.confusion.any()
    assert not metric.per_image


def test_no_classes_are_refused():
    with pytest.raises(ValueError, match=r"at least 1. Received: 0"):
        MeanIoU(0, 255)
