# SPDX-License-Identifier: Apache-2.0
"""The order of records, and the parts of several workers."""

import dataclasses
import itertools
import os

import numpy as np
import pytest
import tensorflow as tf

from deeplab_axial import files
from deeplab_axial.data import record_stream, tfrecord_files
from deeplab_axial.data.source import Source

COUNT = 23


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Source:
    folder = tmp_path_factory.mktemp("numbers")
    numbers = iter(range(COUNT))
    shards = [
        tfrecord_files.write_shard(folder, f"{i}.tfrecord", [b"%d" % n for n in itertools.islice(numbers, 6)])
        for i in range(4)
    ]
    return Source(tuple(str(folder / shard.file) for shard in shards), COUNT, None)


def _take(dataset: tf.data.Dataset, count: int) -> list[tuple[int, int]]:
    return [(int(n), int(record)) for n, record in itertools.islice(dataset.as_numpy_iterator(), count)]


def _shuffled(source, count, seed=1, shuffle_buffer=7, first=0, **kwargs):
    return _take(record_stream.shuffled_records(source, seed, shuffle_buffer, first, **kwargs), count)


@pytest.mark.parametrize("shuffle_buffer", [1, 7, 100])
def test_each_epoch_has_every_record_once(source, shuffle_buffer):
    stream = _shuffled(source, 4 * COUNT, shuffle_buffer=shuffle_buffer)
    assert [n for n, _ in stream] == list(range(4 * COUNT))
    epochs = [tuple(record for _, record in stream[i : i + COUNT]) for i in range(0, 4 * COUNT, COUNT)]
    assert all(sorted(epoch) == list(range(COUNT)) for epoch in epochs)
    assert len(set(epochs)) == 4


def test_a_large_buffer_shuffles_everything(source):
    # The place of a record is uniform: the mean of 60 places has a standard deviation of 0.86.
    stream = _shuffled(source, 60 * COUNT, shuffle_buffer=COUNT)
    places = np.empty([60, COUNT])
    for n, record in stream:
        places[n // COUNT, record] = n % COUNT
    np.testing.assert_allclose(places.mean(0), (COUNT - 1) / 2, atol=4)
    assert len({tuple(row) for row in places}) == 60


def test_a_remote_store_is_read_in_parallel_in_the_same_order(source):
    paths = [f"ram://record_stream/{os.path.basename(path)}" for path in source.files]
    for path, copy in zip(source.files, paths):
        files.copy(path, copy)
    remote = dataclasses.replace(source, files=tuple(paths))
    assert _shuffled(remote, 3 * COUNT, first=5) == _shuffled(source, 3 * COUNT, first=5)


def test_the_seed_alone_decides(source):
    tf.random.set_seed(1)
    some = _shuffled(source, 40)
    tf.random.set_seed(2)
    assert _shuffled(source, 40) == some
    assert _shuffled(source, 40, seed=2) != some


def test_seed_zero_is_a_seed(source):
    assert _shuffled(source, 60, seed=0) == _shuffled(source, 60, seed=0)


@pytest.mark.parametrize("first", [1, 22, 23, 50, 100])
def test_a_later_start(source, first):
    whole = _shuffled(source, 130)
    assert _shuffled(source, 130 - first, first=first) == whole[first:]


@pytest.mark.parametrize("first", [0, 12, 60])
@pytest.mark.parametrize(("batch_size", "num_pipelines"), [(6, 2), (6, 3), (4, 4)])
def test_workers_share_each_batch(source, batch_size, num_pipelines, first):
    steps = 15
    whole = _shuffled(source, steps * batch_size, first=first)
    part = batch_size // num_pipelines
    shares = [
        _shuffled(
            source,
            steps * part,
            first=first,
            batch_size=batch_size,
            num_pipelines=num_pipelines,
            pipeline_index=index,
        )
        for index in range(num_pipelines)
    ]
    joined = [one for i in range(steps) for share in shares for one in share[i * part : (i + 1) * part]]
    assert joined == whole


@pytest.mark.parametrize("num_pipelines", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [6, 24])
def test_evaluation_is_shared_and_filled_up(source, batch_size, num_pipelines):
    def ordered(index):
        dataset = record_stream.ordered_records(source, batch_size, num_pipelines, index)
        return [(bool(is_real), int(record)) for is_real, record in dataset.as_numpy_iterator()]

    shares = [ordered(index) for index in range(num_pipelines)]
    assert {len(share) for share in shares} == {24 // num_pipelines}
    everything = [one for share in shares for one in share]
    assert sorted(record for is_real, record in everything if is_real) == list(range(COUNT))
    assert [record for is_real, record in everything if not is_real] == [0]


def test_by_epochs_each_worker_has_epochs_of_its_own(source):
    epochs = _shuffled(source, 6 * COUNT)
    for index in range(2):
        own = _shuffled(source, 2 * COUNT, first=COUNT + 5, num_pipelines=2, pipeline_index=index, by_epochs=True)
        expected = [epoch for n in (1 + index, 3 + index) for epoch in epochs[n * COUNT : (n + 1) * COUNT]]
        assert own == expected


@pytest.mark.parametrize(("batch_size", "num_pipelines", "index"), [(5, 2, 0), (4, 2, 2), (4, 2, -1)])
def test_impossible_shares(source, batch_size, num_pipelines, index):
    with pytest.raises(ValueError, match=f"Received: {batch_size}, {num_pipelines} and {index}"):
        record_stream.ordered_records(source, batch_size, num_pipelines, index)
