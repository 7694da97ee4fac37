# SPDX-License-Identifier: Apache-2.0
"""Outputs of the heads on their way from the network to the report."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_axial import keys
from deeplab_axial.data import records
from deeplab_axial.postprocessing.multi_scale import PLAIN
from deeplab_axial.training.evaluator import Evaluator
from tests.report.runs import SPACE

# The second image is smaller than its batch, the last fills the batch up.
SIZES = [(9, 17), (5, 11), (1, 1)]


class _Network:
    """Outputs that tell their place: image number * 100 + row, and (row, column)."""

    multi_scale = PLAIN

    def __init__(self, has_heads=True):
        self.has_heads = has_heads

    def predict_padded(self, images, sizes, with_heads=False):
        number = tf.reshape(tf.range(3, dtype=tf.float32), [3, 1, 1, 1])
        y, x = (tf.cast(part, tf.float32) for part in tf.meshgrid(tf.range(9), tf.range(17), indexing="ij"))
        heads = {
            keys.CENTER_HEATMAP: 100 * number + y[None, :, :, None],
            keys.OFFSET_MAP: tf.tile(tf.stack([y, x], axis=-1)[None], [3, 1, 1, 1]),
        }
        maps = dict.fromkeys((keys.SEMANTIC_MAP, keys.PANOPTIC_MAP), tf.zeros([3, 9, 17], tf.int32))
        return {**maps, **(heads if with_heads and self.has_heads else {})}


def _batch():
    return {
        keys.IMAGE: tf.zeros([3, 9, 17, 3]),
        keys.IMAGE_NAME: tf.constant(["a", "b", ""]),
        keys.RAW_SIZE: tf.constant(SIZES),
        keys.RESIZED_SIZE: tf.constant(SIZES),
        keys.RAW_PANOPTIC: tf.constant([records.encode_panoptic_png(np.zeros(size, np.int32)) for size in SIZES]),
        keys.RAW_CROWD_IDS: tf.fill([3, 1], -1),
        keys.IS_REAL: tf.constant([True, True, False]),
    }


@pytest.mark.parametrize("use_tf_function", [True, False])
def test_each_image_has_the_heads_of_its_own_without_the_padding(use_tf_function):
    results = []
    evaluator = Evaluator(_Network(), SPACE, 2, use_tf_function, keep_heads=True)
    evaluator.evaluate([_batch()], results.append)
    assert [result.name for result in results] == ["a", "b"]
    for number, (result, (height, width)) in enumerate(zip(results, SIZES)):
        heatmap, offsets = result.read_heads()
        y, x = np.mgrid[:height, :width]
        np.testing.assert_array_equal(heatmap, 100 * number + y)
        np.testing.assert_array_equal(offsets, np.stack([y, x], axis=-1))


@pytest.mark.parametrize(("keep_heads", "has_heads"), [(False, True), (True, False)])
def test_there_are_none_unless_kept_and_there(keep_heads, has_heads):
    results = []
    Evaluator(_Network(has_heads), SPACE, 2, keep_heads=keep_heads).evaluate([_batch()], results.append)
    assert [result.read_heads for result in results] == [None, None]
