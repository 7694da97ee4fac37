# SPDX-License-Identifier: Apache-2.0
"""Classification pipelines on a small tree of images, and the config fields that make them."""

import dataclasses
import io
import os

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from PIL import Image

from deeplab_axial import builders, config, keys
from deeplab_axial.builders.label_spaces import load_label_space
from deeplab_axial.data import classification, diagnosis
from deeplab_axial.data.classification_transforms import InceptionCropOptions, central_crop
from deeplab_axial.data.converters import imagenet
from deeplab_axial.data.rand_augment import RandAugmentOptions
from deeplab_axial.data.source import Source
from deeplab_axial.errors import InputError
from deeplab_axial.protos import config_pb2

CROP = (32, 40)
COLORS = ((210, 30, 30), (30, 190, 60), (40, 60, 220))  # of the classes "a", "b" and "c"
AUGMENT = classification.AugmentOptions(InceptionCropOptions(), RandAugmentOptions(), seed=3, shuffle_buffer=5)


def _image(label: int, number: int) -> tuple[str, bytes]:
    """A picture whose colour tells its class and whose brightness from left to right its number."""
    rng = np.random.default_rng(10 * label + number)
    height, width = (int(side) for side in rng.integers(30, 90, 2))
    pixels = (
        np.array(COLORS[label]) + np.linspace(-25, 25, width)[None, :, None] + rng.integers(-4, 5, (height, width, 3))
    )
    image_format, mode = [("JPEG", "RGB"), ("PNG", "RGB"), ("JPEG", "CMYK")][number % 3]
    buffer = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).convert(mode).save(buffer, image_format)
    return f"{number}.JPEG", buffer.getvalue()


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, bytes]:
    """{name in the records: bytes} of eleven images."""
    return {f"{'abc'[k]}/{name}": data for k in range(3) for name, data in (_image(k, i) for i in range(3 + (k < 2)))}


@pytest.fixture(scope="module")
def source(files, tmp_path_factory) -> Source:
    root = tmp_path_factory.mktemp("classes")
    for name, data in files.items():
        path = root / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    imagenet.convert(root / "images", root / "records", num_shards=3)
    return Source.open([str(root / "records" / "*.tfrecord")])


@pytest.fixture(scope="module")
def unlabelled(files, tmp_path_factory) -> Source:
    root = tmp_path_factory.mktemp("test_split")
    (root / "images").mkdir()
    (root / "images" / "x.jpg").write_bytes(files["a/0.JPEG"])
    imagenet.convert(root / "images", root / "records", label_space=load_label_space("imagenet"))
    return Source.open([str(root / "records" / "*.tfrecord")])


def _class_by_color(image: np.ndarray) -> int:
    return int(np.argmin([np.abs(image.mean(axis=(0, 1)) - color).sum() for color in COLORS]))


def test_training_batches_and_their_classes(source):
    options = classification.AugmentOptions(InceptionCropOptions(), shuffle_buffer=4)
    dataset = classification.training_dataset(source, 4, CROP, options)
    assert dataset.element_spec == {
        keys.IMAGE: tf.TensorSpec([4, *CROP, 3], tf.float32),
        keys.CLASS_TARGET: tf.TensorSpec([4], tf.int32),
    }
    assert all(name in keys.TABLE for name in dataset.element_spec)
    for batch in dataset.take(5):
        image = batch[keys.IMAGE].numpy()
        assert 0 <= image.min() < image.max() <= 255
        # Neither CMYK nor the crop changes what colour it is.
        assert [_class_by_color(one) for one in image] == batch[keys.CLASS_TARGET].numpy().tolist()


