# SPDX-License-Identifier: Apache-2.0
"""Where to train: a device of this machine, several of its GPUs, several machines, or a TPU."""

import dataclasses
import json
import os
import re
import socket

import tensorflow as tf
from absl import logging

from deeplab_axial import files
from deeplab_axial.errors import InputError
from deeplab_axial.protos import config_pb2

_JOBS = ("chief", "worker")
_EXAMPLE = '{"cluster": {"worker": ["host1:12345", "host2:12345"]}, "task": {"type": "worker", "index": 0}}'
_TIMEOUT = 10.0  # seconds


def build_strategy(num_gpus: int = 0, tpu: str = "", trains: bool = True) -> tf.distribute.Strategy:
    """What computes, from flags and the environment variable TF_CONFIG; call it before TensorFlow computes anything.

    Args:
      num_gpus: GPUs of this machine, of each machine if TF_CONFIG names several; 0 for the CPU.
      tpu: name of a Cloud TPU, its address "grpc://host:port", or "local" on the machine that has it; empty for none.
      trains: whether it is for training, which several machines can share.

    Returns:
      A strategy of TensorFlow: for a TPU, for several machines, for several GPUs, or for one device.

    Raises:
      InputError: the devices are not there, or flags and TF_CONFIG contradict each other; names the flag.
    """
    cluster = read_cluster(os.environ.get("TF_CONFIG", ""))
    if tpu and num_gpus:
        raise InputError(f"--tpu and --num_gpus exclude each other. Received: {tpu} and {num_gpus}. Remove one.")
    if tpu and cluster:
        raise InputError(
            f"--tpu and TF_CONFIG exclude each other: a TPU pod is one process with --tpu. Received: --tpu={tpu} and a "
            f"TF_CONFIG of {len(cluster.addresses)} workers. Unset TF_CONFIG, or remove --tpu."
        )
    if cluster and not trains:
        raise InputError(
            f"TF_CONFIG is for training on several machines. Received: one of {len(cluster.addresses)} workers. Unset "
            "it to evaluate, on one machine."
        )
    if tpu:
        return _tpu_strategy(tpu)
    gpus = tf.config.list_physical_devices("GPU")
    if num_gpus > len(gpus):
        raise InputError(
            f"--num_gpus={num_gpus}: TensorFlow sees {len(gpus)} GPUs here. Lower it, or mend the drivers."
        )
    if len(gpus) != num_gpus:
        # The multi-worker strategy takes all GPUs that it sees, TensorFlow reserves the memory of all, and layers look
        # whether there are any.
        tf.config.set_visible_devices(gpus[:num_gpus], "GPU")
    if cluster:
        return _multi_worker_strategy(cluster, num_gpus)
    if num_gpus > 1:
        return tf.distribute.MirroredStrategy([f"/gpu:{i}" for i in range(num_gpus)])
    return tf.distribute.OneDeviceStrategy("/gpu:0" if num_gpus else "/cpu:0")


