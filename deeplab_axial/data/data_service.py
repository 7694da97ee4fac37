# SPDX-License-Identifier: Apache-2.0
"""The tf.data service: other machines prepare the training batches.

The service's workers need this package, the same TensorFlow and the record files under the same names. They deal out
whole epochs among themselves. So each image comes once an epoch, but several epochs run at a time, and the order of the
batches depends on which worker is the quickest.
"""

import socket

import tensorflow as tf

from deeplab_axial.errors import InputError

_TIMEOUT = 5.0  # seconds


def check_address(address: str) -> None:
    """Refuses an address where nothing listens, before anything waits for it.

    Args:
      address: of the service's dispatcher, "grpc://host:port".

    Raises:
      InputError: nothing answers there.
    """
    host, _, port = address.removeprefix("grpc://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_TIMEOUT).close()
    except (OSError, OverflowError, ValueError) as error:  # no answer, no such port, no number or name
        raise InputError(
            "train_dataset_options.data_service_address must be that of the dispatcher of a running tf.data service. "
            f"Received: {address}, where nothing answers ({error}). Start the service, or leave the field out to "
            "prepare the batches in this process."
        ) from error


def distribute(dataset: tf.data.Dataset, address: str) -> tf.data.Dataset:
    """Leaves a data set, up to and with its batches, to the service with this dispatcher."""
    service = tf.data.experimental.service
    return dataset.apply(service.distribute(processing_mode=service.ShardingPolicy.DYNAMIC, service=address))