def test_each_epoch_has_every_image_once_in_an_order_of_its_own(source):
    options = classification.AugmentOptions(seed=1, shuffle_buffer=4, flip=False)
    dataset = classification.training_dataset(source, 11, CROP, options)
    epochs = [batch[keys.IMAGE].numpy() for batch in dataset.take(3)]
    orders = [[one.tobytes() for one in epoch] for epoch in epochs]
    assert all(len(set(order)) == 11 for order in orders)
    assert set(orders[0]) == set(orders[1]) == set(orders[2])
    assert orders[0] != orders[1] != orders[2]


@pytest.mark.parametrize(("changes", "first_steps"), [(None, (1, 6)), (RandAugmentOptions(1), (3,))])
def test_a_run_that_resumes_sees_the_same_images(source, changes, first_steps):
    options = dataclasses.replace(AUGMENT, rand_augment=changes)
    whole = list(classification.training_dataset(source, 4, CROP, options).take(7))
    for first_step in first_steps:
        tf.random.set_seed(first_step)
        rest = classification.training_dataset(source, 4, CROP, options, first_step).take(7 - first_step)
        for batch, expected in zip(rest, whole[first_step:], strict=True):
            for key, value in expected.items():
                np.testing.assert_array_equal(batch[key], value)


def test_another_seed_gives_other_images(source):
    batches = [
        next(
            iter(classification.training_dataset(source, 11, CROP, classification.AugmentOptions(None, None, True, s)))
        )
        for s in (0, 1)
    ]
    assert not np.array_equal(batches[0][keys.IMAGE], batches[1][keys.IMAGE])


def test_options_that_are_off_leave_evaluations_crop(source):
    options = classification.AugmentOptions(flip=False)
    trained = next(iter(classification.training_dataset(source, 11, CROP, options)))
    evaluated = next(iter(classification.evaluation_dataset(source, 11, CROP)))
    assert {one.tobytes() for one in trained[keys.IMAGE].numpy()} == {
        one.tobytes() for one in evaluated[keys.IMAGE].numpy()
    }


def test_rand_augment_gives_whole_grey_levels(source):
    batch = next(iter(classification.training_dataset(source, 11, CROP, AUGMENT)))
    image = batch[keys.IMAGE].numpy()
    np.testing.assert_array_equal(image, np.round(image))
    assert 0 <= image.min() < image.max() <= 255


