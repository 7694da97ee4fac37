# SPDX-License-Identifier: Apache-2.0
"""The table: which variable of ours is which key of a DeepLab2 checkpoint.

Keys stand without their ending /.ATTRIBUTES/VARIABLE_VALUE. They are paths of attributes in DeepLab2's objects, so they
follow the attribute names of its model/encoder, model/layers and model/decoder.
"""

from collections.abc import Iterator
from typing import NamedTuple

import tensorflow as tf
import tf_keras

from deeplab_axial.backbones.axial_resnet import AxialResNet
from deeplab_axial.layers.aspp import ASPP
from deeplab_axial.layers.axial_attention import AxialAttention
from deeplab_axial.layers.convolution import ConvBN, SeparableConvBN
from deeplab_axial.layers.residual_block import BasicBlock, ResidualBlock
from deeplab_axial.layers.switchable_atrous import SwitchableConvBN
from deeplab_axial.models.decoder import Decoder
from deeplab_axial.models.panoptic_deeplab import PanopticDeepLab


class Entry(NamedTuple):
    """One row of the table."""

    key: str
    variable: tf.Variable
    # In DeepLab2; a plain reshape brings the value to ours.
    shape: tuple[int, ...]


class Part(NamedTuple):
    """What is restored as a whole or not at all."""

    name: str  # path of attributes of our model
    root: str  # what the keys start with
    entries: list[Entry]


def parts(model: tf_keras.Model) -> list[Part]:
    """The table of a built model: a `PanopticDeepLab`, or a network of which the backbone alone has a counterpart."""
    found = [Part("backbone", "encoder", list(backbone(model.backbone, "encoder")))]
    if not isinstance(model, PanopticDeepLab):
        return found
    found += _decoder_parts(model, "semantic_decoder")
    found += _head_parts(model, "semantic_head", "semantic_head_without_last_layer", "semantic_last_layer")
    if model.instance_decoder is not None:
        found += _decoder_parts(model, "instance_decoder")
    if model.center_head is not None:
        for name, root in (("center_head", "instance_center_head"), ("offset_head", "instance_regression_head")):
            found += _head_parts(model, name, f"{root}_without_last_layer", f"{root}_last_layer")
    return found


def _decoder_parts(model: PanopticDeepLab, name: str) -> list[Part]:
    return [Part(name, name, list(decoder(getattr(model, name), name)))]


def _head_parts(model: PanopticDeepLab, name: str, root: str, last_root: str) -> list[Part]:
    head = getattr(model, name)
    return [
        Part(f"{name}/conv", root, list(_separable(head.conv, f"{root}/_conv1_bn_act"))),
        Part(f"{name}/last", last_root, list(_kernel_and_bias(head.last, last_root))),
    ]


def backbone(model: AxialResNet, prefix: str) -> Iterator[Entry]:
    """The rows of a backbone; `prefix` is "encoder" in a whole checkpoint."""
    convs = model.stem_layer.convs
    names = ("/_conv1_bn_act", "/_conv2_bn_act", "/_conv3_bn") if len(convs) == 3 else ("",)
    for conv, name in zip(convs, names):
        yield from _conv_bn(conv, f"{prefix}/_stem{name}")
    stages = {1: model.stage1, **dict(enumerate(model.stages, start=2))}
    for stage, blocks in stages.items():
        for number, layer in enumerate(blocks, start=1):
            yield from block(layer, f"{prefix}/_stage{stage}/_block{number}")


def block(layer: ResidualBlock, prefix: str) -> Iterator[Entry]:
    """The rows of a residual block, convolutional or axial."""
    yield from _conv_bn(layer.conv1, f"{prefix}/_conv1_bn_act")
    if isinstance(layer, BasicBlock):
        yield from _conv_bn(layer.conv2, f"{prefix}/_conv2_bn")
    else:
        if layer.attention is None:
            yield from _conv_bn(layer.conv2, f"{prefix}/_conv2_bn_act")
        else:
            yield from attention(layer.attention_layer.height_axis, f"{prefix}/_attention/_height_axis")
            yield from attention(layer.attention_layer.width_axis, f"{prefix}/_attention/_width_axis")
        yield from _conv_bn(layer.conv3, f"{prefix}/_conv3_bn")
    if layer.squeeze_excite is not None:
        yield from _kernel_and_bias(layer.squeeze_excite.conv, f"{prefix}/_squeeze_and_excite/_se_conv")
    if layer.shortcut is not None:
        yield from _conv_bn(layer.shortcut, f"{prefix}/_shortcut")


