# SPDX-License-Identifier: Apache-2.0
"""A training run in a process of its own, with all that a checkpoint has to hold, to be killed at any moment."""

import os
import sys

SAVE_STEPS = 1  # most of the time that a run takes, it is writing a checkpoint
MAX_TO_KEEP = 2


def train(folder: str, steps: int) -> None:
    """Trains the mini network to the end: Lookahead, drop path, gradient accumulation, moving averages of the weights.

    Goes on from the newest checkpoint, as the command line does.
    """
    sys.stderr = sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    import tensorflow as tf

    from deeplab_axial.training import checkpoints, loop
    from deeplab_axial.training.optimizers import Lookahead, RAdam
    from tests.training import mini

    tf.config.threading.set_inter_op_parallelism_threads(1)
    optimizer = Lookahead(RAdam(0.01), sync_period=3)
    runner = mini.make_trainer(optimizer, keep_prob=0.5, accumulation_steps=2, ema_decay=0.9)
    step = tf.Variable(0, dtype=tf.int64)
    manager = checkpoints.Manager(folder, {"model": runner.model, **runner.objects}, step, MAX_TO_KEEP)
    manager.restore_latest()
    options = loop.LoopOptions(steps, SAVE_STEPS, summary_steps=1)
    loop.train(runner, lambda first_step, _: mini.dataset(first_step), step, manager, folder, options)
