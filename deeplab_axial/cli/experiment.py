# SPDX-License-Identifier: Apache-2.0
"""What the commands that take a config share: its model, its evaluation and its checkpoints."""

import dataclasses
import itertools
import json
import math
import os
import platform

import numpy as np
import tensorflow as tf
from absl import flags
from PIL import Image

from deeplab_axial import __version__, builders, config, files, visualization
from deeplab_axial.cli import config_differences, folders
from deeplab_axial.cli.config_differences import Differences
from deeplab_axial.data import diagnosis
from deeplab_axial.data.label_space import differences, tell
from deeplab_axial.data.pipeline import Source
from deeplab_axial.errors import InputError
from deeplab_axial.models.classifier import Classifier
from deeplab_axial.models.panoptic_deeplab import PanopticDeepLab
from deeplab_axial.protos import config_pb2
from deeplab_axial.report import details, recorder
from deeplab_axial.training import (
    averaging,
    checkpoints,
    classification,
    evaluation_metrics,
    evaluator,
    label_space_file,
    log,
)

FLAGS = flags.FLAGS


@dataclasses.dataclass
class Evaluation:
    """Evaluates checkpoints and files the results in the model's folder.

    `strategy` shares the work out if given; `differs` tells in which fields the config is not the run's.
    """

    options: config_pb2.ExperimentOptions
    model: PanopticDeepLab
    source: Source
    folder: str
    strategy: tf.distribute.Strategy | None = None
    differs: Differences = dataclasses.field(default_factory=dict)

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
        options = self.options.evaluator_options
        if options.save_predictions and options.override_save_dir:  # the run's own folder of pictures is ours
            folder = self._picture_folder()
            pictures = (os.path.join(folder, name) for name in files.names(folder) if name.endswith(".png"))
            folders.refuse_foreign(pictures, "set=evaluator_options.override_save_dir")

    def run(self, step: int) -> dict:
        """Evaluates the model as it is and prints the metrics.

        Writes log.METRICS_FILE, log.PER_IMAGE_FILE, what the report needs, and TensorBoard scalars and pictures.
        """
        options = self.options.evaluator_options
        pictures: dict[str, np.ndarray] = {}
        rows: list[str] = []
        record = recorder.Recorder(self.source.info.label_space)

        def on_image(result: evaluator.ImageResult) -> None:
            rows.append(json.dumps(result.metrics) + "\n")
            record(result)
            if len(pictures) < options.num_vis_samples:
                picture = self._draw(result)
                pictures[result.name] = visualization.shrink(picture, log.MAX_PICTURE_WIDTH)
                if options.save_predictions:
                    self._save_picture(result.name, picture)

        dataset = builders.build_evaluation_dataset(self.options, self.source)
        with diagnosis.explain_errors(self.source, with_panoptic=False):
            metrics = self._evaluator.evaluate(dataset, on_image)
        metrics = {
            "step": step,
            **_counted(self.options, self.source, metrics),
            **metrics,
            **({log.DIFFERS: self.differs} if self.differs else {}),
        }
        detailed = options.detailed_ap_metrics
        with files.explained(self.folder):
            files.write_atomically(os.path.join(self.folder, log.PER_IMAGE_FILE), "".join(rows))
            files.write_atomically(os.path.join(self.folder, log.METRICS_FILE), json.dumps(metrics, indent=1))
            details.write(record.details(metrics, self._facts(), config.to_text(self.options)), self.folder)
            log.write_evaluation(self.folder, step, evaluation_metrics.scalars(metrics, detailed), pictures)
        print(evaluation_metrics.format_metrics(metrics, self.source.info.label_space, detailed), flush=True)
        return metrics

    def _facts(self) -> dict[str, str]:
        """What the report tells of the run besides its metrics."""
        backbone, data = self.options.model_options.backbone, self.options.eval_dataset_options
        changed = "; ".join(itertools.chain(*self.differs.values()))
        parameters = sum(math.prod(weight.shape) for weight in self.model.trainable_weights)
        return {
            "Experiment": self.options.experiment_name,
            "Config": FLAGS.config_file,
            "Backbone": f"{backbone.name}, flavor {backbone.flavor!r}, output stride {backbone.output_stride}",
            "Parameters": f"{parameters:,}",
            "Evaluated on": ", ".join(data.file_pattern),
            "Input": f"{' x '.join(map(str, data.crop_size))} pixels, {self._evaluator.multi_scale}",
            "Software": f"deeplab-axial {__version__}, TensorFlow {tf.__version__}, Python {platform.python_version()}",
            **({"Differs from the run's config": changed} if changed else {}),
        }

    def _draw(self, result: evaluator.ImageResult) -> np.ndarray:
        """Image | ground truth | prediction, uint8 [H, W, 3]."""
        height, width = result.prediction.shape
        image = Image.fromarray(np.clip(result.image, 0, 255).astype(np.uint8)).resize((width, height))
        space = self.source.info.label_space
        return visualization.triptych(np.asarray(image), result.ground_truth, result.prediction, space)

    def _picture_folder(self) -> str:
        return self.options.evaluator_options.override_save_dir or os.path.join(self.folder, "vis")

    def _save_picture(self, image_name: str, picture: np.ndarray) -> None:
        folder = self._picture_folder()
        name = os.path.splitext(os.path.basename(image_name))[0]
        with files.explained(folder):
            visualization.save_png(os.path.join(folder, f"{name}.png"), picture)


