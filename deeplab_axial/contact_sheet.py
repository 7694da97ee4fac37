# SPDX-License-Identifier: Apache-2.0
"""Contact sheets: inputs of the network with their targets drawn, a row of pictures for each image."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from deeplab_axial import fonts, keys, visualization
from deeplab_axial.data.label_space import LabelSpace, distinct_color
from deeplab_axial.errors import InputError

# Pictures with a longer side above this are shrunk by a whole number.
_LONGEST_SIDE = 800
_BACKGROUND = (28, 28, 32)
_NOWHERE = np.array([46, 46, 50], np.float32)  # No offset.
_GLOW = np.array([255, 236, 130], np.float32)
_SMALL = np.array([255, 64, 255], np.float32)
_LEGEND_TEXT = 18


def training_row(
    image: np.ndarray, targets: Mapping[str, np.ndarray], label_space: LabelSpace, title: str
) -> np.ndarray:
    """Draws what the network gets for one image: input, semantic target, centres, offsets.

    Args:
      image: [H, W, 3], RGB, 0 to 255.
      targets: the target entries of keys.TABLE, without the batch axis.
      label_space: the classes.
      title: of the input.

    Returns:
      uint8 [H', W', 3].

    Raises:
      InputError: the semantic target has a class that the label space does not have.
    """
    image = _to_uint8(image)
    centers, index = find_instances(targets[keys.OFFSET_TARGET], targets[keys.OFFSET_WEIGHT])
    longest = float(np.linalg.norm(targets[keys.OFFSET_TARGET], axis=-1).max(initial=0))
    offsets = offset_colors(targets[keys.OFFSET_TARGET], targets[keys.OFFSET_WEIGHT], longest)
    scale = visualization.display_scale(*image.shape[:2])
    panels = [
        (title, visualization.enlarge(image, scale)),
        ("Semantic target", _semantic_picture(image, targets[keys.SEMANTIC_TARGET], label_space)),
        (f"{len(centers)} centres", _center_picture(image, targets, index, scale)),
        (f"Offsets, longest {longest:.0f} pixels", _repeat(offsets, scale)),
    ]
    panels = [(name, _shrink(picture)) for name, picture in panels]
    _draw_crosses(panels[2][1], (centers + 0.5) * panels[2][1].shape[0] / image.shape[0])
    return visualization.side_by_side(panels)


def evaluation_row(image: np.ndarray, panoptic: np.ndarray | None, label_space: LabelSpace, title: str) -> np.ndarray:
    """Draws an input of the evaluation and its ground truth.

    Args:
      image: [H, W, 3], RGB, 0 to 255.
      panoptic: [H, W] panoptic ids; None without ground truth.
      label_space: the classes.
      title: of the input.

    Returns:
      uint8 [H', W', 3].

    Raises:
      InputError: the map has a class that the label space does not have.
    """
    image = _to_uint8(image)
    panels = [(title, visualization.enlarge(image, visualization.display_scale(*image.shape[:2])))]
    if panoptic is not None:
        _check_classes(panoptic // label_space.label_divisor, label_space)
        panels.append(("Ground truth", visualization.panoptic_overlay(image, panoptic, label_space)))
    return visualization.side_by_side([(name, _shrink(picture)) for name, picture in panels])


def classification_row(crops: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    """Draws inputs of a classifier.

    Args:
      crops: (title, [H, W, 3], RGB, 0 to 255) from left to right, all of one size.

    Returns:
      uint8 [H', W', 3].
    """
    scale = visualization.display_scale(*crops[0][1].shape[:2])
    pictures = [(title, visualization.enlarge(_to_uint8(image), scale)) for title, image in crops]
    return visualization.side_by_side([(title, _shrink(picture)) for title, picture in pictures])


def find_instances(offsets: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The instances that offsets point at; two with one centre count as one.

    Args:
      offsets: [H, W, 2], (y, x), pixels.
      weight: [H, W], above 0 on instances.

    Returns:
      Centres [n, 2] int64 (y, x) in row-major order, and int64 [H, W] with the number of each pixel's instance from 1,
      0 elsewhere.
    """
    is_instance = weight > 0
    height, width = weight.shape
    ys, xs = np.nonzero(is_instance)
    points = np.rint(offsets[is_instance]).astype(np.int64) + np.stack([ys, xs], axis=-1)
    flat, index = np.unique(points[:, 0] * width + points[:, 1], return_inverse=True)
    numbers = np.zeros((height, width), np.int64)
    numbers[is_instance] = index + 1
    return np.stack(np.divmod(flat, width), axis=-1), numbers


