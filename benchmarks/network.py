# SPDX-License-Identifier: Apache-2.0
"""How much of the machine's GEMM rate the whole Axial-DeepLab-S reaches, and what a training step takes.

  python benchmarks/network.py [--rounds=5]

Forward is inference with folded batch normalisation on one image; a training step takes two images of 321 x 321, RAdam
inside Lookahead, over the whole axis (no span). Writes benchmarks/results/network-<device>.csv.
"""

import json
import pathlib

import measure
import tensorflow as tf
import tf_keras
from absl import app, flags

from deeplab_axial import builders, config, describe, keys
from deeplab_axial.layers import normalization
from deeplab_axial.models.panoptic_deeplab import upsample

FLAGS = flags.FLAGS
flags.DEFINE_integer("rounds", 5, "Timed runs of each measurement.", lower_bound=1)
flags.DEFINE_string("case", "", "One case, as JSON; for the script itself.")

CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "coco" / "axial_deeplab_s.textproto"
WHOLE_AXIS = "model_options.backbone.attention_span=0"
CASES = (
    {"pass": "forward", "batch": 1, "size": 321, "precision": "float32", "xla": False},
    {"pass": "forward", "batch": 1, "size": 641, "precision": "float32", "xla": False},
    {"pass": "forward", "batch": 1, "size": 641, "precision": "mixed_bfloat16", "xla": False},
    {"pass": "forward", "batch": 1, "size": 641, "precision": "float32", "xla": True},
    {"pass": "training", "batch": 2, "size": 321, "precision": "float32", "xla": False},
)
# Backward takes two products for each of the forward pass.
TRAINING_FACTOR = 3


def main(_) -> None:
    """Measures one case, or all, each in a process of its own."""
    if FLAGS.case:
        print(json.dumps(_measure(**json.loads(FLAGS.case))))
        return
    measure.run_cases(__file__, CASES, [f"--rounds={FLAGS.rounds}"], "network")


def _measure(**case) -> dict[str, float]:
    options = config.load(CONFIG, [WHOLE_AXIS])
    size = case["size"]
    with tf.Graph().as_default():
        cost = case["batch"] * describe.count(builders.build_symbolic_model(options), size, size)[1]
    options.trainer_options.precision = case["precision"]
    builders.set_precision_and_seed(options.trainer_options)
    model = builders.build_model(options)
    images = tf.random.uniform([case["batch"], size, size, 3], 0, 255)
    if case["pass"] == "forward":
        normalization.fold_batch_norm(model)
        function = tf.function(lambda: model(images), autograph=False, jit_compile=case["xla"])
    else:
        function = _training_step(model, builders.build_optimizer(options), images, case["xla"])
        cost *= TRAINING_FACTOR
    return {"multiply_adds": float(cost), **measure.measure(function, cost, FLAGS.rounds)}


def _training_step(model: tf_keras.Model, optimizer: tf_keras.optimizers.Optimizer, images: tf.Tensor, xla: bool):
    optimizer.build(model.trainable_variables)

    @tf.function(autograph=False, jit_compile=xla)
    def step():
        with tf.GradientTape() as tape:
            outputs = upsample(model(images, training=True), images.shape[1:3])
            labels = tf.zeros(images.shape[:3], tf.int32)
            loss = tf.reduce_mean(
                tf.nn.sparse_softmax_cross_entropy_with_logits(labels, outputs.pop(keys.SEMANTIC_LOGITS))
            ) + tf.add_n([tf.reduce_mean(tf.square(x)) for x in outputs.values()])
        gradients = tape.gradient(loss, model.trainable_variables, unconnected_gradients="zero")
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))
        return loss

    return step


if __name__ == "__main__":
    app.run(main)
