# SPDX-License-Identifier: Apache-2.0
"""Which of TensorFlow's graph optimisers a training on CPUs has.

They run once, before the first step, and some take longer than they save later; benchmarks/startup.py compares. Those
that join operations, and that save memory, stay.
"""

import tensorflow as tf

SLOW = (
    "arithmetic_optimization",
    "constant_folding",
    "dependency_optimization",
    "layout_optimizer",
    "loop_optimization",
    "shape_optimization",
)


def leave_out_slow_ones() -> None:
    """Turns them off for this process; what was set before counts where it says anything."""
    set_before = tf.config.optimizer.get_experimental_options()
    tf.config.optimizer.set_experimental_options({**dict.fromkeys(SLOW, False), **set_before})
