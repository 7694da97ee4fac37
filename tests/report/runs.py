# SPDX-License-Identifier: Apache-2.0
"""Small evaluations: random maps with noise, measured and recorded as an evaluation does it."""

import html.parser

import numpy as np

from deeplab_axial.data.label_space import LabelClass, LabelSpace
from deeplab_axial.report.page import Run
from deeplab_axial.report.recorder import Recorder
from deeplab_axial.training.evaluation_metrics import EvaluationMetrics, MetricOptions
from deeplab_axial.training.evaluator import ImageResult

SPACE = LabelSpace(
    name="street",
    classes=(
        LabelClass(0, "sky & clouds", False, (70, 130, 180), 10),
        LabelClass(2, "car", True, (0, 0, 142), 13),
        LabelClass(3, "train", True, (0, 80, 100), 14),
        LabelClass(5, "road", False, (128, 64, 128), 15),
    ),
    num_classes=6,
    ignore_label=255,
    label_divisor=1000,
)
HISTORY = [
    {"step": s, "learning_rate": 1e-3, "images_per_second": 9.0, "total_loss": 3.0 / s, "semantic_loss": 2.0 / s}
    for s in range(10, 1010, 10)
]
SIZE = (40, 60)


def ground_truth(rng: np.random.Generator) -> np.ndarray:
    """Sky over road, with cars, a void corner and, in car number 9, a crowd; never a train."""
    truth = np.full(SIZE, 5000, np.int32)
    truth[: rng.integers(10, 25)] = 0
    for number in range(1, 4):
        y, x, side = rng.integers(0, 25), rng.integers(0, 45), rng.integers(4, 14)
        truth[y : y + side, x : x + side] = 2000 + number
    truth[30:36, 2:12] = 2009
    truth[-5:, -9:] = SPACE.void_id
    return truth


def spoil(truth: np.ndarray, rng: np.random.Generator, amount: float) -> np.ndarray:
    """A prediction: shifted, and some of its segments of another class."""
    predicted = np.roll(truth, rng.integers(0, 1 + round(10 * amount), 2), (0, 1))
    predicted = np.where(predicted == SPACE.void_id, 5000, predicted)
    for segment in np.unique(predicted):
        if rng.random() < amount:
            predicted[predicted == segment] = rng.choice([0, 5000, 2020, SPACE.void_id])
    return predicted.astype(np.int32)


def results(seed: int = 0, names: tuple[str, ...] = (), amount: float = 0.3, heads: bool = True, options=None):
    """The images of an evaluation, and its metrics once all were taken: (generator, EvaluationMetrics)."""
    metrics = EvaluationMetrics(SPACE, options or MetricOptions(instance_ap="coco", deeplab2_panoptic_quality=True))

    def generate():
        # The ground truth does not depend on the seed.
        for number, name in enumerate(names or [f"image_{n:02}" for n in range(20)]):
            rng = np.random.default_rng([seed, number])
            truth = ground_truth(np.random.default_rng(number))
            predicted = spoil(truth, rng, amount)
            ids = np.array([i for i in np.unique(predicted) if i // 1000 == 2], np.int32)
            crowd = np.array([2009], np.int32)
            row = metrics.update(
                name, truth, crowd, predicted, predicted // 1000, ids, rng.random(ids.size).astype(np.float32)
            )
            image = rng.integers(0, 256, (*SIZE, 3)).astype(np.float32)
            outputs = rng.random(SIZE).astype(np.float32), rng.normal(0, 5, (*SIZE, 2)).astype(np.float32)
            read_heads = (lambda outputs=outputs: outputs) if heads else None
            yield ImageResult(name, image, truth, predicted, row, crowd, read_heads)

    return generate(), metrics


def make_run(name: str = "runs/a", num_pictures: int = 3, history=HISTORY, facts=None, **arguments) -> Run:
    """A run that was evaluated; the arguments are those of `results`."""
    images, metrics = results(**arguments)
    recorder = Recorder(SPACE, num_pictures)
    for image in images:
        recorder(image)
    measured = {"step": 12000, "inference": {"scales": [1.0], "flip": False}, **metrics.result()}
    facts = {"Backbone": "axial_deeplab_s"} if facts is None else facts
    return Run(name, recorder.details(measured, facts, f'experiment_name: "{name}"\nseed: 1\n'), list(history))


class Page(html.parser.HTMLParser):
    """Tags with their attributes, and the cells of each table row."""

    VOID = ("meta", "img", "br", "path", "use", "rect")

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.rows, self.ids, self.open, self._cell = [], [], [], [], False
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag not in self.VOID:
            self.open.append(tag)
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag == "tr":
            self.rows.append([])
        self._cell = tag in ("td", "th") or (self._cell and tag == "span")
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"
        self._cell = self._cell and tag not in ("td", "th")

    def handle_data(self, data):
        if self._cell:
            self.rows[-1][-1] += data.strip()

    def count(self, tag: str) -> int:
        return sum(t == tag for t, _ in self.tags)
