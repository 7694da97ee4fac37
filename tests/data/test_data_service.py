# SPDX-License-Identifier: Apache-2.0
"""Training batches from a tf.data service of two workers in this process."""

import collections
import itertools
import socket

import pytest
import tensorflow as tf

from deeplab_axial import builders, config, keys
from deeplab_axial.data import data_service, pipeline, targets
from deeplab_axial.errors import InputError
from tests.test_builders import TINY


@pytest.fixture(scope="module")
def address():
    service = tf.data.experimental.service
    dispatcher = service.DispatchServer()
    host = dispatcher.target.split("://")[1]
    workers = [service.WorkerServer(service.WorkerConfig(dispatcher_address=host)) for _ in range(2)]
    yield dispatcher.target
    del workers


@pytest.fixture(scope="module")
def train(scene_records) -> pipeline.Source:
    return pipeline.Source.open([scene_records.train])


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def test_every_image_comes_once_an_epoch(train, address):
    data_service.check_address(address)
    dataset = pipeline.training_dataset(
        train,
        7,  # as many as there are, so that a worker's batch is an epoch
        pipeline.ImageOptions(crop_size=(48, 64)),
        pipeline.AugmentOptions(flip=False, seed=1),
        targets.TargetOptions(4),
        service_address=address,
    )
    seen = collections.Counter()
    for batch in itertools.islice(dataset.as_numpy_iterator(), 6):
        images = [image.tobytes() for image in batch[keys.IMAGE]]
        assert len(set(images)) == 7
        seen.update(images)
    assert set(seen.values()) == {6}
    assert len(seen) == 7


def test_no_epoch_is_dealt_out_twice(train, address):
    # With random changes the same image of two epochs differs: equal ones would be of one epoch.
    dataset = pipeline.training_dataset(
        train,
        7,
        pipeline.ImageOptions(crop_size=(33, 49)),
        pipeline.AugmentOptions(min_scale=0.5, max_scale=2.0, scale_step=0, seed=1),
        targets.TargetOptions(4),
        service_address=address,
    )
    images = [image.tobytes() for batch in itertools.islice(dataset, 8) for image in batch[keys.IMAGE].numpy()]
    assert len(set(images)) == 56


def test_an_address_where_nothing_answers(scene_records):
    address = f"grpc://localhost:{_free_port()}"
    with pytest.raises(InputError, match=rf"data_service_address.*Received: {address}, where nothing answers"):
        data_service.check_address(address)
    overrides = [
        f"train_dataset_options.file_pattern={scene_records.train}",
        f"train_dataset_options.data_service_address={address}",
    ]
    with pytest.raises(InputError, match="where nothing answers"):
        builders.open_source(config.load(TINY, overrides), "train")


@pytest.mark.parametrize("address", ["grpc://localhost:99999", "grpc://no.such.host.invalid:5000", "grpc://:x", "here"])
def test_impossible_addresses(address):
    with pytest.raises(InputError, match="Start the service, or leave the field out"):
        data_service.check_address(address)
