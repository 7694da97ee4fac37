# SPDX-License-Identifier: Apache-2.0
"""The whole path on real photographs: two images of COCO with their official annotation, learned by heart."""

import json
import pathlib
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
SAMPLE = ROOT.parent / "shared" / "data" / "coco_sample"


def run(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "deeplab_axial.cli.main", *arguments], check=True, cwd=ROOT)


@pytest.mark.slow
@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the COCO sample (../shared/data/coco_sample) is not here")
def test_a_small_network_learns_two_photographs_by_heart(tmp_path):
    records = tmp_path / "records"
    run(
        "convert",
        "coco_panoptic",
        f"--image_dir={SAMPLE / 'input_images'}",
        f"--panoptic_json={SAMPLE / 'panoptic_examples.json'}",
        f"--panoptic_dir={SAMPLE / 'panoptic_examples'}",
        f"--output_dir={records}",
        "--num_shards=1",
    )
    started = time.monotonic()
    run(
        "train",
        "--config_file=configs/coco/sample_overfit.textproto",
        "--mode=train_and_eval",
        f"--model_dir={tmp_path / 'model'}",
        f"--set=train_dataset_options.file_pattern={records}/*.tfrecord",
        f"--set=eval_dataset_options.file_pattern={records}/*.tfrecord",
    )
    print(f"training and evaluation took {time.monotonic() - started:.0f} s")
    metrics = json.loads((tmp_path / "model" / "metrics.json").read_text())
    quality = metrics["panoptic_quality"]
    assert metrics["num_images"] == 2
    # 50 segments, three of them crowd: the others are found or missed.
    assert sum(c["tp"] + c["fn"] for c in quality["per_class"].values()) == 47
    assert quality["all"]["pq"] >= 0.60
