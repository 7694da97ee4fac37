# SPDX-License-Identifier: Apache-2.0
"""Networks from configs."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf
import tf_keras

from deeplab_axial.backbones import presets
from deeplab_axial.backbones.axial_resnet import AxialResNet
from deeplab_axial.errors import InputError
from deeplab_axial.models.classifier import Classifier
from deeplab_axial.models.decoder import Decoder
from deeplab_axial.models.heads import Head
from deeplab_axial.models.panoptic_deeplab import PanopticDeepLab
from deeplab_axial.protos import config_pb2, model_pb2


@contextlib.contextmanager
def _keras_defaults() -> Iterator[None]:
    """Layers take the order of channels and the type of weights from the process, which may have set others."""
    backend = tf_keras.backend
    before = backend.image_data_format(), backend.floatx()
    backend.set_image_data_format("channels_last")
    backend.set_floatx("float32")
    try:
        yield
    finally:
        backend.set_image_data_format(before[0])
        backend.set_floatx(before[1])


def portable(options: config_pb2.ExperimentOptions) -> config_pb2.ExperimentOptions:
    """The config, its attention of operations that every device has, unless it asks for the kernel of TPUs."""
    changed = config_pb2.ExperimentOptions()
    changed.CopyFrom(options)
    if options.model_options.backbone.attention_kernel == "AUTO":  # on a TPU's machine it might be the kernel
        changed.model_options.backbone.attention_kernel = "XLA"
    return changed


@_keras_defaults()
def build_model(options: config_pb2.ExperimentOptions, num_replicas: int = 1) -> PanopticDeepLab | Classifier:
    """The network of a config, its weights made: a `Classifier` if it has model_options.classification.

    Args:
      options: validated.
      num_replicas: over which batch normalisation synchronises, if the config says so.
    """
    model_options = options.model_options
    solver = options.trainer_options.solver_options
    norm = {
        "momentum": solver.batchnorm_momentum,
        "epsilon": solver.batchnorm_epsilon,
        "synchronized": solver.use_sync_batchnorm and num_replicas > 1,
    }
    backbone = build_backbone(model_options.backbone, norm, options.trainer_options.recompute)
    if model_options.HasField("classification"):
        model = Classifier(backbone, model_options.classification.num_classes)
    else:
        model = PanopticDeepLab(backbone, **_decoders_and_heads(options, norm))
    # Weights are made for a small image; no layer keeps its size. Nothing is computed: a TPU may compile each of some
    # two thousand operations alone. AutoGraph, which no layer needs, would triple the time.
    side = 2 * model_options.backbone.output_stride + 1
    make_weights = tf.autograph.experimental.do_not_convert(lambda images: model(images, training=False))
    make_weights(tf_keras.Input(batch_input_shape=[1, side, side, 3]))
    return model


def build_symbolic_model(options: config_pb2.ExperimentOptions) -> PanopticDeepLab | Classifier:
    """The network of a config to describe: call it, and what describes, inside `with tf.Graph().as_default():`.

    There weights take no memory. Attention does not go in loops over rows, whose last rows are filled up, so that
    multiply-adds do not depend on the device.
    """
    counted = config_pb2.ExperimentOptions()
    counted.CopyFrom(options)
    counted.model_options.backbone.attention_logits_at_once = 2**62
    return build_model(counted)


def _decoders_and_heads(options: config_pb2.ExperimentOptions, norm: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments of `PanopticDeepLab`, all but the backbone.

    As in DeepLab2 the instance heads have a decoder of their own, with the options of the semantic one where they have
    none themselves, unless they share it; `instance { enable: false }` leaves the semantic decoder alone.
    """
    model_options = options.model_options
    panoptic = model_options.panoptic_deeplab
    pool_size = _pool_size(options)
    semantic_low_level = [(entry.feature_key, entry.channels_project) for entry in panoptic.low_level]
    parts: dict[str, Any] = {
        "semantic_decoder": _decoder(model_options.decoder, semantic_low_level, pool_size, norm, "semantic_decoder"),
        "semantic_head": _head(panoptic.semantic_head, norm, "semantic_head"),
    }
    instance = panoptic.instance
    if instance.enable and not instance.share_decoder:
        decoder = instance.instance_decoder_override if instance.HasField("instance_decoder_override") else None
        low_level = [(entry.feature_key, entry.channels_project) for entry in instance.low_level_override]
        parts["instance_decoder"] = _decoder(
            decoder or model_options.decoder, low_level or semantic_low_level, pool_size, norm, "instance_decoder"
        )
    if instance.enable:
        parts["center_head"] = _head(instance.center_head, norm, "center_head")
        parts["offset_head"] = _head(instance.regression_head, norm, "offset_head")
    return parts


def build_backbone(options: model_pb2.BackboneOptions, norm: dict[str, Any], recompute: bool = False) -> AxialResNet:
    """The backbone of a config.

    Args:
      options: model_options.backbone.
      norm: momentum, epsilon and synchronized of the batch normalisations.
      recompute: trainer_options.recompute.

    Raises:
      InputError: the backbone is unknown, does not exist in the flavor, or is too narrow for its heads.
    """
    try:
        preset = presets.backbone_kwargs(
            options.name,
            options.flavor,
            options.backbone_width_multiplier,
            options.stem_width_multiplier,
            options.backbone_layer_multiplier,
        )
        # 0 is the whole axis, but a field that is not set leaves the span to the preset.
        span = options.attention_span if options.HasField("attention_span") else presets.default_span(options.name)
        return AxialResNet(
            **preset,
            output_stride=options.output_stride,
            attention={
                "span": span or None,
                "use_batch_norm": options.attention_batch_norm,
                "query_position": options.attention_query_position,
                "key_position": options.attention_key_position,
                "value_position": options.attention_value_position,
                "logits_at_once": options.attention_logits_at_once or None,
                **({"kernel": options.attention_kernel} if preset["attention_kind"] == "axial" else {}),
            },
            block={"use_squeeze_and_excite": options.use_squeeze_and_excite},
            keep_prob=(options.drop_path_keep_prob, options.drop_path_schedule),
            sac_from_stride=options.use_sac_beyond_stride if options.use_sac_beyond_stride > 0 else None,
            norm=norm,
            recompute=recompute,
            name=options.name,
        )
    except ValueError as error:
        raise InputError(f'model_options.backbone (name "{options.name}"): {error}') from error


def _pool_size(options: config_pb2.ExperimentOptions) -> tuple[int, int] | None:
    """Window of ASPP's pooled branch: the map that a training crop gives; None where the crop is not known."""
    crop = options.train_dataset_options.crop_size
    stride = options.model_options.backbone.output_stride
    if not crop:
        return None
    return (crop[0] - 1) // stride + 1, (crop[1] - 1) // stride + 1


def _decoder(
    options: model_pb2.DecoderOptions, low_level: Sequence[tuple[str, int]], pool_size, norm: dict, name: str
) -> Decoder:
    only_projection = options.aspp_use_only_1x1_proj_conv
    return Decoder(
        feature_key=options.feature_key,
        low_level=low_level,
        channels=options.decoder_channels,
        aspp_channels=options.aspp_channels,
        atrous_rates=() if only_projection else tuple(options.atrous_rates),
        pool_size=None if only_projection else pool_size,
        norm=norm,
        name=name,
    )


def _head(options: model_pb2.HeadOptions, norm: dict, name: str) -> Head:
    return Head(options.output_channels, options.head_channels, norm=norm, name=name)
