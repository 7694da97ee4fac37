# SPDX-License-Identifier: Apache-2.0
"""Encoded records in the order in which they are used, and each worker's part of them."""

import tensorflow as tf

from deeplab_axial.data.source import Source

# Files that are read in turns; their records are side by side before they are shuffled.
_OPEN_FILES = 16
_REMOTE_READERS = 8


def shuffled_records(
    source: Source,
    seed: int,
    shuffle_buffer: int,
    first: int,
    batch_size: int = 1,
    num_pipelines: int = 1,
    pipeline_index: int = 0,
    by_epochs: bool = False,
) -> tf.data.Dataset:
    """Endless records in an order that depends on the seed alone.

    Each epoch, the files are shuffled, and then the records: each comes at random out of a buffer that the following
    records fill up.

    Args:
      source: the records.
      seed: of the order.
      shuffle_buffer: encoded records that are held in memory to be shuffled.
      first: records to leave out at the start.
      batch_size: records of all workers together that make a step; of each so many a worker gets its part.
      num_pipelines: workers that share the records.
      pipeline_index: which of them this is.
      by_epochs: for a tf.data service, which deals out whole epochs: each worker has epochs of its own, each service
        worker some of these, and `first` is rounded down to a whole epoch.

    Returns:
      A data set of (n int64 [], the n-th record string []), from n = `first` on.
    """
    count = source.num_records
    is_remote = "://" in source.files[0]
    first_epoch = first // count
    epoch_step = 1
    if by_epochs:
        first, first_epoch, epoch_step = first_epoch * count, first_epoch + pipeline_index, num_pipelines

    @tf.autograph.experimental.do_not_convert
    def epoch_records(epoch):
        paths = tf.random.experimental.stateless_shuffle(tf.constant(source.files), [seed, epoch])
        # Files of this machine are read by one thread: with more, the allocator's arenas take several times the memory
        # of the buffer. One stream of a remote store is too slow.
        parallel = {"num_parallel_calls": _REMOTE_READERS, "deterministic": True} if is_remote else {}
        records = tf.data.Dataset.from_tensor_slices(paths).interleave(
            tf.data.TFRecordDataset, cycle_length=_OPEN_FILES, **parallel
        )
        start = epoch * count
        numbered = tf.data.Dataset.zip(
            (tf.data.Dataset.range(start, start + count), _shuffle(records, shuffle_buffer, seed, epoch))
        )
        return numbered.skip(tf.maximum(first - start, 0))

    stream = tf.data.Dataset.range(first_epoch, 2**31 - 1, epoch_step).flat_map(epoch_records)
    return stream if by_epochs else _own_part(stream, batch_size, num_pipelines, pipeline_index)


def _shuffle(dataset: tf.data.Dataset, buffer: int, seed: int, epoch: tf.Tensor) -> tf.data.Dataset:
    """`Dataset.shuffle`, but for the seed, which there depends on the process' global seed, too."""
    spec = dataset.element_spec
    variant = tf.raw_ops.ShuffleDataset(
        input_dataset=tf.data.experimental.to_variant(dataset),
        buffer_size=buffer,
        # Two zeros would stand for a random seed.
        seed=seed,
        seed2=epoch + 1,
        output_types=[spec.dtype],
        output_shapes=[spec.shape],
        reshuffle_each_iteration=False,
    )
    return tf.data.experimental.from_variant(variant, spec)


def ordered_records(
    source: Source, batch_size: int = 1, num_pipelines: int = 1, pipeline_index: int = 0
) -> tf.data.Dataset:
    """Each record once, in order, filled up to whole batches.

    Args:
      source: the records.
      batch_size: records of all workers together that make a step.
      num_pipelines: workers that share the records.
      pipeline_index: which of them this is.

    Returns:
      A data set of (bool [], record string []); False marks the copies of the first record that fill up.
    """
    dataset = tf.data.TFRecordDataset(list(source.files)).map(lambda record: (True, record))
    missing = -source.num_records % batch_size
    if missing:
        filler = dataset.take(1).map(lambda _, record: (False, record)).repeat(missing)
        dataset = dataset.concatenate(filler)
    parts = _own_part(dataset.enumerate(), batch_size, num_pipelines, pipeline_index)
    return parts.map(lambda _, marked: marked)


def _own_part(stream: tf.data.Dataset, batch_size: int, num_pipelines: int, pipeline_index: int) -> tf.data.Dataset:
    """Of each `batch_size` elements (n, anything) those of this worker: consecutive ones, equally many for each."""
    if batch_size % num_pipelines or not 0 <= pipeline_index < num_pipelines:
        raise ValueError(
            "batch_size must be a multiple of num_pipelines, and pipeline_index below it. "
            f"Received: {batch_size}, {num_pipelines} and {pipeline_index}. Change batch_size."
        )
    if num_pipelines == 1:
        return stream
    part = batch_size // num_pipelines
    return stream.filter(lambda number, _: number % batch_size // part == pipeline_index)
