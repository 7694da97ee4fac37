# SPDX-License-Identifier: Apache-2.0
"""The summary of a run, from what lies in its folder."""

import json

import pytest
import tensorflow as tf

from deeplab_axial.training import summary

HISTORY = [
    {"step": 100, "time": "t", "semantic_loss": 2.0, "total_loss": 5.25, "gradient_norm": 3.0, "learning_rate": 0.1},
    {"step": 200, "time": "t", "semantic_loss": 1.5, "total_loss": 4.0, "images_per_second": 10.0},
    {"step": 300, "time": "t", "semantic_loss": 1.0, "total_loss": 3.0, "images_per_second": 14.0},
    {"step": 400, "time": "t", "semantic_loss": 0.5, "total_loss": 2.5, "images_per_second": 2.0},
]
BEST = {"metric": "panoptic_quality/all/pq", "value": 0.6071, "step": 300, "checkpoint": "ckpt-300"}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "history.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in HISTORY))
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "best.json").write_text(json.dumps(BEST))
    return tmp_path


def test_what_it_says(folder, monkeypatch):
    monkeypatch.setattr(summary, "host_peak_bytes", lambda: 3 * 2**29)
    monkeypatch.setattr(summary, "device_peak_bytes", lambda: {"GPU:0": 12 * 2**30})
    told = summary.collect(str(folder), 400, 400, 205.4, f"{folder}/ckpt-400")
    assert summary.format_summary(told).splitlines() == [
        "Trained 400 steps in 3 min 25 s; 10 images/s (median)",
        "Losses at step 400: semantic 0.5, total 2.5",
        "Total loss: 5.25 (step 100) -> 2.5 (step 400)",
        f"Best: panoptic_quality/all/pq 0.6071 at step 300: {folder}/best",
        f"Newest checkpoint: {folder}/ckpt-400",
        "Peak memory: host 1.50 GiB, GPU:0 12.00 GiB",
    ]


def test_a_run_that_resumed_and_was_not_evaluated(folder):
    (folder / "best" / "best.json").unlink()
    told = summary.collect(str(folder), 400, 150, 7203.0, f"{folder}/ckpt-400")
    text = summary.format_summary(told)
    assert text.startswith("Trained 400 steps (150 of them now) in 2 h 0 min; 10 images/s (median)\n")
    assert "Best" not in text


def test_a_run_of_one_entry(folder):
    (folder / "history.jsonl").write_text(json.dumps(HISTORY[0]) + "\n")
    text = summary.format_summary(summary.collect(str(folder), 100, 100, 4.26, "ckpt-100"))
    assert text.startswith("Trained 100 steps in 4.3 s\nLosses at step 100: semantic 2, total 5.25\nBest: ")
    assert "->" not in text


def test_a_run_without_entries(tmp_path):
    told = summary.collect(str(tmp_path), 3, 3, 1.0, "ckpt-3")
    first, *rest = summary.format_summary(told).splitlines()
    assert first == "Trained 3 steps in 1.0 s"
    assert [line.split(":")[0] for line in rest] == ["Newest checkpoint", "Peak memory"]


def test_the_file(folder):
    told = summary.collect(str(folder), 400, 400, 205.4, "ckpt-400")
    before = {path.name for path in folder.iterdir()}
    summary.write(str(folder), told)
    assert {path.name for path in folder.iterdir()} - before == {"summary.json"}
    content = json.loads((folder / "summary.json").read_text())
    assert (content["step"], content["steps_taken"], content["seconds"]) == (400, 400, 205.4)
    assert content["images_per_second"] == 10.0
    assert (content["first"], content["last"]) == (HISTORY[0], HISTORY[-1])
    assert content["best"] == BEST
    assert content["best_folder"] == str(folder / "best")
    assert content["checkpoint"] == "ckpt-400"
    assert 2**26 < content["host_peak_bytes"] < 2**40  # this process has TensorFlow in it
    assert content["device_peak_bytes"] == summary.device_peak_bytes()


def test_memory_of_devices(monkeypatch):
    """A CPU is left out, and a device that does not count."""
    devices = [("/device:CPU:0", "CPU"), ("/device:GPU:0", "GPU"), ("/device:TPU:0", "TPU")]
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda: [tf.config.LogicalDevice(*d) for d in devices])

    def memory(name):
        if "TPU" in name:
            raise ValueError("Allocator stats not available for device '/device:TPU:0'")
        return {"current": 1, "peak": 7}

    monkeypatch.setattr(tf.config.experimental, "get_memory_info", memory)
    assert summary.device_peak_bytes() == {"GPU:0": 7}
