# SPDX-License-Identifier: Apache-2.0
"""Our RAdam and Lookahead against those of tensorflow-addons 0.23, step by step.

Needs `pip install -e '.[addons,test]'` on Python 3.10 or 3.11 and TF_USE_LEGACY_KERAS=1.
"""

import importlib.util
import os

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from deeplab_axial.errors import InputError
from deeplab_axial.training.addons import tfa_optimizer
from deeplab_axial.training.optimizers import Lookahead, RAdam
from deeplab_axial.training.schedules import poly
from tests.training.test_optimizers_state import make_model, make_step

HAS_ADDONS = importlib.util.find_spec("tensorflow_addons") is not None
needs_addons = [
    pytest.mark.addons,
    pytest.mark.skipif(not HAS_ADDONS, reason="tensorflow-addons is not installed"),
    pytest.mark.skipif(os.environ.get("TF_USE_LEGACY_KERAS") != "1", reason="needs TF_USE_LEGACY_KERAS=1"),
]


def addons(function):
    for mark in needs_addons:
        function = mark(function)
    return function


@addons
@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize("lookahead", [False, True])
def test_fifty_steps_equal_the_addons(lookahead, scheduled):
    import tensorflow_addons as tfa

    rate = poly(1e-3, total_steps=60, warmup_steps=10) if scheduled else 1e-3
    ours, theirs = RAdam(rate), tfa.optimizers.RectifiedAdam(rate)
    if lookahead:
        ours, theirs = Lookahead(ours), tfa.optimizers.Lookahead(theirs)
    models = make_model(), make_model()
    steps = [make_step(model, optimizer) for model, optimizer in zip(models, (ours, theirs))]
    start = models[0].get_weights()
    for seed in range(50):
        for step in steps:
            step(tf.constant(seed))
        for a, b in zip(models[0].get_weights(), models[1].get_weights()):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=2e-7, err_msg=f"step {seed + 1}")
    moved = max(np.abs(a - b).max() for a, b in zip(models[0].get_weights(), start))
    assert moved > 1e-3


@addons
def test_weight_decay_equals_the_addons():
    import tensorflow_addons as tfa

    models = make_model(), make_model()
    optimizers = RAdam(1e-3, weight_decay=0.1), tfa.optimizers.RectifiedAdam(1e-3, weight_decay=0.1)
    steps = [make_step(model, optimizer) for model, optimizer in zip(models, optimizers)]
    for seed in range(20):
        for step in steps:
            step(tf.constant(seed))
    for a, b in zip(models[0].get_weights(), models[1].get_weights()):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=2e-7)


@addons
@pytest.mark.parametrize("name", ["RectifiedAdam", "LAMB", "AdaBelief", "NovoGrad"])
def test_optimizer_by_name_trains_with_our_schedule(name):
    model, optimizer = make_model(), tfa_optimizer(name, learning_rate=poly(1e-2, 100, 2))
    step = make_step(model, optimizer)
    losses = [float(step(tf.constant(0))) for _ in range(20)]
    assert isinstance(optimizer, tf_keras.optimizers.legacy.Optimizer)
    assert optimizer.iterations.numpy() == 20
    assert losses[-1] < losses[0]


@addons
@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("RectifedAdam", r"Received: 'tfa\.RectifedAdam'.*tfa\.RectifiedAdam"),
        ("Zzz", r"tfa\.AdaBelief or .*tfa\.Yogi"),
        ("Lookahead", r"tfa\.Lookahead cannot be made.*optimizer"),
        ("KerasLegacyOptimizer", "no optimizer of this name"),
    ],
)
def test_unusable_names(name, match):
    with pytest.raises(InputError, match=match):
        tfa_optimizer(name, learning_rate=1e-3)


@pytest.mark.skipif(HAS_ADDONS, reason="tensorflow-addons is installed")
def test_without_the_addons_the_remedy_is_named():
    with pytest.raises(InputError, match=r"deeplab-axial\[addons\]"):
        tfa_optimizer("RectifiedAdam", learning_rate=1e-3)
