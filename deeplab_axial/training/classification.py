# SPDX-License-Identifier: Apache-2.0
"""Evaluation of image classification."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import tensorflow as tf

from deeplab_axial import keys
from deeplab_axial.data.label_space import LabelSpace
from deeplab_axial.errors import InputError
from deeplab_axial.metrics.accuracy import Accuracy
from deeplab_axial.models.classifier import Classifier
from deeplab_axial.progress import Bar
from deeplab_axial.training import evaluation_metrics, replicas

# A table names each class of a data set with no more than so many.
_MAX_ROWS = 30


class ClassificationEvaluator:
    """Predicts and measures.

    Args:
      model: a classifier.
      label_space: of the ground truth; has as many classes as the model.
      num_images: of the data set, for the progress bar.
      use_tf_function: whether the prediction runs as a graph (eagerly otherwise, for debugging).
      strategy: each batch is shared out among its replicas; the variables of the network were made in its scope. None:
        the strategy that is in force, by default one device.
    """

    def __init__(
        self,
        model: Classifier,
        label_space: LabelSpace,
        num_images: int,
        use_tf_function: bool = True,
        strategy: tf.distribute.Strategy | None = None,
    ):
        self.label_space = label_space
        self.num_images = num_images
        self._strategy = strategy = strategy or tf.distribute.get_strategy()

        def predict(images):
            return strategy.run(lambda share: model(share, training=False)[keys.CLASS_LOGITS], (images,))

        self._predict = tf.function(predict, autograph=False) if use_tf_function else predict

    def evaluate(
        self, dataset: Iterable[Mapping[str, tf.Tensor]], on_image: Callable[[dict], None] | None = None
    ) -> dict:
        """Measures the model as it is now.

        Args:
          dataset: batches of `data.classification.evaluation_dataset`.
          on_image: called for each image with {"name", "label", "predicted", "rank"}: class ids, and how many classes
            come before the true one; plain types.

        Returns:
          {"num_images", "accuracy": what `Accuracy.result` returns}.

        Raises:
          InputError: an image has no label or one of another label space, or the scores are not finite.
        """
        accuracy = Accuracy(self.label_space.num_classes)
        with Bar(total=self.num_images, desc="Evaluating", unit="image") as progress:
            for batch in dataset:
                is_real = batch[keys.IS_REAL].numpy()
                names = [name.decode() for name in batch[keys.IMAGE_NAME].numpy()[is_real]]
                labels = batch[keys.CLASS_TARGET].numpy()[is_real]
                self._check(names, labels)
                logits = self._logits(batch[keys.IMAGE])[: len(is_real)][is_real]
                if not np.isfinite(logits).all():
                    name = names[np.flatnonzero(~np.isfinite(logits).all(axis=1))[0]]
                    raise InputError(
                        f"The scores of image {name!r} are not finite: this checkpoint is of a training that diverged. "
                        "Name an earlier one."
                    )
                ranks = accuracy.update(logits, labels)
                if on_image is not None:
                    for row in zip(names, labels.tolist(), logits.argmax(axis=1).tolist(), ranks.tolist()):
                        on_image(dict(zip(("name", "label", "predicted", "rank"), row)))
                progress.update(len(names))
        return {"num_images": accuracy.num_images, "accuracy": accuracy.result()}

    def _logits(self, images: tf.Tensor) -> np.ndarray:
        """[B or a few more, C] of a batch [B, H, W, 3]."""
        outputs = self._predict(*replicas.share_out([images], self._strategy))
        return np.concatenate([part.numpy() for part in self._strategy.experimental_local_results(outputs)])

    def _check(self, names: list[str], labels: np.ndarray) -> None:
        for name, label in zip(names, labels.tolist()):
            if label < 0:
                raise InputError(f"Image {name!r} has no class: evaluate on a split with labels.")
            if label not in self.label_space.by_id:
                raise InputError(
                    f"Image {name!r} must be of a class of the label space {self.label_space.name!r}, which has "
                    f"{len(self.label_space.classes)}. Received: {label}. Convert the data set again."
                )


def format_accuracy(metrics: dict, space: LabelSpace) -> str:
    """The metrics of an evaluation as a table of text; percent.

    Args:
      metrics: of `ClassificationEvaluator.evaluate`, with "step" and "num_images_in_data_set" if they are known.
      space: names the classes.
    """
    accuracy = metrics["accuracy"]
    step = f"step {metrics['step']}, " if "step" in metrics else ""
    lines = [f"Accuracy in percent; {step}{evaluation_metrics.told_images(metrics)}"]
    lines += [f"{name:<20}{_percent(accuracy[key])}" for name, key in (("top-1", "top1"), ("top-5", "top5"))]
    if len(space.classes) <= _MAX_ROWS:
        lines += [f"{f'  {c.name}'[:20]:<20}{_percent(accuracy['per_class'][str(c.id)])}" for c in space.classes]
    return "\n".join([*lines, *evaluation_metrics.told_differences(metrics)])


def scalars(metrics: dict) -> dict[str, float]:
    """Top-1 and top-5 by name, for TensorBoard; what was not measured is left out."""
    return {name: metrics["accuracy"][name] for name in ("top1", "top5") if metrics["accuracy"][name] is not None}


def _percent(value: float | None) -> str:
    return "      -" if value is None else f" {100 * value:6.1f}"
