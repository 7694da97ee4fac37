# SPDX-License-Identifier: Apache-2.0
"""The history of a run, its TensorBoard events and its progress line."""

import datetime

import numpy as np
import pytest
import tensorflow as tf

from deeplab_axial.training import log


def _events(folder):
    """{(step, tag): value} of all event files of a folder."""
    found = {}
    for serialized in tf.data.TFRecordDataset([str(p) for p in folder.glob("events.*")]).as_numpy_iterator():
        event = tf.compat.v1.Event.FromString(serialized)
        for value in event.summary.value:
            content = tf.make_ndarray(value.tensor)
            is_image = value.metadata.plugin_data.plugin_name == "images"
            # Of a picture: width, height and the bytes of a PNG file.
            found[event.step, value.tag] = tf.io.decode_png(content[2]).numpy() if is_image else float(content)
    return found


def _history(folder):
    """The entries, whose times are looked at and left out."""
    entries = log.read_history(str(folder))
    for entry in entries:
        time = datetime.datetime.fromisoformat(entry.pop("time"))
        assert abs((datetime.datetime.now(datetime.timezone.utc) - time).total_seconds()) < 60
    return entries


def test_files_the_summary_steps_and_the_last(tmp_path):
    with log.TrainingLog(str(tmp_path), 0, total_steps=5, summary_steps=2) as training_log:
        for step in range(1, 6):
            training_log.step(step, {"total_loss": step / 4})
    assert _history(tmp_path) == [{"step": s, "total_loss": s / 4} for s in (2, 4, 5)]
    assert _events(tmp_path / "train") == {(s, "training/total_loss"): s / 4 for s in (2, 4, 5)}


def test_shows_progress(tmp_path, capsys):
    with log.TrainingLog(str(tmp_path), 3, total_steps=5, summary_steps=1) as training_log:
        training_log.step(4, {"semantic_loss": 0.123456, "images_per_second": 7.0})
        training_log.step(5, {"semantic_loss": 0.2, "images_per_second": 7.0})
    shown = capsys.readouterr().err
    assert "5/5" in shown
    assert "semantic=0.2, images_per_second=7" in shown


def test_no_history_yet(tmp_path):
    assert log.read_history(str(tmp_path)) == []


@pytest.mark.parametrize("end", ['{"step": 6, "total', "\x00\x00", ""])
def test_a_last_line_cut_short_is_left_out(tmp_path, end):
    (tmp_path / log.HISTORY_FILE).write_text('{"step": 2}\n{"step": 4}\n' + end)
    assert log.read_history(str(tmp_path)) == [{"step": 2}, {"step": 4}]
    with log.TrainingLog(str(tmp_path), 4, total_steps=6, summary_steps=1) as training_log:
        training_log.step(5, {"x": 1.0})
    *before, last = log.read_history(str(tmp_path))
    assert before == [{"step": 2}, {"step": 4}]
    assert (last["step"], last["x"]) == (5, 1.0)


def test_forgets_what_will_be_done_again(tmp_path):
    (tmp_path / log.HISTORY_FILE).write_text("".join(f'{{"step": {s}}}\n' for s in (2, 4, 6)))
    log.TrainingLog(str(tmp_path), 4, total_steps=8, summary_steps=2).__exit__(None)
    assert log.read_history(str(tmp_path)) == [{"step": 2}, {"step": 4}]
    assert sorted(p.name for p in tmp_path.iterdir()) == [log.HISTORY_FILE, "train"]


def test_an_entry_is_there_for_readers_at_once(tmp_path):
    with log.TrainingLog(str(tmp_path), 0, total_steps=4, summary_steps=1) as training_log:
        training_log.step(1, {"total_loss": 2.0})
        assert _history(tmp_path) == [{"step": 1, "total_loss": 2.0}]


def test_speed_is_the_mean_since_the_entry_before(tmp_path):
    with log.TrainingLog(str(tmp_path), 0, total_steps=8, summary_steps=2) as training_log:
        training_log.step(1, {})  # traced, not timed
        training_log.step(2, {})
        for step, speed in enumerate((10.0, 40.0, 30.0, 30.0, 5.0), start=3):
            training_log.step(step, {"images_per_second": speed})
        training_log.step(8, {})
    speeds = [entry.get("images_per_second") for entry in log.read_history(str(tmp_path))]
    # Two steps of n images, at 10/s and 40/s: 2 n / (n / 10 + n / 40).
    np.testing.assert_allclose(speeds[1:], [16.0, 30.0, 5.0])
    assert speeds[0] is None
    events = {step: value for (step, tag), value in _events(tmp_path / "train").items()}
    np.testing.assert_allclose([events[step] for step in (4, 6, 8)], [16.0, 30.0, 5.0])
    assert 2 not in events


def test_a_history_in_a_bucket():
    folder = "ram://test_log/model"
    with log.TrainingLog(folder, 0, total_steps=4, summary_steps=1) as training_log:
        training_log.step(1, {"x": 1.0})
        training_log.step(2, {"x": 2.0})
    with log.TrainingLog(folder, 1, total_steps=4, summary_steps=1) as training_log:
        training_log.step(2, {"x": 3.0})
    assert [(entry["step"], entry["x"]) for entry in log.read_history(folder)] == [(1, 1.0), (2, 3.0)]


def test_events_of_an_evaluation(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, [6, 30, 3], np.uint8)
    log.write_evaluation(str(tmp_path), 40, {"pq_all": 0.5, "mean_iou": 0.25}, {"a/000001.jpg": picture})
    events = _events(tmp_path / "eval")
    assert set(events) == {(40, tag) for tag in ("pq_all", "mean_iou", "predictions/a/000001.jpg")}
    assert (events[40, "pq_all"], events[40, "mean_iou"]) == (0.5, 0.25)
    np.testing.assert_array_equal(events[40, "predictions/a/000001.jpg"], picture)
