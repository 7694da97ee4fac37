# SPDX-License-Identifier: Apache-2.0
"""Input pipelines: TFRecord files -> batches of images and targets."""

import dataclasses
import os
from collections.abc import Sequence

import tensorflow as tf

from deeplab_axial import keys
from deeplab_axial.data import autoaugment, dataset_info, records, targets, tfrecord_files, transforms
from deeplab_axial.data.known_label_spaces import NAMES, known_label_space
from deeplab_axial.errors import InputError


@dataclasses.dataclass(frozen=True)
class Source:
    """The record files of a split, checked.

    Attributes:
      files: TFRecord files, sorted.
      num_records: records in all of them.
      info: what `dataset.json` beside them says, or the name of their data set.
    """

    files: tuple[str, ...]
    num_records: int
    info: dataset_info.DatasetInfo

    @classmethod
    def open(cls, patterns: Sequence[str], dataset: str = "") -> "Source":
        """Finds and checks the files.

        Args:
          patterns: file names or globs.
          dataset: DeepLab2's name of the data set; tells the classes where there is no `dataset.json`.

        Raises:
          InputError: nothing matches, a file is truncated or no TFRecord file, or nothing tells the classes.
        """
        files: list[str] = []
        for pattern in patterns:
            found = sorted(tf.io.gfile.glob(pattern))
            if not found:
                raise InputError(
                    f"file_pattern {pattern!r} matches no file (working directory {os.getcwd()}). Correct the pattern, "
                    "or make the files with `deeplab-axial convert`."
                )
            files.extend(found)
        counts = tfrecord_files.check_shards(files)
        if not sum(counts):
            raise InputError(f"The files of {list(patterns)} hold no records. Run `deeplab-axial convert` again.")
        return cls(tuple(files), sum(counts), _dataset_info(dataset, files, counts))


def _dataset_info(dataset: str, files: Sequence[str], counts: Sequence[int]) -> dataset_info.DatasetInfo:
    """What `dataset.json` says; without one, what is known of the records that DeepLab2 makes of this data set."""
    folder = os.path.dirname(files[0])
    path = os.path.join(folder, dataset_info.DATASET_FILE)
    if tf.io.gfile.exists(path):
        return dataset_info.DatasetInfo.read(folder)
    label_space = known_label_space(dataset)
    if label_space is None:
        raise InputError(
            f"{path} cannot be read (there is no such file). Run `deeplab-axial convert` to make the data set; for "
            "records that DeepLab2 has made, set the field dataset to their name. "
            f"Received: {dataset!r}. Known names: {', '.join(NAMES)}."
        )
    sizes = [int(tf.io.gfile.stat(file).length) for file in files]
    shards = tuple(tfrecord_files.Shard(os.path.basename(file), *rest) for file, *rest in zip(files, counts, sizes))
    return dataset_info.DatasetInfo(label_space, sum(counts), shards, max_height=0, max_width=0)


@dataclasses.dataclass(frozen=True)
class ImageOptions:
    """How images become crops.

    Attributes:
      crop_size: (height, width) of the network's input, pixels.
      min_resize: least sides after resizing, pixels, one for both or (height, width); None for no aim.
      max_resize: largest sides after resizing, likewise; None for no limit.
      resize_factor: round resized sides up to this times k + 1; None leaves them.
    """

    crop_size: tuple[int, int]
    min_resize: int | tuple[int, int] | None = None
    max_resize: int | tuple[int, int] | None = None
    resize_factor: int | None = None

    @property
    def resizes(self) -> bool:
        """Whether images may change their size."""
        return any(value is not None for value in (self.min_resize, self.max_resize, self.resize_factor))


@dataclasses.dataclass(frozen=True)
class AugmentOptions:
    """Random changes of training images.

    Attributes:
      min_scale: smallest factor of the random scale.
      max_scale: largest factor.
      scale_step: between two factors; 0 draws any between.
      flip: whether half of the images are mirrored left to right.
      seed: of shuffling and of all random changes.
      shuffle_buffer: encoded records that are shuffled at a time.
      policy: AutoAugment's, a key of autoaugment.POLICIES; empty for none.
    """

    min_scale: float = 1.0
    max_scale: float = 1.0
    scale_step: float = 0.25
    flip: bool = True
    seed: int = 0
    shuffle_buffer: int = 1000
    policy: str = ""


