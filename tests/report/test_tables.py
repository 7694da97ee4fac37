# SPDX-License-Identifier: Apache-2.0
"""The figures of the report's tables."""

import dataclasses

import numpy as np
import pytest

from deeplab_axial.data.label_space import LabelClass, LabelSpace
from deeplab_axial.report import tables
from tests.report.runs import make_run


@pytest.fixture(scope="module")
def details():
    return make_run(seed=7).details


def _with_confusion(details, confusion):
    return dataclasses.replace(details, confusion=np.array(confusion, np.int64))


def test_the_confusion_table_is_normalised_by_ground_truth(details):
    confusion = [[8, 2, 0, 0, 0], [1, 1, 0, 0, 2], [0] * 5, [0, 0, 0, 5, 0]]
    table = tables.confusion_table(_with_confusion(details, confusion))
    assert table["columns"] == ["sky & clouds", "car", "road", "void"]
    assert [row["name"] for row in table["rows"]] == ["sky & clouds", "car", "road"]
    assert [row["cells"] for row in table["rows"]] == [[0.8, 0.2, 0, 0], [0.25, 0.25, 0, 0.5], [0, 0, 1, 0]]
    assert [row["pixels"] for row in table["rows"]] == [10, 4, 5]
    assert table["left_out"] == 0


def test_a_class_that_is_only_predicted_has_no_shares(details):
    confusion = [[8, 2, 0, 0, 0], [0] * 5, [0] * 5, [0] * 5]
    table = tables.confusion_table(_with_confusion(details, confusion))
    assert table["rows"][1]["cells"] == [None] * 3


def test_of_many_classes_those_that_are_confused_most_are_shown(details):
    size = 50
    confusion = np.concatenate([np.eye(size, dtype=np.int64) * 100, np.zeros([size, 1], np.int64)], axis=1)
    confusion[40:, 45] += 7
    confusion[3, 4] = 1
    confusion[0, size] = 9
    classes = tuple(LabelClass(i, f"c{i}", True, (i, i, i), i) for i in range(size))
    many = dataclasses.replace(
        _with_confusion(details, confusion), label_space=LabelSpace("many", classes, size, 255, 1000)
    )
    table = tables.confusion_table(many)
    names = [row["name"] for row in table["rows"]]
    assert len(names) == tables.CONFUSION_CLASSES
    assert {*(f"c{i}" for i in range(40, size)), "c0", "c3", "c4"} <= set(names)
    assert names == sorted(names, key=lambda name: int(name[1:]))
    assert table["columns"] == [*names, "other classes", "void"]
    assert table["left_out"] == size - len(names)
    for row in table["rows"]:
        assert sum(row["cells"]) == pytest.approx(1)


def test_confusions_in_words_come_by_pixels(details):
    confusion = [[8, 2, 0, 0, 0], [6, 1, 0, 0, 3], [0] * 5, [0, 0, 0, 5, 0]]
    found = tables.largest_confusions(_with_confusion(details, confusion))
    assert [(c["truth"], c["predicted"]) for c in found] == [
        ("car", "sky & clouds"),
        ("car", "void"),
        ("sky & clouds", "car"),
    ]
    assert [c["share"] for c in found] == pytest.approx([0.6, 0.3, 0.2])
    assert [c["of_errors"] for c in found] == pytest.approx([6 / 11, 3 / 11, 2 / 11])
    assert tables.largest_confusions(_with_confusion(details, np.eye(4, 5))) == []


def test_recall_by_size_counts_each_instance_once(details):
    areas = np.array([1, 63, 64, 32**2 - 1, 32**2, 96**2 - 1, 96**2, 10**6])
    ious = np.array([0.4, 0.5, 0.51, 0.9, 0.0, 0.7, 0.8, 1.0])
    classes = np.array([2, 2, 2, 3, 3, 2, 2, 2])
    chosen = dataclasses.replace(details, instance_areas=areas, instance_ious=ious, instance_classes=classes)
    sizes = {size.label: (size.count, size.found) for size in tables.recall_by_size(chosen)}
    assert sizes == {
        "under 8": (2, 0),  # an IoU of 0.5 is no match
        "8–16": (1, 1),  # noqa: RUF001
        "16–32": (1, 1),  # noqa: RUF001
        "32–64": (1, 0),  # noqa: RUF001
        "64–96": (1, 1),  # noqa: RUF001
        "96–192": (1, 1),  # noqa: RUF001
        "192–384": (0, 0),  # noqa: RUF001
        "over 384": (1, 1),
    }
    by_class = {row["name"]: [(s.count, s.found) for s in row["sizes"]] for row in tables.recall_by_class(chosen)}
    assert by_class == {
        "All things": [(4, 2), (2, 1), (2, 2), (8, 5)],
        "car": [(3, 1), (1, 1), (2, 2), (6, 4)],
        "train": [(1, 1), (1, 0), (0, 0), (2, 1)],
    }
    assert [s.share for s in tables.recall_by_class(chosen)[2]["sizes"]] == [1.0, 0.0, None, 0.5]


def test_the_summary_tells_all_means(details):
    rows = dict(tables.summary(details.metrics))
    assert rows["PQ"] == details.metrics["panoptic_quality"]["all"]["pq"]
    assert rows["RQ of stuff"] == details.metrics["panoptic_quality"]["stuff"]["rq"]
    assert rows["AP of instances, COCO's rules"] == details.metrics["average_precision"]["ap"]
    assert rows["PQ as DeepLab2 measures it"] == details.metrics["panoptic_quality_deeplab2"]["all"]["pq"]
    assert len(rows) == 13
