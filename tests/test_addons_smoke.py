# SPDX-License-Identifier: Apache-2.0
"""One run of the whole path on the oldest TensorFlow that is supported, with an optimizer of tensorflow-addons."""

import json
import os

import pytest

from deeplab_axial import config
from tests.cli import commands

pytestmark = pytest.mark.addons


@pytest.fixture
def tiny(tmp_path, scene_records) -> tuple[str, ...]:
    """Flags of a tiny experiment with a tensorflow-addons optimizer."""
    pytest.importorskip("tensorflow_addons")
    files = {"train": scene_records.train, "eval": scene_records.val}
    overrides = [f"{split}_dataset_options.file_pattern={pattern}" for split, pattern in files.items()]
    options = config.load(commands.TINY, [*overrides, "trainer_options.solver_options.training_number_of_steps=3"])
    options.trainer_options.solver_options.ClearField("lookahead")
    options.trainer_options.solver_options.optimizer = "tfa.RectifiedAdam"
    config.save(options, tmp_path / "tiny.textproto")
    return f"--config_file={tmp_path / 'tiny.textproto'}", f"--model_dir={tmp_path / 'model'}"


def test_trains_evaluates_and_exports_with_an_addons_optimizer(tmp_path, tiny):
    assert os.environ.get("TF_USE_LEGACY_KERAS") == "1", "run this as `make test-addons` does"
    trained = commands.run("train", *tiny, "--mode=train_and_eval")
    assert trained.status == 0, trained.err
    metrics = json.loads((tmp_path / "model" / "metrics.json").read_text())
    assert metrics["step"] == 3
    assert metrics["num_images"] == 5
    exported = commands.run("export", *tiny, f"--output_dir={tmp_path / 'export'}")
    assert exported.status == 0, exported.err
    assert (tmp_path / "export" / "saved_model.pb").exists()


def test_lookahead_around_an_addons_optimizer_is_refused(tmp_path, tiny, scene_records):
    result = commands.run(
        "train",
        f"--config_file={commands.TINY}",
        f"--model_dir={tmp_path / 'refused'}",
        "--mode=train",
        f"--set=train_dataset_options.file_pattern={scene_records.train}",
        "--set=trainer_options.solver_options.optimizer=tfa.RectifiedAdam",
    )
    assert "lookahead is for the optimizers of tf_keras only" in commands.one_message(result)
