# SPDX-License-Identifier: Apache-2.0
"""Which of TensorFlow's graph optimisers a training on CPUs has.

They run once, before the first step. Some take longer than they could ever save: for the demo's network 18 seconds less
without them, at the same speed (benchmarks/startup.py). Those that join operations, and that save memory, stay.
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
