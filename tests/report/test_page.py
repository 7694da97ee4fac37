# SPDX-License-Identifier: Apache-2.0
"""The page on one run, its curves and pictures."""

import base64
import dataclasses
import hashlib
import io
import re

import numpy as np
import pytest
from PIL import Image

from deeplab_axial import files
from deeplab_axial.errors import InputError
from deeplab_axial.report import curves, drawings, page, pictures
from tests.report.runs import HISTORY, SPACE, Page, make_run


@pytest.fixture(scope="module")
def run():
    return make_run(seed=1)


@pytest.fixture(scope="module")
def text(run, tmp_path_factory):
    return _write(tmp_path_factory.mktemp("page"), run)


def _write(tmp_path, run, title="A run", facts=None):
    path = tmp_path / "out" / "report.html"
    page.write_report(path, title, run, facts)
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    return path.read_text(encoding="utf-8")


def _shown(share):
    return f"{100 * share:.1f}"


def test_the_page_is_whole_and_loads_nothing_from_elsewhere(text):
    parsed = Page(text)
    for tag, attributes in parsed.tags:
        assert tag not in ("link", "iframe")
        for name in ("src", "href", "xlink:href"):
            assert attributes.get(name, "#").startswith(("#", "data:image/"))
        assert not re.search(r"url\((?!#)", attributes.get("style", "") + attributes.get("clip-path", ""))
    assert len(set(parsed.ids)) == len(parsed.ids)
    links = {attributes["href"][1:] for tag, attributes in parsed.tags if tag == "a"}
    assert links == {"classes", "images", "confusion", "sizes", "outputs", "training", "facts"}
    assert links <= set(parsed.ids)
    assert f'<meta name="generator" content="{files.MARK}">' in text


def test_no_script_but_its_own_may_run(text):
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'\"" in text


def test_tables_show_percentages_and_counts(run, text):
    rows = Page(text).rows
    metrics = run.details.metrics
    for name in ("all", "things", "stuff"):
        quality = metrics["panoptic_quality"][name]
        assert [name.capitalize(), *(_shown(quality[key]) for key in ("pq", "sq", "rq")), str(quality["n"])] in rows
    car, iou = metrics["panoptic_quality"]["per_class"]["2"], metrics["mean_iou"]["per_class"]["2"]
    ap = metrics["average_precision"]["per_class"]["2"]["ap"]
    expected = [*(_shown(car[key]) for key in ("pq", "sq", "rq")), *(str(car[key]) for key in ("tp", "fp", "fn"))]
    assert ["car", "thing", *expected, _shown(iou), _shown(ap)] in rows
    worst = min(run.details.images, key=lambda image: image["pq"])
    expected = [*(_shown(worst[key]) for key in ("pq", "sq", "rq")), *(str(worst[key]) for key in ("tp", "fp", "fn"))]
    assert [worst["name"], *expected, _shown(worst["miou"])] in rows
    assert "background: rgb(70 130 180)" in text
    assert "step 12,000 on 20 images" in text
    for name in ("PQ as DeepLab2 measures it", "AP of instances, COCO&#39;s rules", "mIoU"):
        assert name in text


def test_absent_classes_show_dashes_rather_than_zeros(text):
    assert ["train", "thing", "–", "–", "–", "0", "0", "0", "–", "–"] in Page(text).rows  # noqa: RUF001


def test_average_precision_is_left_out_where_nothing_measured_it(run, tmp_path):
    metrics = {name: value for name, value in run.details.metrics.items() if name != "average_precision"}
    text = _write(tmp_path, run._replace(details=dataclasses.replace(run.details, metrics=metrics)))
    assert "AP %" not in text
    assert "AP of" not in text


def test_worst_best_and_sampled_pictures_are_inside(run, text):
    sources = [attributes["src"] for tag, attributes in Page(text).tags if tag == "img"]
    kinds = [p.kinds for p in run.details.pictures]
    samples = sum("sample" in kind for kind in kinds)
    ranked = sum("worst" in kind for kind in kinds) + sum("best" in kind and "worst" not in kind for kind in kinds)
    assert len(sources) == 3 * ranked + 5 * samples + 2
    for source in sources[:3]:
        decoded = Image.open(io.BytesIO(base64.b64decode(source.split(",")[1])))
        assert decoded.size == (600, 400)
    assert text.index("The worst images") < text.index("The best images")
    assert re.search(r"image_\d\d<span class=\"quiet\">PQ \d+\.\d %, SQ .*: \d+ matched, \d+ wrong, \d+ missed", text)


def test_a_network_without_instance_heads_and_a_run_without_history(tmp_path):
    text = _write(tmp_path, make_run(heads=False, history=[]))
    assert "Centre heatmap of" not in text
    assert "Offsets of" not in text
    assert 'id="training"' not in text
    assert "What the network says" in text


def test_an_evaluation_without_any_segment(tmp_path, run):
    empty = dataclasses.replace(
        run.details,
        images=[],
        pictures=[],
        confusion=np.zeros_like(run.details.confusion),
        **{name: getattr(run.details, name)[:0] for name in ("instance_classes", "instance_areas", "instance_ious")},
    )
    text = _write(tmp_path, run._replace(details=empty))
    parsed = Page(text)
    assert parsed.count("img") == 0
    assert "The largest confusions" not in text
    assert 'id="sizes"' not in text


