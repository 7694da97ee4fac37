# SPDX-License-Identifier: Apache-2.0
"""From config messages to objects: the only bridge between the two."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras
from absl import logging

from deeplab_axial.backbones import presets
from deeplab_axial.backbones.axial_resnet import AxialResNet
from deeplab_axial.data import pipeline
from deeplab_axial.data.label_space import LabelSpace
from deeplab_axial.data.targets import TargetOptions
from deeplab_axial.errors import InputError
from deeplab_axial.inference import Predictor
from deeplab_axial.losses.panoptic_deeplab import LossTerm, PanopticDeepLabLoss
from deeplab_axial.models.classifier import Classifier
from deeplab_axial.models.decoder import Decoder
from deeplab_axial.models.heads import Head
from deeplab_axial.models.panoptic_deeplab import PanopticDeepLab
from deeplab_axial.postprocessing.multi_scale import MultiScale
from deeplab_axial.postprocessing.panoptic_deeplab import PostProcessor
from deeplab_axial.protos import config_pb2, dataset_pb2, evaluator_pb2, model_pb2, trainer_pb2
from deeplab_axial.training import addons, optimizers, schedules
from deeplab_axial.training.loop import LoopOptions

# Momentum of "sgd" (Ramachandran et al. 2019, the protocol of the paper's ImageNet training).
_SGD_MOMENTUM = 0.9
# Batch normalisation and biases do not decay.
_NO_DECAY = ["gamma", "beta", "bias"]


def build_strategy(num_gpus: int, master: str) -> tf.distribute.Strategy:
    """Where to train: a TPU named by `master`, this machine's GPUs, or its CPU.

    Raises:
      InputError: there are fewer GPUs than asked for, or the TPU does not answer.
    """
    if master:
        try:
            resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=master)
            tf.config.experimental_connect_to_cluster(resolver)
            tf.tpu.experimental.initialize_tpu_system(resolver)
        except (ValueError, tf.errors.OpError) as error:
            raise InputError(f"--master={master}: no TPU answers there ({error}). Check its name and zone.") from error
        return tf.distribute.TPUStrategy(resolver)
    gpus = tf.config.list_physical_devices("GPU")
    if num_gpus > len(gpus):
        raise InputError(
            f"--num_gpus={num_gpus}: TensorFlow sees {len(gpus)} GPUs here. Lower it, or mend the drivers."
        )
    if num_gpus > 1:
        return tf.distribute.MirroredStrategy([f"/gpu:{i}" for i in range(num_gpus)])
    return tf.distribute.OneDeviceStrategy("/gpu:0" if num_gpus else "/cpu:0")


def set_precision_and_seed(options: trainer_pb2.TrainerOptions) -> None:
    """Sets the compute type of layers made from here on, and the seed of their weights."""
    tf_keras.mixed_precision.set_global_policy(options.precision)
    tf_keras.utils.set_random_seed(options.seed)


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
    backbone = build_backbone(model_options.backbone, norm)
    if model_options.HasField("classification"):
        model = Classifier(backbone, model_options.classification.num_classes)
    else:
        model = PanopticDeepLab(backbone, **_decoders_and_heads(options, norm))
    # Weights are made on a small image; no layer keeps its size.
    side = 2 * model_options.backbone.output_stride + 1
    model(tf.zeros([1, side, side, 3]))
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


def build_backbone(options: model_pb2.BackboneOptions, norm: dict[str, Any]) -> AxialResNet:
    """The backbone of a config.

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
            },
            block={"use_squeeze_and_excite": options.use_squeeze_and_excite},
            keep_prob=(options.drop_path_keep_prob, options.drop_path_schedule),
            sac_from_stride=options.use_sac_beyond_stride if options.use_sac_beyond_stride > 0 else None,
            norm=norm,
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


def build_loss(options: config_pb2.ExperimentOptions, label_space: LabelSpace) -> PanopticDeepLabLoss:
    """The loss of a config."""
    losses = options.trainer_options.loss_options

    def term(single):
        return LossTerm(single.weight, single.top_k_percent)

    if not options.model_options.panoptic_deeplab.instance.enable:
        return PanopticDeepLabLoss(label_space.ignore_label, term(losses.semantic_loss))
    return PanopticDeepLabLoss(
        label_space.ignore_label, term(losses.semantic_loss), term(losses.center_loss), term(losses.regression_loss)
    )


