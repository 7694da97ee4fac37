# SPDX-License-Identifier: Apache-2.0
"""Records and input pipelines from configs."""

import collections
import dataclasses
import itertools
import os

import tensorflow as tf

from deeplab_axial import files
from deeplab_axial.builders.label_spaces import build_label_space, check_meaning, load_label_space
from deeplab_axial.data import classification, coverage, data_service, dataset_info, pipeline
from deeplab_axial.data.classification_transforms import InceptionCropOptions
from deeplab_axial.data.copy_paste import CopyPasteOptions
from deeplab_axial.data.label_space import SHIPPED_NAMES, differences, moved, tell
from deeplab_axial.data.photometric import PhotometricOptions
from deeplab_axial.data.rand_augment import RandAugmentOptions
from deeplab_axial.data.record_folders import check_ranges, one_label_space
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


def build_evaluation_image_options(options: config_pb2.ExperimentOptions) -> pipeline.ImageOptions:
    """How images become crops in evaluation, `predict` and exports: those of evaluation data, border included."""
    dataset = options.eval_dataset_options
    stride = 1 if dataset.pad_with_grey_alone else options.model_options.backbone.output_stride
    return dataclasses.replace(build_image_options(dataset), border_stride=stride)


def open_source(options: config_pb2.ExperimentOptions, split: str, with_labels: bool = True) -> pipeline.Source:
    """The records of a split ("train" or "eval"), checked against the model.

    Args:
      options: the experiment.
      split: "train" or "eval".
      with_labels: whether ground truth is needed.

    Raises:
      InputError: files are missing or damaged or of another task or without the ground truth that is needed, the model
        has another number of classes than the data set, the images of a panoptic set, which are not resized, do not
        fit the crop of the evaluation, or the tf.data service of the training does not answer.
    """
    dataset = options.train_dataset_options if split == "train" else options.eval_dataset_options
    source = open_records(options, split)
    is_classifier = options.model_options.HasField("classification")
    task = dataset_info.CLASSIFICATION if is_classifier else dataset_info.PANOPTIC
    _check_task(dataset, split, source, task, with_labels)
    check_classes(options, split, source)
    if split == "eval":
        _check_distinct(source)
    if split == "eval" and not is_classifier:
        _check_evaluation_size(dataset, source)
    elif split == "train" and dataset.data_service_address:
        data_service.check_address(dataset.data_service_address)
    return source


def open_records(options: config_pb2.ExperimentOptions, split: str, allow_damage: bool = False) -> pipeline.Source:
    """The records of a split, not checked against the model; `allow_damage` takes damaged files, too.

    The classes are those of the config's section `label_space`, else those of the `dataset.json` beside the records,
    else those that are shipped under the name in the field `dataset`. A section beside a `dataset.json` may change
    names and colours and turn things into stuff, but not what the numbers in the records stand for.

    Raises:
      InputError: files are missing or damaged, nothing tells the classes, or `label_space` contradicts `dataset.json`.
    """
    dataset = options.train_dataset_options if split == "train" else options.eval_dataset_options
    own = build_label_space(options.label_space) if options.HasField("label_space") else None
    shipped = load_label_space(dataset.dataset) if dataset.dataset in SHIPPED_NAMES else None
    source = pipeline.Source.open(
        dataset.file_pattern, own or shipped, dataset.dataset, allow_damage, dataset.allow_subset, own is not None
    )
    if own is None:
        return source
    for folder in source.folders:
        check_meaning(own, folder.info, f"{split}_dataset_options")
    return dataclasses.replace(source, info=dataclasses.replace(source.info, label_space=own))


def _check_task(
    options: dataset_pb2.DatasetOptions, split: str, source: pipeline.Source, task: str, with_labels: bool
) -> None:
    """Refuses records of another task than the network's, or that lack the ground truth that is needed."""
    section, folder = f"{split}_dataset_options", os.path.dirname(source.files[0])
    unlabelled = [one.path for one in source.folders if not one.info.has_labels]
    if source.info.task != task:
        raise InputError(
            f"{section}.file_pattern must name {task} records for this model. Received: {folder}, whose "
            f"{dataset_info.DATASET_FILE} says task {source.info.task!r}. Name other records."
        )
    if with_labels and not options.decode_groundtruth_label:
        raise InputError(
            f"{section}.decode_groundtruth_label must be true where ground truth is needed, to train and to evaluate. "
            "Received: false. Remove the field and name records with ground truth, or only export and predict."
        )
    if with_labels and not source.info.has_labels:
        raise InputError(
            f"{section}.file_pattern must name records with ground truth to train and to evaluate. Received: "
            f"{', '.join(unlabelled) or folder}, whose {dataset_info.DATASET_FILE} says that it has none. Name a split "
            "with labels, or only export and predict."
        )


