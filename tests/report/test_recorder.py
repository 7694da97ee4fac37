# SPDX-License-Identifier: Apache-2.0
"""What an evaluation keeps for the report, and its file."""

import json
import re
import zipfile

import numpy as np
import pytest

from deeplab_axial import contact_sheet
from deeplab_axial.data import records
from deeplab_axial.errors import InputError
from deeplab_axial.metrics.mean_iou import MeanIoU
from deeplab_axial.report import details
from deeplab_axial.report.recorder import Recorder
from deeplab_axial.training.evaluator import ImageResult
from tests.report.runs import SIZE, SPACE, make_run, results

ROW = {"name": "a", "pq": 0.5, "sq": 0.5, "rq": 1.0, "tp": 1, "fp": 0, "fn": 0, "miou": 0.5}


def _details(recorder):
    return recorder.details({"step": 1}, {}, "")


def _one(truth, predicted, crowd_ids=(), **row):
    """What is recorded of one image."""
    recorder = Recorder(SPACE)
    truth, predicted = np.asarray(truth, np.int32), np.asarray(predicted, np.int32)
    image = np.zeros((*truth.shape, 3), np.float32)
    recorder(ImageResult("a", image, truth, predicted, {**ROW, **row}, np.asarray(crowd_ids, np.int32)))
    return _details(recorder)


