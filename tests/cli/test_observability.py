# SPDX-License-Identifier: Apache-2.0
"""What a training leaves for those who look at it: the log, TensorBoard's events, the profile, the summary."""

import datetime
import json

import numpy as np
import pytest
import tensorflow as tf

from deeplab_axial.cli import run_end
from deeplab_axial.training import log
from tests.cli import commands

TERMS = ("semantic_loss", "center_loss", "offset_loss", "total_loss", "gradient_norm", "learning_rate")


def _values(folder):
    """{step: {tag: value}} of all event files of a folder."""
    found = {}
    for serialized in tf.data.TFRecordDataset(sorted(map(str, folder.glob("events.*")))).as_numpy_iterator():
        event = tf.compat.v1.Event.FromString(serialized)
        for value in event.summary.value:
            found.setdefault(event.step, {})[value.tag] = tf.make_ndarray(value.tensor)
    return found


def test_every_term_is_in_the_history_and_in_the_events(chain):
    folder = chain.root / "model"
    history, events = log.read_history(str(folder)), _values(folder / "train")
    assert [entry["step"] for entry in history] == list(events) == list(range(2, 31, 2))
    before = None
    for entry in history:
        time = datetime.datetime.fromisoformat(entry.pop("time"))
        assert time.utcoffset() == datetime.timedelta(0)
        assert before is None or before <= time
        before = time
        step = entry.pop("step")
        assert set(entry) == {*TERMS, "images_per_second"}
        assert set(events[step]) == {f"training/{name}" for name in entry}
        for name, value in entry.items():
            np.testing.assert_allclose(events[step][f"training/{name}"], value, rtol=1e-6)
        # Weighted terms: what remains is nothing.
        parts = sum(entry[name] for name in TERMS[:3])
        np.testing.assert_allclose(entry["total_loss"], parts, rtol=1e-5)


def test_evaluations_are_in_the_events_with_pictures(chain):
    # Those amid the training, and --mode=eval of the last checkpoint.
    events = _values(chain.root / "model" / "eval")
    assert set(events) == {15, 30}
    metrics = json.loads((chain.root / "model" / "metrics.json").read_text())
    np.testing.assert_allclose(events[30]["pq_all"], metrics["panoptic_quality"]["all"]["pq"], rtol=1e-6)
    np.testing.assert_allclose(events[30]["mean_iou"], metrics["mean_iou"]["mean"], rtol=1e-6)
    names = {f"predictions/{row}" for row in ("000001.jpg", "000002.jpg", "000003.jpg", "000004.jpg", "000005.jpg")}
    for step in (15, 30):
        assert {tag for tag in events[step] if tag.startswith("predictions/")} == names
        for name in names:
            width, height, encoded = events[step][name]
            picture = tf.io.decode_png(encoded).numpy()
            assert picture.shape == (int(height), int(width), 3)
            # Three panels of 48 x 64 pixels, eight times as large, with bars above them.
            assert picture.shape[0] > 8 * 48
            assert picture.shape[1] > 3 * 8 * 64
            assert picture.std() > 10
    assert not (chain.root / "model" / "vis").exists()  # for PNG files, save_predictions has to be set


def test_the_profile_stops_for_the_evaluation_and_goes_on(chain):
    folder = chain.root / "model" / "train" / "plugins" / "profile"
    traces = list(folder.glob("*/*.xplane.pb"))
    assert len(traces) == 2
    assert all(trace.stat().st_size > 10_000 for trace in traces)
    out = chain.results["train"].out
    assert f"Profiled steps 14 to 15: {folder}\n" in out
    assert f"Profiled steps 16 to 16: {folder}\n" in out


def test_the_summary(chain):
    folder = chain.root / "model"
    told = json.loads((folder / "summary.json").read_text())
    history = log.read_history(str(folder))
    assert (told["step"], told["steps_taken"], told["checkpoint"]) == (30, 30, f"{folder}/ckpt-30")
    assert (told["first"], told["last"]) == (history[0], history[-1])
    assert told["best"] == json.loads((folder / "best" / "best.json").read_text())
    out = chain.results["train"].out
    assert "Trained 30 steps in " in out
    assert f"Newest checkpoint: {folder}/ckpt-30\nPeak memory: host " in out
    flags = f"--config_file={folder}/config.textproto --model_dir={folder}/best --output_dir={folder}_export"
    assert out.endswith(f"\nNext: deeplab-axial export {flags}\n")
    assert "Next:" not in chain.results["eval"].out


@pytest.mark.parametrize(
    ("was_evaluated", "is_classifier", "expected"),
    [
        (False, False, ["train --mode=eval {config} --model_dir={m}", "export {config} --model_dir={m} {output}"]),
        (True, False, ["export {config} --model_dir={m} {output}"]),
        (False, True, ["train --mode=eval {config} --model_dir={m}"]),
        (True, True, []),
    ],
)
def test_what_to_do_next(was_evaluated, is_classifier, expected):
    parts = {
        "config": "--config_file='my runs/a/config.textproto'",
        "m": "'my runs/a'",
        "output": "--output_dir='my runs/a_export'",
    }
    found = run_end.next_commands("my runs/a", None, was_evaluated, is_classifier)
    assert found == [f"deeplab-axial {command.format(**parts)}" for command in expected]


def test_bad_ranges_to_profile(chain, tmp_path):
    def message(*flags):
        return commands.one_message(commands.run("train", *chain.flags, f"--model_dir={tmp_path}/model", *flags))

    assert "--profile goes with --mode=train and --mode=train_and_eval" in message("--mode=eval", "--profile=1:2")
    assert "<= LAST <= 30 " in message("--profile=29:31")
    assert not (tmp_path / "model").exists()
