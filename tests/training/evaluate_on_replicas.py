# SPDX-License-Identifier: Apache-2.0
"""Evaluates the tiny network on one device and on two replicas, both on the CPU; a process of its own.

The devices of a process cannot be split any more once TensorFlow has run something.
"""

import json
import pathlib
import sys

import tensorflow as tf

from deeplab_axial import builders, config
from deeplab_axial.training.evaluator import Evaluator

TINY = pathlib.Path(__file__).parents[1] / "data" / "tiny.textproto"


def evaluate(strategy: tf.distribute.Strategy, records: str) -> dict:
    """The metrics of a network as it starts, and those of each image."""
    overrides = [
        f"eval_dataset_options.file_pattern={records}",
        "eval_dataset_options.batch_size=3",
        "evaluator_options.center_score_threshold=0",
        "evaluator_options.keep_k_centers=20",
    ]
    options = config.load(TINY, overrides)
    source = builders.open_source(options, "eval")
    builders.set_precision_and_seed(options.trainer_options)
    with strategy.scope():
        model = builders.build_model(options, strategy.num_replicas_in_sync)
    predictor = builders.build_predictor(options, model, source.info.label_space)
    metric_options = builders.build_metric_options(options)
    rows = []
    metrics = Evaluator(predictor, source.info.label_space, 5, True, metric_options, strategy).evaluate(
        builders.build_evaluation_dataset(options, source), lambda result: rows.append(result.metrics)
    )
    return {"metrics": metrics, "rows": rows}


def main(records: str) -> None:
    """Prints both results as JSON, a line each."""
    device = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(device, [tf.config.LogicalDeviceConfiguration()] * 2)
    for strategy in (tf.distribute.OneDeviceStrategy("/cpu:0"), tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])):
        print(json.dumps(evaluate(strategy, records)))


if __name__ == "__main__":
    main(*sys.argv[1:])
