# SPDX-License-Identifier: Apache-2.0
"""Evaluation of classification: every image once, on one replica or two, against predictions made image by image."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from deeplab_axial import keys
from deeplab_axial.data.label_space import LabelClass, LabelSpace
from deeplab_axial.errors import InputError
from deeplab_axial.training import classification

NUM_CLASSES = 7
SPACE = LabelSpace(
    "seven", tuple(LabelClass(i, f"class {i}", False, (i, 0, 0), i) for i in range(NUM_CLASSES)), NUM_CLASSES, 7, 2
)


class _Classifier(tf_keras.Model):
    """Scores from the mean colour of an image."""

    def __init__(self):
        super().__init__()
        initializer = tf_keras.initializers.RandomNormal(seed=1)
        self.head = tf_keras.layers.Dense(NUM_CLASSES, kernel_initializer=initializer)
        self(tf.zeros([1, 4, 4, 3]))

    def call(self, images, training=False, seed=None):
        del training, seed
        return {keys.CLASS_LOGITS: self.head(tf.reduce_mean(images, [1, 2]))}


def images_and_labels(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.uniform(0, 255, [count, 4, 4, 3]).astype(np.float32), rng.integers(0, NUM_CLASSES, count)


def batches(images: np.ndarray, labels: np.ndarray, batch_size: int) -> tf.data.Dataset:
    """As `data.classification.evaluation_dataset` gives them: copies of the first image fill up the last batch."""
    count, missing = len(labels), -len(labels) % batch_size
    places = np.r_[np.arange(count), np.zeros(missing, int)]
    is_real = np.arange(count + missing) < count
    return tf.data.Dataset.from_tensor_slices(
        {
            keys.IMAGE: images[places],
            keys.IMAGE_NAME: np.where(is_real, [f"{i}.jpg" for i in places], ""),
            keys.CLASS_TARGET: np.where(is_real, labels[places], -1).astype(np.int32),
            keys.IS_REAL: is_real,
        }
    ).batch(batch_size, drop_remainder=True)


def evaluate(strategy: tf.distribute.Strategy, batch_size: int, count: int = 11, use_tf_function: bool = True):
    """Metrics and rows of a network as it starts."""
    with strategy.scope():
        model = _Classifier()
    rows = []
    evaluator = classification.ClassificationEvaluator(model, SPACE, count, use_tf_function, strategy)
    metrics = evaluator.evaluate(batches(*images_and_labels(count), batch_size), rows.append)
    return metrics, rows


@pytest.mark.parametrize("use_tf_function", [True, False])
@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_every_image_counts_once(batch_size, use_tf_function):
    metrics, rows = evaluate(tf.distribute.get_strategy(), batch_size, use_tf_function=use_tf_function)
    images, labels = images_and_labels(11)
    logits = _Classifier()(images)[keys.CLASS_LOGITS].numpy()
    order = np.argsort(-logits, axis=1)
    hits = order == labels[:, None]
    assert metrics["num_images"] == 11
    assert metrics["accuracy"]["top1"] == pytest.approx(hits[:, 0].mean())
    assert metrics["accuracy"]["top5"] == pytest.approx(hits[:, :5].any(1).mean())
    expected = [
        {"name": f"{i}.jpg", "label": int(labels[i]), "predicted": int(order[i, 0]), "rank": int(hits[i].argmax())}
        for i in range(11)
    ]
    assert rows == expected
    json.dumps([metrics, rows])


@pytest.mark.slow
def test_two_replicas_measure_what_one_measures():
    """Of eleven images in batches of three: shares of two, of which one is filled up."""
    command = [sys.executable, "-m", "tests.training.test_classification"]
    folder = pathlib.Path(__file__).parents[2]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert result.returncode == 0, result.stderr[-3000:]
    one, two = (json.loads(line) for line in result.stdout.splitlines()[-2:])
    assert one[0]["num_images"] == 11
    assert two == one


def _message(labels=None, scale: float = 1.0) -> str:
    images, own = images_and_labels(3)
    evaluator = classification.ClassificationEvaluator(_Classifier(), SPACE, 3)
    with pytest.raises(InputError) as error:
        evaluator.evaluate(batches(images * scale, own if labels is None else np.array(labels), 2))
    return str(error.value)


def test_what_cannot_be_measured_is_named():
    assert _message([1, 2, -1]).startswith("Image '2.jpg' has no class: evaluate on a split with labels.")
    assert "Image '1.jpg' must be of a class of the label space 'seven', which has 7. Received: 9" in _message(
        [1, 9, 2]
    )
    assert "The scores of image '0.jpg' are not finite" in _message(scale=np.inf)


def test_the_table():
    metrics, _ = evaluate(tf.distribute.get_strategy(), 4)
    metrics["accuracy"] |= {"top1": 0.5, "top5": 0.975}
    metrics["accuracy"]["per_class"]["0"] = None
    lines = classification.format_accuracy({"step": 3, **metrics}, SPACE).splitlines()
    assert lines[0] == "Accuracy in percent; step 3, 11 images"
    assert [line.split() for line in lines[1:4]] == [["top-1", "50.0"], ["top-5", "97.5"], ["class", "0", "-"]]
    assert len({len(line) for line in lines[1:]}) == 1
    assert len(lines) == 3 + NUM_CLASSES
    classes = tuple(LabelClass(i, str(i), False, (0, 0, 0), i) for i in range(100))
    many = LabelSpace("many", classes, 100, 100, 2)
    assert len(classification.format_accuracy(metrics, many).splitlines()) == 3


def test_the_scalars():
    metrics, _ = evaluate(tf.distribute.get_strategy(), 4)
    assert set(classification.scalars(metrics)) == {"top1", "top5"}
    metrics["accuracy"]["top5"] = None
    assert classification.scalars(metrics) == {"top1": metrics["accuracy"]["top1"]}


def main() -> None:
    """Prints the results of one device and of two replicas as JSON, a line each."""
    device = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(device, [tf.config.LogicalDeviceConfiguration()] * 2)
    for strategy in (tf.distribute.OneDeviceStrategy("/cpu:0"), tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])):
        print(json.dumps(evaluate(strategy, 3)))


if __name__ == "__main__":
    main()
