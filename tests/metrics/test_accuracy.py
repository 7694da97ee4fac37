# SPDX-License-Identifier: Apache-2.0
"""Accuracy against a slow reference."""

import numpy as np
import pytest

from deeplab_axial.metrics.accuracy import Accuracy


def _rank(row: np.ndarray, label: int) -> int:
    """The label's place when the classes are sorted by score, the lower id first among equals."""
    return sorted(range(row.size), key=lambda i: (-row[i], i)).index(label)


def _batch(count: int, num_classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    # Few different scores, so that there are ties.
    return rng.integers(0, 6, [count, num_classes]).astype(np.float32), rng.integers(0, num_classes, count)


@pytest.mark.parametrize("num_classes", [6, 10, 1000])
def test_it_equals_the_reference(num_classes):
    accuracy, ranks, labels = Accuracy(num_classes), [], []
    for seed in range(4):
        scores, batch_labels = _batch(17, num_classes, seed)
        found = accuracy.update(scores, batch_labels)
        expected = [_rank(row, label) for row, label in zip(scores, batch_labels)]
        assert found.tolist() == expected
        ranks += expected
        labels += batch_labels.tolist()
    result = accuracy.result()
    assert accuracy.num_images == 68
    assert result["top1"] == np.mean([rank == 0 for rank in ranks])
    assert result["top5"] == np.mean([rank < 5 for rank in ranks])
    for i in range(num_classes):
        own = [rank == 0 for rank, label in zip(ranks, labels) if label == i]
        assert result["per_class"][str(i)] == (np.mean(own) if own else None)


def test_equal_scores_are_no_hit_for_all_classes():
    accuracy = Accuracy(10)
    accuracy.update(np.zeros([10, 10]), np.arange(10))
    assert accuracy.result()["top1"] == 0.1
    assert accuracy.result()["top5"] == 0.5


def test_merged_parts_are_the_whole():
    scores, labels = _batch(30, 8)
    whole, parts = Accuracy(8), [Accuracy(8), Accuracy(8)]
    whole.update(scores, labels)
    for part, images in zip(parts, (slice(0, 11), slice(11, None))):
        part.update(scores[images], labels[images])
    parts[0].merge(parts[1])
    assert parts[0].result() == whole.result()
    with pytest.raises(ValueError, match=r"must have 8 classes\. Received: 7"):
        whole.merge(Accuracy(7))


def test_what_tells_nothing_is_none():
    assert Accuracy(10).result()["top1"] is None
    few = Accuracy(5)
    few.update(np.eye(5), np.arange(5))
    assert few.result()["top1"] == 1
    assert few.result()["top5"] is None  # any answer is among the first five


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (np.zeros([2, 3]), [0, 1], r"scores must be \[B, 4\]"),
        (np.zeros([2, 4]), [0], "labels"),
        (np.zeros([1, 4]), [4], r"labels must lie in \[0, 4\)"),
        (np.zeros([1, 4]), [-1], r"labels must lie in \[0, 4\)"),
        (np.full([1, 4], np.nan), [0], "must be finite"),
    ],
)
def test_bad_input_counts_nothing(scores, labels, message):
    accuracy = Accuracy(4)
    with pytest.raises(ValueError, match=message):
        accuracy.update(scores, np.array(labels))
    assert accuracy.num_images == 0
    with pytest.raises(ValueError, match="num_classes must be at least 1"):
        Accuracy(0)
