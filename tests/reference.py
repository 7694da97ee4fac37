# SPDX-License-Identifier: Apache-2.0
"""Slow references in numpy, float64, written from the papers' formulas: loops, no tricks."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

EPSILON = 1e-3
Norm = Mapping[str, np.ndarray]  # gamma, beta, moving_mean, moving_variance


class Moments(NamedTuple):
    """Mean and biased variance of a batch, and over how many values each was taken."""

    mean: np.ndarray
    variance: np.ndarray
    count: int


def normalize(x: np.ndarray, norm: Norm, axes: tuple[int, ...], training: bool) -> tuple[np.ndarray, Moments]:
    """Batch normalisation over `axes`, whose statistics ignore NaN.

    Args:
      x: any shape.
      norm: arrays that broadcast against `x` (inserted ones where it was reduced).
      axes: what is averaged over.
      training: whether the batch's statistics are used.
    """
    count = np.sum(~np.isnan(x), axis=axes).max()
    moments = Moments(np.nanmean(x, axes, keepdims=True), np.nanvar(x, axes, keepdims=True), int(count))
    mean, variance = moments[:2] if training else (norm["moving_mean"], norm["moving_variance"])
    return (x - mean) / np.sqrt(variance + EPSILON) * norm["gamma"] + norm["beta"], moments


def toeplitz(rows: np.ndarray, num_queries: int, num_keys: int) -> np.ndarray:
    """[Q + K - 1, D] -> [Q, K, D]: out[q, k] = rows[k - q + Q - 1]."""
    out = np.empty((num_queries, num_keys, rows.shape[1]), rows.dtype)
    for q in range(num_queries):
        for k in range(num_keys):
            out[q, k] = rows[k - q + num_queries - 1]
    return out


def _table_row(table: np.ndarray, distance: int) -> np.ndarray:
    largest = len(table) // 2
    return table[largest + min(max(distance, -largest), largest)]


def axial_attention(
    x: np.ndarray, weights: Mapping[str, Any], num_heads: int, span: int | None = None, training: bool = False
) -> tuple[np.ndarray, dict[str, Moments]]:
    """Position-sensitive attention over one axis (Axial-DeepLab, equation 4, with its batch normalisations).

    Args:
      x: [S, L, C] sequences.
      weights: qkv_kernel [C, 2 K + V] and key_depth; the tables query_table, key_table, value_table where they take
        part; the norms qkv_norm (channels), logit_norm (terms, heads) and retrieved_norm (channels of both terms) if
        normalisation takes part.
      num_heads: heads.
      span: odd window, or None.
      training: which statistics are used.

    Returns:
      [S, L, V], and the moments of this batch by norm.
    """
    weights = {k: v if isinstance(v, (dict, int)) else np.float64(v) for k, v in weights.items()}
    sequences, length, _ = x.shape
    key_depth = weights["key_depth"]
    value_depth = weights["qkv_kernel"].shape[1] - 2 * key_depth
    moments = {}
    qkv = np.float64(x) @ weights["qkv_kernel"]
    if "qkv_norm" in weights:
        qkv, moments["qkv_norm"] = normalize(qkv, weights["qkv_norm"], (0, 1), training)
    d, e = key_depth // num_heads, value_depth // num_heads
    q = qkv[..., :key_depth].reshape(sequences, length, num_heads, d)
    k = qkv[..., key_depth : 2 * key_depth].reshape(sequences, length, num_heads, d)
    v = qkv[..., 2 * key_depth :].reshape(sequences, length, num_heads, e)

    names = [name for name in ("query_table", "key_table") if name in weights]
    logits = np.full((1 + len(names), sequences, num_heads, length, length), np.nan)  # NaN outside the window
    for o in range(length):
        for p in range(length):
            if span is not None and abs(p - o) > span // 2:
                continue
            logits[0, :, :, o, p] = np.sum(q[:, o] * k[:, p], -1)
            for i, name in enumerate(names, start=1):
                factor = q[:, o] if name == "query_table" else k[:, p]
                logits[i, :, :, o, p] = factor @ _table_row(weights[name], p - o)
    if "logit_norm" in weights:
        norm = {key: value[:, None, :, None, None] for key, value in weights["logit_norm"].items()}
        logits, moments["logit_norm"] = normalize(logits, norm, (1, 3, 4), training)
    logits = logits.sum(axis=0)
    attention = np.exp(logits - np.nanmax(logits, axis=-1, keepdims=True))
    attention = np.nan_to_num(attention / np.nansum(attention, axis=-1, keepdims=True))

    content, position = np.zeros((2, sequences, length, num_heads, e))
    for o in range(length):
        for p in range(length):
            weight = attention[:, :, o, p, None]  # [S, N, 1]
            content[:, o] += weight * v[:, p]
            if "value_table" in weights:
                position[:, o] += weight * _table_row(weights["value_table"], p - o)
    content, position = (t.reshape(sequences, length, value_depth) for t in (content, position))
    retrieved = np.concatenate([content, position], -1) if "value_table" in weights else content
    if "retrieved_norm" in weights:
        retrieved, moments["retrieved_norm"] = normalize(retrieved, weights["retrieved_norm"], (0, 1), training)
    if "value_table" in weights:
        retrieved = retrieved[..., :value_depth] + retrieved[..., value_depth:]
    return retrieved, moments


def bottleneck(x: np.ndarray, kernels: list[np.ndarray], norms: list[Norm], stride: int, dilation: int) -> np.ndarray:
    """The convolutional bottleneck with a projected shortcut, in inference.

    Args:
      x: [B, H, W, C], not activated.
      kernels: of the 1x1, 3x3, 1x1 convolutions and of the 1x1 shortcut.
      norms: after each of them.
      stride: of the 3x3 convolution and of the shortcut.
      dilation: of the 3x3 convolution.

    Returns:
      [B, ceil(H / stride), ceil(W / stride), channels], not activated.
    """
    x = np.maximum(np.float64(x), 0)

    def step(x, i, stride=1, dilation=1):
        return normalize(convolution(x, kernels[i], stride, dilation), norms[i], (0, 1, 2), False)[0]

    y = np.maximum(step(x, 0), 0)
    y = np.maximum(step(y, 1, stride, dilation), 0)
    return step(y, 2) + step(x, 3, stride)


def convolution(x: np.ndarray, kernel: np.ndarray, stride: int = 1, dilation: int = 1) -> np.ndarray:
    """[B, H, W, C] and [k, k, C, D] -> [B, ceil(H / stride), ceil(W / stride), D], centred on the pixels i * stride."""
    size = kernel.shape[0]
    margin = (size - 1) * dilation // 2
    batch, height, width, _ = x.shape
    padded = np.pad(np.float64(x), [[0, 0], [margin, margin], [margin, margin], [0, 0]])
    out = np.zeros((batch, -(-height // stride), -(-width // stride), kernel.shape[-1]))
    for i in range(out.shape[1]):
        for j in range(out.shape[2]):
            for u in range(size):
                for v in range(size):
                    pixel = padded[:, i * stride + u * dilation, j * stride + v * dilation]
                    out[:, i, j] += pixel @ kernel[u, v]
    return out


def top_k_mean(losses: np.ndarray, share: float) -> np.ndarray:
    """[B, H, W] -> [B]: mean over those of the largest losses that are not zero."""
    out = []
    for one in losses.reshape(len(losses), -1):
        kept = sorted(one.tolist(), reverse=True)[: round(len(one) * share)]
        used = [value for value in kept if value != 0]
        out.append(sum(used) / len(used) if used else 0.0)
    return np.array(out)


class Targets(NamedTuple):
    """Targets of one crop."""

    semantic: np.ndarray
    semantic_weight: np.ndarray
    center: np.ndarray
    center_weight: np.ndarray
    offset: np.ndarray
    offset_weight: np.ndarray


def targets(
    panoptic: np.ndarray,
    crowd_ids: Collection[int],
    thing_ids: Collection[int],
    divisor: int,
    ignore: int,
    sigma: float,
    small_threshold: int,
    small_weight: float,
) -> Targets:
    """Targets of Panoptic-DeepLab, pixel by pixel."""
    height, width = panoptic.shape
    pixels: dict[int, list[tuple[int, int]]] = {}
    semantic, center = panoptic // divisor, np.zeros((height, width))
    semantic_weight, center_weight = np.ones((height, width)), np.ones((height, width))
    offset, offset_weight = np.zeros((height, width, 2)), np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            value = int(panoptic[y, x])
            label, number = divmod(value, divisor)
            crowd = label in thing_ids and (number == 0 or value in crowd_ids)
            if label == ignore or crowd:
                center_weight[y, x] = 0
            elif label in thing_ids:
                pixels.setdefault(value, []).append((y, x))
                offset_weight[y, x] = 1
    start = int(3 * sigma + 1)
    window = int(6 * sigma + 3)
    for places in pixels.values():
        middle = [round(sum(place[axis] for place in places) / len(places)) for axis in (0, 1)]
        for y, x in places:
            offset[y, x] = middle[0] - y, middle[1] - x
            semantic_weight[y, x] = small_weight if len(places) < small_threshold else 1
        for i in range(window):
            for j in range(window):
                y, x = middle[0] - start + i, middle[1] - start + j
                if 0 <= y < height and 0 <= x < width:
                    value = np.exp(-((i - start) ** 2 + (j - start) ** 2) / (2 * sigma**2))
                    center[y, x] = max(center[y, x], value)
    return Targets(semantic, semantic_weight, center, center_weight, offset, offset_weight)


def find_centers(heatmap: np.ndarray, threshold: float, kernel: int, most: int) -> list[tuple[float, int, int]]:
    """(score, y, x) of the peaks in row-major order, the `most` highest."""
    height, width = heatmap.shape
    margin = kernel // 2
    peaks = []
    for y in range(height):
        for x in range(width):
            window = heatmap[max(y - margin, 0) : y + margin + 1, max(x - margin, 0) : x + margin + 1]
            if heatmap[y, x] > threshold and heatmap[y, x] == window.max():
                peaks.append((float(heatmap[y, x]), y, x))
    highest = sorted(peaks, key=lambda peak: -peak[0])[:most]  # a stable sort: of equals the first
    return sorted(highest, key=lambda peak: peak[1:])


def group_pixels(offsets: np.ndarray, is_thing: np.ndarray, centers: list[tuple[int, int]]) -> np.ndarray:
    """[H, W]: 1 + the index of the centre nearest to where the offset points, 0 off things."""
    out = np.zeros(is_thing.shape, np.int32)
    for y, x in zip(*np.nonzero(is_thing)):
        if centers:
            to = (y + offsets[y, x, 0], x + offsets[y, x, 1])
            out[y, x] = 1 + int(np.argmin([(to[0] - cy) ** 2 + (to[1] - cx) ** 2 for cy, cx in centers]))
    return out


def merge(
    semantic: np.ndarray,
    instance: np.ndarray,
    thing_ids: Collection[int],
    divisor: int,
    ignore: int,
    stuff_limit: int = 0,
    thing_limit: int = 0,
) -> np.ndarray:
    """[H, W] panoptic map by majority vote."""
    out = np.full(semantic.shape, ignore * divisor, np.int32)
    seen: dict[int, int] = {}
    for number in dict.fromkeys(instance.ravel().tolist()):  # in the order of first appearance
        mask = instance == number
        if number == 0 or mask.sum() < thing_limit:
            continue
        winner = int(np.argmax(np.bincount(semantic[mask])))
        seen[winner] = seen.get(winner, 0) + 1
        out[mask] = winner * divisor + seen[winner]
    for label in set(semantic.ravel().tolist()) - set(thing_ids):
        if (semantic == label).sum() >= stuff_limit:
            out[(semantic == label) & (instance == 0)] = label * divisor
    return out


def segment_scores(
    probabilities: np.ndarray,
    semantic: np.ndarray,
    instance: np.ndarray,
    panoptic: np.ndarray,
    center_scores: Sequence[float],
    thing_ids: Collection[int],
    divisor: int,
) -> tuple[list[float], dict[int, float]]:
    """Score of each instance of a map without padding; {stuff class: score} of those in the panoptic map."""
    of_instances = []
    for number, center_score in enumerate(center_scores, start=1):
        mask = instance == number
        label = np.argmax(np.bincount(semantic[mask])) if mask.any() else 0
        of_instances.append(center_score * probabilities[mask][:, label].mean() if mask.any() else 0.0)
    stuff = set(range(probabilities.shape[-1])) - set(thing_ids)
    masks = {label: (panoptic == label * divisor) & (semantic == label) for label in stuff}
    return of_instances, {label: probabilities[mask][:, label].mean() for label, mask in masks.items() if mask.any()}