@pytest.mark.parametrize("batch_size", [1, 4, 11, 16])
def test_evaluation_gives_every_image_once_and_masks_what_fills_up(source, files, batch_size):
    batches = list(classification.evaluation_dataset(source, batch_size, CROP))
    assert len(batches) == -(-11 // batch_size)
    assert {batch[keys.IMAGE].shape for batch in batches} == {(batch_size, *CROP, 3)}
    joined = {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
    real = joined[keys.IS_REAL]
    assert real.sum() == 11
    assert real[:11].all()
    assert set(joined[keys.CLASS_TARGET][~real].tolist()) <= {-1}
    assert set(joined[keys.IMAGE_NAME][~real].tolist()) <= {b""}
    names = [name.decode() for name in joined[keys.IMAGE_NAME][real]]
    assert sorted(names) == sorted(files)
    for name, label, image in zip(names, joined[keys.CLASS_TARGET], joined[keys.IMAGE]):
        assert label == "abc".index(name[0])
        decoded = tf.io.decode_image(files[name], channels=3, expand_animations=False)
        np.testing.assert_allclose(image, central_crop(decoded, *CROP), atol=1e-3)


def test_workers_together_give_what_one_would(source):
    options = classification.AugmentOptions(InceptionCropOptions(), shuffle_buffer=5)
    whole = list(classification.training_dataset(source, 4, CROP, options, 1).take(4))
    parts = [
        list(classification.training_dataset(source, 4, CROP, options, 1, 2, worker, 2).take(4)) for worker in (0, 1)
    ]
    for step, expected in enumerate(whole):
        for key, value in expected.items():
            np.testing.assert_array_equal(np.concatenate([part[step][key] for part in parts]), value)

    whole = list(classification.evaluation_dataset(source, 4, CROP))
    parts = [list(classification.evaluation_dataset(source, 4, CROP, 2, worker)) for worker in (0, 1)]
    assert [len(part) for part in parts] == [3, 3]
    for step, expected in enumerate(whole):
        for key, value in expected.items():
            np.testing.assert_array_equal(np.concatenate([part[step][key] for part in parts]), value)


def test_a_tf_data_service_gives_the_same_kind_of_batches(source):
    service = tf.data.experimental.service
    dispatcher = service.DispatchServer()
    worker = service.WorkerServer(service.WorkerConfig(dispatcher.target.split("://")[1]))
    options = classification.AugmentOptions(InceptionCropOptions(), shuffle_buffer=5)
    dataset = classification.training_dataset(source, 4, CROP, options, service_address=dispatcher.target)
    for batch in dataset.take(3):
        assert [_class_by_color(one) for one in batch[keys.IMAGE].numpy()] == batch[keys.CLASS_TARGET].numpy().tolist()
    del dataset, worker, dispatcher


def test_a_batch_that_replicas_cannot_share_is_refused(source):
    with pytest.raises(ValueError, match=r"batch_size of num_replicas. Received: 3, 1 and 4. Change batch_size"):
        classification.training_dataset(source, 4, CROP, AUGMENT, num_replicas=3)


def test_a_split_without_labels_is_evaluated_but_not_trained_on(unlabelled):
    (batch,) = classification.evaluation_dataset(unlabelled, 1, CROP)
    assert batch[keys.CLASS_TARGET].numpy().tolist() == [-1]
    assert batch[keys.IS_REAL].numpy().tolist() == [True]
    with pytest.raises(InputError, match=r"must hold labels to be trained on. Received: a test split without"):
        classification.training_dataset(unlabelled, 1, CROP, AUGMENT)


def test_panoptic_records_are_refused(scene_records):
    scenes = Source.open([scene_records.train])
    for make in (
        lambda: classification.training_dataset(scenes, 1, CROP, AUGMENT),
        lambda: classification.evaluation_dataset(scenes, 1, CROP),
    ):
        with pytest.raises(InputError, match=r"must hold a classification data set.*Received: task 'panoptic'"):
            make()


def test_an_image_of_no_class_is_named(source):
    space = source.info.label_space
    fewer = dataclasses.replace(space, classes=space.classes[:2], num_classes=2)
    source = dataclasses.replace(source, info=dataclasses.replace(source.info, label_space=fewer))
    batches = iter(classification.training_dataset(source, 11, CROP, AUGMENT))
    message = r"Image c/\d\.JPEG must have a class from 0 to 1\. Received: 2\. Convert"
    with pytest.raises(InputError, match=message), diagnosis.explain_errors(source, with_panoptic=False):
        next(batches)


def _options(text: str) -> config_pb2.ExperimentOptions:
    options = config_pb2.ExperimentOptions()
    text_format.Parse(text, options)
    return options


def test_datasets_from_a_config(source, monkeypatch):
    seen = []
    monkeypatch.setattr(classification, "training_dataset", lambda *args, **kwargs: seen.append((*args, kwargs)))
    text = "train_dataset_options { batch_size: 4 crop_size: 32 crop_size: 40 seed: 7 "
    text += 'data_service_address: "grpc://host:1" augmentations { %s } }'
    for augmentations in ("", "random_flip: false inception_crop { min_area: 0.25 } rand_augment { magnitude: 9 }"):
        options = _options(text % augmentations).train_dataset_options
        builders.build_training_dataset(options, source, 5, tf.distribute.InputContext(2, 1, 4))
    assert [args[:3] + args[4:] for args in seen] == [(source, 4, CROP, 5, 2, 1, 4, "grpc://host:1", {})] * 2
    plain, changed = (args[3] for args in seen)
    assert plain == classification.AugmentOptions(None, None, True, 7, 11)
    assert changed.inception_crop.min_area == 0.25
    # The schema's defaults are the dataclasses'.
    for name, value in vars(InceptionCropOptions(min_area=0.25)).items():
        assert getattr(changed.inception_crop, name) == pytest.approx(value, rel=1e-6)
    assert changed.rand_augment == RandAugmentOptions(2, 9)
    assert not changed.flip
    defaults = _options("train_dataset_options { augmentations { rand_augment { } } }").train_dataset_options
    defaults = defaults.augmentations.rand_augment
    assert RandAugmentOptions(defaults.num_layers, defaults.magnitude) == RandAugmentOptions()


def test_evaluation_from_a_config_takes_eval_steps(source):
    options = _options(
        "eval_dataset_options { batch_size: 4 crop_size: 32 crop_size: 40 } evaluator_options { eval_steps: 2 }"
    )
    assert len(list(builders.build_evaluation_dataset(options, source))) == 2
    options.evaluator_options.eval_steps = -1
    assert len(list(builders.build_evaluation_dataset(options, source))) == 3


AUGMENTATIONS = "train_dataset_options.augmentations"
CLASSIFIER = """
model_options {{
  backbone {{ name: "axial_deeplab_s" output_stride: 32 }}
  classification {{ num_classes: 3 }}
}}
train_dataset_options {{ crop_size: 224 crop_size: 224 augmentations {{ {} }} }}
"""


def _problems(folder: os.PathLike, augmentations: str) -> list[str]:
    path = os.path.join(folder, "classifier.textproto")
    with open(path, "w") as file:
        file.write(CLASSIFIER.format(augmentations))
    try:
        config.load(path)
    except InputError as error:
        return str(error).splitlines()
    return []


@pytest.mark.parametrize(
    ("augmentations", "expected"),
    [
        ("inception_crop { min_area: 0 }", "inception_crop.min_area: must lie in (0, 1]. Received: 0."),
        ("inception_crop { max_area: 1.5 }", "inception_crop.max_area: must lie in (0, 1]. Received: 1.5."),
        (
            "inception_crop { min_area: 0.5 max_area: 0.4 }",
            "inception_crop.min_area: must be at most inception_crop.max_area (0.4). Received: 0.5.",
        ),
        (
            "inception_crop { min_aspect_ratio: 2 }",
            "inception_crop.min_aspect_ratio: must be at most inception_crop.max_aspect_ratio (1.333333). Received: 2.",
        ),
        ("inception_crop { max_aspect_ratio: -1 }", "inception_crop.max_aspect_ratio: must be above 0. Received: -1."),
        ("rand_augment { num_layers: 0 }", "rand_augment.num_layers: must be above 0. Received: 0."),
        ("rand_augment { magnitude: 11 }", "rand_augment.magnitude: must lie in [0, 10]. Received: 11."),
        ("max_scale_factor: 2", "max_scale_factor: is not for classification. Received: 2."),
        ("photometric_distortion { }", "photometric_distortion: is not for classification. Received: a Photometric"),
    ],
)
def test_bad_fields_are_named(tmp_path, augmentations, expected):
    problems = _problems(tmp_path, augmentations)
    assert any(f"{AUGMENTATIONS}.{expected}" in problem for problem in problems), problems


def test_good_fields_have_no_problem(tmp_path):
    assert _problems(tmp_path, "inception_crop { } rand_augment { } min_scale_factor: 1.0 random_flip: false") == []


def test_fields_of_classification_are_refused_for_segmentation(tmp_path):
    path = tmp_path / "panoptic.textproto"
    tiny = os.path.join(os.path.dirname(__file__), "tiny.textproto")
    path.write_text(f'base: "{tiny}" train_dataset_options {{ augmentations {{ rand_augment {{ }} }} }}')
    with pytest.raises(InputError, match=r"augmentations\.rand_augment: is not for segmentation.*Remove the section"):
        config.load(path)
