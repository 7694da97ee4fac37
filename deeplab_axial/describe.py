# SPDX-License-Identifier: Apache-2.0
"""What a network consists of: shapes, parameters and multiply-adds of its parts, read off its real graph.

A network that was built inside `with tf.Graph().as_default():` has symbolic weights, which take no memory; describe it
inside the same block.
"""

import collections
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf
import tf_keras

from deeplab_axial import multiply_adds
from deeplab_axial.models.classifier import Classifier
from deeplab_axial.postprocessing.multi_scale import PLAIN, MultiScale, scaled_size

# Moving statistics are weights, but no parameters.
_NO_PARAMETERS = ("moving_mean", "moving_variance")


class Part(NamedTuple):
    """A part of the network."""

    name: str
    output: str
    parameters: int
    multiply_adds: int


class Figure(NamedTuple):
    """A figure of ours beside the published one.

    Attributes:
      name: what it is.
      unit: "M" or "B".
      ours: in that unit.
      published: in that unit; None where nothing is published.
    """

    name: str
    unit: str
    ours: float
    published: float | None


def describe(model: tf_keras.Model, height: int, width: int) -> list[Part]:
    """The parts of a network, in the order of the data.

    Args:
      model: a built `PanopticDeepLab` or `Classifier`.
      height: of the image, pixels.
      width: of the image, pixels.

    Returns:
      Stem, stages, decoders and heads, each with the shape of its output; multiply-adds are for one image.
    """
    function = tf.function(lambda images: _outputs(model, images), autograph=False)
    graph = function.get_concrete_function(tf.TensorSpec([1, height, width, 3])).graph
    shapes = {name: _shape(tensor) for name, tensor in graph.structured_outputs.items()}
    costs: dict[str, int] = collections.Counter()
    for name, cost in multiply_adds.by_operation(graph).items():
        costs[_part(name)] += cost
    parameters: dict[str, int] = collections.Counter()
    for weight in model.weights:
        if not any(name in weight.name for name in _NO_PARAMETERS):
            parameters[_part(weight.name)] += math.prod(weight.shape)
    names = list(dict.fromkeys(["stem", *shapes, *sorted({*costs, *parameters})]))
    parts = [Part(name, shapes.get(name, ""), parameters[name], costs[name]) for name in names]
    return [part for part in parts if part.parameters or part.multiply_adds]


def count(model: tf_keras.Model, height: int, width: int, variants: MultiScale = PLAIN) -> tuple[int, int]:
    """Parameters and multiply-adds of a network, those of multi-scale inference included.

    Args:
      model: a built `PanopticDeepLab` or `Classifier`.
      height: of the image, pixels.
      width: of the image, pixels.
      variants: the scales at which the network sees the image, and whether it sees each mirrored too.

    Returns:
      (parameters, multiply-adds for one image over all its variants).
    """
    described = [describe(model, *scaled_size((height, width), scale)) for scale in variants.scales]
    cost = sum(part.multiply_adds for parts in described for part in parts)
    return sum(part.parameters for part in described[0]), cost * (2 if variants.flip else 1)


def table(parts: list[Part]) -> str:
    """The parts and their sums as text."""
    total = Part("total", "", sum(p.parameters for p in parts), sum(p.multiply_adds for p in parts))
    lines = [f"{'part':<20} {'output':>20} {'parameters':>14} {'multiply-adds':>16}"]
    for part in (*parts, total):
        lines.append(f"{part.name:<20} {part.output:>20} {part.parameters:>14,} {part.multiply_adds / 1e6:>14,.2f} M")
    return "\n".join(lines)


def comparison(figures: Sequence[Figure]) -> str:
    """Our figures beside the published ones as text."""
    lines = [f"{'':<20} {'ours':>14} {'published':>14} {'difference':>12}"]
    for name, unit, ours, published in figures:
        line = f"{name:<20} {ours:>12,.2f} {unit}"
        if published is not None:
            line += f" {published:>12,.2f} {unit} {(ours / published - 1.0):>+12.1%}"
        lines.append(line)
    return "\n".join(lines)


def _outputs(model: tf_keras.Model, images: tf.Tensor) -> dict[str, tf.Tensor]:
    """Output of each part."""
    endpoints = model.backbone(images)
    # Stage 1, where there is one, ends in res1, and so does the stem otherwise.
    first = "stage1" if len(model.backbone.num_blocks) == 5 else "stem"
    outputs = {first: endpoints["res1"], **{f"stage{i}": endpoints[f"res{i}"] for i in range(2, 6)}}
    if isinstance(model, Classifier):
        means = tf.reduce_mean(endpoints["res5"], axis=[1, 2])
        return {**outputs, "classification_head": model.classification_head(means)}
    outputs["semantic_decoder"] = model.semantic_decoder(endpoints)
    outputs["semantic_head"] = model.semantic_head(outputs["semantic_decoder"])
    if model.instance_decoder is not None:
        outputs["instance_decoder"] = model.instance_decoder(endpoints)
    if model.center_head is not None:
        features = outputs.get("instance_decoder", outputs["semantic_decoder"])
        outputs["center_head"] = model.center_head(features)
        outputs["offset_head"] = model.offset_head(features)
    return outputs


def _part(name: str) -> str:
    """The part that an operation or a weight belongs to, from the scopes in its name."""
    for scope in name.split("/"):
        match = re.match(r"(stage\d)_block\d+$|(stem|\w+_decoder|\w+_head)$", scope)
        if match:
            return match.group(1) or match.group(2)
    return "other"


def _shape(tensor: tf.Tensor) -> str:
    return " x ".join(str(size) for size in tensor.shape[1:])
