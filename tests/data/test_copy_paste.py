# SPDX-License-Identifier: Apache-2.0
"""Panoptic copy-paste against a slow reference, and in the input pipeline."""

import collections
import dataclasses
import itertools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from deeplab_axial import keys
from deeplab_axial.builders import data as builders_data
from deeplab_axial.data import copy_paste, photometric, pipeline, targets
from deeplab_axial.data.copy_paste import CopyPasteOptions, Labelled
from deeplab_axial.data.label_space import LabelClass, LabelSpace
from deeplab_axial.protos import dataset_pb2

DIVISOR = 8
# Class 0 is void, 1 and 2 are things, 3 and 4 stuff.
SPACE = LabelSpace("t", tuple(LabelClass(i, f"c{i}", i < 3, (i, i, i), i) for i in range(1, 5)), 5, 0, DIVISOR)
ALL = CopyPasteOptions(1.0, "all", "all", "all")


def _labelled(panoptic: np.ndarray, color: float, crowd_ids=()) -> Labelled:
    image = np.full((*panoptic.shape, 3), color, np.float32)
    return Labelled(tf.constant(image), tf.constant(panoptic, tf.int32), tf.constant(crowd_ids, tf.int32))


def _paste(canvas: Labelled, other: Labelled, options: CopyPasteOptions, seed: int) -> Labelled:
    result = copy_paste.paste(canvas, other, SPACE, options, tf.constant([seed, 1]))
    return Labelled(*(x.numpy() for x in result))


def _reference(canvas: Labelled, other: Labelled, chosen: list[int]) -> Labelled:
    """Segment by segment, in the order of their ids; `chosen` are ids of the other map."""
    image, panoptic = canvas.image.numpy(), canvas.panoptic.numpy()
    crowd = canvas.crowd_ids.numpy().tolist()
    used = {*panoptic.ravel().tolist(), *crowd}
    other_panoptic, pasted_crowd = other.panoptic.numpy(), []
    for old in sorted(chosen):
        new = old
        if old % DIVISOR:
            block = old - old % DIVISOR
            free = [i for i in range(block + 1, block + DIVISOR) if i not in used]
            if not free:
                continue
            new = free[0]
            used.add(new)
        mask = other_panoptic == old
        image[mask] = other.image.numpy()[mask]
        panoptic[mask] = new
        if old in other.crowd_ids.numpy():
            pasted_crowd.append(new)
    return Labelled(image, panoptic, np.array(crowd + pasted_crowd))


def _maps(ids, size=(5, 6)):
    return st.lists(st.sampled_from(ids), min_size=size[0] * size[1], max_size=size[0] * size[1]).map(
        lambda values: np.array(values).reshape(size)
    )


_IDS = [0, *range(8, 24), 24, 32]