def build_optimizer(options: config_pb2.ExperimentOptions) -> tf_keras.optimizers.Optimizer:
    """The optimizer of a config, with its learning rate schedule."""
    solver = options.trainer_options.solver_options
    steps, warmup = solver.training_number_of_steps, solver.warmup_steps
    if solver.learning_policy == "poly":
        rate = schedules.poly(
            solver.base_learning_rate, steps, warmup, solver.poly_learning_power, solver.poly_end_learning_rate
        )
    else:
        rate = schedules.cosine(solver.base_learning_rate, steps, warmup)
    decay = solver.weight_decay or None
    if decay and options.model_options.backbone.flavor == "deeplab2":
        logging.warning(
            "solver_options.weight_decay is %g, but DeepLab2 never applied it; neither is it here, for the flavor "
            '"deeplab2". Use optimizer "adamw" with adamw_weight_decay, or flavor "paper", to decay weights.',
            decay,
        )
        decay = None
    if solver.optimizer.startswith("tfa."):
        if solver.HasField("lookahead"):
            raise InputError(
                "trainer_options.solver_options.lookahead wraps the optimizers of tf_keras only. Received: "
                f'optimizer "{solver.optimizer}". Remove lookahead, or use optimizer "radam".'
            )
        optimizer = addons.tfa_optimizer(solver.optimizer.removeprefix("tfa."), learning_rate=rate)
    elif solver.optimizer == "adam":
        optimizer = tf_keras.optimizers.Adam(rate, weight_decay=decay)
    elif solver.optimizer == "adamw":
        optimizer = tf_keras.optimizers.AdamW(rate, weight_decay=solver.adamw_weight_decay)
    elif solver.optimizer == "sgd":
        optimizer = tf_keras.optimizers.SGD(rate, momentum=_SGD_MOMENTUM, nesterov=True, weight_decay=decay)
    else:
        optimizer = optimizers.RAdam(rate, weight_decay=decay)
    if decay or solver.optimizer == "adamw":
        optimizer.exclude_from_weight_decay(var_names=_NO_DECAY)
    if solver.HasField("lookahead"):
        optimizer = optimizers.Lookahead(
            optimizer, sync_period=solver.lookahead.sync_period, slow_step_size=solver.lookahead.slow_step_size
        )
    return optimizer


def build_loop_options(options: trainer_pb2.TrainerOptions, on_tpu: bool) -> LoopOptions:
    """When the training run saves, logs and returns to the host."""
    return LoopOptions(
        total_steps=options.solver_options.training_number_of_steps,
        save_steps=options.save_checkpoints_steps,
        summary_steps=options.save_summaries_steps,
        steps_per_loop=options.steps_per_loop if on_tpu else 1,
    )


def build_postprocessor(options: config_pb2.ExperimentOptions, label_space: LabelSpace) -> PostProcessor:
    """The post-processing of a config."""
    evaluator = options.evaluator_options
    return PostProcessor(
        num_classes=options.model_options.panoptic_deeplab.semantic_head.output_channels,
        thing_ids=label_space.thing_ids,
        label_divisor=label_space.label_divisor,
        ignore_label=label_space.ignore_label,
        center_score_threshold=evaluator.center_score_threshold,
        nms_kernel=evaluator.nms_kernel,
        keep_k_centers=evaluator.keep_k_centers,
        stuff_area_limit=evaluator.stuff_area_limit,
        thing_area_limit=evaluator.thing_area_limit,
    )


def build_predictor(
    options: config_pb2.ExperimentOptions, model: PanopticDeepLab, label_space: LabelSpace
) -> Predictor:
    """The network with its post-processing, as evaluation and export use it."""
    return Predictor(
        model,
        build_postprocessor(options, label_space),
        options.model_options.backbone.output_stride,
        build_image_options(options.eval_dataset_options),
        build_multi_scale(options.evaluator_options),
    )


