# SPDX-License-Identifier: Apache-2.0
"""Every shipped config of a published row: it loads, it can be built, and its header says how to use it."""

import functools
import pathlib
import re

import pytest
import tensorflow as tf
from google.protobuf import text_format

from deeplab_axial import builders, config
from deeplab_axial.backbones import presets
from deeplab_axial.protos import config_pb2, model_pb2

ROOT = pathlib.Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
BASES = sorted((CONFIGS / "bases").glob("*.textproto"))
# Our own small trainings, which nobody has published.
OWN = (
    "demo/axial_deeplab_tiny.textproto",
    "demo/axial_resnet_tiny.textproto",
    "coco/sample_overfit.textproto",
    "own_data/axial_deeplab_s.textproto",
)
ROWS = {
    path.relative_to(CONFIGS).as_posix(): path
    for path in sorted(CONFIGS.rglob("*.textproto"))
    if path not in BASES and not path.as_posix().endswith(OWN)
}
# What segmentation starts from; the literature reports nothing of it.
PRETRAINING = tuple(f"imagenet/axial_deeplab_{size}.textproto" for size in ("s", "m", "l", "xl"))
PLACEHOLDERS = {"TRAIN_SET": "train-*.tfrecord", "VAL_SET": "val-*.tfrecord", "INIT_CHECKPOINT": "checkpoint"}
METRICS = {
    "pq": "PQ",
    "pq_things": "PQ things",
    "pq_stuff": "PQ stuff",
    "ap": "AP",
    "miou": "mIoU",
    "top1": "top-1",
}


@functools.cache
def _load(name: str) -> config_pb2.ExperimentOptions:
    return config.load(ROWS[name], backbone_names=presets.NAMES)


def _own(path: pathlib.Path) -> config_pb2.ExperimentOptions:
    """What the file itself says."""
    return text_format.Parse(path.read_text(), config_pb2.ExperimentOptions())


def _header(name: str) -> str:
    lines = ROWS[name].read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    return "\n".join(line.removeprefix("#").strip() for line in lines[:first])


def _leaves(message, prefix: str = "") -> dict[str, object]:
    """All that is set, as dotted path -> value."""
    found = {}
    for field, value in message.ListFields():
        if field.message_type is not None and hasattr(value, "ListFields"):
            found |= _leaves(value, f"{prefix}{field.name}.") or {f"{prefix}{field.name}": None}
        else:
            found[prefix + field.name] = list(map(str, value)) if isinstance(field.default_value, list) else value
    return found


def test_there_are_rows_of_every_data_set():
    folders = {name.split("/")[0] for name in ROWS}
    assert folders == {"cityscapes", "coco", "imagenet", "mapillary"}
    names = [_load(name).experiment_name for name in ROWS]
    assert names == [name.removesuffix(".textproto").replace("/", "_") for name in ROWS]


@pytest.mark.parametrize("name", ROWS)
def test_it_is_valid(name):
    options = _load(name)
    is_classifier = options.model_options.HasField("classification")
    filled = {key: value for key, value in PLACEHOLDERS.items() if not (is_classifier and key == "INIT_CHECKPOINT")}
    config.load(ROWS[name], mode="train_and_eval", backbone_names=presets.NAMES, placeholders=filled)
    # The network sees as many classes as the data set has.
    space = builders.load_label_space(options.train_dataset_options.dataset)
    model = options.model_options
    classes = (
        model.classification.num_classes if is_classifier else model.panoptic_deeplab.semantic_head.output_channels
    )
    assert classes == space.num_classes
    assert options.eval_dataset_options.dataset == options.train_dataset_options.dataset


@pytest.mark.parametrize("name", ROWS)
def test_its_header_says_how_to_use_it_and_what_to_expect(name):
    header = _header(name)
    commands = [line for line in header.splitlines() if line.startswith("deeplab-axial ")]
    assert f"--config_file=configs/{name}" in commands[0].split()
    assert commands[0].split()[1] in ("train", "submit")
    text = " ".join(header.split())
    needed = {"train": PLACEHOLDERS, "submit": ["VAL_SET"]}[commands[0].split()[1]]
    if "--mode=eval" in commands[0]:
        needed = ["VAL_SET"]
    elif name.startswith("imagenet/"):
        needed = ["TRAIN_SET", "VAL_SET"]
    assert [placeholder for placeholder in needed if placeholder not in text] == []
    assert re.search(r"Expected: .+\. Cost: .+\.", text)
    published = _load(name).published
    for field, metric in METRICS.items():
        if published.HasField(field):
            assert f"{metric} {getattr(published, field):.1f}" in text.split("Expected: ")[1]
    assert max(len(line) for line in header.splitlines() if line not in commands) <= 118


@pytest.mark.parametrize("name", ROWS)
def test_it_repeats_nothing_of_its_bases(name, tmp_path):
    own = _own(ROWS[name])
    assert own.base
    bases = "\n".join(f'base: "{(ROWS[name].parent / base).resolve()}"' for base in own.base)
    (tmp_path / "bases.textproto").write_text(bases)
    inherited = _leaves(config.load(tmp_path / "bases.textproto"))
    leaves = {path: value for path, value in _leaves(own).items() if not path.startswith("published.")}
    assert [path for path, value in leaves.items() if path in inherited and inherited[path] == value] == []


