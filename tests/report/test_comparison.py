# SPDX-License-Identifier: Apache-2.0
"""The page on two runs side by side."""

import dataclasses

import pytest

from deeplab_axial.errors import InputError
from deeplab_axial.report import comparison
from tests.report.runs import HISTORY, SPACE, Page, make_run


@pytest.fixture(scope="module")
def runs():
    first = make_run("runs/a", seed=1, amount=0.5, facts={"Backbone": "s", "Only A": "1"})
    return first, make_run("runs/b", seed=2, amount=0.1, history=HISTORY[:30], facts={"Backbone": "l"})


@pytest.fixture(scope="module")
def text(runs, tmp_path_factory):
    return _write(tmp_path_factory.mktemp("page"), *runs)


def _write(tmp_path, first, second):
    path = tmp_path / "report.html"
    comparison.write_comparison(path, "Two runs", first, second)
    return path.read_text(encoding="utf-8")


def _shown(first, second):
    signed = f"{100 * (second - first):+.1f}".replace("-", "\u2212")
    return [f"{100 * first:.1f}", f"{100 * second:.1f}", signed]


def test_the_page_is_whole(text):
    parsed = Page(text)
    assert len(set(parsed.ids)) == len(parsed.ids)
    links = {attributes["href"][1:] for tag, attributes in parsed.tags if tag == "a"}
    assert links == {"classes", "images", "confusion", "sizes", "pictures", "training", "facts"}
    for _, attributes in parsed.tags:
        for name in ("src", "href", "xlink:href"):
            assert attributes.get(name, "#").startswith(("#", "data:image/"))


def test_metrics_stand_side_by_side_with_their_difference(runs, text):
    rows = Page(text).rows
    first, second = (run.details.metrics for run in runs)
    pq = [metrics["panoptic_quality"]["all"]["pq"] for metrics in (first, second)]
    assert pq[1] > pq[0] + 0.1
    assert ["PQ", *_shown(*pq)] in rows
    assert ["mIoU", *_shown(first["mean_iou"]["mean"], second["mean_iou"]["mean"])] in rows
    (car,) = [row for row in rows if row[:2] == ["car", "thing"]]
    assert car[2:5] == _shown(*(m["panoptic_quality"]["per_class"]["2"]["pq"] for m in (first, second)))
    (train,) = [row for row in rows if row[:2] == ["train", "thing"]]
    assert set(train[2:]) == {"\u2013"}


def test_signs_have_colours(text):
    colored = [attributes for tag, attributes in Page(text).tags if tag == "td" and attributes.get("class") == "good"]
    assert colored
    assert all(float(attributes["data-v"]) != 0 for attributes in colored)


def _replace(run, name=None, **changes):
    return run._replace(name=name or run.name, details=dataclasses.replace(run.details, **changes))


def test_two_equal_runs_differ_in_nothing(runs, tmp_path):
    text = _write(tmp_path, runs[0], _replace(runs[0], name="runs/c"))
    parsed = Page(text)
    assert not [a for tag, a in parsed.tags if tag == "td" and a.get("class") in ("good", "bad")]
    assert "<h3>B is worse" not in text
    assert "<h3>B is better" not in text
    assert "The configs are the same." in text
    assert 'class="differs"' not in text


def test_images_are_listed_by_their_change(runs):
    images = comparison._images(*runs)
    assert len(images) == 20
    by_name = [{image["name"]: image["pq"] for image in run.details.images} for run in runs]
    for image in images:
        assert image["pq"] == (by_name[0][image["name"]], by_name[1][image["name"]])


def test_the_same_images_are_shown_next_to_each_other(runs, text):
    kept = [{p.name for p in run.details.pictures} for run in runs]
    samples = {p.name for p in runs[0].details.pictures if "sample" in p.kinds}
    assert samples <= kept[0] & kept[1]
    pictures = [attributes["alt"] for tag, attributes in Page(text).tags if tag == "img"]
    expected = [
        f"{title} of {name}"
        for name in kept[0] & kept[1]
        for title in ("Image", "Ground truth", "Prediction of A", "Prediction of B")
    ]
    assert sorted(pictures) == sorted(expected)


def test_differences_of_facts_and_configs_are_shown(text):
    rows = Page(text).rows
    assert ["Backbone", "s", "l"] in rows
    assert ["Only A", "1", ""] in rows
    assert "-experiment_name: &#34;runs/a&#34;</span>" in text
    assert "+experiment_name: &#34;runs/b&#34;</span>" in text


def test_confusions_are_compared_by_share(runs):
    confusion = runs[0].details.confusion.copy()
    confusion[:] = 0
    confusion[0, :2] = 90, 10
    other = confusion.copy()
    other[0, :2] = 4, 6
    found = comparison._confusions(*(_replace(run, confusion=c) for run, c in zip(runs, (confusion, other))))
    assert [(c["truth"], c["predicted"], c["share"]) for c in found] == [("sky & clouds", "car", (0.1, 0.6))]


def test_what_makes_runs_incomparable_is_said(runs, tmp_path):
    other = make_run("runs/d", names=tuple(f"image_{n:02}" for n in range(15, 40)))
    flipped = {**other.details.metrics, "inference": {"scales": [1.0], "flip": True}}
    text = _write(tmp_path, runs[0], _replace(other, metrics=flipped))
    assert "on different images: 20 and 25, of which 5 have the same name" in text
    assert "at different scales, or one with mirrored images" in text


def test_runs_without_a_common_image(runs, tmp_path):
    other = make_run("runs/d", names=tuple(f"other_{n}" for n in range(8)), history=[])
    text = _write(tmp_path, runs[0], other)
    assert "of which 0 have the same name" in text
    assert 'id="pictures"' not in text
    assert 'id="images"' not in text


def test_other_classes_are_refused(runs, tmp_path):
    car = dataclasses.replace(SPACE.classes[1], name="lorry")
    space = dataclasses.replace(SPACE, name="yard", classes=(SPACE.classes[0], car, *SPACE.classes[2:]))
    with pytest.raises(
        InputError,
        match=r"same classes.*runs/a of 'street' with 4.*'yard'.*id 2 is car in the first and lorry in the sec",
    ):
        _write(tmp_path, runs[0], _replace(runs[1], label_space=space))
    assert not list(tmp_path.iterdir())


def test_other_colours_are_no_other_classes(runs, tmp_path):
    car = dataclasses.replace(SPACE.classes[1], color=(1, 2, 3))
    space = dataclasses.replace(SPACE, classes=(SPACE.classes[0], car, *SPACE.classes[2:]))
    assert "B is better" in _write(tmp_path, runs[0], _replace(runs[1], label_space=space))
