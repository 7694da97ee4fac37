# SPDX-License-Identifier: Apache-2.0
"""Traces training and evaluation under a TPUStrategy without a TPU, each function in a process of its own.

Two virtual CPU devices stand for the cores. They hold the variables, and TensorFlow makes the program that it would
send to a TPU; to run it, there must be one.
"""

import collections
import contextlib
import pathlib
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from deeplab_axial import builders, config, keys
from deeplab_axial.data.label_space import LabelClass, LabelSpace
from deeplab_axial.inference import Predictor
from deeplab_axial.tpu_check import step
from deeplab_axial.training import optimizers, replicas
from deeplab_axial.training.classification import ClassificationEvaluator
from deeplab_axial.training.evaluator import Evaluator
from deeplab_axial.training.trainer import Trainer
from tests.training import mini

CORES = 2
# Exit status where TensorFlow's strategy is made in another way than the one that is known here, from 2.15 to 2.21.
UNKNOWN_TENSORFLOW = 77
DATA = pathlib.Path(__file__).parents[1] / "data"
SPACE = LabelSpace("eight", tuple(LabelClass(i, f"class {i}", i > 3, (i, 0, 0), i) for i in range(8)), 8, 255, 256)
_HOST = "/job:localhost/replica:0/task:0/device:"
_Device = collections.namedtuple("_Device", "name")
_System = collections.namedtuple("_System", "num_cores num_hosts num_of_cores_per_host topology devices")


class _Resolver:
    """What the strategy asks of a TPUClusterResolver."""

    tpu_hardware_feature = None

    def get_tpu_system_metadata(self):
        return _System(CORES, 1, CORES, None, [_Device(f"{_HOST}TPU:{i}") for i in range(CORES)])

    def cluster_spec(self):
        return tf.train.ClusterSpec({})

    def master(self):
        return ""


def make_strategy() -> tf.distribute.TPUStrategy:
    """A strategy of two cores, which are CPU devices: sets private attributes for it, and leaves if there are none."""
    device = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(device, [tf.config.LogicalDeviceConfiguration()] * (CORES + 1))
    names = [f"{_HOST}CPU:{i + 1}" for i in range(CORES)]
    host = f"{_HOST}CPU:0"
    values = {
        "_tpu_devices": np.array([[name] for name in names], dtype=object),
        "_host_device": host,
        "_device_input_worker_devices": collections.OrderedDict([(host, names)]),
        "_host_input_worker_devices": collections.OrderedDict([(host, [host] * CORES)]),
    }
    strategy = None
    with contextlib.suppress(AttributeError, TypeError):
        strategy = tf.distribute.TPUStrategy(_Resolver())
    if strategy is None or not all(hasattr(strategy.extended, name) for name in values):
        print(f"TensorFlow {tf.__version__}")
        raise SystemExit(UNKNOWN_TENSORFLOW)
    for name, value in values.items():
        setattr(strategy.extended, name, value)
    return strategy


def check_program(function, *arguments) -> tuple[dict, collections.Counter]:
    """Traces a `tf.function`.

    Returns:
      Its outputs, as specs, and how many operations of each type the program of the cores has.
    """
    concrete = function.get_concrete_function(*arguments)
    graph = concrete.graph.as_graph_def()
    functions = {called.signature.name: called.node_def for called in graph.library.function}
    nodes = [*graph.node, *(node for body in functions.values() for node in body)]
    sizes = {node.attr["num_replicas"].i for node in nodes if node.op == "TPUReplicateMetadata"}
    assert sizes == {CORES}, sizes
    pending = [node for node in nodes if "_tpu_replicate" in node.attr]
    types: collections.Counter = collections.Counter()
    while pending:
        node = pending.pop()
        types[node.op] += 1
        for value in node.attr.values():
            for called in (value.func, *value.list.func):  # the bodies of loops and branches
                pending += [inner for inner in functions.pop(called.name, ()) if "_tpu_replicate" not in inner.attr]
    # What only the host can do would be refused by the compiler.
    assert not [name for name in types if "PyFunc" in name or name in ("Print", "PrintV2", "ReadFile", "Unique")], types
    return concrete.structured_outputs, types


