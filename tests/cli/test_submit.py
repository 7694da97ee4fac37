# SPDX-License-Identifier: Apache-2.0
"""Submissions by the command line, from a trained network to what the official tools read."""

import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from tests.cli import commands
from tests.cli.conftest import experiment_flags
from tests.data import layouts


@pytest.fixture(scope="module")
def image_list(chain, tmp_path_factory):
    """The validation images in the form of COCO's list of test images."""
    content = json.loads((chain.root / "data" / "panoptic_val.json").read_text())
    del content["annotations"]
    path = tmp_path_factory.mktemp("image_list") / "image_info_test-dev2017.json"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="module")
def unlabelled(chain, image_list, tmp_path_factory):
    """Flags that name the validation images in records without ground truth, as a test set's."""
    folder = tmp_path_factory.mktemp("unlabelled")
    result = commands.run(
        *("convert", "coco_panoptic", f"--image_dir={chain.root}/data/val", f"--panoptic_json={image_list}"),
        *(f"--label_space={chain.root}/records/val", f"--output_dir={folder}", "--num_shards=2"),
    )
    assert result.status == 0, result.err
    fields = (f"file_pattern={folder}/*.tfrecord", "decode_groundtruth_label=false")
    return (*chain.flags, *(f"--set=eval_dataset_options.{f}" for f in fields), f"--model_dir={chain.root}/model")


def test_coco_without_ground_truth(chain, image_list, unlabelled, tmp_path):
    """The server would measure what evaluation measured."""
    tool = pytest.importorskip("cityscapesscripts.evaluation.evalPanopticSemanticLabeling")
    truth = json.loads((chain.root / "data" / "panoptic_val.json").read_text())
    path = tmp_path / "out" / "submission.zip"
    result = commands.run("submit", "--format=coco", *unlabelled, f"--image_list={image_list}", f"--output={path}")
    assert result.status == 0, result.err
    assert result.out.strip() == f"Step 30, 5 images: {path}"
    title = "panoptic_test-dev2017_tiny_results"
    with zipfile.ZipFile(path) as archive:
        assert {name.split("/")[0] for name in archive.namelist()} == {title, f"{title}.json"}
        archive.extractall(tmp_path)
    found = {a["image_id"]: a for a in json.loads((tmp_path / f"{title}.json").read_text())["annotations"]}
    pairs = [(annotation, found[annotation["image_id"]]) for annotation in truth["annotations"]]
    categories = {c["id"]: c for c in truth["categories"]}
    stat = tool.pq_compute_single_core(
        0, pairs, str(chain.root / "data" / "panoptic_val"), str(tmp_path / title), categories
    )
    quality = json.loads((chain.root / "model" / "metrics.json").read_text())["panoptic_quality"]
    assert quality["all"]["pq"] > 0
    for name, is_thing in (("all", None), ("things", True), ("stuff", False)):
        assert quality[name]["pq"] == pytest.approx(stat.pq_average(categories, is_thing)[0]["pq"], abs=1e-12)


def test_bad_commands(chain, image_list, unlabelled, tmp_path):
    listed = f"--image_list={image_list}"

    def message(*flags):
        return commands.one_message(commands.run("submit", *unlabelled, *flags))

    coco = ("--format=coco", listed)
    assert message(*coco) == (
        "--format=coco needs --image_list and --output and also takes --algorithm. Received: no --output. "
        "Correct the command."
    )
    received = "Received: no --output_dir, --image_list, --output."
    assert received in message("--format=cityscapes", listed, "--output=x.zip")
    assert "--output must end in .zip. Received: x" in message(*coco, "--output=x")
    output = f"--output={tmp_path}/x.zip"
    assert "letters, digits, dots and hyphens" in message(*coco, output, "--algorithm=a b")
    train_list = f"--image_list={chain.root}/data/panoptic_train.json"
    assert "panoptic_train.json, 7. Received: 5." in message("--format=coco", train_list, output)
    eval_steps = "--set=evaluator_options.eval_steps=1"
    assert "evaluator_options.eval_steps must be -1" in message(*coco, output, eval_steps)
    cityscapes = message("--format=cityscapes", f"--output_dir={tmp_path}/new")
    assert "The category_id of each class must be the label id of a class that Cityscapes evaluates" in cityscapes
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_cityscapes_test_set(tmp_path):
    tree = layouts.write_cityscapes(tmp_path / "tree", num_train=4, num_val=1, num_test=3)
    for split in ("train", "test"):
        result = commands.run(
            "convert", "cityscapes", f"--root={tree}", f"--split={split}", f"--output_dir={tmp_path}/{split}"
        )
        assert result.status == 0, result.err
    flags = experiment_flags(
        f"{tmp_path}/train/*.tfrecord",
        f"{tmp_path}/test/*.tfrecord",
        "model_options.panoptic_deeplab.semantic_head.output_channels=19",
        "trainer_options.solver_options.training_number_of_steps=4",
        "evaluator_options.center_score_threshold=0.0",
        "evaluator_options.eval_scales=0.7,1",
        "evaluator_options.add_flipped_images=true",
    )
    model = f"--model_dir={tmp_path}/model"
    result = commands.run("train", "--mode=train", *flags, model)
    assert result.status == 0, result.err
    no_truth = "--set=eval_dataset_options.decode_groundtruth_label=false"
    folder = tmp_path / "out"
    result = commands.run("submit", "--format=cityscapes", *flags, no_truth, model, f"--output_dir={folder}")
    assert result.status == 0, result.err
    assert result.out.strip() == f"Step 4, 3 images: {folder}"
    names = {p.name.removesuffix("_leftImg8bit.png") for p in (tree / "leftImg8bit" / "test").glob("*/*.png")}
    assert {p.name for p in (folder / "instance").glob("*.txt")} == {f"{n}.txt" for n in names}
    assert {p.name for p in (folder / "pixel").iterdir()} == {f"{n}_labelIds.png" for n in names}
    annotations = json.loads((folder / "panoptic" / "cityscapes_panoptic_test.json").read_text())["annotations"]
    assert {a["image_id"] for a in annotations} == names
    for name in names:
        assert np.asarray(Image.open(folder / "pixel" / f"{name}_labelIds.png")).shape == (48, 64)
