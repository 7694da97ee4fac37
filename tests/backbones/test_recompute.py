# SPDX-License-Identifier: Apache-2.0
"""Training with the inside of blocks computed again: the same losses, gradients and moving statistics."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from deeplab_axial import builders, config
from deeplab_axial.backbones.axial_resnet import AxialResNet
from deeplab_axial.layers import drop_path
from tests.cli.commands import TINY
from tests.compare import assert_nest_close, random_tensor, vary_weights

IMAGES = (2, 33, 41, 3)
WIDE = {
    "num_blocks": [1, 1, 1, 1, 1],
    "stem": {"kind": "conv3x3", "width_multiplier": 0.125},
    "axial_from_stride": None,
    "conv_block": "wide",
    "drop_path_from_stride": 4,
    "keep_prob": (0.5, "linear"),
}
NETWORKS = {
    "axial": {"keep_prob": (0.5, "constant"), "block": {"use_squeeze_and_excite": True}},
    "axial, windows": {"attention": {"span": 5}, "axial_from_stride": 16},
    "axial, rows in a loop": {"attention": {"logits_at_once": 500}, "axial_from_stride": 16},
    "local": {"attention_kind": "local", "attention": {"span": 3, "num_heads": 4}, "attention_widths": (1, 1, 1)},
    "switchable": {"axial_from_stride": None, "sac_from_stride": 8},
    "wide": WIDE,
}


def _network(**kwargs) -> AxialResNet:
    tf_keras.utils.set_random_seed(1)
    shared = {
        "num_blocks": [1, 1, 1, 1],
        "output_stride": 16,
        "stem": {"kind": "conv7x7", "width_multiplier": 0.125, "max_pool": True},
        "width_multiplier": 0.125,
        "norm": {"momentum": 0.5},
    }
    if "stem" in kwargs:
        shared.pop("stem")
    network = AxialResNet(**shared | kwargs)
    network(tf.zeros([1, *IMAGES[1:]]))
    vary_weights(network)
    return network


def _step(network, images, seed):
    with tf.GradientTape() as tape:
        endpoints = network(images, training=True, seed=seed)
        loss = tf.add_n([tf.reduce_mean(tf.square(tf.cast(x, tf.float32))) for x in endpoints.values()])
    return loss, tape.gradient(loss, network.trainable_variables, unconnected_gradients="zero")


def _results(network, seed, **options):
    """Loss, gradients and moving statistics of one step."""
    step = lambda images: _step(network, images, seed)  # noqa: E731
    if options:
        step = tf.function(step, autograph=False, **options)
    return step(random_tensor(IMAGES)), [v.numpy() for v in network.non_trainable_variables]


def _assert_same(kwargs, **options):
    seed = tf.constant([3, 4])
    plain = _results(_network(**kwargs), seed, **options)
    assert_nest_close(_results(_network(**kwargs, recompute=True), seed, **options), plain, 1e-5)


@pytest.mark.parametrize("kind", NETWORKS)
def test_same_step(kind):
    _assert_same(NETWORKS[kind])


def test_same_step_in_a_graph():
    _assert_same(NETWORKS["axial, rows in a loop"], reduce_retracing=True)


@pytest.mark.slow
def test_same_step_with_xla():
    seed = tf.constant([3, 4])
    networks = (_network(**NETWORKS["axial"], recompute=recompute) for recompute in (True, False))
    ours, theirs = (_results(network, seed, jit_compile=True) for network in networks)
    (loss, gradients), statistics = ours
    (expected_loss, expected_gradients), expected_statistics = theirs
    assert_nest_close((loss, statistics), (expected_loss, expected_statistics), 1e-5)
    # XLA rounds the two programs differently, and some gradients are nothing but rounding errors: all are one scale.
    gradients, expected_gradients = (np.concatenate([np.ravel(g) for g in x]) for x in (gradients, expected_gradients))
    assert_nest_close(gradients, expected_gradients, 1e-5)


def test_same_step_in_bfloat16():
    policy = tf_keras.mixed_precision.global_policy()
    tf_keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        _assert_same({"axial_from_stride": 16, "keep_prob": (0.5, "constant")})
    finally:
        tf_keras.mixed_precision.set_global_policy(policy)


def test_both_passes_drop_the_same_without_a_seed(monkeypatch):
    seeds = []
    monkeypatch.setattr(
        drop_path.DropPath, "call", lambda self, x, training=False, seed=None: (seeds.append(np.array(seed)), x)[1]
    )
    network = _network(**WIDE, recompute=True)
    seeds.clear()
    _step(network, random_tensor(IMAGES), None)
    num_blocks = sum(block.drop_path is not None for stage in network.stages for block in stage)
    assert len(seeds) == 2 * num_blocks
    np.testing.assert_array_equal(seeds[num_blocks:], seeds[:num_blocks][::-1])
    assert len(np.unique(seeds, axis=0)) == num_blocks


def test_inference_and_weights_are_untouched():
    plain, recomputed = _network(name="network"), _network(name="network", recompute=True)
    assert [v.name for v in plain.variables] == [v.name for v in recomputed.variables]
    images = random_tensor(IMAGES)
    assert_nest_close(recomputed(images), plain(images), 0.0)


def test_the_config_decides():
    for flag in (True, False):
        options = config.load(TINY, [f"trainer_options.recompute={str(flag).lower()}"])
        assert builders.build_model(options).backbone.recompute is flag
