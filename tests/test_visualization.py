# SPDX-License-Identifier: Apache-2.0
import itertools

import numpy as np
import pytest
from PIL import Image

from deeplab_axial import files, visualization
from deeplab_axial.data.label_space import LabelClass, LabelSpace

SPACE = LabelSpace(
    name="street",
    classes=(
        LabelClass(0, "sky", False, (70, 130, 180), 10),
        LabelClass(1, "road", False, (128, 64, 128), 11),
        LabelClass(3, "car", True, (0, 0, 142), 13),
        LabelClass(4, "person", True, (220, 20, 60), 14),
    ),
    num_classes=5,
    ignore_label=255,
    label_divisor=1000,
)


def _paint(panoptic, **options):
    image = np.zeros((*panoptic.shape, 3), np.uint8)
    return visualization.panoptic_overlay(image, panoptic, SPACE, **options)


def _color_inside(picture, mask, size):
    """The median colour of a segment, which contours and names do not sway."""
    scale = picture.shape[0] // size
    return np.median(picture[mask.repeat(scale, 0).repeat(scale, 1)], axis=0)


def test_stuff_has_its_class_colour_and_void_is_dark_grey():
    panoptic = np.zeros((60, 80), np.int32)
    panoptic[20:40] = 1000
    panoptic[40:] = 255_000
    picture = _paint(panoptic, alpha=1.0, draw_names=False)
    np.testing.assert_array_equal(_color_inside(picture, panoptic == 0, 60), (70, 130, 180))
    np.testing.assert_array_equal(_color_inside(picture, panoptic == 1000, 60), (128, 64, 128))
    void = picture[45 * picture.shape[0] // 60 :]
    assert void.max() < 120
    assert len(np.unique(void.reshape(-1, 3), axis=0)) == 2  # The hatching.


def test_an_ignore_label_inside_the_class_range_is_void():
    space = LabelSpace("coco", (LabelClass(1, "person", True, (220, 20, 60), 1),), 2, 0, 256)
    panoptic = np.zeros((400, 400), np.int32)
    picture = visualization.panoptic_overlay(np.zeros((400, 400, 3), np.uint8), panoptic, space, alpha=1.0)
    assert picture.max() < 120


def test_alpha_zero_leaves_the_image_but_for_contours():
    image = np.random.default_rng(0).integers(0, 256, (400, 500, 3), np.uint8)
    panoptic = np.zeros((400, 500), np.int32)
    panoptic[:, 250:] = 1000
    picture = visualization.panoptic_overlay(image, panoptic, SPACE, alpha=0.0, draw_names=False)
    changed = (picture != image).any(axis=(0, 2)).nonzero()[0]
    np.testing.assert_array_equal(changed, [249])


def test_contours_match_a_slow_reference():
    panoptic = np.random.default_rng(1).choice([0, 1000, 255_000], (390, 384), p=[0.9, 0.05, 0.05]).astype(np.int32)
    picture = _paint(panoptic, alpha=0.0, draw_names=False)
    for y, x in itertools.product(range(0, 390, 7), range(0, 384, 5)):
        here = panoptic[y, x]
        edge = (y < 389 and panoptic[y + 1, x] != here) or (x < 383 and panoptic[y, x + 1] != here)
        assert (picture[y, x, 0] > 0) == edge, (y, x)


def test_touching_instances_differ_even_when_there_are_more_than_variations():
    # 10 x 10 cars in a random order of ids: far more neighbours than variations.
    ids = 3000 + 1 + np.random.default_rng(2).permutation(100).reshape(10, 10)
    panoptic = ids.astype(np.int32).repeat(40, 0).repeat(40, 1)
    picture = _paint(panoptic, alpha=1.0, draw_names=False).astype(int)
    cells = picture[20::40, 20::40]  # [10, 10, 3]
    for dy, dx in ((0, 1), (1, 0), (1, 1)):
        difference = np.abs(cells[dy:, dx:] - cells[: 10 - dy, : 10 - dx]).sum(-1)
        assert difference.min() > 30


@pytest.mark.parametrize("color", [(0, 0, 142), (220, 20, 60), (128, 128, 128), (255, 255, 255), (0, 0, 0)])
def test_variations_are_distinct_and_the_first_is_the_class_colour(color):
    variations = [visualization._variation(color, n) for n in range(1 + len(visualization._VARIATIONS))]
    assert variations[0] == color
    for a, b in itertools.combinations(variations, 2):
        assert np.abs(np.subtract(a, b)).sum() > 10, (a, b)


def test_overlay_is_deterministic_and_leaves_its_arguments_alone():
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (48, 64, 3), np.uint8)
    panoptic = rng.choice([0, 1000, 3001, 4001, 255_000], (6, 8)).astype(np.int32).repeat(8, 0).repeat(8, 1)
    image_before, panoptic_before = image.copy(), panoptic.copy()
    first = visualization.panoptic_overlay(image, panoptic, SPACE)
    np.testing.assert_array_equal(first, visualization.panoptic_overlay(image, panoptic, SPACE))
    np.testing.assert_array_equal(image, image_before)
    np.testing.assert_array_equal(panoptic, panoptic_before)


