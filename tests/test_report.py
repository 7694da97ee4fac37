# SPDX-License-Identifier: Apache-2.0
import base64
import copy
import html.parser
import io
import re

import numpy as np
import pytest
from PIL import Image

from deeplab_axial import report
from deeplab_axial.data.label_space import LabelClass, LabelSpace
from deeplab_axial.errors import InputError

SPACE = LabelSpace(
    name="street",
    classes=(
        LabelClass(0, "sky & clouds", False, (70, 130, 180), 10),
        LabelClass(1, "car", True, (0, 0, 142), 13),
        LabelClass(2, "train", True, (0, 80, 100), 14),
    ),
    num_classes=3,
    ignore_label=255,
    label_divisor=1000,
)
METRICS = {
    "step": 12000,
    "num_images": 500,
    "panoptic_quality": {
        "all": {"pq": 0.6284, "sq": 0.811, "rq": 0.75, "n": 2},
        "things": {"pq": 0.5, "sq": 0.8, "rq": 0.625, "n": 1},
        "stuff": {"pq": 0.7568, "sq": 0.822, "rq": 0.875, "n": 1},
        "per_class": {
            "0": {"pq": 0.7568, "sq": 0.822, "rq": 0.875, "iou_sum": 9.1, "tp": 1234, "fp": 2, "fn": 3},
            "1": {"pq": 0.5, "sq": 0.8, "rq": 0.625, "tp": 4, "fp": 5, "fn": 6},
            "2": {"pq": 0.0, "sq": 0.0, "rq": 0.0, "tp": 0, "fp": 0, "fn": 0},
        },
    },
    "mean_iou": {"mean": 0.7771, "per_class": {"0": 0.9, "1": 0.6543, "2": None}},
}
HISTORY = [
    {"step": s, "learning_rate": 1e-3, "images_per_second": 9.0, "total_loss": 3.0 / s, "semantic_loss": 2.0 / s}
    for s in range(10, 1010, 10)
]


