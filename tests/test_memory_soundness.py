# SPDX-License-Identifier: Apache-2.0
"""Training on small maps of many sizes, in a process of its own: some products of TensorFlow 2.21 write past their end.

With the Gram matrices of the position tables as transposed matrix products, this run dies of a corrupted heap.
"""

import pathlib
import subprocess
import sys

import pytest

CONFIG = pathlib.Path(__file__).parent / "data" / "tiny.textproto"
SIZES = ((49, 65, 2), (33, 49, 3), (17, 33, 2), (65, 17, 1))
PROGRAM = f"""
import tensorflow as tf
from deeplab_axial import builders, config

model = builders.build_model(config.load({str(CONFIG)!r}))

def step(images):
    with tf.GradientTape() as tape:
        outputs = model(images, training=True)
        loss = tf.add_n([tf.reduce_mean(tf.square(output)) for output in outputs.values()])
    return tape.gradient(loss, model.trainable_variables, unconnected_gradients="zero")

steps = [(tf.function(step, autograph=False), size) for size in {SIZES!r}]
for i in range(100):
    for function, (height, width, batch) in steps:
        gradients = function(tf.random.stateless_uniform([batch, height, width, 3], [i, 0], 0.0, 255.0))
print("done")
"""


@pytest.mark.slow
def test_training_on_small_maps_leaves_the_heap_sound():
    result = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=1200, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.strip() == "done"