@pytest.mark.parametrize(("size", "scale"), [((1, 1), 384), ((33, 65), 12), ((383, 500), 2), ((384, 400), 1)])
def test_small_pictures_are_enlarged_by_a_whole_number(size, scale):
    assert visualization.display_scale(*size) == scale
    picture = _paint(np.zeros(size, np.int32))
    assert picture.dtype == np.uint8
    assert picture.shape == (size[0] * scale, size[1] * scale, 3)


def test_names_are_drawn_inside_large_segments_only():
    panoptic = np.zeros((400, 600), np.int32)
    panoptic[200:] = 1000
    panoptic[300:306, 100:106] = 3001
    changed = (_paint(panoptic) != _paint(panoptic, draw_names=False)).any(-1)
    assert changed[:195].any()
    assert changed[205:].any()
    assert not changed[195:205].any()
    # Nothing is written by the car, and the road's name keeps clear of it.
    assert not changed[295:310, 95:110].any()


def test_void_has_no_name():
    panoptic = np.full((400, 600), 255_000, np.int32)
    np.testing.assert_array_equal(_paint(panoptic), _paint(panoptic, draw_names=False))


def test_names_do_not_overlap():
    mask = np.ones((100, 100), bool)
    occupied = np.zeros((100, 100), bool)
    occupied[:, 40:] = True
    y, x = visualization._best_place(mask, occupied, (5, 15))
    assert x + 15 < 40
    assert 5 <= y < 95
    assert visualization._best_place(mask, ~np.zeros((100, 100), bool), (5, 15)) is None


def test_best_place_is_in_the_middle_of_a_rectangle_and_in_the_wide_part_of_a_funnel():
    mask = np.zeros((101, 201), bool)
    mask[20:81, 50:151] = True
    y, x = visualization._best_place(mask, np.zeros_like(mask), (4, 12))
    assert abs(y - 50) <= 8
    assert abs(x - 100) <= 8
    funnel = np.zeros((100, 300), bool)
    funnel[45:57, :250] = True
    funnel[10:90, 230:] = True
    _, x = visualization._best_place(funnel, np.zeros_like(funnel), (4, 12))
    assert x > 235


def test_box_sums_match_a_slow_reference():
    mask = np.random.default_rng(4).random((9, 13)) < 0.5
    expected = [
        [mask[max(0, y - 2) : y + 3, max(0, x - 20) : x + 21].sum() for x in range(13)] for y in range(9)
    ]  # The box is wider than the picture.
    np.testing.assert_array_equal(visualization._box_sums(mask, 2, 20), expected)


