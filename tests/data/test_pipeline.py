# SPDX-License-Identifier: Apache-2.0
"""The input pipelines on small record files."""

import dataclasses
import itertools
import os
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf

from deeplab_axial import keys
from deeplab_axial.data import pipeline, records, targets, tfrecord_files
from deeplab_axial.errors import InputError

SMALL = pipeline.ImageOptions(crop_size=(33, 49))
WHOLE = pipeline.ImageOptions(crop_size=(48, 64))
PLAIN = pipeline.AugmentOptions(flip=False, seed=1)
RANDOM = pipeline.AugmentOptions(min_scale=0.5, max_scale=2.0, scale_step=0.1, seed=1, shuffle_buffer=3)


@pytest.fixture(scope="module")
def train(scene_records) -> pipeline.Source:
    return pipeline.Source.open([scene_records.train])


@pytest.fixture(scope="module")
def val(scene_records) -> pipeline.Source:
    return pipeline.Source.open([scene_records.val])


def _training(source, batch_size, image_options, augment_options, first_step=0, count=6) -> list[dict]:
    dataset = pipeline.training_dataset(
        source, batch_size, image_options, augment_options, targets.TargetOptions(4), first_step
    )
    return list(itertools.islice(dataset.as_numpy_iterator(), count))


def _assert_equal(some: list[dict], others: list[dict]) -> None:
    assert len(some) == len(others)
    for a, b in zip(some, others):
        assert set(a) == set(b)
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def test_batches_are_as_the_table_says(train):
    dataset = pipeline.training_dataset(train, 2, SMALL, RANDOM, targets.TargetOptions(4))
    spec = dataset.element_spec
    for name, tensor in spec.items():
        entry = keys.TABLE[name]
        assert tensor.dtype.name == entry.dtype
        sizes = {"B": 2, "H": 33, "W": 49, "2": 2, "3": 3}
        assert tensor.shape == [sizes[size] for size in entry.shape.strip("[]").split(", ")]
    (batch,) = itertools.islice(dataset, 1)
    assert 0 <= tf.reduce_min(batch[keys.IMAGE]) < tf.reduce_max(batch[keys.IMAGE]) <= 255
    assert len(spec) == 7


def test_the_seed_alone_decides(train):
    tf.random.set_seed(1)
    first = _training(train, 2, SMALL, RANDOM)
    tf.random.set_seed(2)
    _assert_equal(_training(train, 2, SMALL, RANDOM), first)
    other = _training(train, 2, SMALL, pipeline.AugmentOptions(0.5, 2.0, 0.1, seed=2, shuffle_buffer=3))
    assert any((a[keys.IMAGE] != b[keys.IMAGE]).any() for a, b in zip(first, other))


@pytest.mark.parametrize("first_step", [1, 3, 4, 7])
def test_a_resumed_run_sees_the_same_batches(train, first_step):
    # Seven records in batches of two: batches lie across the borders of epochs.
    whole = _training(train, 2, SMALL, RANDOM, count=10)
    _assert_equal(_training(train, 2, SMALL, RANDOM, first_step, count=10 - first_step), whole[first_step:])


def test_a_policy_changes_colours_alone(train):
    policy = "simple_classification_policy_magnitude_scale_0.2"
    with_policy = dataclasses.replace(RANDOM, policy=policy)
    some = _training(train, 2, SMALL, with_policy, count=10)
    _assert_equal(_training(train, 2, SMALL, with_policy, first_step=4, count=6), some[4:])
    changed = 0
    for a, b in zip(some, _training(train, 2, SMALL, RANDOM, count=10)):
        for name in set(a) - {keys.IMAGE}:
            np.testing.assert_array_equal(a[name], b[name])
        # Padding stays grey: colours are changed before.
        padding = [(batch[keys.IMAGE] == 127.5).all(-1) for batch in (a, b)]
        np.testing.assert_array_equal(*padding)
        changed += sum(np.abs(x - y).max() > 1 for x, y in zip(a[keys.IMAGE], b[keys.IMAGE]))
    assert 3 <= changed <= 15  # 42 % of 20 images on average


