# SPDX-License-Identifier: Apache-2.0
"""Which variable of ours is which key of a DeepLab2 checkpoint (keys without the /.ATTRIBUTES/VARIABLE_VALUE)."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import tensorflow as tf

Pair = tuple[str, tf.Variable]
_NORM = ("gamma", "beta", "moving_mean", "moving_variance")


def assign(pairs: Iterable[Pair], arrays: Mapping[str, np.ndarray]) -> None:
    """Gives every variable its array, and asserts that no array is left over."""
    unused = set(arrays)
    for key, variable in pairs:
        variable.assign(arrays[key].reshape(variable.shape))
        unused.remove(key)
    assert not unused


def attention(layer, prefix: str) -> Iterator[Pair]:
    """Of an `AxialAttention`."""
    yield f"{prefix}/qkv_kernel", layer.qkv_kernel
    for table, theirs in (("query_table", "_query_rpe"), ("key_table", "_key_rpe"), ("value_table", "_value_rpe")):
        if getattr(layer, table) is not None:
            yield f"{prefix}/{theirs}/embeddings", getattr(layer, table)
    yield from _norm(layer.qkv_norm, f"{prefix}/_batch_norm_qkv")
    yield from _norm(layer.logit_norm, f"{prefix}/_batch_norm_similarity")
    yield from _norm(layer.retrieved_norm, f"{prefix}/_batch_norm_retrieved_output")


def conv_bn(layer, prefix: str) -> Iterator[Pair]:
    """Of a `ConvBN`."""
    depthwise = layer.filters is None
    yield prefix + ("/_depthwise_conv/depthwise_kernel" if depthwise else "/_conv/kernel"), layer.conv.weights[0]
    yield from _norm(layer.batch_norm, f"{prefix}/_batch_norm")


def block(layer, prefix: str) -> Iterator[Pair]:
    """Of a `BottleneckBlock`."""
    yield from conv_bn(layer.conv1, f"{prefix}/_conv1_bn_act")
    yield from conv_bn(layer.conv3, f"{prefix}/_conv3_bn")
    if layer.attention is None:
        yield from conv_bn(layer.conv2, f"{prefix}/_conv2_bn_act")
    else:
        yield from attention(layer.attention_layer.height_axis, f"{prefix}/_attention/_height_axis")
        yield from attention(layer.attention_layer.width_axis, f"{prefix}/_attention/_width_axis")
    if layer.shortcut is not None:
        yield from conv_bn(layer.shortcut, f"{prefix}/_shortcut")


def backbone(model, prefix: str = "encoder") -> Iterator[Pair]:
    """Of an `AxialResNet`."""
    stem = model.stem_layer
    names = ("",) if stem.kind == "conv7x7" else ("/_conv1_bn_act", "/_conv2_bn_act", "/_conv3_bn")
    for conv, name in zip(stem.convs, names):
        yield from conv_bn(conv, f"{prefix}/_stem{name}")
    for stage, blocks in enumerate(model.stages, start=2):
        for number, layer in enumerate(blocks, start=1):
            yield from block(layer, f"{prefix}/_stage{stage}/_block{number}")


def panoptic_deeplab(model) -> Iterator[Pair]:
    """Of a `PanopticDeepLab` with instance heads and ASPP as a projection alone."""
    yield from backbone(model.backbone)
    yield from _decoder(model.semantic_decoder, "semantic_decoder")
    yield from _decoder(model.instance_decoder, "instance_decoder")
    yield from _head(model.semantic_head, "semantic")
    yield from _head(model.center_head, "instance_center_head")
    yield from _head(model.offset_head, "instance_regression_head")


def _norm(layer, prefix: str) -> Iterator[Pair]:
    for name in _NORM:
        yield f"{prefix}/{name}", getattr(layer, name)


def _separable(layer, prefix: str) -> Iterator[Pair]:
    yield from conv_bn(layer.depthwise, f"{prefix}/_conv1_bn_act/_depthwise")
    yield from conv_bn(layer.pointwise, f"{prefix}/_conv1_bn_act/_pointwise")


def _decoder(layer, prefix: str) -> Iterator[Pair]:
    yield from conv_bn(layer.aspp.projection, f"{prefix}/_aspp/_proj_conv_bn_act")
    for number, (project, fuse) in enumerate(zip(layer.projections, layer.fusions), start=1):
        yield from conv_bn(project, f"{prefix}/_low_level_conv{number}")
        yield from _separable(fuse, f"{prefix}/_fusion_conv{number}")


def _head(layer, name: str) -> Iterator[Pair]:
    yield from _separable(
        layer.conv, "semantic_head_without_last_layer" if name == "semantic" else f"{name}_without_last_layer"
    )
    yield f"{name}_last_layer/kernel", layer.last.kernel
    yield f"{name}_last_layer/bias", layer.last.bias
