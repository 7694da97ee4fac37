# SPDX-License-Identifier: Apache-2.0
"""Graph optimisers that training on CPUs leaves out."""

import tensorflow as tf

from deeplab_axial.cli import graph_optimizers
from tests.cli import commands


def _options_after(before: dict[str, bool]) -> int:
    tf.config.optimizer.set_experimental_options(before)
    graph_optimizers.leave_out_slow_ones()
    options = tf.config.optimizer.get_experimental_options()
    expected = {**dict.fromkeys(graph_optimizers.SLOW, False), **before}
    return int({name: options.get(name) for name in expected} != expected or "remapping" in options)


def test_slow_ones_are_off_and_what_was_set_before_stays():
    assert commands.call(_options_after, {}).status == 0
    assert commands.call(_options_after, {"constant_folding": True}).status == 0


def _values(leaves_out: bool) -> int:
    if leaves_out:
        graph_optimizers.leave_out_slow_ones()
    x = tf.reshape(tf.range(24, dtype=tf.float32), [2, 3, 4])
    function = tf.function(lambda x: tf.transpose(tf.transpose(x, [1, 0, 2]) * 2 + 0 * x[0, 0, 0], [1, 0, 2]) / 2)
    return int(not bool(tf.reduce_all(function(x) == x)))


def test_graphs_compute_the_same():
    assert [commands.call(_values, leaves_out).status for leaves_out in (False, True)] == [0, 0]