@dataclasses.dataclass
class ClassificationEvaluation:
    """As `Evaluation`, of a classifier."""

    options: config_pb2.ExperimentOptions
    model: Classifier
    source: Source
    folder: str
    strategy: tf.distribute.Strategy | None = None
    differs: Differences = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        self._evaluator = classification.ClassificationEvaluator(
            self.model,
            self.source.info.label_space,
            self.source.num_records,
            self.options.evaluator_options.use_tf_function,
            self.strategy,
        )

    def run(self, step: int) -> dict:
        """Evaluates the model as it is and prints the accuracy.

        Writes log.METRICS_FILE, log.PER_IMAGE_FILE and TensorBoard scalars.
        """
        rows: list[str] = []
        dataset = builders.build_evaluation_dataset(self.options, self.source)
        with diagnosis.explain_errors(self.source, with_panoptic=False):
            metrics = self._evaluator.evaluate(dataset, lambda row: rows.append(json.dumps(row) + "\n"))
        metrics = {
            "step": step,
            **_counted(self.options, self.source, metrics),
            **metrics,
            **({log.DIFFERS: self.differs} if self.differs else {}),
        }
        with files.explained(self.folder):
            files.write_atomically(os.path.join(self.folder, log.PER_IMAGE_FILE), "".join(rows))
            files.write_atomically(os.path.join(self.folder, log.METRICS_FILE), json.dumps(metrics, indent=1))
            log.write_evaluation(self.folder, step, classification.scalars(metrics))
        print(classification.format_accuracy(metrics, self.source.info.label_space), flush=True)
        return metrics


def _counted(options: config_pb2.ExperimentOptions, source: Source, metrics: dict) -> dict[str, int]:
    """Of how many images these metrics could be, for log.METRICS_FILE.

    Raises:
      InputError: the files held another number of records than when they were opened.
    """
    expected = builders.expected_images(options, source)
    if metrics["num_images"] != expected:
        raise InputError(
            f"The records of eval_dataset_options have changed while they were read: {expected} images were expected. "
            f"Received: {metrics['num_images']}. Evaluate again."
        )
    return {"num_images_in_data_set": source.info.num_images}


AnyEvaluation = Evaluation | ClassificationEvaluation


def make_evaluation(
    options: config_pb2.ExperimentOptions,
    model: PanopticDeepLab | Classifier,
    source: Source,
    folder: str,
    strategy: tf.distribute.Strategy | None = None,
    differs: Differences | None = None,
) -> AnyEvaluation:
    """The evaluation of the config's kind of model."""
    kind = ClassificationEvaluation if isinstance(model, Classifier) else Evaluation
    return kind(options, model, source, folder, strategy, differs or {})


def restore_for_inference(
    model: PanopticDeepLab | Classifier, model_dir: str, checkpoint: str | None = None, flag: str = "--checkpoint"
) -> int:
    """Restores a checkpoint's weights for inference (the folder's newest by default) and returns its step.

    `flag` is what a given checkpoint comes from, for messages.
    """
    path = checkpoint or checkpoints.latest(model_dir)
    if path is None:
        raise InputError(f"--model_dir={model_dir} holds no checkpoint. Train first: deeplab-axial train --mode=train.")
    return averaging.restore_for_inference(path, model, flag if checkpoint else "--model_dir")


def check_classes(model_dir: str, source: Source, checkpoint: str | None = None) -> None:
    """Refuses evaluation data whose class ids stand for other classes than those that the model was trained on.

    Args:
      model_dir: the model's folder; an older one tells no classes, and is taken as it is.
      source: of eval_dataset_options.
      checkpoint: another one than those of the folder; what lies beside it counts.

    Raises:
      InputError: names the ids that differ.
    """
    folder = os.path.dirname(checkpoint) if checkpoint else model_dir
    trained = label_space_file.read(folder)
    found = trained and differences(trained, source.info.label_space)
    if found:
        path = os.path.join(folder, label_space_file.FILE_NAME)
        raise InputError(
            "eval_dataset_options.file_pattern must name records with the classes of the model. Received: "
            f"{tell(found, 'in the model', 'in the records')} ({path}; {os.path.dirname(source.files[0])}). Convert "
            f"the records again with --label_space={path}; where they mean the same classes, name these as the model "
            "does, in the section label_space."
        )


def read_metrics(model_dir: str, step: int, differs: Differences) -> dict | None:
    """The metrics of the last evaluation, if it was of this step and of a config that predicts the same.

    Args:
      model_dir: folder of the run.
      step: of the checkpoint.
      differs: in which fields the present config is not the run's.
    """
    metrics = log.read_metrics(model_dir)
    if not metrics or metrics["step"] != step:
        return None
    before = config_differences.of_an_export(metrics.get(log.DIFFERS, {}))
    return metrics if before == config_differences.of_an_export(differs) else None
