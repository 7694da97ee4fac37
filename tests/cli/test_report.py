# SPDX-License-Identifier: Apache-2.0
"""`deeplab-axial report` on the folder of a run, and what it refuses."""

import shutil

import pytest

from deeplab_axial.report import details
from tests.cli import commands
from tests.report.runs import Page


@pytest.fixture(scope="module")
def model(chain):
    """Folder of a run that was trained and evaluated."""
    return chain.root / "model"


def test_a_run_that_was_evaluated(model, tmp_path):
    output = tmp_path / "new" / "page.html"
    result = commands.run("report", f"--model_dir={model}", f"--output={output}")
    assert result.status == 0, result.err
    assert result.out.strip() == str(output)
    text = output.read_text(encoding="utf-8")
    page = Page(text)
    assert f"<h1>{model}</h1>" in text
    assert "step 30 on 5 images" in text
    facts = {row[0]: row[1] for row in page.rows if len(row) == 2}
    assert facts["Experiment"] == "tiny"
    assert facts["Backbone"] == "axial_deeplab_s, flavor 'paper', output stride 16"
    assert facts["Input"] == "49 x 65 pixels, scale 1"
    assert int(facts["Parameters"].replace(",", "")) > 10_000
    assert facts["Config"] == str(commands.TINY)
    assert "training_number_of_steps: 30" in text
    pictures = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    assert sum(title.startswith("Centre heatmap of") for title in pictures) == 5
    assert sum(title.startswith("Offsets of") for title in pictures) == 5
    assert len(text) < 5e6


def test_two_runs(model, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(model / details.DETAILS_FILE, other)
    output = tmp_path / "page.html"
    result = commands.run("report", f"--model_dir={model}", f"--compare={other}", f"--output={output}")
    assert result.status == 0, result.err
    text = output.read_text(encoding="utf-8")
    assert f"<h1>{model} and {other}</h1>" in text
    assert "The configs are the same." in text


def test_refusals(model, tmp_path):
    output = f"--output={tmp_path}/page.html"
    message = commands.one_message(commands.run("report", f"--model_dir={tmp_path}", output))
    assert "holds no report_data.zip" in message
    assert "deeplab-axial train --mode=eval" in message
    message = commands.one_message(commands.run("report", f"--model_dir={model}", f"--compare={tmp_path}/none", output))
    assert message.startswith(f"There is no folder '{tmp_path}/none'.")
    message = commands.one_message(commands.run("report", f"--model_dir={model}", f"--compare={model}/", output))
    assert message.startswith("--compare must name another folder than --model_dir.")
    message = commands.one_message(commands.run("report", f"--model_dir={model}", f"--output={tmp_path}"))
    assert f"--output={tmp_path} is a folder. Name a file: --output={tmp_path}/report.html" in message
    (tmp_path / "file").write_text("")
    message = commands.one_message(commands.run("report", f"--model_dir={model}", f"--output={tmp_path}/file/a.html"))
    assert f"--output={tmp_path}/file cannot be written" in message
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