def test_the_confusion_is_that_of_the_mean_iou():
    images, _ = results(seed=1)
    metric = MeanIoU(SPACE.num_classes, SPACE.ignore_label)
    recorder = Recorder(SPACE)
    for result in images:
        recorder(result)
        metric.update(result.ground_truth // 1000, result.prediction // 1000)
    ids = [c.id for c in SPACE.classes]
    np.testing.assert_array_equal(_details(recorder).confusion, metric.confusion[ids][:, [*ids, SPACE.num_classes]])


def _slow_instances(result):
    """(class, area, IoU) of the things of an image, by masks; crowd left out."""
    counted = result.ground_truth != SPACE.void_id
    found = []
    for segment in np.unique(result.ground_truth[counted]):
        if segment // 1000 not in SPACE.thing_ids or segment in result.crowd_ids:
            continue
        mask = result.ground_truth == segment
        ious = [0.0]
        for predicted in np.unique(result.prediction):
            if predicted // 1000 == segment // 1000:
                other = (result.prediction == predicted) & counted
                ious.append((mask & other).sum() / (mask | other).sum())
        found.append((segment // 1000, mask.sum(), max(ious)))
    return found


def test_instances_match_a_slow_reference():
    images, metrics = results(seed=2)
    recorder, expected = Recorder(SPACE), []
    for result in images:
        recorder(result)
        expected += _slow_instances(result)
    found = _details(recorder)
    classes, areas, ious = zip(*expected)
    assert len(areas) > 30
    assert np.ptp(areas) > 50
    np.testing.assert_array_equal(found.instance_classes, classes)
    np.testing.assert_array_equal(found.instance_areas, areas)
    np.testing.assert_allclose(found.instance_ious, ious, rtol=0, atol=1e-12)
    # Recall and the true positives of panoptic quality tell the same.
    per_class = metrics.result()["panoptic_quality"]["per_class"]
    assert (found.instance_ious > details.MATCH_IOU).sum() == sum(per_class[str(i)]["tp"] for i in SPACE.thing_ids)


def test_void_counts_in_no_union_and_void_predictions_match_nothing():
    void = SPACE.void_id
    found = _one([[2001, 2001, void, 2002]], [[2001, 2001, 2001, void]])
    np.testing.assert_array_equal(found.instance_ious, [1.0, 0.0])
    np.testing.assert_array_equal(found.instance_areas, [2, 1])
    assert found.confusion.tolist() == [[0] * 5, [0, 2, 0, 0, 1], [0] * 5, [0] * 5]


def test_an_image_of_crowd_or_of_stuff_has_no_instances():
    assert _one([[2009, 5000]], [[2001, 5000]], crowd_ids=[2009]).instance_areas.size == 0


def test_the_worst_and_the_best_are_kept_in_order_and_nothing_else_grows():
    run = make_run(seed=3, num_pictures=4)
    by_pq = sorted(run.details.images, key=lambda image: image["pq"])
    kept = {kind: [p.name for p in run.details.pictures if kind in p.kinds] for kind in ("worst", "best", "sample")}
    pq = {image["name"]: image["pq"] for image in by_pq}
    assert [pq[name] for name in kept["worst"]] == [image["pq"] for image in by_pq[:4]]
    assert sorted((pq[name] for name in kept["best"]), reverse=True) == [image["pq"] for image in by_pq[:-5:-1]]
    assert len(kept["sample"]) == 4
    assert len(run.details.pictures) <= 12


def test_the_sample_depends_on_the_names_alone():
    names = tuple(f"town/{i}" for i in range(15))
    samples = [
        {p.name for p in make_run(seed=seed, names=order).details.pictures if "sample" in p.kinds}
        for seed, order in ((1, names), (2, names[::-1]))
    ]
    assert samples[0] == samples[1]
    assert len(samples[0]) == 3


def test_images_without_segments_are_neither_good_nor_bad():
    found = _one([[SPACE.void_id] * 2], [[SPACE.void_id] * 2], tp=0, fp=0, fn=0, pq=0.0)
    assert [p.kinds for p in found.pictures] == [("sample",)]


def test_heads_are_read_for_pictures_that_are_kept_only():
    images, _ = results(seed=4, names=tuple(f"{i}" for i in range(40)))
    read = []
    recorder = Recorder(SPACE, 2)
    for result in images:
        recorder(result._replace(read_heads=lambda r=result: read.append(r.name) or r.read_heads()))
    assert {p.name for p in _details(recorder).pictures} <= set(read)
    assert len(read) < 30


def test_large_pictures_shrink_and_offsets_show_predicted_things():
    truth = np.full((700, 1100), 5000, np.int32)
    truth[100:300, 200:500] = 2001
    offsets = np.zeros((*truth.shape, 2), np.float32)
    offsets[..., 0], offsets[..., 1] = 30, 40
    heat = np.where(truth == 2001, 0.8, 2).astype(np.float32)
    image = np.full((*truth.shape, 3), 300, np.float32)
    recorder = Recorder(SPACE)
    recorder(ImageResult("a", image, truth, truth, ROW, np.zeros(0, np.int32), lambda: (heat, offsets)))
    (picture,) = _details(recorder).pictures
    assert picture.image.shape == (326, 512, 3)
    assert picture.image.min() == 255
    assert picture.truth.shape == picture.heatmap.shape == picture.offsets.shape[:2] == (326, 512)
    assert (picture.truth == 2001).mean() == pytest.approx((truth == 2001).mean(), rel=0.02)
    assert picture.longest_offset == pytest.approx(50)
    assert set(np.unique(picture.heatmap)) == {204, 255}
    thing = picture.truth == 2001
    expected = contact_sheet.offset_colors(np.array([[[30.0, 40.0]]]), np.ones((1, 1)), 50)[0, 0]
    assert (picture.offsets[thing] == expected).all()
    assert len(np.unique(picture.offsets[~thing], axis=0)) == 1


@pytest.mark.parametrize("heads", [True, False])
def test_the_file_holds_all(tmp_path, heads):
    run = make_run(seed=5, heads=heads)
    details.write(run.details, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [details.DETAILS_FILE]
    found = details.read(tmp_path)
    for name in ("metrics", "facts", "config", "images", "label_space"):
        assert getattr(found, name) == getattr(run.details, name), name
    for name in ("confusion", "instance_classes", "instance_areas"):
        np.testing.assert_array_equal(getattr(found, name), getattr(run.details, name))
    np.testing.assert_allclose(found.instance_ious, run.details.instance_ious, atol=1e-5)
    assert len(found.pictures) == len(run.details.pictures) > 5
    for new, old in zip(found.pictures, run.details.pictures):
        assert (new.name, new.kinds, new.longest_offset) == (old.name, old.kinds, old.longest_offset)
        np.testing.assert_array_equal(new.truth, old.truth)
        np.testing.assert_array_equal(new.prediction, old.prediction)
        assert new.image.shape == (*SIZE, 3)
        assert (new.heatmap is None) == (not heads)
        if heads:
            np.testing.assert_array_equal(new.heatmap, old.heatmap)


def _rewrite(folder, change):
    """The file with other content."""
    path = folder / details.DETAILS_FILE
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def _other_format(entries):
    entries["details.json"] = json.dumps({"format": 99}).encode()


def _edited(**fields):
    """Changes fields of the JSON."""

    def change(entries):
        entries["details.json"] = json.dumps({**json.loads(entries["details.json"]), **fields}).encode()

    return change


def _other_classes(entries):
    size = details.decode(entries["pictures/00/truth.png"]).shape[:2]
    entries["pictures/00/truth.png"] = records.encode_panoptic_png(np.full(size, 999_000))


def _swapped_pictures(entries):
    entries["pictures/00/truth.png"] = details.encode(np.zeros([8, 9, 3], np.uint8), "PNG")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_other_format, "must be of format 1. Received: 99"),
        (lambda entries: entries.pop("pictures/00/truth.png"), "is damaged (KeyError"),
        (lambda entries: entries.update({"pictures/00/image.jpg": b"no"}), "is damaged (UnreadableImage: 2 bytes"),
        (lambda entries: entries.update({"details.json": b"{"}), "details.json, is damaged (Expecting property name"),
        (lambda entries: entries.update({"details.json": b'{"format": 1}'}), "must have the field 'metrics'"),
        (_edited(metrics={}), "metrics: must have the field 'inference'"),
        (_edited(confusion=[[1, 2]]), "confusion must have 4 rows of 5 numbers"),
        (_edited(instances={"class_id": [1], "area": [], "iou": []}), "the lists of instances must be equally long"),
        (_edited(images=[{"name": "a"}]), "images[0]: must have the field 'fn'"),
        (_swapped_pictures, "truth.png"),
        (_other_classes, "truth of picture 0 must be of known classes. Received: 999"),
    ],
)
def test_damaged_files_are_refused(tmp_path, change, said):
    details.write(make_run().details, tmp_path)
    _rewrite(tmp_path, change)
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        details.read(tmp_path)
    assert "train --mode=eval" in str(caught.value)
    (tmp_path / details.DETAILS_FILE).write_bytes(b"cut")
    with pytest.raises(InputError, match="is damaged"):
        details.read(tmp_path)


def test_a_folder_that_was_not_evaluated_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no report_data\.zip.*train --mode=eval .*--model_dir="):
        details.read(tmp_path)
    with pytest.raises(InputError, match="There is no folder"):
        details.read(tmp_path / "none")
