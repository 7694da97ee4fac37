# SPDX-License-Identifier: Apache-2.0
"""What the commands that take a config share: its flags, its model and its checkpoints."""

import dataclasses
import json
import math
import os
import platform
import re
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from absl import flags
from PIL import Image

from deeplab_axial import __version__, builders, config, files, visualization
from deeplab_axial.backbones import presets
from deeplab_axial.data import diagnosis
from deeplab_axial.data.pipeline import Source
from deeplab_axial.errors import InputError
from deeplab_axial.models.panoptic_deeplab import PanopticDeepLab
from deeplab_axial.protos import config_pb2
from deeplab_axial.report import details, recorder
from deeplab_axial.training import checkpoints, evaluation_metrics, evaluator, log

FLAGS = flags.FLAGS

flags.DEFINE_string("config_file", None, "The experiment, a textproto.", required=True)
flags.DEFINE_multi_string(
    "set",
    [],
    "Changes a field of the config, as --set=trainer_options.solver_options.base_learning_rate=0.001. May be repeated.",
)
flags.DEFINE_multi_string(
    "placeholder",
    [],
    "Fills ${NAME} in the config, as --placeholder=NAME=VALUE; wins over the environment variable NAME. May be "
    "repeated.",
)


def load_config(mode: str | None = None) -> config_pb2.ExperimentOptions:
    """The config that the flags name."""
    return config.load(
        FLAGS.config_file,
        FLAGS.set,
        mode=mode,
        backbone_names=presets.NAMES,
        refused_backbones=presets.REFUSED,
        placeholders=_placeholders(FLAGS.placeholder),
    )


def _placeholders(entries: Sequence[str]) -> dict[str, str]:
    """The values of "NAME=VALUE" entries."""
    values: dict[str, str] = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        if not equals or not re.fullmatch(r"\w+", name):
            raise InputError(
                f"--placeholder must be NAME=VALUE. Received: {entry}. Write --placeholder=TRAIN_SET=FILES."
            )
        if values.setdefault(name, value) != value:
            received = f"{name}={values[name]} and {entry}"
            raise InputError(f"--placeholder gives each name one value. Received: {received}. Remove one.")
    return values


@dataclasses.dataclass
class Evaluation:
    """Evaluates checkpoints and files the results in the model's folder; `strategy` shares the work out if given."""

    options: config_pb2.ExperimentOptions
    model: PanopticDeepLab
    source: Source
    folder: str
    strategy: tf.distribute.Strategy | None = None

    def __post_init__(self):
        space = self.source.info.label_space
        predictor = builders.build_predictor(self.options, self.model, space)
        self._evaluator = evaluator.Evaluator(
            predictor,
            space,
            self.source.num_records,
            self.options.evaluator_options.use_tf_function,
            builders.build_metric_options(self.options),
            self.strategy,
            keep_heads=True,
        )

    def run(self, step: int) -> dict:
        """Evaluates the model as it is and prints the metrics.

        Writes log.METRICS_FILE, log.PER_IMAGE_FILE, what the report needs and TensorBoard scalars.
        """
        options = self.options.evaluator_options
        self._pictures = 0
        rows: list[str] = []
        record = recorder.Recorder(self.source.info.label_space)

        def on_image(result: evaluator.ImageResult) -> None:
            rows.append(json.dumps(result.metrics) + "\n")
            record(result)
            if options.save_predictions:
                self._save_picture(result)

        dataset = builders.build_evaluation_dataset(self.options, self.source)
        with diagnosis.explain_errors(self.source, with_panoptic=False):
            metrics = self._evaluator.evaluate(dataset, on_image)
        metrics = {"step": step, **metrics}
        detailed = options.detailed_ap_metrics
        print(evaluation_metrics.format_metrics(metrics, self.source.info.label_space, detailed), flush=True)
        files.write_atomically(os.path.join(self.folder, log.PER_IMAGE_FILE), "".join(rows))
        path = os.path.join(self.folder, log.METRICS_FILE)
        files.write_atomically(path, json.dumps(metrics, indent=1))
        details.write(record.details(metrics, self._facts(), config.to_text(self.options)), self.folder)
        log.write_scalars(self.folder, step, evaluation_metrics.scalars(metrics, detailed))
        return metrics

    def _facts(self) -> dict[str, str]:
        """What the report tells of the run besides its metrics."""
        backbone, data = self.options.model_options.backbone, self.options.eval_dataset_options
        parameters = sum(math.prod(weight.shape) for weight in self.model.trainable_weights)
        return {
            "Experiment": self.options.experiment_name,
            "Config": FLAGS.config_file,
            "Backbone": f"{backbone.name}, flavor {backbone.flavor!r}, output stride {backbone.output_stride}",
            "Parameters": f"{parameters:,}",
            "Evaluated on": ", ".join(data.file_pattern),
            "Input": f"{' x '.join(map(str, data.crop_size))} pixels, {self._evaluator.multi_scale}",
            "Software": f"deeplab-axial {__version__}, TensorFlow {tf.__version__}, Python {platform.python_version()}",
        }

    def _save_picture(self, result: evaluator.ImageResult) -> None:
        """Writes image | ground truth | prediction of the first evaluator_options.num_vis_samples images."""
        options = self.options.evaluator_options
        if self._pictures == options.num_vis_samples:
            return
        self._pictures += 1
        height, width = result.prediction.shape
        image = Image.fromarray(np.clip(result.image, 0, 255).astype(np.uint8)).resize((width, height))
        space = self.source.info.label_space
        picture = visualization.triptych(np.asarray(image), result.ground_truth, result.prediction, space)
        folder = options.override_save_dir or os.path.join(self.folder, "vis")
        name = os.path.splitext(os.path.basename(result.name))[0]
        visualization.save_png(os.path.join(folder, f"{name}.png"), picture)


def restore_for_inference(model: PanopticDeepLab, model_dir: str, checkpoint: str | None = None) -> int:
    """Restores the weights of a checkpoint (the newest of the folder by default) and returns its step."""
    path = checkpoint or checkpoints.latest(model_dir)
    if path is None:
        raise InputError(f"--model_dir={model_dir} holds no checkpoint. Train first: deeplab-axial train --mode=train.")
    step = tf.Variable(0, dtype=tf.int64)
    checkpoints.restore(path, {"model": model, "step": step}, "--checkpoint" if checkpoint else "--model_dir")
    return int(step.numpy())


def read_metrics(model_dir: str, step: int) -> dict | None:
    """The metrics of the last evaluation, if it was of this step."""
    path = os.path.join(model_dir, log.METRICS_FILE)
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8") as file:
        metrics = json.load(file)
    return metrics if metrics["step"] == step else None