def offset_colors(offsets: np.ndarray, weight: np.ndarray, longest: float) -> np.ndarray:
    """Colours of offsets: the hue is the direction, the strength the length.

    To the right is red; hues turn clockwise on the picture: down is yellow-green, left cyan, up violet. A pixel at its
    centre is white.

    Args:
      offsets: [H, W, 2], (y, x), pixels.
      weight: [H, W]; where it is 0 there is no offset and the colour is dark grey.
      longest: length of the strongest colour, pixels.

    Returns:
      uint8 [H, W, 3].
    """
    hue = np.arctan2(offsets[..., 0], offsets[..., 1]) / (2 * np.pi) % 1
    strength = np.minimum(np.linalg.norm(offsets, axis=-1) / max(longest, 1e-6), 1)
    # HSV with value 1: each channel falls from 1 to 1 - saturation with its distance from the hue.
    turns = np.abs((hue[..., None] * 6 - np.array([0, 2, 4]) + 3) % 6 - 3)  # [H, W, 3]
    colors = 255 * (1 - strength[..., None] * np.clip(turns - 1, 0, 1))
    return np.rint(np.where(weight[..., None] > 0, colors, _NOWHERE)).astype(np.uint8)


def sheet(rows: Sequence[np.ndarray], with_legend: bool, small_weight: float = 1.0) -> np.ndarray:
    """Stacks rows, with the legend of `training_row` below.

    Args:
      rows: uint8 [h, w, 3], from top to bottom.
      with_legend: whether the legend is drawn.
      small_weight: weight of small instances in the semantic loss; 1 leaves it out of the legend.

    Returns:
      uint8 [H, W, 3].
    """
    if not rows:
        raise ValueError(f"A sheet must have at least one row. Received: {len(rows)}.")
    width = max(row.shape[1] for row in rows)
    strips = [*rows, *([_legend(width, small_weight)] if with_legend else [])]
    gap = 8
    canvas = np.full((sum(s.shape[0] + gap for s in strips) - gap, width, 3), 255, np.uint8)
    top = 0
    for strip in strips:
        canvas[top : top + strip.shape[0], : strip.shape[1]] = strip
        top += strip.shape[0] + gap
    return canvas


def _to_uint8(image):
    return np.rint(np.clip(image, 0, 255)).astype(np.uint8)


def _check_classes(semantic, label_space):
    unknown = sorted(set(np.unique(semantic).tolist()) - set(label_space.by_id) - {label_space.ignore_label})
    if unknown:
        raise InputError(
            f"The ground truth must have classes of the label space {label_space.name!r} only. Received: {unknown}. "
            "Run `deeplab-axial check_data`, which names the images."
        )


def _semantic_picture(image, semantic, label_space):
    _check_classes(semantic, label_space)
    panoptic = semantic.astype(np.int64) * label_space.label_divisor
    return visualization.panoptic_overlay(image, panoptic, label_space)


