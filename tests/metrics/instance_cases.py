# SPDX-License-Identifier: Apache-2.0
"""Random panoptic maps with scored instances, on the ids of Cityscapes."""

from typing import NamedTuple

import numpy as np

from deeplab_axial.metrics.average_precision import InstanceClasses

# Road, and the thing classes person, rider and car under the ids of Cityscapes' files.
STUFF = 7
DIVISOR = 1000
CLASSES = InstanceClasses((24, 25, 26), DIVISOR, 0)


class Case(NamedTuple):
    """Arguments of `update` of the metrics of average precision."""

    gt: np.ndarray
    pred: np.ndarray
    crowd_ids: np.ndarray
    pred_ids: np.ndarray
    scores: np.ndarray


def random_case(rng: np.random.Generator, size=None) -> Case:
    """Blocks of instances, of which some are small and some are crowd; predictions are the truth with changes."""
    h, w = size or rng.integers(20, 60, 2)
    gt = np.full([h, w], STUFF * DIVISOR, np.int32)
    for number in range(1, rng.integers(2, 14)):
        y, x, tall, wide = rng.integers(0, [h, w, 25, 25])
        kind = rng.choice([24, 25, 26])
        gt[y : y + tall + 2, x : x + wide + 2] = rng.choice([kind * DIVISOR + number] * 5 + [kind * DIVISOR, 0])
    ids = np.unique(gt)
    crowd_ids = ids[(ids % DIVISOR == 0) & (ids // DIVISOR > STUFF)]
    pred = np.full([h, w], STUFF * DIVISOR, np.int32)
    count = 0
    for i in rng.permutation(ids[ids != STUFF * DIVISOR]):
        if rng.random() < 0.2:
            continue
        y, x = rng.integers(-4, 5, 2) * (rng.random() < 0.4)
        kind = i // DIVISOR if rng.random() < 0.85 and i else rng.choice([24, 25, 26])
        count += 1
        pred[np.roll(gt == i, (y, x), (0, 1))] = kind * DIVISOR + count
    for _ in range(rng.integers(0, 3)):
        y, x = rng.integers(0, [h, w])
        count += 1
        pred[y : y + 9, x : x + 9] = rng.choice([24, 25, 26, 0]) * DIVISOR
        block = pred[y : y + 9, x : x + 9]
        block[block != 0] += count
    found = np.unique(pred)
    pred_ids = rng.permutation(found[found > STUFF * DIVISOR])
    # Few values, so that scores are tied.
    return Case(gt, pred, crowd_ids, pred_ids, rng.integers(1, 20, pred_ids.size) / 20)
