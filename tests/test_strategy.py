# SPDX-License-Identifier: Apache-2.0
"""Where to train: what flags and TF_CONFIG ask for, and what they may not."""

import json

import pytest
import tensorflow as tf

from deeplab_axial import builders
from deeplab_axial.builders.strategy import Cluster, read_cluster
from deeplab_axial.errors import InputError
from deeplab_axial.protos import config_pb2

WORKERS = ["a:1", "b:1", "c:1"]


def _config(cluster, kind="worker", index=0):
    return json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("{}", None),
        # As some clouds set it where there is one machine.
        (_config({"worker": ["a:1"]}), None),
        (_config({"chief": ["a:1"]}, "chief"), None),
        (_config({"worker": WORKERS}, index=2), Cluster(("a:1", "b:1", "c:1"), 2)),
        (_config({"chief": ["d:1"], "worker": WORKERS}, "chief"), Cluster(("d:1", "a:1", "b:1", "c:1"), 0)),
        (_config({"worker": WORKERS, "chief": ["d:1"]}, index=1), Cluster(("d:1", "a:1", "b:1", "c:1"), 2)),
        # Others may evaluate beside the training.
        (_config({"worker": WORKERS, "evaluator": ["e:1"]}), Cluster(("a:1", "b:1", "c:1"), 0)),
    ],
)
def test_clusters(text, expected):
    assert read_cluster(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"cluster": {', "TF_CONFIG must be like {"),
        ("[1]", "TF_CONFIG must be like {"),
        ('{"cluster": ["a:1", "b:1"]}', "TF_CONFIG must be like {"),
        ('{"cluster": {"worker": 3}}', "TF_CONFIG must be like {"),
        (_config({"worker": WORKERS}, index="first"), "TF_CONFIG must be like {"),
        (
            _config({"worker": WORKERS}, index=3),
            "(3 of worker; an index counts from 0). Received: type 'worker', index 3",
        ),
        (json.dumps({"cluster": {"worker": WORKERS}}), "must say which worker this one is"),
        (_config({"worker": WORKERS}, index=-1), "Received: type 'worker', index -1"),
        (_config({"worker": WORKERS}, "chief"), "Received: type 'chief', index 0"),
        (_config({"worker": WORKERS, "ps": ["d:1"]}), "parameter servers are not supported. Received: ps"),
        (_config({"worker": WORKERS, "evaluator": ["e:1"]}, "evaluator"), "unset TF_CONFIG and run with --mode=conti"),
        (
            _config({"chief": ["a:1", "b:1"], "worker": WORKERS}),
            "an address of its own, host:port. Received: a:1, b:1, a:1",
        ),
        (_config({"chief": ["d:1", "e:1"], "worker": WORKERS}), "TF_CONFIG must name one chief at most"),
        (_config({"worker": ["a", "b:1"]}), "an address of its own, host:port. Received: a."),
        (_config({"worker": []}), "Received: none"),
    ],
)
def test_a_wrong_tf_config_is_refused(text, message):
    with pytest.raises(InputError) as caught:
        read_cluster(text)
    assert message in str(caught.value)
    assert str(caught.value).startswith("TF_CONFIG ")


@pytest.mark.parametrize(
    ("arguments", "tf_config", "message"),
    [
        ((2, "local"), "", "--tpu and --num_gpus exclude each other. Received: local and 2. Remove one."),
        ((0, "local"), _config({"worker": WORKERS}), "--tpu and TF_CONFIG exclude each other"),
        ((0, "", False), _config({"worker": WORKERS}), "TF_CONFIG is for training on several machines"),
        ((99,), "", "--num_gpus=99: TensorFlow sees "),
        ((99,), _config({"worker": WORKERS}), "--num_gpus=99: TensorFlow sees "),
        # The port of nothing: no waiting for a TPU that is not there.
        ((0, "grpc://127.0.0.1:9"), "", "--tpu=grpc://127.0.0.1:9: nothing answers there ("),
        ((0, "grpc://nowhere"), "", "--tpu=grpc://nowhere: nothing answers there ("),
    ],
)
def test_contradictions_and_missing_devices_are_refused(monkeypatch, arguments, tf_config, message):
    monkeypatch.setenv("TF_CONFIG", tf_config)
    with pytest.raises(InputError) as caught:
        builders.build_strategy(*arguments)
    assert str(caught.value).startswith(message)


def test_one_device(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", _config({"worker": ["a:1"]}))
    strategy = builders.build_strategy()
    assert isinstance(strategy, tf.distribute.OneDeviceStrategy)
    assert strategy.num_replicas_in_sync == 1


def _options(train="gs://a/train*", evaluation="gs://a/val*", initial_checkpoint="", use_tf_function=True):
    options = config_pb2.ExperimentOptions()
    options.train_dataset_options.file_pattern.append(train)
    options.eval_dataset_options.file_pattern.append(evaluation)
    options.model_options.initial_checkpoint = initial_checkpoint
    options.evaluator_options.use_tf_function = use_tf_function
    return options


@pytest.mark.parametrize(
    ("options", "mode", "model_dir", "local"),
    [
        (_options(), "train", "runs/a", ["--model_dir=runs/a"]),
        (_options(train="train*"), "train", "gs://b", ["train_dataset_options.file_pattern=train*"]),
        (_options(train="train*"), "eval", "gs://b", []),
        (_options(evaluation="val*"), "train", "gs://b", []),
        (_options(evaluation="val*"), "train_and_eval", "gs://b", ["eval_dataset_options.file_pattern=val*"]),
        (_options(evaluation="val*"), "continuous_eval", "gs://b", ["eval_dataset_options.file_pattern=val*"]),
        (_options(initial_checkpoint="/a"), "train", "gs://b", ["model_options.initial_checkpoint=/a"]),
        (_options(initial_checkpoint="/a"), "eval", "gs://b", []),
        (_options(initial_checkpoint="gs://c"), "train_and_eval", "gs://b", []),
        (_options(train="x"), "train", "y", ["--model_dir=y", "train_dataset_options.file_pattern=x"]),
    ],
)
@pytest.mark.parametrize("tpu", ["axial", "grpc://10.0.0.2:8470"])
def test_a_tpu_elsewhere_must_see_the_files(options, mode, model_dir, local, tpu):
    builders.check_tpu(options, mode, model_dir, "")
    builders.check_tpu(options, mode, model_dir, "local")
    if not local:
        builders.check_tpu(options, mode, model_dir, tpu)
        return
    with pytest.raises(InputError) as caught:
        builders.check_tpu(options, mode, model_dir, tpu)
    assert str(caught.value).startswith(f"--tpu={tpu}: ")
    assert f"Received: {', '.join(local)}. Copy" in str(caught.value)


@pytest.mark.parametrize("mode", ["eval", "train_and_eval", "continuous_eval"])
@pytest.mark.parametrize("tpu", ["local", "axial"])
def test_a_tpu_does_not_evaluate_eagerly(mode, tpu):
    options = _options(use_tf_function=False)
    builders.check_tpu(options, mode, "gs://b", "")
    builders.check_tpu(options, "train", "gs://b", tpu)
    with pytest.raises(InputError, match=rf"use_tf_function must be true .* Received: false and --tpu={tpu}\. Set"):
        builders.check_tpu(options, mode, "gs://b", tpu)