def _check_training(trainer: Trainer, iterator) -> None:
    @tf.function
    def train(iterator):
        return trainer.train(iterator, 3)

    outputs, types = check_program(train, iterator)
    assert set(outputs) == set(trainer.names)
    assert all(value.shape.rank == 1 and value.dtype == tf.float32 for value in outputs.values()), outputs
    # The gradients are summed over the cores, and the statistics of batch normalisation besides.
    assert types["CrossReplicaSum"] > len(trainer.model.trainable_variables), types


def train_mini() -> None:
    """RAdam with Lookahead, clipping and averages of the weights, on the mini network."""
    strategy = make_strategy()
    with strategy.scope():
        optimizer = optimizers.Lookahead(optimizers.RAdam(0.1), sync_period=3)
    trainer = mini.make_trainer(optimizer, 0.5, strategy, clip_norm=1.0, l2=1e-4, ema_decay=0.9)
    each = mini.BATCH_SIZE // CORES
    _check_training(
        trainer,
        iter(strategy.distribute_datasets_from_function(lambda _: mini.dataset(0).unbatch().batch(each, True))),
    )


def _load(name: str, overrides: Sequence[str]):
    files = [f"{split}_dataset_options.file_pattern=none" for split in ("train", "eval")]
    options = config.load(DATA / name, [*files, "trainer_options.solver_options.use_sync_batchnorm=true", *overrides])
    builders.set_precision_and_seed(options.trainer_options)
    return options


def train_network(*overrides: str) -> None:
    """The tiny axial network, with changes of its config."""
    strategy = make_strategy()
    options = _load("tiny.textproto", overrides)
    with strategy.scope():
        model = builders.build_model(options, CORES)
    trainer = builders.build_trainer(options, strategy, model, builders.build_loss(options, SPACE))
    batch = step.segmentation_batch(trainer.batch_size // CORES, *options.train_dataset_options.crop_size)

    def dataset(_):
        return tf.data.Dataset.from_tensors({key: tf.zeros(x.shape, x.dtype) for key, x in batch.items()}).repeat()

    _check_training(trainer, iter(strategy.distribute_datasets_from_function(dataset)))


def evaluate_network() -> None:
    """The tiny axial network with its post-processing; as every `train --mode=eval`, with the outputs of the heads."""
    strategy = make_strategy()
    options = _load("tiny.textproto", [])
    with strategy.scope():
        model = builders.build_model(options, CORES)
    predictor: Predictor = builders.build_predictor(options, model, SPACE)
    evaluator = Evaluator(predictor, SPACE, 3, strategy=strategy, keep_heads=True)
    batch = [tf.zeros([3, 49, 65, 3]), tf.constant([[49, 65]] * 3)]
    outputs, _ = check_program(evaluator._predict, *replicas.share_out(batch, strategy))
    maps = {keys.SEMANTIC_MAP: [], keys.PANOPTIC_MAP: [], keys.CENTER_HEATMAP: [1], keys.OFFSET_MAP: [2]}
    for key, channels in maps.items():
        shares = strategy.experimental_local_results(outputs[key])
        assert [share.shape.as_list() for share in shares] == [[2, 49, 65, *channels]] * CORES, (key, shares)


def evaluate_classifier() -> None:
    """The backbone of the tiny axial network as a classifier."""
    strategy = make_strategy()
    options = _load("tiny_classifier.textproto", [])
    with strategy.scope():
        model = builders.build_model(options, CORES)
    evaluator = ClassificationEvaluator(model, SPACE, 3, strategy=strategy)
    outputs, _ = check_program(evaluator._predict, *replicas.share_out([tf.zeros([3, 32, 32, 3])], strategy))
    shares = strategy.experimental_local_results(outputs)
    classes = options.model_options.classification.num_classes
    assert [share.shape.as_list() for share in shares] == [[2, classes]] * CORES, shares