@settings(max_examples=60, deadline=None)
@given(
    _maps(_IDS),
    _maps([-1, *_IDS]),
    st.lists(st.sampled_from(range(8, 24)), max_size=3, unique=True),
    st.lists(st.sampled_from(range(8, 24)), max_size=3, unique=True),
    st.tuples(*[st.sampled_from(copy_paste.OPTIONS)] * 3),
    st.integers(0, 1000),
)
def test_any_two_images(below, above, crowd_below, crowd_above, kinds, seed):
    canvas, other = _labelled(below, 10.0, crowd_below), _labelled(above, 20.0, crowd_above)
    result = _paste(canvas, other, CopyPasteOptions(1.0, *kinds), seed)
    from_other = (result.image == 20.0).all(-1)
    np.testing.assert_array_equal(from_other, ~(result.image == 10.0).all(-1))
    assert not from_other[above == -1].any()
    # A segment is pasted as a whole or not at all.
    pasted = set(above[from_other].tolist())
    assert not pasted & set(above[~from_other].tolist())
    np.testing.assert_array_equal(result.panoptic[~from_other], below[~from_other])
    np.testing.assert_array_equal(result.panoptic[from_other] // DIVISOR, above[from_other] // DIVISOR)
    # Instances keep apart: each id in the result stands for one of the two images, and for one segment there.
    sources = collections.defaultdict(set)
    for new, old, source in zip(result.panoptic.ravel(), above.ravel(), from_other.ravel()):
        if new % DIVISOR:
            sources[int(new)].add((bool(source), int(old) if source else 0))
    assert all(len(found) == 1 for found in sources.values())
    # What options demand is there, as far as there was room.
    expected = _reference(canvas, other, sorted(pasted))
    np.testing.assert_array_equal(result.panoptic, expected.panoptic)
    assert sorted(result.crowd_ids) == sorted(expected.crowd_ids)
    for kind, ids in zip(kinds, ({*range(8, 24)}, {24, 32}, {0})):
        present = ids & set(above.ravel().tolist())
        if kind == "none":
            assert not pasted & present
        if kind == "all":
            whole = _reference(canvas, other, sorted(pasted | present))
            np.testing.assert_array_equal(result.panoptic, whole.panoptic)


def test_all_equals_the_reference():
    rng = np.random.default_rng(1)
    canvas = _labelled(rng.choice([0, 9, 10, 12, 17, 24], (20, 30)), 10.0)
    other = _labelled(rng.choice([-1, 0, 8, 9, 14, 18, 24, 32], (20, 30)), 20.0, [14])
    result = _paste(canvas, other, ALL, 3)
    expected = _reference(canvas, other, [0, 8, 9, 14, 18, 24, 32])
    np.testing.assert_array_equal(result.image, expected.image)
    np.testing.assert_array_equal(result.panoptic, expected.panoptic)
    # 9 becomes 11 and 14 becomes 13, the ids that the image leaves free; 18 stays as it happens to be free.
    assert set(np.unique(result.panoptic).tolist()) <= {0, 8, 9, 10, 11, 12, 13, 17, 18, 24, 32}
    assert result.crowd_ids.tolist() == [13]


def test_an_instance_without_a_free_id_is_not_pasted():
    canvas = _labelled(np.array([[9, 10, 11, 12, 13, 14, 0, 17]]), 10.0)
    other = _labelled(np.array([[10, 11, 12, 12, 17, 18, 12, 10]]), 20.0)
    result = _paste(canvas, other, ALL, 0)
    # Class 1 has room for one more, class 2 for both.
    assert result.panoptic.tolist() == [[15, 10, 11, 12, 18, 19, 0, 15]]
    np.testing.assert_array_equal(result.image[0, :, 0], [20, 10, 10, 10, 20, 20, 10, 20])


def test_the_id_of_crowd_that_was_cut_off_stays_reserved():
    canvas = _labelled(np.array([[0, 0]]), 10.0, crowd_ids=[9])
    result = _paste(canvas, _labelled(np.array([[9, 8]]), 20.0), ALL, 0)
    assert result.panoptic.tolist() == [[10, 8]]
    assert result.crowd_ids.tolist() == [9]


def test_nothing_of_padding_alone():
    canvas = _labelled(np.array([[9, 24]]), 10.0)
    result = _paste(canvas, _labelled(np.array([[-1, -1]]), 20.0), ALL, 0)
    np.testing.assert_array_equal(result.image, canvas.image)
    np.testing.assert_array_equal(result.panoptic, canvas.panoptic)


def test_random_draws_a_number_then_so_many_segments():
    canvas, other = _labelled(np.zeros((1, 4)), 10.0), _labelled(np.array([[9, 10, 24, 32]]), 20.0)
    options = CopyPasteOptions(1.0)
    draw = tf.function(lambda seed: copy_paste.paste(canvas, other, SPACE, options, tf.stack([seed, 5])).image)
    masks = np.array([draw(tf.constant(seed)).numpy()[0, :, 0] == 20 for seed in range(500)])
    numbers = np.bincount(masks.sum(1), minlength=5) / 500
    np.testing.assert_allclose(numbers, 0.2, atol=0.06)
    np.testing.assert_allclose(masks.mean(0), 0.5, atol=0.08)


@pytest.mark.parametrize("change", [{"scale": -1.0}, {"scale": 0.0}, {"things": "some"}, {"void": ""}])
def test_options_are_checked(change):
    with pytest.raises(ValueError, match="Received: "):
        CopyPasteOptions(**{"scale": 1.0, **change})


TARGETS = targets.TargetOptions(4)
SMALL = pipeline.ImageOptions(crop_size=(33, 49))
PLAIN = pipeline.AugmentOptions(0.5, 2.0, 0.1, seed=1, shuffle_buffer=3)
PASTING = dataclasses.replace(PLAIN, copy_paste=CopyPasteOptions(0.5, things="all"))


@pytest.fixture(scope="module")
def train(scene_records) -> pipeline.Source:
    return pipeline.Source.open([scene_records.train])


def _batches(source, options, first_step=0, count=8, batch_size=2, **workers) -> list[dict]:
    dataset = pipeline.training_dataset(source, batch_size, SMALL, options, TARGETS, first_step, **workers)
    return list(itertools.islice(dataset.as_numpy_iterator(), count))


@pytest.fixture(scope="module")
def pasted_batches(train) -> list[dict]:
    return _batches(train, PASTING)


@pytest.fixture(scope="module")
def plain_batches(train) -> list[dict]:
    return _batches(train, PLAIN)


def _assert_equal(some: list[dict], others: list[dict]) -> None:
    for a, b in zip(some, others, strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def test_the_seed_alone_decides_in_the_pipeline(train, plain_batches, pasted_batches):
    tf.random.set_seed(2)
    _assert_equal(_batches(train, PASTING, count=4), pasted_batches[:4])
    # The images below are those of a training without copy-paste: where nothing is pasted, nothing changes.
    share = []
    for below, pasted in zip(plain_batches, pasted_batches):
        differs = (below[keys.IMAGE] != pasted[keys.IMAGE]).any(-1)
        same = below[keys.SEMANTIC_TARGET] == pasted[keys.SEMANTIC_TARGET]
        assert same[~differs].all()
        share += differs.mean((1, 2)).tolist()
    assert 0.02 < np.mean(share) < 0.6
    assert len({round(s, 4) for s in share}) > 8


def test_a_resumed_run_pastes_the_same(train, pasted_batches):
    _assert_equal(_batches(train, PASTING, first_step=5, count=3), pasted_batches[5:])


def test_workers_together_paste_what_one_would(train, pasted_batches):
    parts = [_batches(train, PASTING, count=5, num_pipelines=2, pipeline_index=i, num_replicas=2) for i in range(2)]
    joined = [{name: np.concatenate([a[name], b[name]]) for name in a} for a, b in zip(*parts)]
    _assert_equal(joined, pasted_batches[:5])


def test_pasted_images_lie_anywhere(train):
    # At a tenth of their size, the pasted images cover little, in changing places.
    options = dataclasses.replace(
        PLAIN, min_scale=1.0, max_scale=1.0, copy_paste=CopyPasteOptions(0.1, "all", "all", "all")
    )
    without = dataclasses.replace(options, copy_paste=None)
    corners = set()
    for below, pasted in zip(_batches(train, without, count=10), _batches(train, options, count=10)):
        for a, b in zip(below[keys.IMAGE], pasted[keys.IMAGE]):
            ys, xs = np.nonzero((a != b).any(-1))
            assert ys.size
            assert np.ptp(ys) < 12
            assert np.ptp(xs) < 12
            corners.add((int(ys.min()), int(xs.min())))
    assert len(corners) > 10


def test_photometric_distortion_spares_padding_and_labels(train, plain_batches):
    colored = dataclasses.replace(PLAIN, photometric=photometric.PhotometricOptions())
    some = _batches(train, colored)
    _assert_equal(_batches(train, colored, first_step=6, count=2), some[6:])
    changed = 0
    for a, b in zip(some, plain_batches):
        for name in set(a) - {keys.IMAGE}:
            np.testing.assert_array_equal(a[name], b[name])
        padding = (b[keys.IMAGE] == 127.5).all(-1) & (b[keys.SEMANTIC_TARGET] == train.info.label_space.ignore_label)
        assert (a[keys.IMAGE][padding] == 127.5).all()
        changed += sum((x != y).any() for x, y in zip(a[keys.IMAGE], b[keys.IMAGE]))
    assert changed >= 11  # of 16; 15 on average


def test_options_come_from_the_config(train):
    options = dataset_pb2.DatasetOptions()
    plain = builders_data.build_augment_options(options, train)
    assert plain.copy_paste is None
    assert plain.photometric is None
    options.augmentations.panoptic_copy_paste.panoptic_copy_paste_scale = 0.5
    options.augmentations.panoptic_copy_paste.panoptic_copy_paste_thing_option = "all"
    options.augmentations.photometric_distortion.SetInParent()
    built = builders_data.build_augment_options(options, train)
    assert built.copy_paste == CopyPasteOptions(0.5, "all", "random", "none")
    assert built.photometric == photometric.PhotometricOptions()
    options.augmentations.photometric_distortion.hue_delta = 36
    built = builders_data.build_augment_options(options, train)
    assert built.photometric == photometric.PhotometricOptions(hue_delta=36)