@pytest.mark.parametrize("name", sorted(set(ROWS) - set(PRETRAINING)))
def test_published_figures_are_its_own(name):
    published = _load(name).published
    assert published.source
    assert published.split
    assert len(published.input_size) == 2
    assert _own(ROWS[name]).published == published


@pytest.mark.parametrize("name", PRETRAINING)
def test_what_segmentation_starts_from_has_its_backbone(name):
    pretrained = _load(name)
    assert not pretrained.HasField("published")
    named = [other for other in ROWS if f"configs/{name}:" in " ".join(_header(other).split())]
    assert named, "no header says that it starts from this"
    for other in named:
        backbone, expected = model_pb2.BackboneOptions(), model_pb2.BackboneOptions()
        backbone.CopyFrom(_load(other).model_options.backbone)
        expected.CopyFrom(pretrained.model_options.backbone)
        for options in (backbone, expected):  # what has no weights may differ
            options.ClearField("output_stride")
            options.ClearField("attention_span")
        assert backbone == expected, other


def test_the_small_segmentation_can_start_from_the_small_classifier():
    names = (f"demo/{name}.textproto" for name in ("axial_resnet_tiny", "axial_deeplab_tiny"))
    classifier, segmentation = (config.load(CONFIGS / name, mode="train_and_eval") for name in names)
    assert classifier.model_options.backbone == segmentation.model_options.backbone


@pytest.mark.parametrize("images", [1024, 512])
def test_imagenet_is_trained_on_for_130_epochs(images):
    """The paper's protocol: 10 epochs of warm-up, a learning rate of 0.05 for each 128 images."""
    for name in (name for name in ROWS if name.startswith("imagenet/")):
        options = _load(name)
        if options.train_dataset_options.batch_size != images:
            continue
        solver = options.trainer_options.solver_options
        assert ("full" in name) == (images == 512)
        assert solver.training_number_of_steps == 130 * 1_281_167 // images
        assert solver.warmup_steps == round(10 * 1_281_167 / images)
        assert solver.base_learning_rate == pytest.approx(0.05 * images / 128)
        assert solver.weight_decay == pytest.approx(8e-5)
        assert (solver.optimizer, solver.sgd_nesterov, solver.learning_policy) == ("sgd", True, "cosine")
        assert solver.sgd_momentum == pytest.approx(0.9)
        assert options.trainer_options.loss_options.classification_loss.label_smoothing == pytest.approx(0.1)
        assert options.train_dataset_options.augmentations.HasField("inception_crop")


def test_batch_normalisation_sees_two_images_on_every_number_of_devices():
    for name in ROWS:
        options = _load(name)
        for devices in (1, options.train_dataset_options.batch_size):
            builders.check_batch_statistics(options, devices)


@pytest.mark.parametrize("path", BASES, ids=lambda path: path.stem)
def test_bases_publish_nothing_and_are_used(path):
    assert not _own(path).HasField("published")
    assert "Not an experiment of its own." in " ".join(path.read_text().replace("#", "").split())
    assert any((p.parent / base).resolve() == path for p in [*ROWS.values(), *BASES] for base in _own(p).base)


@pytest.mark.parametrize(
    ("single", "multi"),
    [
        ("coco/axial_deeplab_l.textproto", "coco/axial_deeplab_l_multi_scale.textproto"),
        ("mapillary/axial_deeplab_l.textproto", "mapillary/axial_deeplab_l_multi_scale.textproto"),
    ],
)
def test_the_scales_give_the_published_multiply_adds(single, multi):
    variants = builders.build_multi_scale(_load(multi).evaluator_options)
    ratio = (2 if variants.flip else 1) * sum(scale**2 for scale in variants.scales)
    published = _load(multi).published.multiply_adds / _load(single).published.multiply_adds
    assert ratio == pytest.approx(published, rel=1e-3)


def _networks() -> list[str]:
    """One row of each network."""
    first = {}
    for name in ROWS:
        model = model_pb2.ModelOptions()
        model.CopyFrom(_load(name).model_options)
        model.ClearField("initial_checkpoint")
        model.ClearField("restore_semantic_last_layer_from_initial_checkpoint")
        first.setdefault(model.SerializeToString(deterministic=True), name)
    return list(first.values())


def _build(name: str) -> None:
    with tf.Graph().as_default():
        model = builders.build_symbolic_model(_load(name))
        assert len(model.trainable_weights) > 100


@pytest.mark.parametrize(
    "name",
    ["cityscapes/resnet50_beta.textproto", "imagenet/axial_resnet_s.textproto"],
)
def test_it_can_be_built(name):
    _build(name)


@pytest.mark.slow
def test_every_network_can_be_built():
    for name in _networks():
        _build(name)