def test_long_tables_of_images_are_cut_and_say_so(run, tmp_path):
    images = [{**run.details.images[0], "name": f"<{i}>", "pq": i / 1000} for i in range(900)]
    text = _write(tmp_path, run._replace(details=dataclasses.replace(run.details, images=images)))
    assert "The 200 worst of 900 images" in text
    assert "&lt;199&gt;" in text
    assert "&lt;200&gt;" not in text


def test_text_is_escaped(tmp_path):
    evil = '<script>alert("1")</script>'
    names = tuple(f"{evil}{i}" for i in range(4))
    run = make_run(evil, names=names, facts={evil: evil}, history=[{"step": 1, "total_loss": 1.0, f"${evil}": 2.0}])
    text = _write(tmp_path, run, title=evil, facts={f"{evil}2": evil})
    assert text.count("<script") == 1
    assert text.count("&lt;script&gt;") >= 10


def test_given_facts_join_those_of_the_run(run, tmp_path):
    rows = Page(_write(tmp_path, run, facts={"Total time": "3 s"})).rows
    assert ["Backbone", "axial_deeplab_s"] in rows
    assert ["Total time", "3 s"] in rows


def test_a_page_that_cannot_be_written_is_told(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be written .*--output"):
        page.write_report(tmp_path / "file" / "report.html", "A run", run)


def test_the_same_run_gives_the_same_page(run, text, tmp_path):
    assert _write(tmp_path, run) == text


def test_curves_come_in_order_and_every_number_has_one():
    history = [{"step": 1, "learning_rate": 1e-3, "own_term": 1, "total_loss": 2.0, "note": "text", "flag": True}]
    assert [curve.name for curve in curves.panels([history])] == ["total loss", "own term", "learning rate"]


def test_curves_take_the_colour_of_the_page():
    for curve in curves.panels([HISTORY]):
        assert "currentColor" in curve.drawing
        assert "#ffffff" not in curve.drawing
        assert "#010203" not in curve.drawing


def test_non_finite_values_are_told():
    history = [*HISTORY, {"step": 2000, "total_loss": float("nan")}, {"step": 2010, "total_loss": float("inf")}]
    curve = curves.panels([history])[0]
    assert curve.notes == ["2 of 102 values are not finite, the first at step 2000"]
    assert curve.last == ["inf"]
    (curve,) = curves.panels([[{"step": 1, "total_loss": float("nan")}]])
    assert curve.notes == ["1 of 1 values are not finite, the first at step 1"]


def test_the_later_of_two_entries_with_one_step_counts():
    history = [{"step": 5, "total_loss": 1.0}, {"step": 6, "total_loss": 7.0}, {"step": 5, "total_loss": 2.0}]
    (curve,) = curves.panels([history])
    assert curve.last == ["7"]
    (curve,) = curves.panels([[history[0], history[2]]])
    assert curve.last == ["2"]


def test_curves_of_two_runs_share_panels():
    panels = curves.panels([HISTORY, [{"step": 3, "own_term": 4.0, "total_loss": 1.0}]])
    lasts = {curve.name: curve.last for curve in panels}
    assert lasts["own term"] == ["\u2013", "4"]
    assert lasts["total loss"] == ["0.003", "1"]
    assert all(color in panels[0].drawing for color in drawings.COLORS)


def test_long_histories_stay_small():
    rng = np.random.default_rng(0)
    (curve,) = curves.panels([[{"step": s, "total_loss": v} for s, v in enumerate(rng.random(50_000).tolist())]])
    assert len(curve.drawing) < 60_000


def test_history_without_steps_is_refused():
    with pytest.raises(InputError, match=r"'step'.*entry 1"):
        curves.panels([[{"step": 1, "total_loss": 1.0}, {"total_loss": 1.0}]])


def test_moving_mean_matches_a_slow_reference():
    values = np.random.default_rng(1).random(20)
    expected = [values[max(0, i - 3) : i + 4].mean() for i in range(20)]
    np.testing.assert_allclose(drawings.moving_mean(values, 3), expected)


def test_dollar_signs_start_no_formula():
    assert "a$x^$" in drawings.svg(lambda axes: None, "any", "a$x^$")


def test_many_points_do_not_swell_a_drawing():
    values = np.random.default_rng(2).random((2, 20_000))
    assert len(drawings.scatter(*values, "a", "b")) < 300_000


def test_a_heatmap_glows_where_it_is_high():
    run = make_run(seed=2)
    picture = next(p for p in run.details.pictures if "sample" in p.kinds)
    heat = np.zeros_like(picture.heatmap)
    heat[20, 30] = 255
    drawn = pictures.draw(dataclasses.replace(picture, heatmap=heat), SPACE, heads=True)
    assert list(drawn) == ["Image", "Ground truth", "Prediction", "Centre heatmap", "Offsets"]
    content = base64.b64decode(drawn["Centre heatmap"].split(",")[1])
    pixels = np.asarray(Image.open(io.BytesIO(content)), int)
    yellow = pixels[..., 0] - pixels[..., 2]
    y, x = np.unravel_index(yellow.argmax(), yellow.shape)
    assert abs(y - 205) < 8
    assert abs(x - 305) < 8
