# SPDX-License-Identifier: Apache-2.0
"""Textures and shapes of the synthetic scenes.

Everything is drawn from signed distances (negative inside, pixels), which gives smooth edges in the picture and hard
ones in the label map from the same numbers. Pictures are float32 [H, W, 3], RGB, about 0 to 1; coordinates are (y, x).
"""

import colorsys
import dataclasses
import math
from collections.abc import Callable

import numpy as np
from PIL import Image

Rng = np.random.Generator
VOID = 0
_STAR_POINTS = 5
_STAR_INNER = 0.52  # radius of the notches over the radius of the tips


def noise(rng: Rng, shape: tuple[int, int], cell: tuple[float, float]) -> np.ndarray:
    """Smooth noise of about unit variance.

    Args:
      rng: source of randomness.
      shape: (height, width), pixels.
      cell: (height, width) of one bump, pixels.

    Returns:
      float32 [height, width].
    """
    grid = rng.standard_normal([math.ceil(n / c) + 3 for n, c in zip(shape, cell)], dtype=np.float32)
    box = (1, 1, 1 + shape[1] / cell[1], 1 + shape[0] / cell[0])
    return np.asarray(Image.fromarray(grid).resize(shape[::-1], Image.Resampling.BICUBIC, box=box))


def _pick(rng: Rng, colors: list[tuple[float, float, float]], spread: float = 0.05) -> np.ndarray:
    base = np.array(colors[rng.integers(len(colors))], np.float32)
    return np.clip(base + rng.normal(0, spread, 3), 0.05, 0.95).astype(np.float32)


def sky(rng: Rng, shape: tuple[int, int]) -> np.ndarray:
    """A smooth gradient with soft, flat clouds. Returns float32 [H, W, 3]."""
    tops = [(0.22, 0.45, 0.80), (0.35, 0.38, 0.62), (0.50, 0.60, 0.70), (0.16, 0.30, 0.55)]
    bottoms = [(0.72, 0.85, 0.95), (0.95, 0.72, 0.50), (0.85, 0.80, 0.82), (0.95, 0.88, 0.70)]
    t = np.linspace(0, 1.3, shape[0], dtype=np.float32)[:, None, None]
    picture = _pick(rng, tops) * (1 - t) + _pick(rng, bottoms) * t
    cloud = noise(rng, shape, (14, 45)) + 0.6 * noise(rng, shape, (7, 18)) + 0.25 * noise(rng, shape, (3, 7))
    cover = np.clip(0.45 * (cloud - rng.uniform(0.0, 1.0)), 0, 0.85)[..., None]
    return picture * (1 - cover) + np.float32(0.96) * cover


def meadow(rng: Rng, shape: tuple[int, int]) -> np.ndarray:
    """Upright blades in patches, with a few flowers. Returns float32 [H, W, 3]."""
    base = _pick(rng, [(0.30, 0.50, 0.20), (0.45, 0.52, 0.22), (0.55, 0.48, 0.22), (0.22, 0.42, 0.28)])
    tone = 0.12 * noise(rng, shape, (25, 40)) + 0.20 * noise(rng, shape, (6, 1.3)) + 0.10 * noise(rng, shape, (2.5, 1))
    hue = 0.05 * noise(rng, shape, (18, 25))[..., None] * np.array([1.0, 0.2, -0.4], np.float32)
    picture = base * (1 + tone[..., None]) + hue
    if rng.random() < 0.5:
        flowers = rng.random(shape) < 0.006
        picture[flowers] = _pick(rng, [(0.95, 0.85, 0.30), (0.95, 0.95, 0.95), (0.85, 0.35, 0.55)])
    return picture


def water(rng: Rng, shape: tuple[int, int]) -> np.ndarray:
    """Ripples that run across and widen towards the viewer. Returns float32 [H, W, 3]."""
    base = _pick(rng, [(0.15, 0.38, 0.58), (0.15, 0.45, 0.48), (0.30, 0.40, 0.50), (0.20, 0.35, 0.32)])
    y = np.arange(shape[0], dtype=np.float32)[:, None]
    period = rng.uniform(4.5, 6.0) + 3.0 * y / shape[0]
    ripple = np.sin(2 * np.pi * y / period + 1.5 * noise(rng, shape, (8, 30)) + 0.5 * noise(rng, shape, (3, 10)))
    picture = base * (1 + 0.20 * ripple + 0.12 * noise(rng, shape, (20, 60)))[..., None]
    glint = np.clip(ripple - 0.75 + 0.15 * noise(rng, shape, (3, 12)), 0, 1)[..., None]
    return picture + glint * np.array([1.0, 1.1, 1.1], np.float32)


