# SPDX-License-Identifier: Apache-2.0
"""Random pairs of panoptic maps, and what the official tool says of them."""

import numpy as np
import pytest
from PIL import Image

from deeplab_axial.metrics.segments import Segments

CATEGORIES = {1: True, 2: True, 7: False, 9: False, 11: True}


def make_info(ids, categories, crowds, areas):
    keys = ("id", "category_id", "iscrowd", "area")
    return [dict(zip(keys, map(int, values))) for values in zip(ids, categories, crowds, areas)]


def as_segments(info, with_area=True):
    columns = {k: [s[k] for s in info] for k in ("id", "category_id", "iscrowd", "area")}
    areas = columns["area"] if with_area else None
    return Segments(columns["id"], columns["category_id"], columns["iscrowd"], areas)


def random_image(rng, max_id=2**24):
    """(gt map, gt info, pred map, pred info): blocks; predictions are the ground truth with changes."""
    h, w = rng.integers(2, 13, 2)
    num_gt = int(rng.integers(0, 9))
    pool = rng.permutation(np.unique(rng.integers(1, max_id, 40)))[:24]
    gt_ids, other_ids = pool[:num_gt], pool[12:]
    gt_map = np.zeros([h, w], np.int64)
    for i in rng.integers(0, num_gt + 3, 10):  # The two indices past the last are void and an id without segment.
        y, x = rng.integers(0, h), rng.integers(0, w)
        value = gt_ids[i] if i < num_gt else (0 if i <= num_gt else other_ids[-1])
        gt_map[y : y + rng.integers(1, h + 1), x : x + rng.integers(1, w + 1)] = value
    classes = rng.permutation(list(CATEGORIES))[: rng.integers(1, 6)]
    gt_categories = rng.choice(classes, num_gt)
    crowds = rng.random(num_gt) < 0.4
    areas = [np.count_nonzero(gt_map == i) for i in gt_ids]
    if rng.random() < 0.3:  # Files whose areas do not agree with their pixels.
        areas = [a + int(rng.integers(0, 4)) for a in areas]

    pred_map = np.zeros([h, w], np.int64)
    new_category = {}
    for k, i in enumerate(np.unique(gt_map)):
        new = i if rng.random() < 0.5 else other_ids[k % 10]
        if rng.random() < 0.8:
            pred_map[gt_map == i] = new
            known = dict(zip(gt_ids, gt_categories))
            new_category[new] = known.get(i) if i in known and rng.random() < 0.8 else rng.choice(classes)
    for _ in range(rng.integers(0, 3)):
        y, x = rng.integers(0, h), rng.integers(0, w)
        value = rng.choice([0, other_ids[0], *gt_ids])
        pred_map[y : y + 3, x : x + 3] = value
        new_category.setdefault(value, rng.choice(classes))
    ids = rng.permutation(np.unique(pred_map[pred_map != 0]))
    if rng.random() < 0.1 and (pred_map == 0).any():
        ids = np.append(ids, 0)  # The official tool takes a listed 0 as a segment.
    pred_categories = [new_category[i] if i in new_category else rng.choice(classes) for i in ids]
    pred_info = make_info(ids, pred_categories, np.zeros(len(ids)), [np.count_nonzero(pred_map == i) for i in ids])
    return gt_map, make_info(gt_ids, gt_categories, crowds, areas), pred_map, pred_info


def id_to_rgb(ids):
    return np.stack([ids & 255, (ids >> 8) & 255, ids >> 16], -1).astype(np.uint8)


def official(images, folder, categories=None):
    """{category: (iou, tp, fp, fn)} and the averages, by the official tool, from files."""
    tool = pytest.importorskip("cityscapesscripts.evaluation.evalPanopticSemanticLabeling")
    annotations = []
    for i, (gt_map, gt_info, pred_map, pred_info) in enumerate(images):
        pair = []
        for name, ids, info in (("gt", gt_map, gt_info), ("pred", pred_map, pred_info)):
            Image.fromarray(id_to_rgb(ids)).save(folder / f"{name}{i}.png", compress_level=0)
            copied = [dict(s) for s in info]
            pair.append({"image_id": i, "file_name": f"{name}{i}.png", "segments_info": copied})
        annotations.append(pair)
    categories = {c: {"id": c, "isthing": int(t)} for c, t in (categories or CATEGORIES).items()}
    stat = tool.pq_compute_single_core(0, annotations, str(folder), str(folder), categories)
    means = {}
    for name, is_thing in (("all", None), ("things", True), ("stuff", False)):
        try:
            means[name] = stat.pq_average(categories, is_thing)[0]
        except ZeroDivisionError:
            means[name] = {"pq": 0, "sq": 0, "rq": 0, "n": 0}
    return {c: (stat[c].iou, stat[c].tp, stat[c].fp, stat[c].fn) for c in categories}, means


def varied_image(seed, num_void_blocks, is_empty, has_largest_id):
    """`random_image` with more void, nothing predicted, or the largest id that a PNG holds in both maps."""
    rng = np.random.default_rng(seed)
    gt_map, gt_info, pred_map, pred_info = random_image(rng)
    pred_info = [s for s in pred_info if s["id"] != 0]
    for _ in range(num_void_blocks):
        y, x = rng.integers(0, gt_map.shape[0]), rng.integers(0, gt_map.shape[1])
        gt_map[y : y + rng.integers(1, 9), x : x + rng.integers(1, 9)] = 0
    if is_empty:
        pred_map, pred_info = np.zeros_like(pred_map), []
    if has_largest_id:
        for ids, info in ((gt_map, gt_info), (pred_map, pred_info)):
            if info:
                ids[ids == info[0]["id"]] = 2**24 - 1
                info[0]["id"] = 2**24 - 1
    return gt_map, gt_info, pred_map, pred_info


def properties(gt_map, gt_info, pred_map, pred_info):
    """What is special about an image, to see that tests have met it all."""
    crowds = [s["category_id"] for s in gt_info if s["iscrowd"]]
    straddles = [0 < np.mean(gt_map[pred_map == s["id"]] == 0) < 1 for s in pred_info]
    facts = {
        "void": (gt_map == 0).any(),
        "prediction straddling void": any(straddles),
        "crowd": bool(crowds),
        "several crowds of a class": len(set(crowds)) < len(crowds),
        "crowds of several classes": len(set(crowds)) > 1,
        "missing class": {s["category_id"] for s in gt_info} != {s["category_id"] for s in pred_info},
        "empty prediction": not pred_info,
        "empty ground truth": not gt_info,
        "largest id": 2**24 - 1 in gt_map and 2**24 - 1 in pred_map,
    }
    return [name for name, holds in facts.items() if holds]