def check_classes(options: config_pb2.ExperimentOptions, split: str, source: pipeline.Source) -> None:
    """Refuses a model that has another number of classes than the data set of the split.

    Raises:
      InputError: says both numbers.
    """
    model, space = options.model_options, source.info.label_space
    if model.HasField("classification"):
        field, channels = "classification.num_classes", model.classification.num_classes
    else:
        head = model.panoptic_deeplab.semantic_head
        field, channels = "panoptic_deeplab.semantic_head.output_channels", head.output_channels
    if channels != space.num_classes:
        with_void = ", the void class included" if space.ignore_label < space.num_classes else ""
        raise InputError(
            f"model_options.{field} contradicts the data set of {split}_dataset_options: it has {space.num_classes} "
            f"classes{with_void} "
            f"({', '.join(c.name for c in space.classes[:8])}{', ...' if len(space.classes) > 8 else ''}). "
            f"Received: {channels}. Set it to {space.num_classes}."
        )


def check_same_classes(train: pipeline.Source, evaluation: pipeline.Source) -> None:
    """Refuses two splits whose class ids mean different classes, or things in one and stuff in the other.

    Where a config names the classes they agree, but its names may hide that the records do not. Images of 16 bits must
    have become 8 in the same way, too.

    Raises:
      InputError: names the ids that differ, or the value ranges.
    """
    found = differences(train.info.label_space, evaluation.info.label_space)
    spaces = [[one.info.label_space for one in source.folders if one.has_info] for source in (train, evaluation)]
    for one, other in itertools.product(*spaces):
        found = found or moved(one, other)
    if found:
        raise InputError(
            "eval_dataset_options.file_pattern must name records with the classes of train_dataset_options. Received: "
            f"{tell(found, 'in training', 'in evaluation')} ({_places(train)}; {_places(evaluation)}). "
            f"{one_label_space('both')}"
        )
    check_ranges("train_dataset_options and eval_dataset_options", train.folders, evaluation.folders)


def _places(source: pipeline.Source) -> str:
    """Where the classes of records come from."""
    return ", ".join(folder.place for folder in source.folders) or os.path.dirname(source.files[0])


def data_warnings(options: config_pb2.ExperimentOptions, split: str, source: pipeline.Source) -> list[str]:
    """What to know of the records of a split before their results count, as far as `dataset.json` tells."""
    info, found = source.info, []
    if source.num_records < info.num_images:
        found.append(f"{source.num_records} of {info.num_images} images are read, as allow_subset says.")
    if info.task == dataset_info.PANOPTIC and info.has_labels:
        with_instances = options.model_options.panoptic_deeplab.instance.enable
        found += coverage.problems(info.label_space, info.class_pixels, with_instances).values()
    return [f"{split}_dataset_options ({_places(source)}): {message}" for message in found]


def expected_images(options: config_pb2.ExperimentOptions, source: pipeline.Source) -> int:
    """How many images an evaluation reads."""
    steps = options.evaluator_options.eval_steps
    return source.num_records if steps < 0 else min(source.num_records, steps * options.eval_dataset_options.batch_size)


def _check_distinct(source: pipeline.Source) -> None:
    """Refuses files that would be evaluated twice."""
    spellings = collections.defaultdict(list)
    for file in source.files:
        spellings[files.real_path(file)].append(file)
    repeated = [same[0] for same in spellings.values() if len(same) > 1]
    if repeated:
        raise InputError(
            "eval_dataset_options.file_pattern must name each file once. Received twice: "
            f"{', '.join(repeated[:3])}{', ...' if len(repeated) > 3 else ''}. Remove one of the patterns."
        )


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