def brick_wall(rng: Rng, shape: tuple[int, int]) -> np.ndarray:
    """Courses of bricks with mortar between. Returns float32 [H, W, 3]."""
    base = _pick(rng, [(0.60, 0.30, 0.22), (0.70, 0.55, 0.40), (0.50, 0.50, 0.52), (0.45, 0.35, 0.38)])
    mortar = _pick(rng, [(0.80, 0.78, 0.74), (0.30, 0.27, 0.26)])
    height = rng.uniform(6.5, 9.5)
    width = height * rng.uniform(1.9, 2.4)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32) + rng.uniform(0, 20, 2).reshape(2, 1, 1)
    row = np.floor(y / height).astype(np.int32)
    shifted = x + 0.5 * width * (row % 2)
    column = np.floor(shifted / width).astype(np.int32)
    tones = rng.normal(1, 0.11, (row.max() + 1, column.max() + 1)).astype(np.float32)
    down, across = y - row * height, shifted - column * width
    inside = np.minimum(np.minimum(down, height - down), np.minimum(across, width - across))
    grain = 1 + 0.05 * noise(rng, shape, (1.5, 1.5)) + 0.07 * noise(rng, shape, (30, 40))
    lit = 1 + 0.10 * (0.5 - down / height)  # upper edges of bricks catch the light
    stone = base * (tones[row, column] * grain * lit)[..., None]
    cover = np.clip(inside - 0.25, 0, 1)[..., None]
    return stone * cover + (mortar * grain[..., None]) * (1 - cover)


@dataclasses.dataclass(frozen=True)
class Shape:
    """One thing.

    Attributes:
      kind: a key of `SHAPES`.
      center: (y, x), pixels.
      radius: half of its extent, pixels.
      angle: rotation, radians.
      color: RGB, 0 to 1.
      variant: 0 to 1, picks proportions and pattern.
      void_band: leave the pixels on its border unlabelled.
    """

    kind: str
    center: tuple[float, float]
    radius: float
    angle: float
    color: tuple[float, float, float]
    variant: float
    void_band: bool


def random_color(rng: Rng) -> tuple[float, float, float]:
    """A colour that any kind of thing may have."""
    return colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.35, 0.9), rng.uniform(0.5, 0.95))


