# SPDX-License-Identifier: Apache-2.0
"""Pictures of panoptic maps: coloured overlays with class names, panels side by side, PNG files."""

import colorsys
import functools
import io
import os
from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw, PngImagePlugin

from deeplab_axial import files, fonts
from deeplab_axial.data.label_space import LabelSpace
from deeplab_axial.errors import InputError

# Pictures that `save_picture` writes: extension -> Pillow's format and its options.
_FORMATS = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 92}),
    ".jpeg": ("JPEG", {"quality": 92}),
    ".webp": ("WEBP", {"quality": 92}),
    ".bmp": ("BMP", {}),
}

# Small pictures are enlarged until their shorter side has this many pixels: text is not readable on fewer.
_READABLE_SIDE = 384
# Positions of a name are tried on a grid of about this many rows or columns along the shorter side.
_PLACEMENT_GRID = 192
# At least this share of the box of a name lies in its segment.
_NAME_COVERAGE = 0.9
_VOID_DARK = np.array([38, 38, 42], np.float32)
_VOID_LIGHT = np.array([88, 88, 94], np.float32)
_CONTOUR = np.array([255, 255, 255], np.float32)
_CONTOUR_OPACITY = 0.8
_TITLE_BACKGROUND = (28, 28, 32)
# (hue shift in turns, lightness) of the instances of one class: neighbours in this list differ most. The first instance
# has the colour of the class itself.
_VARIATIONS = (
    (0.0, 0.72),
    (0.06, 0.42),
    (-0.06, 0.8),
    (0.06, 0.6),
    (-0.06, 0.34),
    (0.0, 0.55),
    (0.06, 0.76),
    (0.0, 0.38),
    (-0.06, 0.5),
    (0.06, 0.3),
    (-0.06, 0.66),
)


def panoptic_overlay(
    image: np.ndarray,
    panoptic: np.ndarray,
    label_space: LabelSpace,
    alpha: float = 0.55,
    draw_names: bool = True,
    scores: Mapping[int, float] | None = None,
) -> np.ndarray:
    """Paints the segments of a panoptic map over its image.

    Stuff has the colour of its class. Each thing instance has a variation of it, which differs from those of the
    instances it touches. Void is dark grey and hatched. Pictures with a shorter side under 384 pixels are enlarged by a
    whole number, whether or not names are drawn.

    Args:
      image: uint8 [H, W, 3], RGB.
      panoptic: int [H, W], class id * label_divisor + instance id.
      label_space: the classes.
      alpha: opacity of the colours, 0 to 1.
      draw_names: writes class names inside the segments, largest first, where they fit.
      scores: panoptic id -> score, written behind the names of the segments that have one.

    Returns:
      uint8 [H * s, W * s, 3] with the whole number s = `display_scale(H, W)`.

    Raises:
      ValueError: on wrong shapes or types, or a panoptic id whose class the label space does not have.
    """
    _check_image(image)
    panoptic = np.asarray(panoptic)
    if panoptic.shape != image.shape[:2] or not np.issubdtype(panoptic.dtype, np.integer):
        raise ValueError(
            f"`panoptic` must hold integers and have the height and width of `image`, {image.shape[:2]}. "
            f"Received: {panoptic.dtype} {panoptic.shape}. Resize it with nearest-neighbour sampling."
        )
    if not 0 <= alpha <= 1:
        raise ValueError(f"`alpha` must lie in [0, 1]. Received: {alpha}.")

    ids, index, areas = np.unique(panoptic, return_inverse=True, return_counts=True)
    classes = _classes_of(ids, label_space)
    index = index.reshape(panoptic.shape)  # NumPy releases differ in the shape of return_inverse.
    colors = _segment_colors(ids, index, classes)

    scale = display_scale(*panoptic.shape)
    image = enlarge(image, scale)
    index = index.repeat(scale, axis=0).repeat(scale, axis=1)
    h, w = index.shape
    canvas = (1 - alpha) * image + alpha * colors[index]
    is_void = np.array([c is None for c in classes])[index]  # [H, W]
    canvas = np.where(is_void[..., None], (1 - alpha) * canvas + alpha * hatching(h, w), canvas)
    edges = contours(index, width=max(1, round(min(h, w) / 700)))[..., None]
    canvas = np.where(edges, (1 - _CONTOUR_OPACITY) * canvas + _CONTOUR_OPACITY * _CONTOUR, canvas)
    canvas = np.rint(canvas).astype(np.uint8)
    if not draw_names:
        return canvas
    scores = scores or {}
    names = [c and (f"{c.name} {scores[i]:.2f}" if i in scores else c.name) for i, c in zip(ids.tolist(), classes)]
    return _draw_names(canvas, index, areas, names)


