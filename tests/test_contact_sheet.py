# SPDX-License-Identifier: Apache-2.0
"""Sizes of the pictures, and colours at places that are known."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_axial import contact_sheet, keys, visualization
from deeplab_axial.data import targets
from deeplab_axial.data.label_space import LabelClass, LabelSpace
from deeplab_axial.errors import InputError

SPACE = LabelSpace(
    "street",
    (LabelClass(0, "road", False, (128, 64, 128), 7), LabelClass(2, "car", True, (0, 0, 142), 26)),
    num_classes=3,
    ignore_label=255,
    label_divisor=1000,
)
HEIGHT, WIDTH = 97, 129
# A square of 41 pixels around (48, 64), a crowd to its right, void at the bottom.
TOP, LEFT, SIDE = 28, 44, 41


def _panoptic():
    panoptic = np.zeros((HEIGHT, WIDTH), np.int32)
    panoptic[TOP : TOP + SIDE, LEFT : LEFT + SIDE] = 2001
    panoptic[20:40, 100:120] = 2000
    panoptic[90:] = SPACE.void_id
    return panoptic


def _targets(panoptic, **options):
    made = targets.make_targets(tf.constant(panoptic), tf.zeros([0], tf.int32), SPACE, targets.TargetOptions(**options))
    return {key: value.numpy() for key, value in made.items()}


def _panels(row, scale=4, count=4):
    """The pictures of a row, without their title bars."""
    height, width = HEIGHT * scale, WIDTH * scale
    gap = (row.shape[1] - count * width) // (count - 1)
    assert 0 < gap < 20
    assert row.shape[0] > height
    return [row[-height:, i * (width + gap) : i * (width + gap) + width] for i in range(count)]


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).uniform(0, 255, (HEIGHT, WIDTH, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def panels(image):
    return _panels(contact_sheet.training_row(image, _targets(_panoptic(), sigma=4.0), SPACE, "Step 0, image 1"))


def _at(picture, y, x, scale=4):
    return picture[y * scale + scale // 2, x * scale + scale // 2].astype(int)


def test_the_input_is_the_enlarged_image(image, panels):
    np.testing.assert_array_equal(panels[0], visualization.enlarge(np.rint(image).astype(np.uint8), 4))


def test_the_semantic_target_has_the_colours_of_the_classes():
    gray = np.full((HEIGHT, WIDTH, 3), 128, np.float32)
    row = contact_sheet.training_row(gray, _targets(_panoptic()), SPACE, "")
    semantic = _panels(row)[1]
    for (y, x), color in (((60, 20), (128, 64, 128)), ((60, 50), (0, 0, 142)), ((25, 105), (0, 0, 142))):
        np.testing.assert_allclose(_at(semantic, y, x), 0.45 * 128 + 0.55 * np.array(color), atol=1)
    void = semantic[-5 * 4 :].reshape(-1, 3)
    assert len(np.unique(void, axis=0)) == 2  # Hatched.


def test_offsets_are_coloured_by_direction_and_length(panels):
    offsets = panels[3]
    np.testing.assert_array_equal(_at(offsets, 48, 64), (255, 255, 255))
    right_of_center, left_of_center = _at(offsets, 48, 84), _at(offsets, 48, 44)
    assert left_of_center[0] == 255  # It points right: red.
    assert left_of_center[1] == left_of_center[2] < 100
    assert right_of_center[0] < 100  # It points left: cyan.
    assert right_of_center[1] == right_of_center[2] == 255
    nearer = _at(offsets, 48, 54)
    assert left_of_center[1] < nearer[1] < 255  # Paler: half as long.
    for y, x in ((5, 5), (30, 110), (95, 64)):  # Road, crowd and void.
        np.testing.assert_array_equal(_at(offsets, y, x), (46, 46, 50))


def test_the_centre_is_marked_and_what_is_left_out_is_hatched(panels):
    centers = panels[2]
    cross = centers[48 * 4 : 49 * 4 + 1, 64 * 4 : 65 * 4 + 1].reshape(-1, 3)
    assert (cross == 255).all(axis=-1).any()
    assert not (centers[: TOP * 4] == 255).all(axis=-1).any()
    for part in (centers[22 * 4 : 38 * 4, 102 * 4 : 118 * 4], centers[91 * 4 :]):  # Crowd and void.
        assert len(np.unique(part.reshape(-1, 3), axis=0)) == 2
    glow, body = _at(centers, 52, 60).sum(), _at(centers, 30, 46).sum()
    assert glow > body  # The heatmap.


def test_small_instances_are_outlined(image):
    def magenta(weight):
        made = _targets(_panoptic(), small_instance_threshold=2000, small_instance_weight=weight)
        return (_panels(contact_sheet.training_row(image, made, SPACE, ""))[2] == (255, 64, 255)).all(axis=-1)

    assert not magenta(1.0).any()
    ys, xs = np.nonzero(magenta(3.0))
    assert abs(ys.min() - TOP * 4) <= 2
    assert abs(xs.min() - LEFT * 4) <= 2
    assert abs(ys.max() - (TOP + SIDE) * 4) <= 2
    assert abs(xs.max() - (LEFT + SIDE) * 4) <= 2


def test_instances_are_found_again_from_their_offsets():
    panoptic = np.zeros((40, 60), np.int32)
    panoptic[2:11, 3:14] = 2001
    panoptic[20:31, 30:41] = 2002
    panoptic[24:27, 30:41] = 2003  # Its centre is the same as that of 2002, which surrounds it.
    made = _targets(panoptic)
    centers, index = contact_sheet.find_instances(made[keys.OFFSET_TARGET], made[keys.OFFSET_WEIGHT])
    np.testing.assert_array_equal(centers, [(6, 8), (25, 35)])
    np.testing.assert_array_equal(index, np.select([panoptic == 2001, panoptic > 0], [1, 2]))


def test_no_instance_at_all():
    made = _targets(np.zeros((HEIGHT, WIDTH), np.int32))
    centers, index = contact_sheet.find_instances(made[keys.OFFSET_TARGET], made[keys.OFFSET_WEIGHT])
    assert centers.shape == (0, 2)
    assert not index.any()
    row = contact_sheet.training_row(np.zeros((HEIGHT, WIDTH, 3), np.float32), made, SPACE, "")
    assert (_panels(row)[3] == (46, 46, 50)).all()


@pytest.mark.parametrize(
    ("offset", "color"),
    [
        ((0, 9), (255, 0, 0)),
        ((0, -9), (0, 255, 255)),
        ((9, 0), (128, 255, 0)),
        ((-9, 0), (128, 0, 255)),
        ((0, 0), (255, 255, 255)),
        ((0, 4.5), (255, 128, 128)),
        ((0, 90), (255, 0, 0)),
    ],
)
def test_offset_colors(offset, color):
    picture = contact_sheet.offset_colors(np.array([[offset]], np.float32), np.ones((1, 1)), 9)
    np.testing.assert_allclose(picture[0, 0].astype(int), color, atol=1)


def test_large_crops_are_shrunk_by_a_whole_number():
    panoptic = np.full((513, 1025), SPACE.void_id, np.int32)
    panoptic[100:300, 100:300] = 2001
    row = contact_sheet.training_row(np.full((513, 1025, 3), 99, np.float32), _targets(panoptic), SPACE, "")
    height, width = -(-513 // 2), -(-1025 // 2)
    assert height < row.shape[0] < height + 60
    assert 4 * width < row.shape[1] < 4 * width + 60
    bar = row.shape[0] - height
    np.testing.assert_array_equal(row[bar:, :width], np.full((height, width, 3), 99))


def test_evaluation_rows(image):
    row = contact_sheet.evaluation_row(image, _panoptic(), SPACE, "ü.jpg")
    first, second = _panels(row, count=2)
    np.testing.assert_array_equal(first, visualization.enlarge(np.rint(image).astype(np.uint8), 4))
    np.testing.assert_array_equal(
        second, visualization.panoptic_overlay(np.rint(image).astype(np.uint8), _panoptic(), SPACE)
    )
    alone = contact_sheet.evaluation_row(image, None, SPACE, "ü.jpg")
    assert alone.shape[1] == WIDTH * 4


def test_unknown_classes_are_refused(image):
    panoptic = _panoptic()
    panoptic[0] = 9000
    with pytest.raises(InputError, match=r"'street' only\. Received: \[9\]\. Run `deeplab-axial check_data`"):
        contact_sheet.training_row(
            image, _targets(np.where(panoptic == 9000, 1000, panoptic)) | _semantic(panoptic), SPACE, ""
        )
    with pytest.raises(InputError, match=r"Received: \[9\]"):
        contact_sheet.evaluation_row(image, panoptic, SPACE, "")


def _semantic(panoptic):
    return {keys.SEMANTIC_TARGET: panoptic // SPACE.label_divisor}


def test_sheets_stack_rows_over_a_legend():
    rows = [np.full((50, 900, 3), value, np.uint8) for value in (10, 200)]
    plain = contact_sheet.sheet(rows, with_legend=False)
    assert plain.shape == (108, 900, 3)
    assert (plain[:50] == 10).all()
    assert (plain[50:58] == 255).all()
    assert (plain[58:] == 200).all()
    with_legend = contact_sheet.sheet(rows, with_legend=True)
    np.testing.assert_array_equal(with_legend[:108], plain)
    magenta = [
        (contact_sheet.sheet(rows, True, weight)[108:] == (255, 64, 255)).all(axis=-1).any() for weight in (1.0, 3.0)
    ]
    assert magenta == [False, True]
    with pytest.raises(ValueError, match="at least one row"):
        contact_sheet.sheet([], with_legend=True)
