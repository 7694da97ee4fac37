# SPDX-License-Identifier: Apache-2.0
"""Panoptic quality as DeepLab2 measures it: the official metric on a ground truth whose crowd is void."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deeplab_axial.metrics.panoptic_quality import PanopticQuality, crowd_as_void

DIVISOR, IGNORE = 1000, 255
VOID = IGNORE * DIVISOR
CATEGORIES = {0: False, 1: False, 11: True, 13: True}


def _slow(gt, crowd_ids, pred):
    """{class: [iou, tp, fp, fn]} by the rules of DeepLab2, one pair of segments after the other.

    Its conversion makes crowd void. Its metric compares ids of one class; void leaves the union; what is
    not matched is missed, or wrong unless more than half of it is void; the ignored class does not count.
    """
    gt = gt.copy()
    for crowd in crowd_ids:
        gt[gt == crowd] = VOID
    totals = {c: [0.0, 0, 0, 0] for c in CATEGORIES}
    found, used = set(), set()
    for g in np.unique(gt):
        for p in np.unique(pred):
            if g // DIVISOR != p // DIVISOR or p // DIVISOR == IGNORE:
                continue
            both = np.sum((gt == g) & (pred == p))
            union = np.sum(gt == g) + np.sum(pred == p) - both - np.sum((gt == VOID) & (pred == p))
            if both / union > 0.5:
                totals[g // DIVISOR][0] += both / union
                totals[g // DIVISOR][1] += 1
                found.add(g)
                used.add(p)
    for p in np.unique(pred):
        if p not in used and p // DIVISOR != IGNORE and np.mean(gt[pred == p] == VOID) <= 0.5:
            totals[p // DIVISOR][2] += 1
    for g in np.unique(gt):
        totals_of_class = totals.get(g // DIVISOR)
        if g not in found and g // DIVISOR != IGNORE:
            totals_of_class[3] += 1
    return totals


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_equals_a_slow_rendition_of_the_rules(seed):
    rng = np.random.default_rng(seed)
    ids = np.array([0, 1000, 11001, 11002, 11003, 13001, 13000, VOID])
    crowd_ids = np.array([11003, 13000, -1])
    gt = ids[rng.integers(0, 8, [4, 4])].repeat(2, 0).repeat(2, 1)
    pred = np.where(rng.random(gt.shape) < 0.3, ids[rng.integers(0, 8)], gt)
    metric = PanopticQuality(CATEGORIES)
    metric.update_from_panoptic_ids(crowd_as_void(gt, crowd_ids, VOID), pred, DIVISOR, VOID)
    for category, expected in _slow(gt, crowd_ids, pred).items():
        quality = metric.result().per_class[category]
        assert (quality.iou_sum, quality.tp, quality.fp, quality.fn) == pytest.approx(tuple(expected), abs=1e-12)


def test_crowd_forgives_a_prediction_of_another_class_and_leaves_the_union():
    gt = np.array([[11001, 11001, 13000, 13000]], np.int32)
    pred = np.array([[11001, 11001, 11001, 11002]], np.int32)
    official, deeplab2 = PanopticQuality(CATEGORIES), PanopticQuality(CATEGORIES)
    official.update_from_panoptic_ids(gt, pred, DIVISOR, VOID, [13000])
    changed = crowd_as_void(gt, [13000], VOID)
    deeplab2.update_from_panoptic_ids(changed, pred, DIVISOR, VOID)
    assert changed.dtype == np.int32
    assert official.result().per_class[11][3:] == pytest.approx((2 / 3, 1, 1, 0))
    assert deeplab2.result().per_class[11][3:] == pytest.approx((1, 1, 0, 0))