def _ball(shape: Shape, v: np.ndarray, u: np.ndarray, light: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    distance = np.hypot(v, u)
    y, x = v / shape.radius, u / shape.radius
    z = np.sqrt(np.clip(1 - y * y - x * x, 0, 1))
    lambert = np.clip(light[0] * y + light[1] * x + light[2] * z, 0, 1)
    color = np.broadcast_to(np.array(shape.color, np.float32), (*v.shape, 3))
    if shape.variant < 0.5:
        along = np.cos(shape.angle) * y + np.sin(shape.angle) * x
        band = np.clip((0.22 - np.abs(along)) * shape.radius + 0.5, 0, 1)[..., None]
        color = color * (1 - band) + 0.92 * band
    return distance - shape.radius, color * (0.35 + 0.8 * lambert)[..., None] + 0.55 * (lambert**24)[..., None]


def _crate(shape: Shape, v: np.ndarray, u: np.ndarray, light: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    cos, sin = np.cos(shape.angle), np.sin(shape.angle)
    v, u = cos * v - sin * u, sin * v + cos * u
    half_v, half_u = shape.radius * (0.68 + 0.2 * shape.variant), shape.radius * 0.88
    distance = np.maximum(np.abs(v) - half_v, np.abs(u) - half_u)
    plank = 2 * half_v / max(3, round(shape.radius / 3.5))
    position = (v + half_v) / plank
    number = np.floor(position)
    gap = np.abs(position - np.round(position)) * plank
    tone = 0.92 + 0.12 * np.sin(number * 2.4 + 7 * shape.variant) + 0.05 * np.sin(u / 2.3 + 3 * number)
    tone = tone * (1 - 0.5 * np.clip(1.1 - gap, 0, 1))
    frame = max(1.6, 0.17 * shape.radius)
    brace = np.abs(v * half_u - u * half_v) / np.hypot(half_u, half_v) - 0.6 * frame
    raised = np.minimum(brace, -frame - distance)  # frame and diagonal brace, negative inside
    tone = np.where(raised < 0, 1.18, tone) * (1 - 0.4 * np.clip(1.2 - np.abs(raised - 0.6), 0, 1))
    tone = tone * (1 + 0.12 * (light[0] * v + light[1] * u) / shape.radius)
    return distance, np.array(shape.color, np.float32) * tone[..., None]


def _star(shape: Shape, v: np.ndarray, u: np.ndarray, light: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    half = np.pi / _STAR_POINTS
    theta = np.arctan2(u, v) + shape.angle
    arm = np.round(theta / (2 * half))
    within = theta - 2 * half * arm
    r = np.hypot(v, u)
    # Folded onto half an arm, the outline is the one line from the tip (R, 0) to the notch.
    along, aside = r * np.cos(within), r * np.sin(np.abs(within))
    notch = shape.radius * _STAR_INNER * np.array([np.cos(half), np.sin(half)])
    normal = np.array([notch[1], shape.radius - notch[0]])
    normal /= np.hypot(*normal)
    distance = (along - shape.radius) * normal[0] + aside * normal[1]
    # Each half arm is a flat facet that leans away from the middle line of its arm.
    facing = 2 * half * arm + np.where(within > 0, half, -half) * 1.6 - shape.angle
    lit = light[0] * np.cos(facing) + light[1] * np.sin(facing)
    crease = np.clip(1 - np.abs(aside) / 0.9, 0, 1) * 0.12
    tone = 0.82 + 0.42 * lit + crease
    return distance, np.array(shape.color, np.float32) * tone[..., None]


SHAPES: dict[str, Callable] = {"ball": _ball, "crate": _crate, "star": _star}
TEXTURES: dict[str, Callable] = {"sky": sky, "meadow": meadow, "water": water, "brick wall": brick_wall}


def paint_region(picture: np.ndarray, labels: np.ndarray, texture: np.ndarray, distance: np.ndarray, label: int):
    """Lays a background region over the picture, in place.

    Args:
      picture: float32 [H, W, 3].
      labels: int32 [H, W].
      texture: float32 [H, W, 3].
      distance: signed distance to the region's border [H, W], negative inside, pixels.
      label: number of the region in `labels`.
    """
    cover = np.clip(0.5 - distance, 0, 1)[..., None]
    edge = 1 - 0.3 * np.exp(-np.abs(distance) / 2.5)[..., None]  # regions meet in a soft crease
    picture[:] = (picture * (1 - cover) + texture * cover) * edge
    labels[distance < 0] = label


def paint_shape(picture: np.ndarray, labels: np.ndarray, shape: Shape, light: np.ndarray, label: int):
    """Draws a thing with outline and cast shadow over the picture, in place.

    Args:
      picture: float32 [H, W, 3].
      labels: int32 [H, W].
      shape: what to draw.
      light: unit vector (y, x, z) towards the light; z points at the viewer.
      label: number of the thing in `labels`.
    """
    reach = 1.6 * shape.radius + 3
    top, left = (max(0, int(c - reach)) for c in shape.center)
    bottom, right = (max(0, int(c + reach) + 1) for c in shape.center)
    window = np.s_[top:bottom, left:right]
    view = picture[window]
    if not view.size:
        return
    v, u = np.mgrid[top : top + view.shape[0], left : left + view.shape[1]].astype(np.float32)
    v, u = v - shape.center[0], u - shape.center[1]
    distance, color = SHAPES[shape.kind](shape, v, u, light)

    drop = 0.3 * shape.radius
    shadow, _ = SHAPES[shape.kind](shape, v + drop * light[0], u + drop * light[1], light)
    view *= 1 - 0.4 * np.clip(0.5 - shadow / (0.2 * shape.radius + 1), 0, 1)[..., None]
    outline = np.clip(1.9 + distance, 0, 1)[..., None]
    color = color * (1 - 0.55 * outline)
    cover = np.clip(0.5 - distance, 0, 1)[..., None]
    view[:] = view * (1 - cover) + color * cover

    labels[window][distance < 0] = label
    if shape.void_band:
        labels[window][np.abs(distance) < 0.8] = VOID
