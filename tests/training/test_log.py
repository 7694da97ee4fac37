# SPDX-License-Identifier: Apache-2.0
"""The history of a run, its TensorBoard events and its progress line."""

import pytest
import tensorflow as tf

from deeplab_axial.training import log


def _events(folder):
    """{(step, tag): value} of all event files of a folder."""
    found = {}
    for serialized in tf.data.TFRecordDataset([str(p) for p in folder.glob("events.*")]).as_numpy_iterator():
        event = tf.compat.v1.Event.FromString(serialized)
        for value in event.summary.value:
            found[event.step, value.tag] = float(tf.make_ndarray(value.tensor))
    return found


def test_files_the_summary_steps_and_the_last(tmp_path):
    with log.TrainingLog(str(tmp_path), 0, total_steps=5, summary_steps=2) as training_log:
        for step in range(1, 6):
            training_log.step(step, {"total_loss": step / 4})
    assert log.read_history(str(tmp_path)) == [{"step": s, "total_loss": s / 4} for s in (2, 4, 5)]
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
    assert log.read_history(str(tmp_path)) == [{"step": 2}, {"step": 4}, {"step": 5, "x": 1.0}]


def test_forgets_what_will_be_done_again(tmp_path):
    (tmp_path / log.HISTORY_FILE).write_text("".join(f'{{"step": {s}}}\n' for s in (2, 4, 6)))
    log.TrainingLog(str(tmp_path), 4, total_steps=8, summary_steps=2).__exit__()
    assert log.read_history(str(tmp_path)) == [{"step": 2}, {"step": 4}]
    assert sorted(p.name for p in tmp_path.iterdir()) == [log.HISTORY_FILE, "train"]


def test_scalars_of_an_evaluation(tmp_path):
    log.write_scalars(str(tmp_path), 40, {"pq_all": 0.5, "mean_iou": 0.25})
    assert _events(tmp_path / "eval") == {(40, "pq_all"): 0.5, (40, "mean_iou"): 0.25}
