# SPDX-License-Identifier: Apache-2.0
"""How much of the machine's GEMM rate an axial attention layer reaches.

  python benchmarks/axial_attention.py [--repeats=5] [--shapes=small|paper]

Times the layer (both axes of `AxialAttention2D`), forward in inference and forward with backward in training, and in
the same run a large float32 matrix product, whose rate is the measure: seconds depend on the machine and on who else
uses it, the ratio hardly does. Writes benchmarks/results/axial_attention-<device>.csv.
"""

import csv
import os
import pathlib
import platform
import time

import tensorflow as tf
from absl import app, flags

from deeplab_axial import describe
from deeplab_axial.layers.axial_attention import AxialAttention2D

FLAGS = flags.FLAGS
flags.DEFINE_integer("repeats", 5, "Timed runs of each measurement; the fastest counts.", lower_bound=1)
flags.DEFINE_enum("shapes", "small", ["small", "paper"], "Which inputs.")

# name -> (height, width, channels, key depth, value depth, span)
SHAPES = {
    "small": {
        "stage 2 of S at 321": (81, 81, 64, 32, 64, None),
        "stage 4 of L at 321": (21, 21, 512, 256, 512, None),
        "stage 2 of S at 321, span 33": (81, 81, 64, 32, 64, 33),
    },
    "paper": {
        "stage 4 of L at 1025": (65, 65, 512, 256, 512, None),
        "stage 3 of S at 1025": (129, 129, 128, 64, 128, None),
        "stage 2 of S at 641": (161, 161, 64, 32, 64, None),
        "stage 2 of S at 641, span 65": (161, 161, 64, 32, 64, 65),
    },
}
MATRIX_SIZE = 2048


def main(_) -> None:
    """Measures and writes the table."""
    device = "gpu" if tf.config.list_physical_devices("GPU") else "cpu"
    gemm = _gemm_rate()
    print(f"GEMM rate: {gemm / 1e9:.1f} billion multiply-adds a second\n")
    rows = []
    for name, (height, width, channels, key_depth, value_depth, span) in SHAPES[FLAGS.shapes].items():
        layer = AxialAttention2D({"key_depth": key_depth, "value_depth": value_depth, "span": span})
        x = tf.random.normal([1, height, width, channels])
        layer(x)
        multiply_adds = _multiply_adds(layer, x)
        for what, function, factor in (("forward", _forward(layer), 1), ("training", _training(layer), 3)):
            seconds = _fastest(function, x)
            share = factor * multiply_adds / seconds / gemm
            row = [name, what, f"{multiply_adds:.4g}", f"{seconds:.4g}", f"{share:.3f}"]
            rows.append(row)
            print(f"{name:32} {what:9} {1000 * seconds:8.1f} ms   {share:6.1%} of the GEMM rate", flush=True)
    path = pathlib.Path(__file__).parent / "results" / f"axial_attention-{FLAGS.shapes}-{device}.csv"
    path.parent.mkdir(exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["input", "pass", "multiply_adds", "seconds", "share_of_gemm_rate", "precision", "environment"])
        environment = f"TensorFlow {tf.__version__}, Python {platform.python_version()}, {os.cpu_count()} cores"
        writer.writerows([*row, "float32", environment] for row in rows)
    print(f"\n{path}")


def _gemm_rate() -> float:
    """Multiply-adds a second of a large matrix product."""
    x = tf.random.normal([MATRIX_SIZE, MATRIX_SIZE])
    return MATRIX_SIZE**3 / _fastest(tf.function(lambda x: tf.linalg.matmul(x, x), autograph=False), x)


def _fastest(function, x: tf.Tensor) -> float:
    """Seconds of the fastest of some runs, after two that do not count."""
    times = []
    for _ in range(FLAGS.repeats + 2):
        started = time.perf_counter()
        tf.nest.map_structure(lambda t: t.numpy(), function(x))
        times.append(time.perf_counter() - started)
    return min(times[2:])


def _forward(layer: AxialAttention2D):
    return tf.function(lambda x: tf.reduce_sum(layer(x, training=False)), autograph=False)


def _training(layer: AxialAttention2D):
    @tf.function(autograph=False)
    def step(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(layer(x, training=True)))
        gradients = tape.gradient(loss, layer.trainable_variables, unconnected_gradients="zero")
        return [tf.reduce_sum(gradient) for gradient in gradients]

    return step


def _multiply_adds(layer: AxialAttention2D, x: tf.Tensor) -> int:
    function = tf.function(lambda x: layer(x, training=False), autograph=False)
    graph = function.get_concrete_function(tf.TensorSpec(x.shape)).graph
    return sum(describe.multiply_adds(op) for op in graph.get_operations())


if __name__ == "__main__":
    app.run(main)
