# SPDX-License-Identifier: Apache-2.0
"""A loss that says that a run goes wrong is said once, and no other."""

import json

from deeplab_axial.training.loss_watch import LossWatch


def _said(folder, losses, total_steps=100) -> list[str]:
    watch = LossWatch(str(folder), total_steps)
    return [text for step, loss in enumerate(losses, 1) if (text := watch.step(step, loss))]


def test_a_loss_of_more_than_ten_times_its_start(tmp_path):
    assert _said(tmp_path, [2.0, 20.0, 1.0, 19.9]) == []
    (text,) = _said(tmp_path, [2.0, 3.0, 20.5, 40.0, 1.0, 99.0])
    assert text == (
        "The total loss is 20.5 at step 3, more than 10 times its start (2): the training may diverge. Lower "
        "base_learning_rate, lengthen warmup_steps or set use_gradient_clipping."
    )


def test_a_run_that_goes_on_is_measured_against_its_first_entry(tmp_path):
    entries = [{"step": 2, "total_loss": 2.0}, {"step": 4, "total_loss": 100.0}]
    (tmp_path / "history.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    (text,) = _said(tmp_path, [90.0, 80.0])
    assert "The total loss is 90 at step 1, more than 10 times its start (2)" in text


def test_a_loss_of_nothing(tmp_path):
    assert _said(tmp_path, [0.0] * 9 + [0.1] + [0.0] * 9) == []
    (text,) = _said(tmp_path, [0.0] * 30)
    assert text.startswith("The total loss has been 0 at 10 steps up to step 10: no pixel of their images has a label")
    assert text.endswith("deeplab-axial check_data.")
    (text,) = _said(tmp_path, [0.0] * 3, total_steps=3)
    assert "0 at 3 steps up to step 3" in text
    # After such a start, no loss is ten times it.
    assert _said(tmp_path, [0.0, 5.0]) == []
