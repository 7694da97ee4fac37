# SPDX-License-Identifier: Apache-2.0
"""The training step of one core as a program of XLA."""

import dataclasses
import math
from collections.abc import Mapping

import tensorflow as tf

from deeplab_axial import keys
from deeplab_axial.errors import InputError
from deeplab_axial.layers import axial_kernel, target
from deeplab_axial.training.trainer import Trainer


@dataclasses.dataclass(frozen=True)
class Program:
    """What one core runs.

    Attributes:
      hlo: HloModuleProto, serialised. Variables are arguments that the results overwrite in place.
      batch_size: images of the step.
      gradient_bytes: of one set of gradients; between cores, they are summed in a copy at most.
      statistics_bytes: of what synchronised batch normalisation exchanges: two float32 numbers a channel.
      kernel_flops: floating-point operations of attention's kernels, which XLA does not count.
    """

    hlo: bytes
    batch_size: int
    gradient_bytes: int
    statistics_bytes: int
    kernel_flops: float = 0.0


def segmentation_batch(batch_size: int, height: int, width: int) -> dict[str, tf.TensorSpec]:
    """What the input pipeline gives a core to train a panoptic network."""
    pixels = [batch_size, height, width]
    return {
        keys.IMAGE: tf.TensorSpec([*pixels, 3]),
        keys.SEMANTIC_TARGET: tf.TensorSpec(pixels, tf.int32),
        keys.SEMANTIC_WEIGHT: tf.TensorSpec(pixels),
        keys.CENTER_TARGET: tf.TensorSpec(pixels),
        keys.CENTER_WEIGHT: tf.TensorSpec(pixels),
        keys.OFFSET_TARGET: tf.TensorSpec([*pixels, 2]),
        keys.OFFSET_WEIGHT: tf.TensorSpec(pixels),
    }


def classification_batch(batch_size: int, height: int, width: int) -> dict[str, tf.TensorSpec]:
    """What the input pipeline gives a core to train a classifier."""
    return {
        keys.IMAGE: tf.TensorSpec([batch_size, height, width, 3]),
        keys.CLASS_TARGET: tf.TensorSpec([batch_size], tf.int32),
    }


def lower(trainer: Trainer, batch: Mapping[str, tf.TensorSpec], chip: str = "") -> Program:
    """Traces the step of one replica as for a TPU and turns it into a program of XLA.

    Call it where the model was made `with target.assume_accelerator()`, too.

    Args:
      trainer: of a strategy with one replica.
      batch: all shapes known.
      chip: "v5e"; "" for a program that every chip can run.

    Raises:
      InputError: TensorFlow cannot turn one of the operations into XLA; names it.
    """
    names = list(batch)

    def step(*values):
        return trainer.replica_step(dict(zip(names, values)))

    compiled = tf.function(tf.autograph.experimental.do_not_convert(step), jit_compile=True, autograph=False)
    try:
        with target.assume_accelerator(chip):
            kernel_flops = axial_kernel.flops_in(compiled.get_concrete_function(*batch.values()).graph)
            hlo = compiled.experimental_get_compiler_ir(*batch.values())(stage="hlo_serialized")
    except tf.errors.OpError as error:
        raise InputError(f"TensorFlow cannot compile the training step with XLA: {error.message}") from error
    variables = trainer.model.trainable_variables
    normalised = [v for v in trainer.model.non_trainable_variables if "moving_mean" in v.name]
    return Program(
        hlo,
        batch[keys.IMAGE].shape[0],
        sum(math.prod(v.shape) * 4 for v in variables),
        sum(math.prod(v.shape) * 8 for v in normalised),
        kernel_flops,
    )
