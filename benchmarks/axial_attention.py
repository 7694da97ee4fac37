# SPDX-License-Identifier: Apache-2.0
"""How much of the machine's GEMM rate axial attention reaches, beside a convolutional block of equal multiply-adds.

  python benchmarks/axial_attention.py [--rounds=7] [--only=early]

Forward is inference with folded batch normalisation; training is forward and backward with the statistics of the batch.
Writes benchmarks/results/axial_attention-<device>.csv.
"""

import json
import math

import measure
import tensorflow as tf
import tf_keras
from absl import app, flags

from deeplab_axial import multiply_adds
from deeplab_axial.layers import normalization
from deeplab_axial.layers.axial_attention import AxialAttention2D
from deeplab_axial.layers.residual_block import BottleneckBlock

FLAGS = flags.FLAGS
flags.DEFINE_integer("rounds", 7, "Timed runs of each measurement.", lower_bound=1)
flags.DEFINE_string("only", "", "Measure only the inputs whose name has this in it.")
flags.DEFINE_string("case", "", "One case, as JSON; for the script itself.")

# name -> (side, channels, key depth, value depth)
SHAPES = {
    "L 65x65x512": (65, 512, 256, 512),
    "S 129x129x128 (early)": (129, 128, 64, 128),
    "S 161x161x64 (early)": (161, 64, 32, 64),
}
# Backward takes two products for each of the forward pass.
TRAINING_FACTOR = 3


def main(_) -> None:
    """Measures one case, or all, each in a process of its own."""
    if FLAGS.case:
        print(json.dumps(_measure(**json.loads(FLAGS.case))))
        return
    cases = [
        {"input": name, "layer": layer, "span": span, "precision": precision, "xla": xla, "pass": what}
        for name in SHAPES
        if FLAGS.only in name
        for layer, span in (("attention", 0), ("attention", 65), ("convolution", 0))
        for precision in ("float32", "mixed_bfloat16")
        for xla in (False, True)
        for what in ("forward", "training")
        if span < SHAPES[name][0]
    ]
    measure.run_cases(__file__, cases, [f"--rounds={FLAGS.rounds}"], "axial_attention")


def _measure(**case) -> dict[str, float]:
    side, channels, key_depth, value_depth = SHAPES[case["input"]]
    tf_keras.utils.set_random_seed(0)
    tf_keras.mixed_precision.set_global_policy(case["precision"])
    attention = {"key_depth": key_depth, "value_depth": value_depth, "span": case["span"] or None}
    # Counted without loops over rows, which fill up the last rows.
    layer = AxialAttention2D({**attention, "logits_at_once": 2**62})
    cost = _multiply_adds(layer, side, channels)
    layer = AxialAttention2D(attention)
    if case["layer"] == "convolution":
        # side^2 (channels f + 9 f^2 + 4 f^2) multiply-adds, solved for f.
        filters = round((math.sqrt(channels**2 + 4 * 13 * cost / side**2) - channels) / 26)
        layer = BottleneckBlock(filters)
        cost = _multiply_adds(layer, side, channels)
    x = tf.random.normal([1, side, side, channels], dtype=layer.compute_dtype)
    layer(x)
    if case["pass"] == "forward":
        normalization.fold_batch_norm(layer)
        function = tf.function(lambda: tf.reduce_sum(layer(x)), autograph=False, jit_compile=case["xla"])
    else:
        function = tf.function(lambda: _gradients(layer, x), autograph=False, jit_compile=case["xla"])
        cost *= TRAINING_FACTOR
    return {"multiply_adds": float(cost), **measure.measure(function, cost, FLAGS.rounds)}


def _gradients(layer: tf_keras.layers.Layer, x: tf.Tensor) -> list[tf.Tensor]:
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(tf.square(tf.cast(layer(x, training=True), tf.float32)))
    gradients = tape.gradient(loss, [x, *layer.trainable_variables], unconnected_gradients="zero")
    return [tf.reduce_sum(gradient) for gradient in gradients]


def _multiply_adds(layer: tf_keras.layers.Layer, side: int, channels: int) -> int:
    function = tf.function(lambda x: layer(x), autograph=False)
    graph = function.get_concrete_function(tf.TensorSpec([1, side, side, channels], layer.compute_dtype)).graph
    return sum(multiply_adds.by_operation(graph).values())


if __name__ == "__main__":
    app.run(main)
