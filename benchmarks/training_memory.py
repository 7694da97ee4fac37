# SPDX-License-Identifier: Apache-2.0
"""Memory of a training step on a CPU: what it adds to that of the process, at its peak (Linux).

    python benchmarks/training_memory.py CONFIG HEIGHT WIDTH [FIELD=VALUE ...]

as

    python benchmarks/training_memory.py configs/cityscapes/resnet50.textproto 257 513 trainer_options.recompute=true
"""

import pathlib
import sys

import tensorflow as tf

from deeplab_axial import builders, config, keys
from deeplab_axial.losses.panoptic_deeplab import LossTerm, PanopticDeepLabLoss
from deeplab_axial.models import panoptic_deeplab

IGNORE_LABEL = 255


def make_step(model: tf.Module, height: int, width: int):
    """A function of images [1, H, W, 3] that returns loss and norm of the gradients: a step without its optimizer."""
    pixels = tf.ones([1, height, width])
    targets = {
        keys.SEMANTIC_TARGET: tf.cast(pixels, tf.int32),
        keys.SEMANTIC_WEIGHT: pixels,
        keys.CENTER_TARGET: pixels,
        keys.CENTER_WEIGHT: pixels,
        keys.OFFSET_TARGET: tf.stack([pixels, pixels], -1),
        keys.OFFSET_WEIGHT: pixels,
    }
    loss = PanopticDeepLabLoss(IGNORE_LABEL, LossTerm(), LossTerm(), LossTerm())

    def step(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            outputs = model(images, training=True, seed=tf.constant([1, 2]))
            total = tf.reduce_sum(loss(targets, panoptic_deeplab.upsample(outputs, (height, width)))[keys.TOTAL_LOSS])
        gradients = tape.gradient(total, model.trainable_variables, unconnected_gradients="zero")
        return total, tf.linalg.global_norm(gradients)

    return tf.function(step, autograph=False)


def mebibytes(entry: str) -> float:
    """Of an entry of this process's status."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(entry)) / 1024


def main(config_file: str, height: str, width: str, *overrides: str) -> None:
    tf.config.threading.set_inter_op_parallelism_threads(1)
    options = config.load(config_file, list(overrides))
    builders.set_precision_and_seed(options.trainer_options)
    step = make_step(builders.build_model(options), int(height), int(width))
    images = tf.random.stateless_uniform([1, int(height), int(width), 3], [1, 2], 0.0, 255.0)
    step.get_concrete_function(images)
    before = mebibytes("VmRSS")
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    total, norm = step(images)
    print(f"loss {total:.5f}, gradient norm {norm:.5f}: {mebibytes('VmHWM') - before:.0f} MiB")


if __name__ == "__main__":
    main(*sys.argv[1:])
