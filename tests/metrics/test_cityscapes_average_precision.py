# SPDX-License-Identifier: Apache-2.0
"""Against Cityscapes' own evaluation, which reads files, and cases counted by hand."""

import types

import numpy as np
import pytest
from PIL import Image

from deeplab_axial.metrics.cityscapes_average_precision import CityscapesAveragePrecision
from tests.metrics.instance_cases import CLASSES, DIVISOR, STUFF, random_case

NAMES = {24: "person", 25: "rider", 26: "car"}


def _official(cases, folder):
    """{"ap", "ap50"} of each class, by the official tool."""
    tool = pytest.importorskip("cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling")
    truths, predictions = [], []
    for i, case in enumerate(cases):
        # Its files have the bare class for crowd, stuff and void.
        bare = np.isin(case.gt, case.crowd_ids) | np.isin(case.gt // DIVISOR, [0, STUFF])
        ids = np.where(bare, case.gt // DIVISOR, case.gt)
        truths.append(str(folder / f"a_{i:06}_000000_gtFine_instanceIds.png"))
        Image.fromarray(ids.astype(np.uint16)).save(truths[-1])
        lines = []
        for k, (instance, score) in enumerate(zip(case.pred_ids, case.scores)):
            name = f"{i}_{k}.png"
            Image.fromarray(np.where(case.pred == instance, 255, 0).astype(np.uint8)).save(folder / name)
            lines.append(f"{name} {instance // DIVISOR} {float(score)!r}\n")
        predictions.append(str(folder / f"{i}.txt"))
        (folder / f"{i}.txt").write_text("".join(lines))
    args = types.SimpleNamespace(**vars(tool.args))
    args.quiet, args.predictionPath = True, str(folder)
    args.gtInstancesFile = str(folder / "none.json")
    args.instLabels = list(NAMES.values())
    instances = tool.getGtInstances(truths, args)
    (folder / "none.json").unlink()
    matches = tool.matchGtWithPreds(predictions, truths, instances, args)
    averages = tool.computeAverages(tool.evaluateMatches(matches, args), args)
    means = {"ap": averages["allAp"], "ap50": averages["allAp50%"]}
    return means, {c: {"ap": row["ap"], "ap50": row["ap50%"]} for c, row in zip(NAMES, averages["classes"].values())}


def _measure(cases):
    metric = CityscapesAveragePrecision(CLASSES)
    for case in cases:
        metric.update(*case)
    return metric.result()


def _assert_equal(result, means, per_class):
    assert result.means == pytest.approx(means, rel=0, abs=1e-9, nan_ok=True)
    for c, expected in per_class.items():
        assert result.per_class[c] == pytest.approx(expected, rel=0, abs=1e-9, nan_ok=True)


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
@pytest.mark.parametrize("count", [40, pytest.param(500, marks=pytest.mark.slow)])
def test_equals_the_official_tool(count, tmp_path, monkeypatch):
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)  # the tool calls it; NumPy 2.4 has it no more
    rng = np.random.default_rng(0)
    cases = [random_case(rng) for _ in range(count)]
    assert sum(case.crowd_ids.size > 0 for case in cases) > count / 4
    assert sum((case.gt == 0).any() for case in cases) > count / 4
    _assert_equal(_measure(cases), *_official(cases, tmp_path))
    for first in range(0, count, 4):  # few images, where a class may have no ground truth
        chunk = cases[first : first + 4]
        try:
            expected = _official(chunk, tmp_path)
        except IndexError:  # it fails where all predictions of a class are left out
            continue
        _assert_equal(_measure(chunk), *expected)
    assert 0.05 < _measure(cases).means["ap"] < 0.95


def _blocks(*blocks, size=(20, 60)):
    """A map of (id, first column, last column)."""
    ids = np.full(size, STUFF * DIVISOR, np.int32)
    for i, first, last in blocks:
        ids[:, first:last] = i
    return ids


@pytest.mark.parametrize(
    ("gt", "crowd_ids", "ap50"),
    [
        ([(26001, 0, 10)], [], 1.0),
        ([(26001, 0, 10), (26002, 20, 30)], [], 0.5),
        ([(26001, 0, 10), (26002, 20, 24)], [], 1.0),  # 80 pixels need not be found
        ([(26001, 0, 10), (26000, 20, 30)], [26000], 1.0),
        ([(24001, 0, 10), (26002, 20, 30)], [], 0.0),
    ],
)
def test_hand_counted(gt, crowd_ids, ap50):
    metric = CityscapesAveragePrecision(CLASSES)
    metric.update(_blocks(*gt), _blocks((26001, 0, 10)), crowd_ids, [26001], [0.5])
    assert metric.result().per_class[26]["ap50"] == pytest.approx(ap50)


@pytest.mark.parametrize(("void", "ap50"), [((0, 0, 15), 1.0), ((0, 0, 9), 0.75)])
def test_a_prediction_on_void_is_forgiven(void, ap50):
    metric = CityscapesAveragePrecision(CLASSES)
    metric.update(
        _blocks(void, (26001, 30, 40)), _blocks((26005, 0, 20), (26001, 30, 40)), [], [26001, 26005], [0.5, 0.9]
    )
    found = metric.result().per_class[26]["ap50"]
    assert (found == 1.0) == (ap50 == 1.0)


def test_merge_equals_joint_in_any_order():
    rng = np.random.default_rng(1)
    cases = [random_case(rng) for _ in range(9)]
    joint = _measure(cases)

    def parts():
        metrics = [CityscapesAveragePrecision(CLASSES) for _ in range(3)]
        for i, case in enumerate(cases):
            metrics[i // 3].update(*case)
        return metrics

    left, right = parts(), parts()
    left[0].merge(left[1])
    left[0].merge(left[2])
    right[1].merge(right[2])
    right[0].merge(right[1])
    assert left[0].result() == right[0].result() == joint
    with pytest.raises(ValueError, match="same classes"):
        left[0].merge(CityscapesAveragePrecision(CLASSES.__class__((24,), DIVISOR, 0)))


def test_nothing_gives_nothing():
    result = CityscapesAveragePrecision(CLASSES).result()
    assert result.to_dict() == {
        "rules": "cityscapes",
        "ap": None,
        "ap50": None,
        "per_class": {str(c): {"ap": None, "ap50": None} for c in CLASSES.thing_ids},
    }