@pytest.mark.parametrize(
    ("panoptic", "message"),
    [
        (np.zeros((4, 5), np.int32), "height and width"),
        (np.zeros((4, 4), np.float32), "integers"),
        (np.full((4, 4), 2000, np.int32), r"Received classes: \[2\]"),
        (np.full((4, 4), -1, np.int32), r"Received classes: \[-1\]"),
    ],
)
def test_wrong_maps_are_refused(panoptic, message):
    with pytest.raises(ValueError, match=message):
        visualization.panoptic_overlay(np.zeros((4, 4, 3), np.uint8), panoptic, SPACE)


def test_wrong_images_are_refused():
    panoptic = np.zeros((4, 4), np.int32)
    for image in (np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(ValueError, match="Received"):
            visualization.panoptic_overlay(image, panoptic, SPACE)
    with pytest.raises(ValueError, match="alpha"):
        visualization.panoptic_overlay(np.zeros((4, 4, 3), np.uint8), panoptic, SPACE, alpha=1.5)


def test_side_by_side_keeps_every_panel_whole():
    rng = np.random.default_rng(5)
    panels = [(f"panel {i} " * 20, rng.integers(0, 256, (90, 120, 3), np.uint8)) for i in range(3)]
    picture = visualization.side_by_side(panels)
    bar = picture.shape[0] - 90
    gap = (picture.shape[1] - 360) // 2
    assert bar > 0
    assert picture.shape == (90 + bar, 360 + 2 * gap, 3)
    for i, (_, image) in enumerate(panels):
        left = i * (120 + gap)
        np.testing.assert_array_equal(picture[bar:, left : left + 120], image)
        assert picture[:bar, left : left + 120].max() > 200  # The title.
    assert (picture[:, 120 : 120 + gap] == 255).all()  # A long title stays in its bar.


def test_side_by_side_refuses_no_panels_and_different_sizes():
    a, b = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)
    for panels in ([], [("a", a), ("b", b)]):
        with pytest.raises(ValueError, match="one size"):
            visualization.side_by_side(panels)


def test_triptych_leaves_out_missing_ground_truth():
    image = np.zeros((400, 500, 3), np.uint8)
    panoptic = np.zeros((400, 500), np.int32)
    two = visualization.triptych(image, None, panoptic, SPACE)
    three = visualization.triptych(image, panoptic, panoptic, SPACE)
    assert three.shape[0] == two.shape[0]
    gap = two.shape[1] - 1000
    assert three.shape[1] == 1500 + 2 * gap
    np.testing.assert_array_equal(two[-400:, -500:], visualization.panoptic_overlay(image, panoptic, SPACE))


@pytest.mark.parametrize("shape", [(5, 7, 3), (5, 7)])
def test_save_png_round_trips_and_leaves_nothing_else(tmp_path, shape):
    array = np.random.default_rng(6).integers(0, 256, shape, np.uint8)
    path = tmp_path / "new" / "folder" / "picture.png"
    for _ in range(2):  # The second time replaces the file.
        visualization.save_png(path, array)
    np.testing.assert_array_equal(np.array(Image.open(path)), array)
    assert [p.name for p in path.parent.iterdir()] == ["picture.png"]
    with pytest.raises(ValueError, match="uint8"):
        visualization.save_png(path, array.astype(np.float32))


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.write_atomically(path, b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(visualization.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        files.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_shrink_keeps_the_picture_in_shape():
    # Left half black, right half white.
    wide = np.zeros([90, 6000, 3], np.uint8)
    wide[:, 3000:] = 255
    shrunk = visualization.shrink(wide, 1920)
    assert shrunk.shape == (29, 1920, 3)
    assert shrunk[:, :950].max() == 0
    assert shrunk[:, 970:].min() == 255
    np.testing.assert_array_equal(visualization.shrink(shrunk, 1920), shrunk)
    assert visualization.shrink(wide, 20).shape == (1, 20, 3)
