# SPDX-License-Identifier: Apache-2.0
"""`deeplab-axial visualize_data`: which sheets it writes, and what it refuses."""

import numpy as np
import pytest
from PIL import Image

from tests.cli import commands
from tests.cli.conftest import experiment_flags


@pytest.fixture
def flags(scene_records):
    return experiment_flags(scene_records.train, scene_records.val)


def _sheets(folder):
    return {path.name: np.asarray(Image.open(path)) for path in sorted(folder.iterdir())}


def test_sheets_of_training(flags, tmp_path):
    result = commands.run("visualize_data", *flags, f"--output_dir={tmp_path / 'a'}", "--num_images=5")
    assert result.status == 0, result.err
    assert result.out == f"5 images: {tmp_path / 'a'}\n"
    sheets = _sheets(tmp_path / "a")
    assert list(sheets) == ["sheet-000.png", "sheet-001.png"]
    first, second = sheets.values()
    # Four rows and one row of four pictures, 49 x 65 pixels enlarged eight times, and a legend.
    assert first.shape[1] == second.shape[1]
    assert 4 * 65 * 8 < first.shape[1] < 4 * 65 * 8 + 60
    assert 3 * 49 * 8 < first.shape[0] - second.shape[0] < 3 * (49 * 8 + 60)
    # The second step is the same when one starts there: batches hold four images.
    late = commands.run("visualize_data", *flags, f"--output_dir={tmp_path / 'b'}", "--num_images=1", "--first_step=1")
    assert late.status == 0, late.err
    np.testing.assert_array_equal(_sheets(tmp_path / "b")["sheet-000.png"], second)


def test_sheets_of_the_evaluation(flags, scene_records, tmp_path):
    result = commands.run("visualize_data", *flags, f"--output_dir={tmp_path}", "--split=eval", "--num_images=99")
    assert result.status == 0, result.err
    assert result.out == f"{scene_records.num_val} images: {tmp_path}\n"
    assert list(_sheets(tmp_path)) == ["sheet-000.png", "sheet-001.png"]


def test_a_picture_of_somebody_else(flags, tmp_path):
    (tmp_path / "sheet-001.png").write_text("mine")
    message = commands.one_message(commands.run("visualize_data", *flags, f"--output_dir={tmp_path}"))
    assert message.startswith(f"--output_dir: {tmp_path}/sheet-001.png would be replaced, but deeplab-axial did not")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_a_folder_that_cannot_be_written(flags, tmp_path):
    (tmp_path / "file").write_text("")
    message = commands.one_message(commands.run("visualize_data", *flags, f"--output_dir={tmp_path / 'file'}"))
    assert message.startswith(f"--output_dir={tmp_path / 'file'} cannot be written (")
    assert message.endswith("Name another folder.")


def test_a_config_without_records(scene_records, tmp_path):
    flags = experiment_flags("[]", scene_records.val)
    message = commands.one_message(commands.run("visualize_data", *flags, f"--output_dir={tmp_path}"))
    assert "train_dataset_options.file_pattern" in message