class _Page(html.parser.HTMLParser):
    """Tags with their attributes, and the cells of each table row."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.rows, self.ids, self._cell = [], [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag == "tr":
            self.rows.append([])
        self._cell = tag in ("td", "th") or (self._cell and tag == "span")
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self._cell = self._cell and tag not in ("td", "th")

    def handle_data(self, data):
        if self._cell:
            self.rows[-1][-1] += data.strip()

    def count(self, tag):
        return sum(t == tag for t, _ in self.tags)


def _write(tmp_path, metrics=METRICS, history=(), overlays=(), facts=None, title="A run"):
    path = tmp_path / "out" / "report.html"
    report.write_report(path, title, metrics, list(history), list(overlays), facts or {}, SPACE)
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    return path.read_text(encoding="utf-8")


def test_tables_show_percentages_and_counts(tmp_path):
    rows = _Page(_write(tmp_path)).rows
    assert ["All", "62.8", "81.1", "75.0", "2"] in rows
    assert ["Things", "50.0", "80.0", "62.5", "1"] in rows
    assert ["Stuff", "75.7", "82.2", "87.5", "1"] in rows
    assert ["sky & clouds", "stuff", "75.7", "82.2", "87.5", "1,234", "2", "3", "90.0"] in rows
    assert ["car", "thing", "50.0", "80.0", "62.5", "4", "5", "6", "65.4"] in rows


def test_absent_classes_show_dashes_rather_than_zeros(tmp_path):
    assert ["train", "thing", "–", "–", "–", "0", "0", "0", "–"] in _Page(_write(tmp_path)).rows  # noqa: RUF001


def test_head_and_swatches(tmp_path):
    text = _write(tmp_path)
    assert "step 12,000 on 500 images" in text
    assert re.search(r"mIoU</span><b>77\.7", text)
    assert "background: rgb(70 130 180)" in text


def test_a_run_without_evaluation(tmp_path):
    text = _write(tmp_path, metrics=None, history=HISTORY)
    assert "Not evaluated yet" in text
    assert "Panoptic quality" not in text
    assert _Page(text).count("svg") == 4


def test_nothing_is_loaded_from_elsewhere(tmp_path):
    overlays = [("one", np.zeros((20, 30, 3), np.uint8))]
    page = _Page(_write(tmp_path, history=HISTORY, overlays=overlays, facts={"a": "b"}))
    for tag, attributes in page.tags:
        assert tag not in ("link", "script", "iframe")
        for name in ("src", "href", "xlink:href"):
            assert attributes.get(name, "#").startswith(("#", "data:image/jpeg;base64,"))
        assert not re.search(r"url\((?!#)", attributes.get("style", "") + attributes.get("clip-path", ""))


def test_ids_are_unique_on_the_page(tmp_path):
    ids = _Page(_write(tmp_path, history=HISTORY)).ids
    assert ids
    assert len(ids) == len(set(ids))


def test_text_is_escaped(tmp_path):
    evil = '<script>alert("1")</script>'
    text = _write(
        tmp_path,
        title=evil,
        facts={evil: evil},
        overlays=[(evil, np.zeros((4, 4, 3), np.uint8))],
        history=[{"step": 1, "total_loss": 1.0, f"$\\frac{evil}": 2.0}],
    )
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 6
    assert _Page(text).count("script") == 0


def test_curves_come_in_order_and_every_number_has_one(tmp_path):
    history = [{"step": 1, "learning_rate": 1e-3, "own_term": 1, "total_loss": 2.0, "note": "text", "flag": True}]
    text = _write(tmp_path, history=history)
    captions = re.findall(r"<figcaption>([^<]+)<span", text)
    assert captions == ["total loss", "own term", "learning rate"]


def test_curves_take_the_colour_of_the_page(tmp_path):
    svg = re.search(r"<svg.*?</svg>", _write(tmp_path, history=HISTORY), re.DOTALL).group()
    assert "currentColor" in svg
    assert "#ffffff" not in svg


def test_non_finite_values_are_told(tmp_path):
    history = [*HISTORY, {"step": 2000, "total_loss": float("nan")}, {"step": 2010, "total_loss": float("inf")}]
    text = _write(tmp_path, history=history)
    assert "2 of 102 values are not finite, the first at step 2000" in text
    assert "last inf" in text
    text = _write(tmp_path, history=[{"step": 1, "total_loss": float("nan")}])
    assert "1 of 1 values are not finite" in text


def test_the_later_of_two_entries_with_one_step_counts(tmp_path):
    history = [{"step": 5, "total_loss": 1.0}, {"step": 6, "total_loss": 7.0}, {"step": 5, "total_loss": 2.0}]
    (curve,) = report._curves(history)
    assert curve.last == "7"
    (curve,) = report._curves([history[0], history[2]])
    assert curve.last == "2"


def test_the_same_run_gives_the_same_page_and_long_histories_stay_small(tmp_path):
    rng = np.random.default_rng(0)
    history = [{"step": s, "total_loss": v} for s, v in enumerate(rng.random(50_000).tolist())]
    text = _write(tmp_path, history=history)
    assert text == _write(tmp_path, history=history)
    assert len(text) < 100_000


def test_moving_mean_matches_a_slow_reference():
    values = np.random.default_rng(1).random(20)
    expected = [values[max(0, i - 3) : i + 4].mean() for i in range(20)]
    np.testing.assert_allclose(report._moving_mean(values, 3), expected)


def test_pictures_are_inside_the_page(tmp_path):
    y, x = np.mgrid[:40, :60]
    image = np.stack([4 * x, 6 * y, 0 * x], -1).astype(np.uint8)
    page = _Page(_write(tmp_path, overlays=[("caption", image)]))
    (attributes,) = [a for tag, a in page.tags if tag == "img"]
    content = base64.b64decode(attributes["src"].split(",")[1])
    decoded = np.array(Image.open(io.BytesIO(content)))
    assert np.abs(decoded.astype(int) - image).mean() < 4
    with pytest.raises(ValueError, match="uint8"):
        _write(tmp_path, overlays=[("caption", image.astype(np.float32))])


@pytest.mark.parametrize(
    ("path", "named"),
    [
        (("panoptic_quality",), "panoptic_quality"),
        (("panoptic_quality", "things", "rq"), "panoptic_quality.things.rq"),
        (("panoptic_quality", "per_class", "1", "fp"), "panoptic_quality.per_class.1.fp"),
        (("mean_iou", "mean"), "mean_iou.mean"),
        (("num_images",), "num_images"),
    ],
)
def test_missing_fields_are_named(tmp_path, path, named):
    metrics = copy.deepcopy(METRICS)
    inner = metrics
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    with pytest.raises(InputError, match=re.escape(repr(named))):
        _write(tmp_path, metrics=metrics)
    assert not (tmp_path / "out").exists()


def test_classes_of_another_label_space_are_refused(tmp_path):
    metrics = copy.deepcopy(METRICS)
    metrics["mean_iou"]["per_class"]["77"] = 0.5
    with pytest.raises(InputError, match=r"'street'.*'77'"):
        _write(tmp_path, metrics=metrics)


def test_history_without_steps_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"'step'.*entry 1"):
        _write(tmp_path, history=[{"step": 1, "total_loss": 1.0}, {"total_loss": 1.0}])