def build_multi_scale(options: evaluator_pb2.EvaluatorOptions) -> MultiScale:
    """The variants of an image that evaluation and export average over."""
    # Fields are float32, where 0.7 is a little less.
    scales = tuple(float(f"{scale:.6g}") for scale in options.eval_scales)
    return MultiScale(scales or (1.0,), options.add_flipped_images)


def build_image_options(options: dataset_pb2.DatasetOptions) -> pipeline.ImageOptions:
    """How a data set's images become crops."""

    def sides(values):
        # One value stands for both sides; a 0 turns the limit off.
        return tuple(values) * (2 // len(values)) if values and min(values) > 0 else None

    return pipeline.ImageOptions(
        crop_size=tuple(options.crop_size),
        min_resize=sides(options.min_resize_value),
        max_resize=sides(options.max_resize_value),
        resize_factor=options.resize_factor or None,
    )


def open_source(options: config_pb2.ExperimentOptions, split: str) -> pipeline.Source:
    """The records of a split ("train" or "eval"), checked against the model.

    Raises:
      InputError: files are missing or damaged, the model has another number of classes than the data set, or its
        images, which are not resized, do not fit the crop of the evaluation.
    """
    dataset = options.train_dataset_options if split == "train" else options.eval_dataset_options
    source = pipeline.Source.open(dataset.file_pattern, dataset.dataset)
    channels = options.model_options.panoptic_deeplab.semantic_head.output_channels
    space = source.info.label_space
    if channels != space.num_classes:
        with_void = ", the void class included" if space.ignore_label < space.num_classes else ""
        raise InputError(
            "model_options.panoptic_deeplab.semantic_head.output_channels contradicts the data set of "
            f"{split}_dataset_options: it has {space.num_classes} classes{with_void} "
            f"({', '.join(c.name for c in space.classes[:8])}{', ...' if len(space.classes) > 8 else ''}). "
            f"Received: {channels}. Set it to {space.num_classes}."
        )
    if split == "eval":
        _check_evaluation_size(dataset, source)
    return source


def _check_evaluation_size(options: dataset_pb2.DatasetOptions, source: pipeline.Source) -> None:
    """Refuses images that do not fit before anything is trained; images that are resized are checked one by one."""
    images = build_image_options(options)
    height, width = source.info.max_height, source.info.max_width
    if not images.resizes and (height > images.crop_size[0] or width > images.crop_size[1]):
        raise InputError(
            "eval_dataset_options.crop_size must hold the largest image of the data set, "
            f"{height} x {width} (height x width). Received: {images.crop_size[0]} x {images.crop_size[1]}. "
            "Enlarge it, or set min_resize_value and max_resize_value."
        )


def build_training_dataset(
    options: dataset_pb2.DatasetOptions, source: pipeline.Source, first_step: int
) -> tf.data.Dataset:
    """Batches for training from `first_step` on."""
    augment = options.augmentations
    return pipeline.training_dataset(
        source,
        options.batch_size,
        build_image_options(options),
        pipeline.AugmentOptions(
            min_scale=augment.min_scale_factor,
            max_scale=augment.max_scale_factor,
            scale_step=augment.scale_factor_step_size,
            flip=augment.random_flip,
            seed=options.seed,
            shuffle_buffer=options.shuffle_buffer_size,
            policy=augment.autoaugment_policy_name,
        ),
        TargetOptions(
            sigma=options.sigma,
            small_instance_threshold=options.small_instance_threshold,
            small_instance_weight=options.small_instance_weight if options.increase_small_instance_weights else 1.0,
        ),
        first_step,
    )


def build_evaluation_dataset(options: config_pb2.ExperimentOptions, source: pipeline.Source) -> tf.data.Dataset:
    """All batches for evaluation, or the first evaluator_options.eval_steps of them."""
    dataset_options = options.eval_dataset_options
    dataset = pipeline.evaluation_dataset(source, dataset_options.batch_size, build_image_options(dataset_options))
    return dataset.take(options.evaluator_options.eval_steps)