def test_every_record_once_an_epoch_in_changing_order(train):
    batches = _training(train, 1, WHOLE, PLAIN, count=28)
    images = [batch[keys.IMAGE].tobytes() for batch in batches]
    epochs = [images[i : i + 7] for i in range(0, 28, 7)]
    assert all(set(epoch) == set(epochs[0]) and len(set(epoch)) == 7 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_the_same_image_changes_differently_in_each_epoch(train):
    batches = _training(train, 1, SMALL, pipeline.AugmentOptions(seed=1), count=70)
    assert len({batch[keys.IMAGE].tobytes() for batch in batches}) > 50


def test_targets_fit_the_images(train, scene_records):
    # Without random changes each image comes with the targets of its own map.
    by_image = {}
    for file in train.files:
        for serialized in tf.data.TFRecordDataset(file):
            features, image, panoptic = pipeline.decode(serialized)
            expected = targets.make_targets(
                panoptic,
                tf.cast(features[records.CROWD_IDS], tf.int32),
                train.info.label_space,
                targets.TargetOptions(4),
            )
            by_image[image.numpy().tobytes()] = expected
    assert len(by_image) == scene_records.num_train
    for batch in _training(train, 1, WHOLE, PLAIN, count=7):
        for name, value in by_image[batch[keys.IMAGE][0].tobytes()].items():
            np.testing.assert_array_equal(batch[name][0], value)


@pytest.mark.parametrize("batch_size", [1, 2, 4, 5, 8])
def test_evaluation_drops_nothing_and_fills_up(val, batch_size):
    batches = list(pipeline.evaluation_dataset(val, batch_size, WHOLE).as_numpy_iterator())
    assert len(batches) == -(-5 // batch_size)
    assert all(batch[keys.IMAGE].shape == (batch_size, 48, 64, 3) for batch in batches)
    names = np.concatenate([batch[keys.IMAGE_NAME] for batch in batches])
    real = np.concatenate([batch[keys.IS_REAL] for batch in batches])
    np.testing.assert_array_equal(real, np.arange(len(real)) < 5)
    assert len(set(names[real])) == 5
    assert set(names[~real]) <= {b""}


def test_evaluation_pads_below_and_to_the_right(val):
    options = pipeline.ImageOptions(crop_size=(65, 97))
    (padded,) = pipeline.evaluation_dataset(val, 5, options).as_numpy_iterator()
    (plain,) = pipeline.evaluation_dataset(val, 5, WHOLE).as_numpy_iterator()
    np.testing.assert_array_equal(padded[keys.IMAGE][:, :48, :64], plain[keys.IMAGE])
    assert (padded[keys.IMAGE][:, 48:] == 127.5).all()
    assert (padded[keys.IMAGE][:, :, 64:] == 127.5).all()
    for batch in (padded, plain):
        np.testing.assert_array_equal(batch[keys.RAW_SIZE], [[48, 64]] * 5)
        np.testing.assert_array_equal(batch[keys.RESIZED_SIZE], [[48, 64]] * 5)
    spec = pipeline.evaluation_dataset(val, 5, options).element_spec
    assert {name: tensor.dtype.name for name, tensor in spec.items()} == {name: keys.TABLE[name].dtype for name in spec}


def test_evaluation_resizes_the_image_alone(val):
    options = pipeline.ImageOptions(crop_size=(49, 65), min_resize=24, resize_factor=16)
    (batch,) = pipeline.evaluation_dataset(val, 5, options).as_numpy_iterator()
    np.testing.assert_array_equal(batch[keys.RESIZED_SIZE], [[33, 33]] * 5)
    np.testing.assert_array_equal(batch[keys.RAW_SIZE], [[48, 64]] * 5)
    panoptic = records.decode_panoptic(batch[keys.RAW_PANOPTIC][0], records.PNG, 48, 64)
    assert set(np.unique(panoptic // 256)) <= {c.id for c in val.info.label_space.classes} | {0}


def test_too_large_an_image_is_named(val):
    (first,) = pipeline.evaluation_dataset(val, 1, WHOLE).take(1).as_numpy_iterator()
    name = first[keys.IMAGE_NAME][0].decode()
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        list(pipeline.evaluation_dataset(val, 5, SMALL))
    message = str(error.value)
    assert name in message
    assert "[48 64]" in message
    assert "crop_size [33, 49]. Enlarge crop_size" in message


def test_source_reads_the_files(train, scene_records):
    assert len(train.files) == 3
    assert list(train.files) == sorted(train.files)
    assert train.num_records == train.info.num_images == scene_records.num_train
    files = [*train.files]
    assert pipeline.Source.open(files).files == train.files


def test_missing_files():
    with pytest.raises(InputError, match=r"file_pattern 'nowhere/\*\.tfrecord' matches no file.*deeplab-axial convert"):
        pipeline.Source.open(["nowhere/*.tfrecord"])


def test_missing_and_empty_companions(train, tmp_path):
    shutil.copy(train.files[0], tmp_path)
    with pytest.raises(InputError, match=r"dataset\.json cannot be read"):
        pipeline.Source.open([str(tmp_path / "*.tfrecord")])
    empty = tmp_path / "empty"
    empty.mkdir()
    tfrecord_files.write_shard(empty, "a.tfrecord", [])
    with pytest.raises(InputError, match="hold no records"):
        pipeline.Source.open([str(empty / "*.tfrecord")], train.info.label_space)


def test_truncated_files(train, tmp_path):
    for path in map(pathlib.Path, train.files):
        shutil.copy(path, tmp_path)
    damaged = tmp_path / os.path.basename(train.files[1])
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.raises(InputError, match=damaged.name):
        pipeline.Source.open([str(tmp_path / "*.tfrecord")])


@pytest.mark.parametrize(
    ("num_pipelines", "num_replicas", "first_step"),
    [
        (2, 2, 0),
        (2, 4, 3),
        (1, 2, 3),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [(2, 2, 3), (2, 4, 0), (1, 2, 0)]),
    ],
)
def test_workers_and_replicas_share_each_batch(train, num_pipelines, num_replicas, first_step):
    whole = _training(train, 4, SMALL, RANDOM, first_step, count=4)
    replicas = num_replicas // num_pipelines
    shares = [
        list(
            itertools.islice(
                pipeline.training_dataset(
                    train, 4, SMALL, RANDOM, targets.TargetOptions(4), first_step, num_pipelines, index, num_replicas
                ).as_numpy_iterator(),
                4 * replicas,
            )
        )
        for index in range(num_pipelines)
    ]
    joined = []
    for step in range(4):
        parts = [batch for share in shares for batch in share[step * replicas : (step + 1) * replicas]]
        assert len(parts) == num_replicas
        joined.append({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    _assert_equal(joined, whole)


@pytest.mark.parametrize(("batch_size", "num_pipelines"), [(2, 2), (4, 2), (6, 3)])
def test_workers_share_the_evaluation(val, batch_size, num_pipelines):
    (whole,) = pipeline.evaluation_dataset(val, 5, WHOLE).as_numpy_iterator()
    expected = dict(zip(whole[keys.IMAGE_NAME], whole[keys.IMAGE]))
    names, counts = [], set()
    for index in range(num_pipelines):
        dataset = pipeline.evaluation_dataset(val, batch_size, WHOLE, num_pipelines, index)
        batches = list(dataset.as_numpy_iterator())
        counts.add(len(batches))
        for batch in batches:
            assert len(batch[keys.IMAGE]) == batch_size // num_pipelines
            for name, image, is_real in zip(batch[keys.IMAGE_NAME], batch[keys.IMAGE], batch[keys.IS_REAL]):
                assert is_real == (name != b"")
                if is_real:
                    names.append(name)
                    np.testing.assert_array_equal(image, expected[name])
    assert sorted(names) == sorted(expected)
    assert counts == {-(-5 // batch_size)}


@pytest.mark.parametrize("numbers", [(4, 2, 0, 3), (4, 1, 0, 8), (5, 2, 0, 2)])
def test_impossible_shares(train, numbers):
    batch_size, *share = numbers
    with pytest.raises(ValueError, match="num_replicas must be a multiple of num_pipelines"):
        pipeline.training_dataset(train, batch_size, SMALL, RANDOM, targets.TargetOptions(4), 0, *share)
