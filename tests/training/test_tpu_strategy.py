# SPDX-License-Identifier: Apache-2.0
"""TPUStrategy takes the training loop and both evaluations.

Without a TPU they cannot be run. They are traced, on virtual CPU devices in the place of its cores: what TensorFlow
refuses while it makes the program of the cores is seen, what a TPU computes is not. `deeplab-axial tpu_check` compiles
the step of one core.
"""

import pytest

from tests.cli import commands
from tests.training import tpu

SOLVER = "trainer_options.solver_options"


def _check(function, *arguments):
    result = commands.call(function, *arguments)
    if result.status == tpu.UNKNOWN_TENSORFLOW:
        pytest.skip(f"{result.out.strip()} has other private attributes than 2.15 to 2.21; a TPU cannot be faked.")
    assert result.status == 0, result.err[-8000:]


def test_training():
    _check(tpu.train_mini)


def test_segmentation_is_evaluated_with_the_outputs_of_the_heads():
    _check(tpu.evaluate_network)


def test_classification_is_evaluated():
    _check(tpu.evaluate_classifier)


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        (f"{SOLVER}.optimizer=radam", f"{SOLVER}.lookahead.sync_period=5", f"{SOLVER}.ema_decay=0.99"),
        (
            f"{SOLVER}.gradient_accumulation_steps=2",
            "trainer_options.recompute=true",
            "trainer_options.precision=mixed_bfloat16",
        ),
    ],
    ids=["lookahead", "accumulation"],
)
def test_a_network_with_synchronised_batch_normalisation_trains(overrides):
    _check(tpu.train_network, *overrides)
