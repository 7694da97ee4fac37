# SPDX-License-Identifier: Apache-2.0
"""Training steps to compile, from configs."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import tensorflow as tf

from deeplab_axial.builders.label_spaces import SHIPPED_NAMES, build_label_space, load_label_space
from deeplab_axial.builders.model import build_model
from deeplab_axial.builders.training import build_loss, build_trainer, set_precision_and_seed
from deeplab_axial.data.label_space import LabelSpace
from deeplab_axial.errors import InputError
from deeplab_axial.layers import target
from deeplab_axial.protos import config_pb2
from deeplab_axial.tpu_check import layers, step


def build_step_program(options: config_pb2.ExperimentOptions, batch_size: int, chip: str = "") -> step.Program:
    """The training step of one core, for a TPU; needs no data set.

    A process of its own traces it, for TensorFlow keeps the gigabytes that this takes.

    Args:
      options: validated, with train_dataset_options.
      batch_size: images that the core takes; a multiple of solver_options.gradient_accumulation_steps.
      chip: "v5e"; "" for a program that every chip can run, without kernels of attention.

    Raises:
      InputError: the optimizer cannot be made, TensorFlow cannot compile the step with XLA, or the process was killed.
    """
    return _in_process(_trace, options, batch_size, chip)


def build_layer_programs(
    options: config_pb2.ExperimentOptions, batch_size: int, chip: str
) -> list[tuple[layers.Layer, step.Program, step.Program]]:
    """The distinct layers of axial attention at the crop size, forward and training, each alone, for a TPU.

    Args:
      options: validated, with train_dataset_options.
      batch_size: images that a layer sees.
      chip: "v5e".

    Raises:
      InputError: the network has no such layer, or the process that traces them was killed.
    """
    return _in_process(_trace_layers, options, batch_size, chip)


def _in_process(function, options: config_pb2.ExperimentOptions, batch_size: int, chip: str):
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(function, options, batch_size, chip).result()
        except BrokenProcessPool as error:
            raise InputError(
                f"The process that traces the training step of {batch_size} images was killed, most likely for want of "
                "memory. Free some, or choose fewer images or a smaller train_dataset_options.crop_size."
            ) from error


def _trace_layers(options: config_pb2.ExperimentOptions, batch_size: int, chip: str):
    height, width = options.train_dataset_options.crop_size
    set_precision_and_seed(options.trainer_options)
    with target.assume_accelerator():
        found = layers.find(build_model(options), (batch_size, height, width, 3))
    if not found:
        raise InputError(
            f"--layers is for networks with axial attention. Received: backbone {options.model_options.backbone.name}. "
            "Leave the flag out to check the whole step."
        )
    return [(each, *(layers.lower_attention(each, training, chip) for training in (False, True))) for each in found]


def _trace(options: config_pb2.ExperimentOptions, batch_size: int, chip: str) -> step.Program:
    of_core = config_pb2.ExperimentOptions()
    of_core.CopyFrom(options)
    of_core.train_dataset_options.batch_size = batch_size
    height, width = of_core.train_dataset_options.crop_size
    set_precision_and_seed(of_core.trainer_options)
    is_classifier = of_core.model_options.HasField("classification")
    batch = step.classification_batch if is_classifier else step.segmentation_batch
    with target.assume_accelerator(chip):
        model = build_model(of_core)
        loss = build_loss(of_core, _label_space(of_core))
        trainer = build_trainer(of_core, tf.distribute.get_strategy(), model, loss)
        return step.lower(trainer, batch(batch_size, height, width), chip)


def _label_space(options: config_pb2.ExperimentOptions) -> LabelSpace:
    """That of the config or the shipped one; else one without classes, since a loss needs only the label to ignore."""
    name = options.train_dataset_options.dataset
    if options.HasField("label_space"):
        return build_label_space(options.label_space)
    if name in SHIPPED_NAMES:
        return load_label_space(name)
    channels = options.model_options.panoptic_deeplab.semantic_head.output_channels
    return LabelSpace(name, (), channels, channels, 2)
