# SPDX-License-Identifier: Apache-2.0
"""Input pipelines: TFRecord files -> batches of images and targets."""

import dataclasses

import tensorflow as tf

from deeplab_axial import keys
from deeplab_axial.data import (
    autoaugment,
    copy_paste,
    data_service,
    photometric,
    records,
    sampling,
    targets,
    transforms,
)
from deeplab_axial.data.copy_paste import CopyPasteOptions, Labelled
from deeplab_axial.data.label_space import LabelSpace
from deeplab_axial.data.photometric import PhotometricOptions
from deeplab_axial.data.record_stream import ordered_records, shuffled_records
from deeplab_axial.data.source import Source

# Tells the order of the images that are pasted from the order of those that they are pasted on.
_OTHER_ORDER = 2**40


@dataclasses.dataclass(frozen=True)
class ImageOptions:
    """How images become crops.

    Attributes:
      crop_size: (height, width) of the network's input, pixels.
      min_resize: least sides after resizing, pixels, one for both or (height, width); None for no aim.
      max_resize: largest sides after resizing, likewise; None for no limit.
      resize_factor: round resized sides up to this times k + 1; None leaves them.
      border_stride: in evaluation, the network's output stride, to a multiple of which (plus 1) the border of an image
        is repeated before grey pads it, see `transforms.pad_border`; 1 for grey alone.
    """

    crop_size: tuple[int, int]
    min_resize: int | tuple[int, int] | None = None
    max_resize: int | tuple[int, int] | None = None
    resize_factor: int | None = None
    border_stride: int = 1

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
      photometric: photometric distortion; None for none.
      copy_paste: panoptic copy-paste; None for none.
    """

    min_scale: float = 1.0
    max_scale: float = 1.0
    scale_step: float = 0.25
    flip: bool = True
    seed: int = 0
    shuffle_buffer: int = 1000
    policy: str = ""
    photometric: PhotometricOptions | None = None
    copy_paste: CopyPasteOptions | None = None


def training_dataset(
    source: Source,
    batch_size: int,
    image_options: ImageOptions,
    augment_options: AugmentOptions,
    target_options: targets.TargetOptions,
    first_step: int = 0,
    num_pipelines: int = 1,
    pipeline_index: int = 0,
    num_replicas: int | None = None,
    service_address: str = "",
) -> tf.data.Dataset:
    """Endless batches for training.

    The n-th image of the sequence, and what happens to it, depend on the seed and on n alone. So a run that resumes at
    `first_step` sees what an undisturbed one would have seen, and the pipelines of several workers together give what
    one would. With a tf.data service the order is not reproducible, and a run that resumes begins its epoch anew.

    Args:
      source: the records.
      batch_size: B, images a step over all workers and replicas.
      image_options: see `ImageOptions`.
      augment_options: see `AugmentOptions`.
      target_options: see `TargetOptions`.
      first_step: steps to leave out at the start.
      num_pipelines: workers with a pipeline of their own; see tf.distribute.InputContext.
      pipeline_index: which of them this is; it gives its part of every B images and decodes no others.
      num_replicas: of all workers, each of which takes batches of B / num_replicas; None for one a pipeline.
      service_address: of a tf.data service's dispatcher, "grpc://host:port"; empty for none.

    Returns:
      A data set of {keys.IMAGE: [B / num_replicas, H, W, 3], and the target entries of keys.TABLE}.
    """
    if num_replicas is None:
        num_replicas = num_pipelines
    if num_replicas % num_pipelines or batch_size % num_replicas:
        raise ValueError(
            "num_replicas must be a multiple of num_pipelines, and batch_size of num_replicas. "
            f"Received: {num_replicas}, {num_pipelines} and {batch_size}. Change batch_size."
        )
    label_space = source.info.label_space
    seed = augment_options.seed

    @tf.autograph.experimental.do_not_convert
    def example(index, serialized, other=None):
        own_seed = tf.stack([tf.cast(seed, tf.int64), index])
        seeds = tf.random.experimental.stateless_split(own_seed, 4)
        crop = random_crop(serialized, image_options, augment_options, label_space.void_id, seeds)
        if other is not None:
            crop = _paste(crop, other, image_options, augment_options, label_space, own_seed)
        return {
            keys.IMAGE: crop.image,
            **targets.make_targets(crop.panoptic, crop.crowd_ids, label_space, target_options),
        }

    def ordered(order_seed):
        return shuffled_records(
            source,
            order_seed,
            augment_options.shuffle_buffer,
            first_step * batch_size,
            batch_size,
            num_pipelines,
            pipeline_index,
            by_epochs=bool(service_address),
        )

    stream = ordered(seed)
    if augment_options.copy_paste is not None:
        others = ordered(seed ^ _OTHER_ORDER)
        stream = tf.data.Dataset.zip((stream, others)).map(lambda one, other: (*one, other[1]))
    dataset = stream.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.batch(batch_size // num_replicas, drop_remainder=True)
    if service_address:
        dataset = data_service.distribute(dataset, service_address)
    return dataset.prefetch(tf.data.AUTOTUNE)


def _paste(
    crop: Labelled,
    other: tf.Tensor,
    options: ImageOptions,
    augment: AugmentOptions,
    label_space: LabelSpace,
    seed: tf.Tensor,
) -> Labelled:
    """Lays segments of another record, string [], over a crop."""
    seeds = tf.random.experimental.stateless_split(tf.random.experimental.stateless_fold_in(seed, 1), 6)
    scale = augment.copy_paste.scale
    scaled = dataclasses.replace(augment, min_scale=augment.min_scale * scale, max_scale=augment.max_scale * scale)
    # As in DeepLab2, a crop that does not fill its size lies anywhere, and not always at the top left.
    place = tf.random.stateless_uniform([2], seeds[4])
    labelled = random_crop(other, options, scaled, copy_paste.PADDING_ID, seeds[:4], place)
    return copy_paste.paste(crop, labelled, label_space, augment.copy_paste, seeds[5])


def random_crop(
    serialized: tf.Tensor,
    options: ImageOptions,
    augment: AugmentOptions,
    void_id: int,
    seeds: tf.Tensor,
    place: tf.Tensor | None = None,
) -> Labelled:
    """A training crop of a record: resized, randomly scaled, coloured, cut out, padded and mirrored.

    Args:
      serialized: string [], the record.
      options: see `ImageOptions`.
      augment: see `AugmentOptions`.
      void_id: panoptic id of the padding.
      seeds: [4, 2] integers.
      place: of an image that does not fill the crop, see `transforms.pad_to`.

    Returns:
      The crop, of the crop size, and the crowd ids of the whole image.
    """
    features = records.parse_example(serialized)
    encoded = features[records.ENCODED]
    size = _size_on_disk(features)
    scaled = resized_size(size, options, augment, seeds[0])
    window = transforms.random_window(size if scaled is None else scaled, *options.crop_size, seeds[1])
    if augment.policy:
        # As in DeepLab2: on the whole scaled image, before its padding.
        image = sampling.decode_image(encoded, size)
        if scaled is not None:
            image = tf.cast(transforms.resize(image, scaled), tf.uint8)
        image = autoaugment.apply_policy(image, augment.policy, seeds[3])
        image = tf.cast(transforms.cut(image, window), tf.float32)
    else:
        image = sampling.sample_image(encoded, size, scaled, window)
    if augment.photometric is not None:
        image = photometric.distort(image, augment.photometric, tf.random.experimental.stateless_fold_in(seeds[3], 1))
    panoptic = sampling.sample_labels(decode_panoptic(features), scaled, window)
    height, width = options.crop_size
    image = transforms.pad_to(image, height, width, transforms.PADDING_VALUE, place)
    panoptic = transforms.pad_to(panoptic, height, width, void_id, place)
    image, panoptic = tf.ensure_shape(image, [height, width, 3]), tf.ensure_shape(panoptic, [height, width])
    if augment.flip:
        image, panoptic = transforms.random_flip(image, panoptic, seeds[2])
    return Labelled(image, panoptic, tf.cast(features[records.CROWD_IDS], tf.int32))


def evaluation_dataset(
    source: Source,
    batch_size: int,
    image_options: ImageOptions,
    num_pipelines: int = 1,
    pipeline_index: int = 0,
) -> tf.data.Dataset:
    """All images once, in order.

    Args:
      source: the records.
      batch_size: B; images without a name and with keys.IS_REAL False fill up the last batch.
      image_options: see `ImageOptions`; a resized image must fit the crop.
      num_pipelines: workers that evaluate together; each gets equally many batches, of B / num_pipelines images.
      pipeline_index: which of them this is.

    Returns:
      A data set of the batch entries of keys.TABLE.
    """
    height, width = image_options.crop_size

    @tf.autograph.experimental.do_not_convert
    def example(is_real, serialized):
        features = records.parse_example(serialized)
        image = sampling.decode_image(features[records.ENCODED])
        raw_size = tf.shape(image)[:2]
        resized = resized_size(raw_size, image_options)
        image = tf.cast(image, tf.float32) if resized is None else transforms.resize(image, resized)
        size = tf.shape(image)[:2]
        fits = tf.reduce_all(size <= [height, width])
        advice = tf.strings.format(
            "Image {} is {} pixels (height, width) after resizing and does not fit eval_dataset_options.crop_size "
            f"[{height}, {width}]. Enlarge crop_size, or set min_resize_value and max_resize_value.",
            (features[records.FILENAME], size),
        )
        with tf.control_dependencies([tf.debugging.Assert(fits, [advice])]):
            image = transforms.pad_border(image[None], size, (height, width), image_options.border_stride)[0]
        return {
            keys.IMAGE: tf.ensure_shape(image, [height, width, 3]),
            keys.IMAGE_NAME: tf.where(is_real, features[records.FILENAME], ""),
            keys.RAW_SIZE: raw_size,
            keys.RESIZED_SIZE: size,
            keys.RAW_PANOPTIC: features[records.SEGMENTATION],
            keys.RAW_CROWD_IDS: tf.cast(features[records.CROWD_IDS], tf.int32),
            keys.IS_REAL: is_real,
        }

    stream = ordered_records(source, batch_size, num_pipelines, pipeline_index)
    dataset = stream.map(example, tf.data.AUTOTUNE, deterministic=True)
    padding = {**dict.fromkeys(dataset.element_spec), keys.RAW_CROWD_IDS: -1}
    dataset = dataset.padded_batch(batch_size // num_pipelines, padding_values=padding, drop_remainder=True)
    return dataset.prefetch(1)


def decode(serialized: tf.Tensor, with_panoptic: bool = True):
    """Reads one record, inside tf.data or eagerly.

    Args:
      serialized: string [].
      with_panoptic: whether the ground truth is decoded too; it must be as large as the image.

    Returns:
      Features as `records.parse_example` gives them, float32 RGB image [H, W, 3] (0 to 255) and int32 panoptic map
      [H, W] (or None).
    """
    features = records.parse_example(serialized)
    panoptic = decode_panoptic(features) if with_panoptic else None
    image = sampling.decode_image(features[records.ENCODED], _size_on_disk(features) if with_panoptic else None)
    return features, tf.cast(image, tf.float32), panoptic


def decode_panoptic(features: dict[str, tf.Tensor]) -> tf.Tensor:
    """The ground truth of a record, int32 [H, W]."""
    return records.decode_panoptic_tf(
        features[records.SEGMENTATION],
        features[records.SEGMENTATION_FORMAT],
        features[records.HEIGHT],
        features[records.WIDTH],
    )


def _size_on_disk(features: dict[str, tf.Tensor]) -> tf.Tensor:
    return tf.cast(tf.stack([features[records.HEIGHT], features[records.WIDTH]]), tf.int32)


def resized_size(
    size: tf.Tensor, options: ImageOptions, augment: AugmentOptions | None = None, seed: tf.Tensor | None = None
) -> tf.Tensor | None:
    """The size that an image gets: in the range of the options, times the random scale; None if it never changes.

    Args:
      size: [2] int32 (height, width) on disk, pixels.
      options: see `ImageOptions`.
      augment: see `AugmentOptions`; None for evaluation, which scales nothing.
      seed: [2] integers, of the random scale.

    Returns:
      [2] int32 or None.
    """
    scales = augment is not None and (augment.min_scale, augment.max_scale) != (1.0, 1.0)
    if not scales and not options.resizes:
        return None
    size = transforms.resized_size(size, options.min_resize, options.max_resize, options.resize_factor)
    if scales:
        size = transforms.random_scale(size, augment.min_scale, augment.max_scale, augment.scale_step, seed)
    return size