def check_tpu(options: config_pb2.ExperimentOptions, mode: str, model_dir: str, tpu: str) -> None:
    """Refuses what a TPU cannot do; call it before `build_strategy`, which may take minutes.

    Args:
      options: validated for the mode.
      mode: one of `config.MODES`.
      model_dir: folder of the checkpoints.
      tpu: as of `build_strategy`.

    Raises:
      InputError: the evaluation is to run eagerly, or the TPU is not this machine's and its hosts cannot see the
        files; names the fields.
    """
    if not tpu:
        return
    if "eval" in mode and not options.evaluator_options.use_tf_function:
        raise InputError(
            "evaluator_options.use_tf_function must be true on a TPU, which runs nothing eagerly. Received: false and "
            f"--tpu={tpu}. Set it to true, or debug without --tpu."
        )
    if tpu == "local":
        return
    places = [("--model_dir", model_dir)]
    for split in ("train", "eval"):
        if split in mode:
            patterns = getattr(options, f"{split}_dataset_options").file_pattern
            places += [(f"{split}_dataset_options.file_pattern", pattern) for pattern in patterns]
    if "train" in mode:
        places.append(("model_options.initial_checkpoint", options.model_options.initial_checkpoint))
    local = [f"{name}={path}" for name, path in places if path and not files.is_remote(path)]
    if local:
        raise InputError(
            f"--tpu={tpu}: the TPU's own hosts read and write the files, which must be in a store that they see, as "
            f"gs://bucket/folder. Received: {', '.join(local)}. Copy them there, or write --tpu=local on the machine "
            "that has the TPU."
        )


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Several machines that train together.

    Attributes:
      addresses: "host:port" of each worker, the chief's first.
      index: which of them this process is.
    """

    addresses: tuple[str, ...]
    index: int


def read_cluster(text: str) -> Cluster | None:
    """Reads TF_CONFIG.

    Args:
      text: value of the environment variable; empty if it is not set.

    Returns:
      The cluster; None if it has no more than one worker.

    Raises:
      InputError: the text is no TF_CONFIG, or one that training cannot use.
    """
    if not text.strip():
        return None
    try:
        value = json.loads(text)
        jobs, task = value.get("cluster", {}), value.get("task", {})
        addresses = {job: [str(address) for address in hosts] for job, hosts in jobs.items()}
        kind, index = task.get("type", "worker"), int(task.get("index", 0))
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"TF_CONFIG must be like {_EXAMPLE}. Received: {text} ({error}). Correct or unset it."
        ) from error
    if not addresses:
        return None
    if kind == "evaluator":
        raise InputError(
            "TF_CONFIG names no task of the training. Received: an evaluator. On that machine unset TF_CONFIG and run "
            "with --mode=continuous_eval; name only chief and worker in the cluster."
        )
    unknown = sorted(set(addresses) - {*_JOBS, "evaluator"})
    if unknown:
        raise InputError(
            f"TF_CONFIG must have the jobs {' and '.join(_JOBS)} alone; parameter servers are not supported. Received: "
            f"{', '.join(unknown)}. Write {_EXAMPLE}."
        )
    workers = [address for job in _JOBS for address in addresses.get(job, [])]
    _check_addresses(workers, addresses)
    if kind not in addresses or not 0 <= index < len(addresses[kind]):
        sizes = ", ".join(f"{len(addresses[job])} of {job}" for job in _JOBS if job in addresses)
        raise InputError(
            f"TF_CONFIG must have a task of its cluster ({sizes}; an index counts from 0). Received: type {kind!r}, "
            f"index {index}. Correct the task."
        )
    if len(workers) < 2:
        return None
    if not {"type", "index"} <= set(task):
        raise InputError(
            f"TF_CONFIG must say which worker this one is, like {_EXAMPLE}. Received: task {task}. Give it type and "
            "index."
        )
    return Cluster(tuple(workers), index + (len(addresses.get("chief", [])) if kind == "worker" else 0))


def _check_addresses(workers: list[str], addresses: dict[str, list[str]]) -> None:
    malformed = [address for address in workers if not re.fullmatch(r".+:\d+", address)]
    if malformed or len(set(workers)) < len(workers) or not workers:
        raise InputError(
            "TF_CONFIG must give each worker an address of its own, host:port. Received: "
            f"{', '.join(malformed or workers) or 'none'}. Write {_EXAMPLE}."
        )
    if len(addresses.get("chief", [])) > 1:
        raise InputError(
            f"TF_CONFIG must name one chief at most. Received: {', '.join(addresses['chief'])}. Name the others under "
            '"worker".'
        )


def _multi_worker_strategy(cluster: Cluster, num_gpus: int) -> tf.distribute.Strategy:
    communication = tf.distribute.experimental
    kinds = communication.CommunicationImplementation
    options = communication.CommunicationOptions(implementation=kinds.NCCL if num_gpus else kinds.RING)
    own = cluster.addresses[cluster.index]
    others = ", ".join(address for address in cluster.addresses if address != own)
    logging.warning("Worker %d of %d, %s; waits for %s.", cluster.index, len(cluster.addresses), own, others)
    try:
        return tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
    except (RuntimeError, tf.errors.OpError) as error:
        raise InputError(
            f"TF_CONFIG: the workers did not come together; this one is {own}, the others {others} ({error}). Start "
            "all of them with the same cluster, on ports that are free and open."
        ) from error


def _tpu_strategy(name: str) -> tf.distribute.Strategy:
    if name.startswith("grpc://"):
        _check_answers(name)
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        # OSError: Google's metadata server is not there, on other machines than theirs.
    except (ImportError, OSError, RuntimeError, ValueError, tf.errors.OpError) as error:
        raise InputError(
            f"--tpu={name}: no TPU answers there ({error}). Check its name and zone, or its address grpc://host:port; "
            "on the machine that has the TPU write --tpu=local, with tensorflow-tpu of the same version installed."
        ) from error
    return tf.distribute.TPUStrategy(resolver)


def _check_answers(address: str) -> None:
    """Refuses an address where nothing listens; TensorFlow would wait for it without an end."""
    host, _, port = address.removeprefix("grpc://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_TIMEOUT).close()
    except (OSError, OverflowError, ValueError) as error:
        raise InputError(
            f"--tpu={address}: nothing answers there ({error}). Check the address grpc://host:port."
        ) from error