def build_augment_options(options: dataset_pb2.DatasetOptions, source: pipeline.Source) -> pipeline.AugmentOptions:
    """The random changes of training images."""
    augment = options.augmentations
    paste, colors = augment.panoptic_copy_paste, augment.photometric_distortion
    return pipeline.AugmentOptions(
        min_scale=augment.min_scale_factor,
        max_scale=augment.max_scale_factor,
        scale_step=augment.scale_factor_step_size,
        flip=augment.random_flip,
        seed=options.seed,
        shuffle_buffer=_shuffle_buffer(options, source),
        policy=augment.autoaugment_policy_name,
        photometric=(
            PhotometricOptions(
                colors.brightness_delta, colors.contrast_range, colors.saturation_range, colors.hue_delta
            )
            if augment.HasField("photometric_distortion")
            else None
        ),
        copy_paste=(
            CopyPasteOptions(
                paste.panoptic_copy_paste_scale,
                things=paste.panoptic_copy_paste_thing_option,
                stuff=paste.panoptic_copy_paste_stuff_option,
                void=paste.panoptic_copy_paste_void_option,
            )
            if paste.panoptic_copy_paste_scale > 0
            else None
        ),
    )


def build_training_dataset(
    options: dataset_pb2.DatasetOptions,
    source: pipeline.Source,
    first_step: int,
    context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Batches for training from `first_step` on: all of them, or one worker's, in batches for one replica.

    Their targets are those of the task that the records are for, see keys.TABLE.
    """
    context = context or tf.distribute.InputContext()
    if source.info.task == dataset_info.CLASSIFICATION:
        return _classification_training_dataset(options, source, first_step, context)
    return pipeline.training_dataset(
        source,
        options.batch_size,
        build_image_options(options),
        build_augment_options(options, source),
        TargetOptions(
            sigma=options.sigma,
            small_instance_threshold=options.small_instance_threshold,
            small_instance_weight=options.small_instance_weight if options.increase_small_instance_weights else 1.0,
        ),
        first_step,
        context.num_input_pipelines,
        context.input_pipeline_id,
        context.num_replicas_in_sync,
        options.data_service_address,
    )


def _shuffle_buffer(options: dataset_pb2.DatasetOptions, source: pipeline.Source) -> int:
    """Records that a shuffle buffer holds: with copy-paste there are two buffers."""
    record_bytes = sum(shard.bytes for shard in source.info.shards) / max(source.info.num_images, 1)
    buffers = 2 if options.augmentations.panoptic_copy_paste.panoptic_copy_paste_scale > 0 else 1
    buffer_bytes = options.shuffle_buffer_mebibytes * 2**20 / buffers
    return max(1, min(source.num_records, int(buffer_bytes / max(record_bytes, 1))))


def build_evaluation_dataset(options: config_pb2.ExperimentOptions, source: pipeline.Source) -> tf.data.Dataset:
    """All batches for evaluation, or the first evaluator_options.eval_steps of them."""
    dataset_options = options.eval_dataset_options
    if source.info.task == dataset_info.CLASSIFICATION:
        crop_size = tuple(dataset_options.crop_size)
        dataset = classification.evaluation_dataset(source, dataset_options.batch_size, crop_size)
    else:
        image_options = build_evaluation_image_options(options)
        dataset = pipeline.evaluation_dataset(source, dataset_options.batch_size, image_options)
    return dataset.take(options.evaluator_options.eval_steps)


def _classification_training_dataset(
    options: dataset_pb2.DatasetOptions,
    source: pipeline.Source,
    first_step: int,
    context: tf.distribute.InputContext,
) -> tf.data.Dataset:
    """Batches of whole images and their classes."""
    augment = options.augmentations
    crop, changes = augment.inception_crop, augment.rand_augment
    inception_crop = InceptionCropOptions(crop.min_area, crop.max_area, crop.min_aspect_ratio, crop.max_aspect_ratio)
    return classification.training_dataset(
        source,
        options.batch_size,
        tuple(options.crop_size),
        classification.AugmentOptions(
            inception_crop=inception_crop if augment.HasField("inception_crop") else None,
            rand_augment=(
                RandAugmentOptions(changes.num_layers, changes.magnitude) if augment.HasField("rand_augment") else None
            ),
            flip=augment.random_flip,
            seed=options.seed,
            shuffle_buffer=_shuffle_buffer(options, source),
        ),
        first_step,
        context.num_input_pipelines,
        context.input_pipeline_id,
        context.num_replicas_in_sync,
        options.data_service_address,
    )
