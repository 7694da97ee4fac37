# SPDX-License-Identifier: Apache-2.0
"""Input pipelines of whole-image classification: TFRecord files -> batches of images and class ids."""

import dataclasses
import os

import tensorflow as tf

from deeplab_axial import keys
from deeplab_axial.data import classification_transforms as transforms
from deeplab_axial.data import data_service, dataset_info, image_bytes, records, sampling
from deeplab_axial.data.rand_augment import RandAugmentOptions, rand_augment
from deeplab_axial.data.record_stream import ordered_records, shuffled_records
from deeplab_axial.data.source import Source
from deeplab_axial.errors import InputError

_NO_CLASS = -1


@dataclasses.dataclass(frozen=True)
class AugmentOptions:
    """Random changes of training images.

    Attributes:
      inception_crop: the part of the image that is taken; None for evaluation's central crop.
      rand_augment: changes of the crop; None for none.
      flip: whether half of the images are mirrored left to right.
      seed: of shuffling and of all random changes.
      shuffle_buffer: encoded records that are shuffled at a time.
    """

    inception_crop: transforms.InceptionCropOptions | None = None
    rand_augment: RandAugmentOptions | None = None
    flip: bool = True
    seed: int = 0
    shuffle_buffer: int = 1000


def _check_source(source: Source, needs_labels: bool) -> None:
    folder = os.path.dirname(source.files[0])
    if source.info.task != dataset_info.CLASSIFICATION:
        raise InputError(
            f"{folder} must hold a classification data set, as its {dataset_info.DATASET_FILE} says. Received: task "
            f"{source.info.task!r}. Make one with `deeplab-axial convert imagenet`."
        )
    if needs_labels and not source.info.has_labels:
        raise InputError(
            f"{folder} must hold labels to be trained on. Received: a test split without. Name the training split."
        )


def _decode(features: dict[str, tf.Tensor]) -> tf.Tensor:
    """The whole image, [H, W, 3] uint8."""
    return image_bytes.decode_tf(features[records.ENCODED])


def _known_class(features: dict[str, tf.Tensor], num_classes: int) -> tf.Tensor:
    """The image's class, int32 []; an error that names the image if it is none of the data set's."""
    label = tf.cast(features[records.CLASS_LABEL], tf.int32)
    # Not tf.strings.format, which puts the name into quotes that the error then escapes.
    name, received = features[records.FILENAME], tf.strings.as_string(label)
    rule = f" must have a class from 0 to {num_classes - 1}. Received: "
    advice = tf.strings.join(["Image ", name, rule, received, ". Convert the data set again."])
    with tf.control_dependencies([tf.debugging.Assert((label >= 0) & (label < num_classes), [advice])]):
        return tf.identity(label)


def training_dataset(
    source: Source,
    batch_size: int,
    crop_size: tuple[int, int],
    options: AugmentOptions,
    first_step: int = 0,
    num_pipelines: int = 1,
    pipeline_index: int = 0,
    num_replicas: int = 1,
    service_address: str = "",
) -> tf.data.Dataset:
    """Endless batches for training.

    As in `pipeline.training_dataset`, the n-th image of the sequence, and what happens to it, depend on the seed and on
    n alone, and the workers' pipelines together give what one would; not so with a tf.data service.

    Args:
      source: the records.
      batch_size: B, images a step over all workers and replicas.
      crop_size: (height, width) of the network's input, pixels.
      options: see `AugmentOptions`.
      first_step: steps to leave out at the start.
      num_pipelines: workers with a pipeline of their own; see tf.distribute.InputContext.
      pipeline_index: which of them this is; it gives its part of every B images.
      num_replicas: of all workers; each takes batches of B / num_replicas.
      service_address: of a tf.data service's dispatcher, "grpc://host:port"; empty for none.

    Returns:
      A data set of {keys.IMAGE: [B / num_replicas, H, W, 3] float32, 0 to 255, keys.CLASS_TARGET: [B / num_replicas]
      int32}.

    Raises:
      InputError: the records hold no classes of whole images.
      tf.errors.InvalidArgumentError: an image has none of the data set's classes; while the data set is read.
    """
    if num_replicas % num_pipelines or batch_size % num_replicas:
        raise ValueError(
            "num_replicas must be a multiple of num_pipelines, and batch_size of num_replicas. "
            f"Received: {num_replicas}, {num_pipelines} and {batch_size}. Change batch_size."
        )
    _check_source(source, needs_labels=True)
    height, width = crop_size

    @tf.autograph.experimental.do_not_convert
    def example(index, serialized):
        seeds = tf.random.experimental.stateless_split(tf.stack([tf.cast(options.seed, tf.int64), index]), 3)
        features = records.parse_example(serialized)
        if options.inception_crop is None:
            image = transforms.central_crop(_decode(features), height, width)
        else:
            size = tf.cast(tf.stack([features[records.HEIGHT], features[records.WIDTH]]), tf.int32)
            window = transforms.inception_window(size, options.inception_crop, seeds[0])
            image = sampling.decode_window(features[records.ENCODED], size, window)
            image = transforms.resize(image, [height, width])
        image = tf.ensure_shape(image, [height, width, 3])
        if options.flip:
            image = transforms.random_flip(image, seeds[1])
        if options.rand_augment is not None:
            colors = tf.cast(tf.round(image), tf.uint8)
            image = tf.cast(rand_augment(colors, options.rand_augment, seeds[2]), tf.float32)
        return {keys.IMAGE: image, keys.CLASS_TARGET: _known_class(features, source.info.label_space.num_classes)}

    stream = shuffled_records(
        source,
        options.seed,
        options.shuffle_buffer,
        first_step * batch_size,
        batch_size,
        num_pipelines,
        pipeline_index,
        by_epochs=bool(service_address),
    )
    dataset = stream.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.batch(batch_size // num_replicas, drop_remainder=True)
    if service_address:
        dataset = data_service.distribute(dataset, service_address)
    return dataset.prefetch(tf.data.AUTOTUNE)


def evaluation_dataset(
    source: Source, batch_size: int, crop_size: tuple[int, int], num_pipelines: int = 1, pipeline_index: int = 0
) -> tf.data.Dataset:
    """All images once, in order: resized and cropped in the middle, see `classification_transforms.central_crop`.

    Args:
      source: the records.
      batch_size: B; images without a name and with keys.IS_REAL False fill up the last batch.
      crop_size: (height, width) of the network's input, pixels.
      num_pipelines: workers that evaluate together; each gets equally many batches, of b = B / num_pipelines images.
      pipeline_index: which of them this is.

    Returns:
      A data set of {keys.IMAGE: [b, H, W, 3] float32, 0 to 255, keys.IMAGE_NAME: [b] string, keys.CLASS_TARGET: [b]
      int32, -1 without a label, keys.IS_REAL: [b] bool}.

    Raises:
      InputError: the records are not of classification.
    """
    _check_source(source, needs_labels=False)

    @tf.autograph.experimental.do_not_convert
    def example(is_real, serialized):
        features = records.parse_example(serialized)
        return {
            keys.IMAGE: transforms.central_crop(_decode(features), *crop_size),
            keys.IMAGE_NAME: tf.where(is_real, features[records.FILENAME], ""),
            keys.CLASS_TARGET: tf.where(is_real, tf.cast(features[records.CLASS_LABEL], tf.int32), _NO_CLASS),
            keys.IS_REAL: is_real,
        }

    stream = ordered_records(source, batch_size, num_pipelines, pipeline_index)
    dataset = stream.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return dataset.batch(batch_size // num_pipelines, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