def _center_picture(image, targets, index, scale):
    """Instances in colours of their own on a faint image, the heatmap as a glow over them; crowd and void hatched."""
    faint = 0.35 * visualization.enlarge(image, scale).mean(axis=-1, keepdims=True) + 30
    numbers = _repeat(index, scale)
    colors = np.array([(0, 0, 0), *(distinct_color(i) for i in range(index.max()))], np.float32)
    canvas = np.where(numbers[..., None] > 0, 0.5 * faint + 0.5 * colors[numbers], faint)
    left_out = _repeat(targets[keys.CENTER_WEIGHT] == 0, scale)
    canvas = np.where(left_out[..., None], visualization.hatching(*left_out.shape), canvas)
    heat = _repeat(targets[keys.CENTER_TARGET], scale)[..., None]
    canvas = (1 - 0.8 * heat) * canvas + 0.8 * heat * _GLOW
    is_small = _repeat(targets[keys.SEMANTIC_WEIGHT] > 1, scale)
    edges = visualization.contours(is_small, width=max(2, min(is_small.shape) // 200))
    canvas = np.where(edges[..., None], _SMALL, canvas)
    return np.rint(canvas).astype(np.uint8)


def _repeat(values, scale):
    return values.repeat(scale, axis=0).repeat(scale, axis=1)


def _shrink(picture):
    """A copy, at most _LONGEST_SIDE pixels high and wide."""
    factor = -(-max(picture.shape[:2]) // _LONGEST_SIDE)
    return np.array(Image.fromarray(picture).reduce(factor))


def _draw_crosses(picture, centers):
    """Marks centres (y, x) in place, as white crosses with a dark rim."""
    canvas = Image.fromarray(picture)
    draw = ImageDraw.Draw(canvas)
    arm = max(4, min(picture.shape[:2]) // 64)
    for color, width in (((20, 20, 24), 4), ((255, 255, 255), 2)):
        for y, x in centers.tolist():
            reach = arm + (width > 2)
            draw.line((x - reach, y, x + reach, y), color, width)
            draw.line((x, y - reach, x, y + reach), color, width)
    picture[:] = np.asarray(canvas)


def _legend(width, small_weight):
    """uint8 [h, width, 3]: samples of what the pictures of `training_row` show, with words."""
    side = 56
    items = [
        (visualization.hatching(side, side), "no loss: void and padding; crowd has no centre loss"),
        (_center_sample(side), "centre of an instance, with its heatmap"),
        (_wheel(side), "offset: hue by the direction to the centre, strength by the length"),
    ]
    if small_weight != 1:
        sample = np.full((side, side, 3), 90.0)
        sample[12:-12, 12:-12] = _SMALL
        sample[15:-15, 15:-15] = (150, 110, 90)
        items.insert(2, (sample, f"small instance: weight {small_weight:g} in the semantic loss"))
    places, left, top, gap = [], 12, 8, 12
    for _, text in items:
        needed = side + gap + round(fonts.length(text, _LEGEND_TEXT)) + 3 * gap
        if left > 12 and left + needed > width:
            left, top = 12, top + side + 8
        places.append((left, top))
        left += needed
    canvas = Image.new("RGB", (width, top + side + 8), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for (sample, text), (left, top) in zip(items, places):
        canvas.paste(Image.fromarray(np.rint(sample).astype(np.uint8)), (left, top))
        fonts.draw(draw, (left + side + gap, top + side / 2), text, _LEGEND_TEXT, "lm", fill="white")
    return np.array(canvas)


def _from_middle(side):
    """Float64 [side, side, 2]: (y, x) from the middle of a square to its pixels."""
    steps = np.arange(side) - (side - 1) / 2
    return np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1)


def _center_sample(side):
    heat = np.exp(-np.square(_from_middle(side)).sum(axis=-1, keepdims=True) / (2 * (side / 6) ** 2))
    sample = np.rint((1 - 0.8 * heat) * np.array([110, 80, 70]) + 0.8 * heat * _GLOW).astype(np.uint8)
    _draw_crosses(sample, np.array([[side / 2, side / 2]]))
    return sample


def _wheel(side):
    """The colour of an offset, at the place in a disc that it points to from the middle."""
    vectors = _from_middle(side)
    inside = np.linalg.norm(vectors, axis=-1) <= side / 2
    colors = offset_colors(vectors, inside, side / 2)
    return np.where(inside[..., None], colors, _BACKGROUND)
