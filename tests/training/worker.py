# SPDX-License-Identifier: Apache-2.0
"""A training of the mini network with checkpoints, as one of several workers; in a process of its own."""

import os
import sys
from typing import NamedTuple

import tensorflow as tf

from deeplab_axial import builders, errors
from deeplab_axial.training import checkpoints, loop
from deeplab_axial.training.workers import Workers
from tests.training import mini, replicas

STEPS = 8
SAVE_STEPS = 3


def agree(index: int, number: int) -> None:
    """Tells whether all workers have the same number."""
    workers = Workers(builders.build_strategy())
    with workers.job(""):
        print("alike:", workers.agree(number), file=sys.stderr)


class Disturbance(NamedTuple):
    """A signal that a worker sends itself after a step, before it saves."""

    worker: int
    step: int
    signal: int


def main(index: int, folder: str, disturbance: Disturbance | None = None) -> int:
    """Trains to the end; returns the exit status, and tells where it writes to and what it resumes from."""
    strategy = builders.build_strategy()
    workers = Workers(strategy)
    try:
        with workers.job(folder) as own:
            _train(strategy, workers, index, folder, own, disturbance)
    except errors.WorkerLost as error:
        print("error:", error, file=sys.stderr)
        return 1
    except errors.Interrupted as interruption:
        print(interruption, file=sys.stderr)
        return 143
    return 0


def _train(strategy, workers: Workers, index: int, folder: str, own: str, disturbance: Disturbance | None) -> None:
    with strategy.scope():
        optimizer = replicas.make_optimizer("lookahead", 0.1)
        step = tf.Variable(0, dtype=tf.int64, trainable=False)
    runner = mini.make_trainer(optimizer, keep_prob=0.5, strategy=strategy, ema_decay=0.9)
    objects = {"model": runner.model, **runner.objects}
    manager = checkpoints.Manager(folder, objects, step, max_to_keep=2, workers=workers)
    print("writes to", own, file=sys.stderr)
    print("resumes from", manager.restore_latest(), file=sys.stderr)
    take_steps = runner.train

    def disturbed(iterator, count):
        result = take_steps(iterator, count)
        if disturbance and index == disturbance.worker and int(step.numpy()) + count == disturbance.step:
            os.kill(os.getpid(), disturbance.signal)
        return result

    runner.train = disturbed
    options = loop.LoopOptions(STEPS, SAVE_STEPS, summary_steps=1)
    loop.train(runner, replicas.mini_dataset, step, manager, own, options)
