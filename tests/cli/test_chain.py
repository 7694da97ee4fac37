# SPDX-License-Identifier: Apache-2.0
"""From a data set to predictions with the commands of the README, and whether the numbers agree at both ends."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab_axial import builders, config, export, keys, predict
from deeplab_axial.data import dataset_info
from deeplab_axial.inference import Predictor
from deeplab_axial.postprocessing.multi_scale import MultiScale
from deeplab_axial.training import checkpoints, log
from tests.cli import commands

pytestmark = pytest.mark.unseeded


@pytest.fixture(scope="module")
def exported(chain):
    return export.load(str(chain.root / "export"))


@pytest.fixture(scope="module")
def predictor(chain):
    """The network of the last checkpoint, made here."""
    options = config.load(commands.TINY, [f.removeprefix("--set=") for f in chain.flags if f.startswith("--set=")])
    model = builders.build_model(options)
    checkpoints.restore(str(chain.root / "model" / "ckpt-30"), {"model": model}, "--checkpoint")
    return builders.build_predictor(options, model, builders.open_source(options, "eval").info.label_space)


def test_convert_leaves_records(chain):
    train, val = chain.root / "records" / "train", chain.root / "records" / "val"
    assert len(list(train.glob("coco_panoptic-*-of-00002.tfrecord"))) == 2
    assert len(list(val.glob("scenes-*-of-00005.tfrecord"))) == 5  # never more files than images
    info = dataset_info.DatasetInfo.read(val)
    assert (info.num_images, info.max_height, info.max_width) == (5, 48, 64)
    assert "7 images in 2 files" in chain.results["convert train"].out


def test_training_leaves_a_run(chain):
    folder = chain.root / "model"
    assert {p.name for p in folder.glob("ckpt-*.index")} == {"ckpt-15.index", "ckpt-30.index"}
    saved = config.load(folder / "config.textproto")
    assert saved.experiment_name == "tiny"
    assert saved.trainer_options.solver_options.training_number_of_steps == 30
    history = log.read_history(str(folder))
    assert [entry["step"] for entry in history] == list(range(2, 31, 2))
    assert history[-1]["semantic_loss"] < history[0]["semantic_loss"]
    assert list((folder / "train").glob("events.*"))
    assert list((folder / "eval").glob("events.*"))
    out = chain.results["train"].out
    assert "step 15, 5 images" in out
    assert "step 30, 5 images" in out
    assert not list(folder.glob("*.partial"))


def test_evaluation_alone_measures_what_training_measured(chain):
    trained, alone = chain.results["train"].out, chain.results["eval"].out
    assert alone.startswith("Panoptic quality")
    assert alone in trained[trained.rindex("Panoptic quality") :]
    metrics = json.loads((chain.root / "model" / "metrics.json").read_text())
    assert metrics["step"] == 30
    assert metrics["num_images"] == 5
    assert metrics["average_precision"]["rules"] == "coco"
    assert "Instances (COCO's rules): AP " in alone
    rows = [json.loads(line) for line in (chain.root / "model" / "per_image.jsonl").read_text().splitlines()]
    assert len({row["name"] for row in rows}) == 5
    counted = metrics["panoptic_quality"]["per_class"].values()
    assert sum(row["tp"] for row in rows) == sum(quality["tp"] for quality in counted)
    assert set(rows[0]) == {"name", "pq", "sq", "rq", "tp", "fp", "fn", "miou"}
    _, metadata = export.load(str(chain.root / "export"))
    assert metadata.metrics == metrics


def test_the_official_tool_agrees_on_what_predict_writes(chain):
    tool = pytest.importorskip("cityscapesscripts.evaluation.evalPanopticSemanticLabeling")
    truth = json.loads((chain.root / "data" / "panoptic_val.json").read_text())
    predictions = {
        a["image_id"]: a
        for a in json.loads((chain.root / "predictions" / "predictions.json").read_text())["annotations"]
    }
    pairs = [(annotation, predictions[annotation["image_id"]]) for annotation in truth["annotations"]]
    assert len(pairs) == 5
    categories = {c["id"]: c for c in truth["categories"]}
    folders = (str(chain.root / "data" / "panoptic_val"), str(chain.root / "predictions" / "panoptic"))
    stat = tool.pq_compute_single_core(0, pairs, *folders, categories)

    metrics = json.loads((chain.root / "model" / "metrics.json").read_text())["panoptic_quality"]
    space = dataset_info.DatasetInfo.read(chain.root / "records" / "val").label_space
    assert sum(row["tp"] + row["fp"] for row in metrics["per_class"].values()) > 0
    for label in space.classes:
        row, official = metrics["per_class"][str(label.id)], stat[label.category_id]
        assert [row["tp"], row["fp"], row["fn"]] == [official.tp, official.fp, official.fn], label.name
        np.testing.assert_allclose(row["sq"] * row["tp"], official.iou, rtol=1e-6)
    for name, is_thing in (("all", None), ("things", True), ("stuff", False)):
        mean, _ = stat.pq_average(categories, is_thing)
        for key in ("pq", "sq", "rq"):
            np.testing.assert_allclose(metrics[name][key], mean[key], rtol=1e-6)


def test_predict_leaves_pictures_and_maps(chain):
    folder = chain.root / "predictions"
    names = {f"{i:06d}.png" for i in range(1, 6)}
    assert {p.name for p in folder.iterdir()} == {*names, "panoptic", "predictions.json"}
    assert {p.name for p in (folder / "panoptic").iterdir()} == names
    annotations = json.loads((folder / "predictions.json").read_text())["annotations"]
    assert {a["file_name"] for a in annotations} == names
    assert {a["image_id"] for a in annotations} == {1, 2, 3, 4, 5}
    for annotation in annotations:
        ids = np.asarray(Image.open(folder / "panoptic" / annotation["file_name"]), np.int64) @ [1, 256, 65536]
        assert ids.shape == (48, 64)
        found = {int(i): int(n) for i, n in zip(*np.unique(ids[ids > 0], return_counts=True))}
        assert found == {s["id"]: s["area"] for s in annotation["segments_info"]}


def test_predict_names_images_by_file_without_ground_truth(chain, tmp_path):
    images = chain.root / "data" / "val"
    result = commands.run(
        *("predict", f"--saved_model={chain.root}/export", f"--input={images}/00000[45].jpg"),
        *(f"--input={images}/000001.jpg", "--limit=2", f"--output_dir={tmp_path}"),
    )
    assert result.status == 0, result.err
    annotations = json.loads((tmp_path / "predictions.json").read_text())["annotations"]
    assert [a["image_id"] for a in annotations] == ["000004", "000005"]
    with_truth = json.loads((chain.root / "predictions" / "predictions.json").read_text())["annotations"]
    assert annotations[0]["segments_info"] == with_truth[3]["segments_info"]


@pytest.mark.parametrize(("batch", "height", "width"), [(1, 48, 64), (2, 48, 64), (2, 33, 49), (1, 71, 50), (1, 1, 7)])
def test_the_export_predicts_what_the_network_does(exported, predictor, batch, height, width):
    module, _ = exported
    images = np.random.default_rng(height).integers(0, 256, [batch, height, width, 3], np.uint8)
    found = module.serve(tf.constant(images))
    expected = predictor.predict_images(tf.constant(images))
    assert set(found) == set(expected)
    for key in (keys.PANOPTIC_MAP, keys.SEMANTIC_MAP, keys.INSTANCE_MAP):
        assert found[key].shape == (batch, height, width)
        # Eagerly and as a graph, sums round differently: a pixel on the border of two classes may fall either way.
        assert np.mean(found[key].numpy() == expected[key].numpy()) > 0.999, key
    signature = module.signatures["serving_default"](images=tf.constant(images))
    np.testing.assert_array_equal(signature[keys.PANOPTIC_MAP], found[keys.PANOPTIC_MAP])


def test_a_batch_is_predicted_as_its_images(chain, exported):
    module, _ = exported
    paths = sorted((chain.root / "data" / "val").glob("*.jpg"))[:2]
    images = np.stack([predict.read_image(str(path)) for path in paths])
    together = module.serve(tf.constant(images))[keys.PANOPTIC_MAP].numpy()
    for image, panoptic in zip(images, together):
        alone = module.serve(tf.constant(image[None]))[keys.PANOPTIC_MAP].numpy()[0]
        assert np.mean(alone == panoptic) > 0.999


def test_the_export_knows_what_it_is(exported, chain, tmp_path):
    _, metadata = exported
    assert metadata.step == 30
    assert metadata.label_space == dataset_info.DatasetInfo.read(chain.root / "records" / "val").label_space
    again = tmp_path / "again.textproto"
    again.write_text(metadata.config)
    assert config.load(again).experiment_name == "tiny"


def test_an_export_does_not_overwrite(chain):
    folder = chain.root / "export"
    before = sorted(p.relative_to(folder) for p in folder.rglob("*"))
    result = commands.run("export", *chain.flags, f"--model_dir={chain.root}/model", f"--output_dir={folder}")
    message = commands.one_message(result)
    assert message == f"--output_dir={folder} is not empty. Name a new folder, or remove this one first."
    assert sorted(p.relative_to(folder) for p in folder.rglob("*")) == before
    assert not list(chain.root.glob(".export.*"))


def test_describe_counts_the_network(chain, predictor):
    result = commands.run("describe", *chain.flags, "--input_size=65,97")
    assert result.status == 0, result.err
    assert "image: 65 x 97" in result.out
    total = int(result.out.splitlines()[-1].split()[1].replace(",", ""))
    assert total == sum(int(np.prod(v.shape)) for v in predictor.model.trainable_variables)


def test_a_finished_training_only_evaluates_again(chain, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(chain.root / "model", folder)
    before = (folder / "history.jsonl").read_bytes()
    result = commands.run("train", *chain.flags, f"--model_dir={folder}")
    assert result.status == 0, result.err
    assert "Resuming from" in result.out
    assert (folder / "history.jsonl").read_bytes() == before


@pytest.mark.slow
def test_several_scales_and_mirror_images(chain, predictor, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(chain.root / "model", folder)
    fields = ("evaluator_options.eval_scales=0.7,1", "evaluator_options.add_flipped_images=true")
    flags = (*chain.flags, *(f"--set={field}" for field in fields), f"--model_dir={folder}")
    result = commands.run("train", "--mode=eval", *flags)
    assert result.status == 0, result.err
    assert "step 30, 5 images, mean of scales 0.7, 1, plain and mirrored\n" in result.out
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["inference"] == {"scales": [0.7, 1.0], "flip": True}
    differs = ["evaluator_options.add_flipped_images: was false, now true"]
    differs += ["evaluator_options.eval_scales: was not set, now 0.7, 1"]
    assert metrics[log.DIFFERS] == {log.EVALUATION: differs}
    assert "note: the evaluation is not that of the run's config" in result.err

    result = commands.run("export", *flags, f"--output_dir={tmp_path}/export")
    assert result.status == 0, result.err
    module, metadata = export.load(str(tmp_path / "export"))
    assert metadata.metrics == metrics
    multi_scale = MultiScale((0.7, 1.0), True)
    expected = Predictor(
        predictor.model, predictor.postprocessor, predictor.output_stride, predictor.image_options, multi_scale
    )
    for height, width in ((48, 64), (71, 50)):
        images = tf.constant(np.random.default_rng(0).integers(0, 256, [1, height, width, 3], np.uint8))
        found = module.serve(images)[keys.SEMANTIC_MAP].numpy()
        assert np.mean(found == expected.predict_images(images)[keys.SEMANTIC_MAP].numpy()) > 0.999
        assert (found != predictor.predict_images(images)[keys.SEMANTIC_MAP].numpy()).any()


def test_continuous_evaluation_ends_with_the_last_checkpoint(chain, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(chain.root / "model", folder)
    expected = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").unlink()
    command = ("train", "--mode=continuous_eval", *chain.flags, f"--model_dir={folder}")
    result = commands.run(*command)
    assert result.status == 0, result.err
    assert not (folder / "metrics.json").exists()  # training has evaluated all of them
    (folder / "evaluations.jsonl").unlink()
    result = commands.run(*command)
    assert result.status == 0, result.err
    assert json.loads((folder / "metrics.json").read_text()) == expected


def test_continuous_evaluation_gives_up_when_no_checkpoint_comes(chain, tmp_path):
    timeout = "--set=evaluator_options.continuous_eval_timeout=1"
    result = commands.run("train", "--mode=continuous_eval", *chain.flags, timeout, f"--model_dir={tmp_path}")
    assert "no new checkpoint came for 1 seconds" in commands.one_message(result)
