# SPDX-License-Identifier: Apache-2.0
"""Drop path and its schedule."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_axial.backbones.axial_resnet import AxialResNet
from deeplab_axial.layers import drop_path


@pytest.mark.parametrize(("stride", "expected"), [(2, 1.0), (4, 1.0), (8, 1.0), (16, 0.85), (32, 0.8)])
def test_linear_schedule(stride, expected):
    assert drop_path.keep_probability(stride, 0.8, "linear") == pytest.approx(expected)


@pytest.mark.parametrize(("stride", "expected"), [(4, 1.0), (8, 1.0), (16, 0.8), (32, 0.8)])
def test_constant_schedule(stride, expected):
    assert drop_path.keep_probability(stride, 0.8, "constant") == expected


def test_schedule_from_another_stride():
    found = [drop_path.keep_probability(stride, 0.8, "linear", from_stride=4) for stride in (2, 4, 8, 16, 32)]
    np.testing.assert_allclose(found, [1.0, 0.95, 0.9, 0.85, 0.8])


def test_stages_of_a_backbone():
    model = AxialResNet([2, 2, 2, 2], 16, {"kind": "conv7x7"}, 0.125, None, keep_prob=(0.8, "linear"))
    found = [[block.keep_prob for block in stage] for stage in model.stages]
    # The first block of a stage goes by the stride of its input, the others by that of their own.
    np.testing.assert_allclose(found, [[1, 1], [1, 1], [1, 0.85], [0.85, 0.8]])
    assert [[block.drop_path is None for block in stage] for stage in model.stages][2] == [True, False]


def test_stages_of_a_wide_backbone():
    stem = {"kind": "conv3x3", "width_multiplier": 0.125}
    wide = {"axial_from_stride": None, "conv_block": "wide", "drop_path_from_stride": 4}
    model = AxialResNet([2, 2, 2, 2, 2], 16, stem, 0.125, keep_prob=(0.8, "linear"), **wide)
    found = [[block.keep_prob for block in stage] for stage in (model.stage1, *model.stages)]
    np.testing.assert_allclose(found, [[1, 1], [1, 0.95], [0.95, 0.9], [0.9, 0.85], [0.85, 0.8]])


def test_drops_whole_images_and_keeps_the_mean():
    layer = drop_path.DropPath(0.8)
    y = layer(tf.ones([4000, 2, 3, 2]), training=True, seed=[1, 2]).numpy().reshape(4000, -1)
    assert (y == y[:, :1]).all()
    np.testing.assert_allclose(np.unique(y), [0, 1.25], rtol=1e-6)
    assert abs(y.mean() - 1) < 0.03
    x = tf.ones([2, 2, 2, 1])
    np.testing.assert_array_equal(layer(x, training=False), x)


def test_the_seed_decides():
    layer = drop_path.DropPath(0.5)
    x = tf.ones([64, 1, 1, 1])
    first = layer(x, training=True, seed=[1, 2])
    np.testing.assert_array_equal(drop_path.DropPath(0.5)(x, training=True, seed=[1, 2]), first)
    assert tf.reduce_any(layer(x, training=True, seed=[1, 3]) != first)
    assert tf.reduce_any(layer(x, training=True) != layer(x, training=True))  # drawn


def test_blocks_of_a_backbone_drop_independently(monkeypatch):
    seen = []
    monkeypatch.setattr(
        drop_path.DropPath, "call", lambda self, x, training=False, seed=None: (seen.append(np.array(seed)), x)[1]
    )
    model = AxialResNet([1, 1, 2, 3], 16, {"kind": "conv7x7"}, 0.125, None, keep_prob=(0.8, "constant"))
    for _ in range(2):
        model(tf.zeros([1, 33, 33, 3]), training=True, seed=tf.constant([5, 6]))
    first, second = seen[:4], seen[4:]
    np.testing.assert_array_equal(first, second)
    assert len(np.unique(first, axis=0)) == 4


@pytest.mark.parametrize("bad", [0, -0.1, 1.5])
def test_refuses_bad_probabilities(bad):
    with pytest.raises(ValueError, match=r"keep_prob must lie in \(0, 1\]. Received"):
        drop_path.DropPath(bad)


def test_refuses_unknown_schedules():
    with pytest.raises(ValueError, match=r'schedule must be "constant" or "linear"\. Received: \'cosine\''):
        drop_path.keep_probability(16, 0.8, "cosine")