def display_scale(height: int, width: int) -> int:
    """The whole number by which `panoptic_overlay` enlarges a picture of that size, in pixels."""
    return max(1, -(-_READABLE_SIDE // min(height, width)))


def side_by_side(panels: list[tuple[str, np.ndarray]]) -> np.ndarray:
    """Puts pictures in a row, each under a bar with its title.

    Args:
      panels: (title, uint8 [H, W, 3]) from left to right, all of one size. Titles that are too long are cut short.

    Returns:
      uint8 [H', W', 3], a little larger than the pictures together.

    Raises:
      ValueError: when there is no panel, or their sizes differ.
    """
    shapes = {np.shape(image) for _, image in panels}
    if len(shapes) != 1:
        raise ValueError(f"`panels` must hold pictures of one size. Received: {sorted(shapes)}.")
    for _, image in panels:
        _check_image(image)
    h, w, _ = shapes.pop()
    size = max(13, round(min(h, w) / 24))
    bar, gap = 2 * size, max(3, size // 4)
    canvas = Image.new("RGB", (len(panels) * (w + gap) - gap, bar + h), "white")
    draw = ImageDraw.Draw(canvas)
    for i, (title, image) in enumerate(panels):
        left = i * (w + gap)
        draw.rectangle((left, 0, left + w - 1, bar - 1), fill=_TITLE_BACKGROUND)
        fonts.draw(draw, (left + w / 2, bar / 2), _shorten(title, size, w - size), size, "mm", fill="white")
        canvas.paste(Image.fromarray(image), (left, bar))
    return np.array(canvas)


def triptych(
    image: np.ndarray,
    ground_truth: np.ndarray | None,
    prediction: np.ndarray,
    label_space: LabelSpace,
    scores: Mapping[int, float] | None = None,
) -> np.ndarray:
    """The image, the ground truth if there is one, and the prediction, side by side.

    Args:
      image: uint8 [H, W, 3], RGB.
      ground_truth: int [H, W], panoptic ids, or None.
      prediction: int [H, W], panoptic ids.
      label_space: the classes.
      scores: panoptic id -> score of the prediction's segments, to be written behind their names.

    Returns:
      uint8 [H', W', 3].
    """
    _check_image(image)
    panels = [("Image", enlarge(image, display_scale(*image.shape[:2])))]
    if ground_truth is not None:
        panels.append(("Ground truth", panoptic_overlay(image, ground_truth, label_space)))
    panels.append(("Prediction", panoptic_overlay(image, prediction, label_space, scores=scores)))
    return side_by_side(panels)


def shrink(picture: np.ndarray, max_width: int) -> np.ndarray:
    """A uint8 picture [H, W, 3], made smaller to at most `max_width` pixels a row if it has more."""
    height, width, _ = picture.shape
    size = (min(width, max_width), max(1, round(height * min(1.0, max_width / width))))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def save_png(path: str | os.PathLike, array: np.ndarray) -> None:
    """Writes a PNG file that is complete or absent and holds `files.MARK`, and the folders above it.

    Args:
      path: the file; one that exists is replaced.
      array: uint8 [H, W, 3] (RGB) or [H, W] (grey).
    """
    files.write_atomically(path, encode_png(array))


def encode_png(array: np.ndarray) -> bytes:
    """The bytes of a PNG file of a uint8 array, [H, W, 3] (RGB) or [H, W] (grey)."""
    return _encode(array, *_FORMATS[".png"])


def save_picture(path: str | os.PathLike, array: np.ndarray) -> None:
    """`save_png` for each of the kinds of file that `check_extension` takes.

    Raises:
      InputError: the extension is not known, or the file cannot be written.
    """
    check_extension(path)
    content = _encode(array, *_FORMATS[os.path.splitext(path)[1].lower()])
    try:
        files.write_atomically(path, content)
    except OSError as error:
        raise InputError(f"{os.fspath(path)} cannot be written ({error}). Name another place, or make room.") from error


def check_extension(path: str | os.PathLike) -> None:
    """Refuses a path that names no picture.

    Raises:
      InputError: the extension is none of .png, .jpg, .jpeg, .webp and .bmp.
    """
    if os.path.splitext(path)[1].lower() not in _FORMATS:
        raise InputError(f"A picture's name must end in {', '.join(_FORMATS)}. Received: {os.fspath(path)}.")


def _encode(array, name, options):
    if array.dtype != np.uint8 or array.ndim not in (2, 3):
        raise ValueError(f"`array` must be uint8 [H, W, 3] or [H, W]. Received: {array.dtype} {array.shape}.")
    buffer = io.BytesIO()
    if name == "PNG":
        options = {**options, "pnginfo": _marked()}
    Image.fromarray(array).save(buffer, format=name, **options)
    return buffer.getvalue()


def _marked() -> PngImagePlugin.PngInfo:
    """A note in the file that this program may replace it."""
    info = PngImagePlugin.PngInfo()
    info.add_text("Software", files.MARK)
    return info


def _check_image(image):
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
        raise ValueError(
            f"A picture must be a uint8 array [H, W, 3]. "
            f"Received: {getattr(image, 'dtype', type(image).__name__)} {np.shape(image)}."
        )
    if 0 in image.shape:
        raise ValueError(f"A picture must have at least one pixel. Received: {image.shape}.")


def _classes_of(ids, label_space):
    """The class of each segment, None for void."""
    class_ids = (ids // label_space.label_divisor).tolist()
    unknown = sorted(set(class_ids) - set(label_space.by_id) - {label_space.ignore_label})
    if unknown:
        raise ValueError(
            f"`panoptic` must hold ids of the classes of {label_space.name!r} times label_divisor "
            f"{label_space.label_divisor}. Received classes: {unknown}. Check that the label space is the map's own."
        )
    return [label_space.by_id.get(c) for c in class_ids]


def _segment_colors(ids, index, classes):
    """Float32 [S, 3]: class colours for stuff, variations that differ between touching instances for things."""
    touching = _touching(index, len(ids))
    colors = np.zeros((len(ids), 3), np.float32)
    chosen, count = {}, {}
    for s, c in enumerate(classes):
        if c is None:
            continue
        if not c.is_thing:
            colors[s] = c.color
            continue
        options = 1 + len(_VARIATIONS)
        # The k-th instance of a class takes the k-th variation, or the next one that no instance it touches has.
        first = count.get(c.id, 0)
        taken = {chosen[n] for n in touching[s] if n in chosen and classes[n].id == c.id}
        order = [(first + i) % options for i in range(options)]
        chosen[s] = next((v for v in order if v not in taken), order[0])
        count[c.id] = first + 1
        colors[s] = _variation(c.color, chosen[s])
    return colors


def _touching(index, num_segments):
    """For each segment, the segments it shares a pixel edge or corner with."""
    pairs = []
    for a, b in (
        (index[:, :-1], index[:, 1:]),
        (index[:-1], index[1:]),
        (index[:-1, :-1], index[1:, 1:]),
        (index[:-1, 1:], index[1:, :-1]),
    ):
        differ = a != b
        pairs.append(a[differ] * num_segments + b[differ])
    touching = [set() for _ in range(num_segments)]
    for pair in np.unique(np.concatenate(pairs)).tolist():
        a, b = divmod(pair, num_segments)
        touching[a].add(b)
        touching[b].add(a)
    return touching


@functools.cache
def _variation(color, number):
    """Variation `number` of a class colour, 0 is the colour itself."""
    if number == 0:
        return color
    hue, _, saturation = colorsys.rgb_to_hls(*(v / 255 for v in color))
    shift, lightness = _VARIATIONS[number - 1]
    return tuple(255 * v for v in colorsys.hls_to_rgb((hue + shift) % 1, lightness, max(saturation, 0.35)))


def enlarge(image: np.ndarray, scale: int) -> np.ndarray:
    """A picture, uint8 [H, W, 3], with sides `scale` times as long, smoothly."""
    if scale == 1:
        return image
    h, w, _ = image.shape
    return np.array(Image.fromarray(image).resize((w * scale, h * scale), Image.Resampling.BICUBIC))


def hatching(height: int, width: int) -> np.ndarray:
    """Float32 [H, W, 3]: dark grey with lighter diagonal lines."""
    period = max(8, min(height, width) // 40)
    phase = (np.arange(height)[:, None] + np.arange(width)) % period
    return np.where((phase < period // 4)[..., None], _VOID_LIGHT, _VOID_DARK)


def contours(index: np.ndarray, width: int) -> np.ndarray:
    """Bool [H, W]: pixels within `width` rows above or columns left of another segment."""
    edges = np.zeros(index.shape, bool)
    for d in range(1, width + 1):
        edges[:-d] |= index[:-d] != index[d:]
        edges[:, :-d] |= index[:, :-d] != index[:, d:]
    return edges


def _shorten(title, size, width):
    """The title, or as much of it as fits `width` pixels."""
    if fonts.length(title, size) <= width:
        return title
    while title and fonts.length(title + "...", size) > width:
        title = title[:-1]
    return title.rstrip() + "..."


def _draw_names(canvas, index, areas, names):
    """Writes the names of the segments, largest first, where they fit and no name stands already."""
    side = min(index.shape)
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    step = max(1, side // _PLACEMENT_GRID)
    grid = index[step // 2 :: step, step // 2 :: step]
    occupied = np.zeros(grid.shape, bool)
    sizes = [max(12, round(side / 30 * share)) for share in (1.0, 0.8, 0.65)]
    for s in np.argsort(-areas, kind="stable").tolist():
        if names[s] is None:
            continue
        for size in sizes:
            width = fonts.length(names[s], size)
            box = (round(0.5 * size / step), round(0.5 * width / step))  # Half height and half width, on the grid.
            place = _best_place(grid == s, occupied, box)
            if place is None:
                continue
            y, x = place
            occupied[max(0, y - box[0]) : y + box[0] + 1, max(0, x - box[1]) : x + box[1] + 1] = True
            position = ((x + 0.5) * step, (y + 0.5) * step)
            stroke = max(1, round(size / 9))
            options = {"fill": "white", "stroke_width": stroke, "stroke_fill": (20, 20, 24)}
            fonts.draw(draw, position, names[s], size, "mm", **options)
            break
    return np.array(picture)


def _best_place(mask, occupied, box):
    """The (y, x) where a box fits a segment best, far from its borders, or None.

    Args:
      mask: bool [h, w], the segment.
      occupied: bool [h, w], where names stand.
      box: half height and half width of the name.
    """
    counts = _box_sums(mask, *box)
    full = (2 * box[0] + 1) * (2 * box[1] + 1)
    fits = (counts >= _NAME_COVERAGE * full) & (_box_sums(occupied, *box) == 0)
    if not fits.any():
        return None
    # Shares of ever larger boxes: the last ones settle where in a wide segment, the first ones where in a thin one.
    score = 2 * counts / full
    for grow in (2, 4, 8):
        half = (box[0] * grow + 1, box[1] + box[0] * grow)
        score = score + _box_sums(mask, *half) / ((2 * half[0] + 1) * (2 * half[1] + 1))
    return np.unravel_index(np.where(fits, score, -1).argmax(), mask.shape)


def _box_sums(mask, half_height, half_width):
    """Int [h, w]: the true pixels in the box around each pixel, nothing outside the picture."""
    h, w = mask.shape
    total = np.pad(mask.astype(np.int32).cumsum(0, dtype=np.int32).cumsum(1, dtype=np.int32), ((1, 0), (1, 0)))
    y, x = np.arange(h), np.arange(w)
    top, bottom = np.clip(y - half_height, 0, h), np.clip(y + half_height + 1, 0, h)
    left, right = np.clip(x - half_width, 0, w), np.clip(x + half_width + 1, 0, w)
    rows = total[bottom] - total[top]  # [h, w + 1]
    return rows[:, right] - rows[:, left]
