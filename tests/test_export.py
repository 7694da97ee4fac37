# SPDX-License-Identifier: Apache-2.0
"""Exports appear whole and checked, or not at all. (What they predict is tested in tests/cli.)"""

import json

import numpy as np
import pytest
import tensorflow as tf

from deeplab_axial import export, keys
from deeplab_axial.data.label_space import LabelClass, LabelSpace
from deeplab_axial.errors import InputError

SPACE = LabelSpace("two", (LabelClass(1, "cat", True, (255, 0, 0), 17),), 2, 0, 256)
METADATA = export.Metadata(SPACE, 'experiment_name: "x"', step=7, version="1", metrics={"step": 7})
SAMPLES = [np.full([4, 5, 3], 9, np.uint8), np.zeros([3, 3, 3], np.uint8)]


class Predictor:
    """Stands in for a network: a threshold."""

    def __init__(self):
        self.model = tf.Module()
        self.model.weights = [tf.Variable(5.0)]

    def predict_images(self, images):
        values = tf.cast(images[..., 0], tf.float32)
        panoptic = tf.where(values > self.model.weights[0], 257, 0)
        return {keys.PANOPTIC_MAP: panoptic, keys.CENTER_SCORES: tf.reduce_mean(values, [1, 2])[:, None]}


def test_writes_a_saved_model_with_its_description(tmp_path):
    folder = tmp_path / "models" / "one"
    export.write(Predictor(), METADATA, str(folder), SAMPLES)
    module, metadata = export.load(str(folder))
    assert metadata == METADATA
    np.testing.assert_array_equal(
        module.serve(tf.constant(SAMPLES[0][None]))[keys.PANOPTIC_MAP], np.full([1, 4, 5], 257)
    )
    assert [p.name for p in (tmp_path / "models").iterdir()] == ["one"]
    content = json.loads((folder / export.METADATA_FILE).read_text())
    assert content["label_space"]["classes"][0]["name"] == "cat"


def test_nothing_stays_when_the_reloaded_export_differs(tmp_path, monkeypatch):
    save = export._save

    def save_other_weights(predictor, folder):
        function = save(predictor, folder)
        predictor.model.weights[0].assign(100.0)
        return function

    monkeypatch.setattr(export, "_save", save_other_weights)
    with pytest.raises(RuntimeError, match=r"what the model does:\n.*\n?\d\.npz: panoptic differs in \d"):
        export.write(Predictor(), METADATA, str(tmp_path / "one"), SAMPLES)
    assert not list(tmp_path.iterdir())


def test_nothing_stays_when_writing_fails(tmp_path, monkeypatch):
    def no_space(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(export, "_write_metadata", no_space)
    with pytest.raises(OSError, match="No space left"):
        export.write(Predictor(), METADATA, str(tmp_path / "one"), SAMPLES)
    assert not list(tmp_path.iterdir())


def test_an_empty_folder_is_taken_and_a_full_one_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_compare", lambda *_: None)
    folder = tmp_path / "one"
    folder.mkdir()
    export.write(Predictor(), METADATA, str(folder), SAMPLES)
    assert (folder / "saved_model.pb").exists()
    with pytest.raises(InputError, match=r"one is not empty\. Name a new folder"):
        export.write(Predictor(), METADATA, str(folder), SAMPLES)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--output_dir=.*file/one cannot be written \(.*\)\. Name another folder"):
        export.write(Predictor(), METADATA, str(tmp_path / "file" / "one"), SAMPLES)


@pytest.mark.parametrize("content", ["", "{", "{}", '{"label_space": {"name": 3}}'])
def test_another_folder_is_no_export(tmp_path, content):
    path = tmp_path / export.METADATA_FILE
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(InputError, match=r"is no export of deeplab-axial \(.*\)\. Make one with"):
        export.load(str(tmp_path))
