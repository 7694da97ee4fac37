# SPDX-License-Identifier: Apache-2.0
"""Panoptic quality against two other implementations, on random maps of every kind."""

import collections
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deeplab_axial.metrics.panoptic_quality import PanopticQuality
from tests.metrics.panoptic_cases import CATEGORIES, as_segments, id_to_rgb, official, properties, varied_image

CASES = {
    "seed": st.integers(0, 2**32 - 1),
    "num_void_blocks": st.integers(0, 3),
    "is_empty": st.sampled_from([False] * 9 + [True]),
    "has_largest_id": st.booleans(),
}
KINDS = 9


def _random_images(count, check):
    """Calls check(image) for random images, which must be of every kind, some of each."""
    seen = collections.Counter()

    @settings(max_examples=count, deadline=None, database=None)
    @given(**CASES)
    def run(**case):
        image = varied_image(**case)
        seen.update(properties(*image))
        check(image)

    run()
    assert len(seen) == KINDS, seen
    assert min(seen.values()) >= count // 100, seen


def _measure(images):
    metric = PanopticQuality(CATEGORIES)
    for gt_map, gt_info, pred_map, pred_info in images:
        metric.update(gt_map, as_segments(gt_info), pred_map, as_segments(pred_info))
    return metric.result()


@pytest.mark.parametrize("count", [200, pytest.param(5000, marks=pytest.mark.slow)])
def test_equals_the_official_tool(count, tmp_path):
    def check(image):
        counts, means = official([image], tmp_path)
        result = _measure([image])
        for category, expected in counts.items():
            quality = result.per_class[category]
            found = (quality.iou_sum, quality.tp, quality.fp, quality.fn)
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12, err_msg=str(category))
        for name, mean in means.items():
            expected = [mean[k] for k in ("pq", "sq", "rq", "n")]
            np.testing.assert_allclose(getattr(result, name), expected, rtol=0, atol=1e-12, err_msg=name)

    _random_images(count, check)


def _hotcoco(images, folder):
    """What hotcoco says of images, from files."""
    panoptic = pytest.importorskip("hotcoco.panoptic")
    categories = [{"id": c, "name": str(c), "isthing": int(t)} for c, t in CATEGORIES.items()]
    paths = []
    for side, name in ((0, "gt"), (2, "pred")):
        (folder / name).mkdir(exist_ok=True)
        listed, annotations = [], []
        for i, image in enumerate(images):
            ids, info = image[side : side + 2]
            Image.fromarray(id_to_rgb(ids)).save(folder / name / f"{i}.png", compress_level=0)
            listed.append({"id": i, "width": ids.shape[1], "height": ids.shape[0], "file_name": f"{i}.jpg"})
            annotations.append({"image_id": i, "file_name": f"{i}.png", "segments_info": info})
        content = {"images": listed, "annotations": annotations, "categories": categories}
        paths.append(folder / f"{name}.json")
        paths[-1].write_text(json.dumps(content))
    return panoptic.pq_compute(*paths, folder / "gt", folder / "pred")


@pytest.mark.parametrize("count", [200, pytest.param(5000, marks=pytest.mark.slow)])
def test_equals_hotcoco(count, tmp_path, capfd):
    images = []

    def check(image):
        images.append(image)
        expected = _hotcoco([image], tmp_path)
        capfd.readouterr()  # it prints tables
        _assert_hotcoco(_measure([image]), expected)

    _random_images(count, check)
    _assert_hotcoco(_measure(images), _hotcoco(images, tmp_path))


def _assert_hotcoco(result, expected):
    for name in ("all", "things", "stuff"):
        found = getattr(result, name)
        for key in ("pq", "sq", "rq"):
            # It says -1 where there is nothing to measure.
            assert max(expected[name.capitalize()][key], 0) == pytest.approx(getattr(found, key), rel=0, abs=1e-12)
        assert expected[name.capitalize()]["n"] == found.n
    for category, quality in expected["per_class"].items():
        assert max(quality["pq"], 0) == pytest.approx(result.per_class[int(category)].pq, rel=0, abs=1e-12)


@given(st.lists(st.integers(0, 2**32 - 1), min_size=3, max_size=6), st.data())
@settings(max_examples=50, deadline=None)
def test_the_order_of_merging_does_not_matter(seeds, data):
    images = [varied_image(seed, 1, False, False) for seed in seeds]
    first = data.draw(st.integers(1, len(images) - 1))
    second = data.draw(st.integers(first, len(images)))

    def parts():
        metrics = []
        for chunk in (images[:first], images[first:second], images[second:]):
            metrics.append(PanopticQuality(CATEGORIES))
            for gt_map, gt_info, pred_map, pred_info in chunk:
                metrics[-1].update(gt_map, as_segments(gt_info), pred_map, as_segments(pred_info))
        return metrics

    left, right = parts(), parts()
    left[0].merge(left[1])
    left[0].merge(left[2])
    right[1].merge(right[2])
    right[0].merge(right[1])
    assert left[0].per_image == right[0].per_image
    joint = _measure(images)
    for result in (left[0].result(), right[0].result()):
        for category, quality in joint.per_class.items():
            np.testing.assert_allclose(result.per_class[category], quality, rtol=0, atol=1e-12)
        np.testing.assert_allclose(result.all, joint.all, rtol=0, atol=1e-12)
