# SPDX-License-Identifier: Apache-2.0
"""The compiler of Cloud TPU itself, on programs whose memory is known."""

import types

import pytest
import tensorflow as tf

from deeplab_axial import builders, config, keys
from deeplab_axial.tpu_check import process, report, step, topologies
from tests.cli import commands
from tests.tpu_check.installed import needs_compiler

V5E = topologies.parse("v5e:2x2")
MIB = 2**20


pytestmark = needs_compiler


class _Counter:
    """A trainer whose step adds to a variable of 16 MiB, by way of two matrices of 16 MiB."""

    def __init__(self):
        self.weights = tf.Variable(tf.zeros([2048, 2048]))
        self.model = types.SimpleNamespace(trainable_variables=[self.weights], non_trainable_variables=[])

    def replica_step(self, batch):
        image = batch[keys.IMAGE][0, :, :, 0]
        product = tf.einsum("ij,jk->ik", image, self.weights)
        self.weights.assign_add(tf.einsum("ij,jk->ik", product, product))
        return {"sum": tf.reduce_sum(product)}


def test_variables_that_are_overwritten_count_once():
    program = step.lower(_Counter(), {keys.IMAGE: tf.TensorSpec([1, 2048, 2048, 1])})
    assert program.gradient_bytes == 16 * MIB
    result = process.compile_program(program, V5E)
    assert result.fits
    assert not result.error
    assert result.code > 0
    # The batch and the variable; then at most the product and the sum, of which a TPU may hold some outside HBM.
    assert 32 * MIB <= result.plan.arguments <= 33 * MIB
    assert result.plan.arguments <= result.plan.total <= 66 * MIB
    assert result.flops == pytest.approx(2 * 2 * 2048**3, rel=0.01)


def test_what_is_too_large_is_said():
    class Large(_Counter):
        def replica_step(self, batch):
            square = tf.linalg.matmul(batch[keys.IMAGE][0, :, :, 0], batch[keys.IMAGE][0, :, :, 0], transpose_b=True)
            return {"sum": tf.reduce_sum(tf.sort(tf.nn.relu(square), axis=0)[::7])}

    program = step.lower(Large(), {keys.IMAGE: tf.TensorSpec([1, 80000, 128, 1])})
    result = process.compile_program(program, V5E)
    assert not result.fits
    assert not result.error
    assert result.plan.total >= 80000**2 * 4
    assert result.plan.buffers[0].bytes >= 80000**2 * 4


@pytest.mark.slow
def test_the_step_of_the_demo():
    options = config.load(commands.TINY)
    program = builders.build_step_program(options, 1)
    result = process.compile_program(program, V5E, makes_code=False)
    assert not result.error
    assert report.fits(program, V5E, result)
    assert result.plan.arguments > program.gradient_bytes
    assert any("axial_deeplab_s" in buffer.operation for buffer in result.plan.buffers)