def attention(layer: AxialAttention, prefix: str) -> Iterator[Entry]:
    """The rows of attention along one axis."""
    yield _same(f"{prefix}/qkv_kernel", layer.qkv_kernel)  # made by add_weight: no underscore
    for table, name in (
        (layer.query_table, "_query_rpe"),
        (layer.key_table, "_key_rpe"),
        (layer.value_table, "_value_rpe"),
    ):
        if table is not None:
            yield Entry(f"{prefix}/{name}/embeddings", table, tuple(table.shape))
    if layer.use_batch_norm:
        heads, terms = layer.num_heads, layer.logit_norm.num_terms
        retrieved = 2 if layer.value_position else 1
        yield from _norm(layer.qkv_norm, f"{prefix}/_batch_norm_qkv")
        yield from _norm(layer.logit_norm, f"{prefix}/_batch_norm_similarity", (terms, 1, heads, 1, 1))
        yield from _norm(
            layer.retrieved_norm,
            f"{prefix}/_batch_norm_retrieved_output",
            (retrieved, 1, heads, 1, layer.value_depth // heads),
        )


def decoder(layer: Decoder, prefix: str) -> Iterator[Entry]:
    """The rows of one of the two decoders."""
    yield from _aspp(layer.aspp, f"{prefix}/_aspp")
    for number, (project, fuse) in enumerate(zip(layer.projections, layer.fusions), start=1):
        yield from _conv_bn(project, f"{prefix}/_low_level_conv{number}")
        yield from _separable(fuse, f"{prefix}/_fusion_conv{number}/_conv1_bn_act")


def _aspp(layer: ASPP, prefix: str) -> Iterator[Entry]:
    if layer.atrous_rates:
        names = ("_conv_bn_act", *(f"_aspp_conv{number}/_conv_bn_act" for number in (1, 2, 3)))
        for branch, name in zip(layer.branches, names):
            yield from _conv_bn(branch, f"{prefix}/{name}")
        yield from _conv_bn(layer.pooled_branch, f"{prefix}/_aspp_pool/_conv_bn_act")
    yield from _conv_bn(layer.projection, f"{prefix}/_proj_conv_bn_act")


def _separable(layer: SeparableConvBN, prefix: str) -> Iterator[Entry]:
    yield _same(f"{prefix}/_depthwise/_depthwise_conv/depthwise_kernel", layer.depthwise.conv.depthwise_kernel)
    yield from _norm(layer.depthwise.batch_norm, f"{prefix}/_depthwise/_batch_norm")
    yield from _conv_bn(layer.pointwise, f"{prefix}/_pointwise")


def _conv_bn(layer: ConvBN, prefix: str) -> Iterator[Entry]:
    yield _same(f"{prefix}/_conv/kernel", layer.conv.kernel)
    if isinstance(layer, SwitchableConvBN):
        if layer.switch is not None:
            yield from _kernel_and_bias(layer.switch, f"{prefix}/_conv/_switch")
        yield from _kernel_and_bias(layer.pre_context.convolution, f"{prefix}/_pre_global_context/convolution")
        yield from _kernel_and_bias(layer.post_context.convolution, f"{prefix}/_post_global_context/convolution")
    yield from _norm(layer.batch_norm, f"{prefix}/_batch_norm")


def _kernel_and_bias(layer: tf_keras.layers.Conv2D, prefix: str) -> Iterator[Entry]:
    yield _same(f"{prefix}/kernel", layer.kernel)
    yield _same(f"{prefix}/bias", layer.bias)


def _norm(layer: tf_keras.layers.Layer, prefix: str, shape: tuple[int, ...] | None = None) -> Iterator[Entry]:
    for name in ("gamma", "beta", "moving_mean", "moving_variance"):
        variable = getattr(layer, name)
        yield Entry(f"{prefix}/{name}", variable, shape or tuple(variable.shape))


def _same(key: str, variable: tf.Variable) -> Entry:
    return Entry(key, variable, tuple(variable.shape))