def training_dataset(
    source: Source,
    batch_size: int,
    image_options: ImageOptions,
    augment_options: AugmentOptions,
    target_options: targets.TargetOptions,
    first_step: int = 0,
) -> tf.data.Dataset:
    """Endless batches for training.

    The n-th image of the sequence, and what happens to it, depend on the seed and on n alone. So a run that resumes at
    `first_step` sees what an undisturbed one would have seen.

    Args:
      source: the records.
      batch_size: B.
      image_options: see `ImageOptions`.
      augment_options: see `AugmentOptions`.
      target_options: see `TargetOptions`.
      first_step: batches to leave out at the start.

    Returns:
      A data set of {keys.IMAGE: [B, H, W, 3], and the target entries of keys.TABLE}.
    """
    label_space = source.info.label_space
    first = first_step * batch_size
    first_epoch, skipped = divmod(first, source.num_records)
    seed = augment_options.seed

    def epoch_records(epoch):
        files = tf.random.experimental.stateless_shuffle(tf.constant(source.files), [seed, epoch])
        serialized = tf.data.Dataset.from_tensor_slices(files).interleave(tf.data.TFRecordDataset, cycle_length=16)
        # Whole buffers are shuffled by a stateless function: tf.data's own shuffle depends on the process' global seed.
        buffers = serialized.batch(augment_options.shuffle_buffer).prefetch(1).enumerate()
        return buffers.flat_map(lambda index, buffer: shuffled(buffer, seed + epoch + 1, index))

    def shuffled(buffer, first_seed, second_seed):
        return tf.data.Dataset.from_tensor_slices(
            tf.random.experimental.stateless_shuffle(buffer, [first_seed, second_seed])
        )

    def example(index, serialized):
        seeds = tf.random.experimental.stateless_split(tf.stack([tf.cast(seed, tf.int64), index]), 4)
        features, image, panoptic = decode(serialized)
        image, panoptic = _resize(image, panoptic, image_options, augment_options, seeds[0])
        if augment_options.policy:
            # As in DeepLab2: on the scaled image, before its padding.
            colors = autoaugment.apply_policy(tf.cast(image, tf.uint8), augment_options.policy, seeds[3])
            image = tf.cast(colors, tf.float32)
        image, panoptic = transforms.random_crop(
            image, panoptic, *image_options.crop_size, label_space.void_id, seeds[1]
        )
        if augment_options.flip:
            image, panoptic = transforms.random_flip(image, panoptic, seeds[2])
        crowd_ids = tf.cast(features[records.CROWD_IDS], tf.int32)
        return {keys.IMAGE: image, **targets.make_targets(panoptic, crowd_ids, label_space, target_options)}

    serialized = tf.data.Dataset.range(first_epoch, 2**31 - 1).flat_map(epoch_records).skip(skipped)
    dataset = tf.data.Dataset.zip((tf.data.Dataset.range(first, tf.int64.max), serialized))
    dataset = dataset.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return dataset.batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def evaluation_dataset(source: Source, batch_size: int, image_options: ImageOptions) -> tf.data.Dataset:
    """All images once, in order.

    Args:
      source: the records.
      batch_size: B; images without a name and with keys.IS_REAL False fill up the last batch.
      image_options: see `ImageOptions`; a resized image must fit the crop.

    Returns:
      A data set of the batch entries of keys.TABLE.
    """
    height, width = image_options.crop_size

    def example(serialized):
        features, image, _ = decode(serialized, with_panoptic=False)
        raw_size = tf.shape(image)[:2]
        image, _ = _resize(image, None, image_options)
        resized_size = tf.shape(image)[:2]
        fits = tf.reduce_all(resized_size <= [height, width])
        advice = tf.strings.format(
            "Image {} is {} pixels (height, width) after resizing and does not fit eval_dataset_options.crop_size "
            f"[{height}, {width}]. Enlarge crop_size, or set min_resize_value and max_resize_value.",
            (features[records.FILENAME], resized_size),
        )
        with tf.control_dependencies([tf.debugging.Assert(fits, [advice])]):
            image = transforms.pad_to(image, height, width, transforms.PADDING_VALUE)
        return {
            keys.IMAGE: tf.ensure_shape(image, [height, width, 3]),
            keys.IMAGE_NAME: features[records.FILENAME],
            keys.RAW_SIZE: raw_size,
            keys.RESIZED_SIZE: resized_size,
            keys.RAW_PANOPTIC: features[records.SEGMENTATION],
            keys.RAW_CROWD_IDS: tf.cast(features[records.CROWD_IDS], tf.int32),
            keys.IS_REAL: True,
        }

    dataset = tf.data.TFRecordDataset(list(source.files)).map(example, tf.data.AUTOTUNE, deterministic=True)
    missing = -source.num_records % batch_size
    if missing:
        filler = dataset.take(1).map(lambda d: {**d, keys.IMAGE_NAME: "", keys.IS_REAL: False}).repeat(missing)
        dataset = dataset.concatenate(filler)
    padding = {**dict.fromkeys(dataset.element_spec), keys.RAW_CROWD_IDS: -1}
    return dataset.padded_batch(batch_size, padding_values=padding, drop_remainder=True).prefetch(1)


def decode(serialized: tf.Tensor, with_panoptic: bool = True):
    """Reads one record, inside tf.data or eagerly.

    Args:
      serialized: string [].
      with_panoptic: whether the ground truth is decoded too.

    Returns:
      Features as `records.parse_example` gives them, float32 RGB image [H, W, 3] (0 to 255) and int32 panoptic map
      [H, W] (or None).
    """
    features = records.parse_example(serialized)
    image = tf.io.decode_image(features[records.ENCODED], channels=3, expand_animations=False)
    image = tf.cast(tf.ensure_shape(image, [None, None, 3]), tf.float32)
    panoptic = None
    if with_panoptic:
        panoptic = records.decode_panoptic_tf(
            features[records.SEGMENTATION],
            features[records.SEGMENTATION_FORMAT],
            features[records.HEIGHT],
            features[records.WIDTH],
        )
    return features, image, panoptic


def _resize(image, panoptic, options: ImageOptions, augment: AugmentOptions | None = None, seed=None):
    """Resizes into the range of the options and by the random scale, in one interpolation."""
    size = transforms.resized_size(tf.shape(image)[:2], options.min_resize, options.max_resize, options.resize_factor)
    if augment is not None:
        size = transforms.random_scale(size, augment.min_scale, augment.max_scale, augment.scale_step, seed)
    scales = augment is not None and (augment.min_scale, augment.max_scale) != (1.0, 1.0)
    if not scales and not options.resizes:
        return image, panoptic
    return transforms.resize(image, panoptic, size)
