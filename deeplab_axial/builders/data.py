# SPDX-License-Identifier: Apache-2.0
"""Records and input pipelines from configs."""

import tensorflow as tf

from deeplab_axial.data import pipeline
from deeplab_axial.data.targets import TargetOptions
from deeplab_axial.errors import InputError
from deeplab_axial.protos import config_pb2, dataset_pb2


def build_image_options(options: dataset_pb2.DatasetOptions) -> pipeline.ImageOptions:
    """How a data set's images become crops."""

    def sides(values):
        # One value stands for both sides; a 0 turns the limit off.
        return tuple(values) * (2 // len(values)) if values and min(values) > 0 else None

    return pipeline.ImageOptions(
        crop_size=tuple(options.crop_size),
        min_resize=sides(options.min_resize_value),
        max_resize=sides(options.max_resize_value),
        resize_factor=options.resize_factor or None,
    )


def open_source(options: config_pb2.ExperimentOptions, split: str) -> pipeline.Source:
    """The records of a split ("train" or "eval"), checked against the model.

    Raises:
      InputError: files are missing or damaged, the model has another number of classes than the data set, or its
        images, which are not resized, do not fit the crop of the evaluation.
    """
    dataset = options.train_dataset_options if split == "train" else options.eval_dataset_options
    source = pipeline.Source.open(dataset.file_pattern, dataset.dataset)
    channels = options.model_options.panoptic_deeplab.semantic_head.output_channels
    space = source.info.label_space
    if channels != space.num_classes:
        with_void = ", the void class included" if space.ignore_label < space.num_classes else ""
        raise InputError(
            "model_options.panoptic_deeplab.semantic_head.output_channels contradicts the data set of "
            f"{split}_dataset_options: it has {space.num_classes} classes{with_void} "
            f"({', '.join(c.name for c in space.classes[:8])}{', ...' if len(space.classes) > 8 else ''}). "
            f"Received: {channels}. Set it to {space.num_classes}."
        )
    if split == "eval":
        _check_evaluation_size(dataset, source)
    return source


def _check_evaluation_size(options: dataset_pb2.DatasetOptions, source: pipeline.Source) -> None:
    """Refuses images that do not fit before anything is trained; images that are resized are checked one by one."""
    images = build_image_options(options)
    height, width = source.info.max_height, source.info.max_width
    if not images.resizes and (height > images.crop_size[0] or width > images.crop_size[1]):
        raise InputError(
            "eval_dataset_options.crop_size must hold the largest image of the data set, "
            f"{height} x {width} (height x width). Received: {images.crop_size[0]} x {images.crop_size[1]}. "
            "Enlarge it, or set min_resize_value and max_resize_value."
        )


def build_training_dataset(
    options: dataset_pb2.DatasetOptions, source: pipeline.Source, first_step: int
) -> tf.data.Dataset:
    """Batches for training from `first_step` on."""
    augment = options.augmentations
    return pipeline.training_dataset(
        source,
        options.batch_size,
        build_image_options(options),
        pipeline.AugmentOptions(
            min_scale=augment.min_scale_factor,
            max_scale=augment.max_scale_factor,
            scale_step=augment.scale_factor_step_size,
            flip=augment.random_flip,
            seed=options.seed,
            shuffle_buffer=_shuffle_buffer(options, source),
            policy=augment.autoaugment_policy_name,
        ),
        TargetOptions(
            sigma=options.sigma,
            small_instance_threshold=options.small_instance_threshold,
            small_instance_weight=options.small_instance_weight if options.increase_small_instance_weights else 1.0,
        ),
        first_step,
    )


def _shuffle_buffer(options: dataset_pb2.DatasetOptions, source: pipeline.Source) -> int:
    """Records that the shuffle buffer holds."""
    record_bytes = sum(shard.bytes for shard in source.info.shards) / max(source.info.num_images, 1)
    return max(1, min(source.num_records, int(options.shuffle_buffer_mebibytes * 2**20 / max(record_bytes, 1))))


def build_evaluation_dataset(options: config_pb2.ExperimentOptions, source: pipeline.Source) -> tf.data.Dataset:
    """All batches for evaluation, or the first evaluator_options.eval_steps of them."""
    dataset_options = options.eval_dataset_options
    dataset = pipeline.evaluation_dataset(source, dataset_options.batch_size, build_image_options(dataset_options))
    return dataset.take(options.evaluator_options.eval_steps)
