# SPDX-License-Identifier: Apache-2.0
"""What single fields of a config may hold.

A path is dotted, as in `trainer_options.steps_per_loop`; a leading `*` stands for both `train` and `eval`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

_VIDEO = "belongs to video segmentation, which is not part of this project"
_MAX = "belongs to MaX-DeepLab, which is not part of this project"
_DEPTH = "belongs to depth estimation (ViP-DeepLab), which is not part of this project"
_LATER = "is not supported by this version"

# Fields of DeepLab2 that are refused when set to anything but their default: path -> reason. A field that becomes
# supported loses its row.
REFUSED: dict[str, str] = {
    "model_options.deeplab_v3": "DeepLabv3 is not part of this project",
    "model_options.deeplab_v3_plus": "DeepLabv3+ is not part of this project",
    "model_options.motion_deeplab": "Motion-DeepLab is not part of this project",
    "model_options.max_deeplab": "MaX-DeepLab (and kMaX-DeepLab) is not part of this project",
    "model_options.vip_deeplab": "ViP-DeepLab is not part of this project",
    "model_options.backbone.pretrained_weights": "is not supported; name a model_options.initial_checkpoint instead",
    "model_options.panoptic_deeplab.depth_head": _DEPTH,
    "model_options.panoptic_deeplab.semantic_head.max_value_after_activation": _DEPTH,
    "model_options.panoptic_deeplab.semantic_head.min_value_after_activation": _DEPTH,
    "model_options.panoptic_deeplab.instance.next_regression_head": _VIDEO,
    "model_options.panoptic_deeplab.instance.center_head.max_value_after_activation": _DEPTH,
    "model_options.panoptic_deeplab.instance.center_head.min_value_after_activation": _DEPTH,
    "model_options.panoptic_deeplab.instance.regression_head.max_value_after_activation": _DEPTH,
    "model_options.panoptic_deeplab.instance.regression_head.min_value_after_activation": _DEPTH,
    "trainer_options.loss_options.motion_loss": _VIDEO,
    "trainer_options.loss_options.next_regression_loss": _VIDEO,
    "trainer_options.loss_options.pq_style_loss": _MAX,
    "trainer_options.loss_options.mask_id_cross_entropy_loss": _MAX,
    "trainer_options.loss_options.instance_discrimination_loss": _MAX,
    "trainer_options.loss_options.depth_loss": _DEPTH,
    "*_dataset_options.use_two_frames": _VIDEO,
    "*_dataset_options.use_next_frame": _VIDEO,
    "*_dataset_options.cameras_to_use": _VIDEO,
    "*_dataset_options.thing_id_mask_annotations": _MAX,
    "eval_dataset_options.data_service_address": "is of no use: evaluation takes its images in order",
    "evaluator_options.save_raw_predictions": _LATER,
    "evaluator_options.transformer_class_confidence_threshold": _MAX,
    "evaluator_options.pixel_confidence_threshold": _MAX,
    "evaluator_options.transformer_post_processing": _MAX,
    "evaluator_options.maskwise_postprocessing": _MAX,
}

# Stands for any optimizer of tensorflow-addons.
ADDONS_OPTIMIZER = "tfa.<ClassName>"
_CONV_TYPES = ("depthwise_separable_conv",)
_AUGMENTATIONS = "*_dataset_options.augmentations"
_COPY_PASTE = f"{_AUGMENTATIONS}.panoptic_copy_paste.panoptic_copy_paste"
_PHOTOMETRIC = f"{_AUGMENTATIONS}.photometric_distortion"
CHOICES: dict[str, Sequence[str]] = {
    "*_dataset_options.augmentations.autoaugment_policy_name": (
        "simple_classification_policy",
        "simple_classification_policy_magnitude_scale_0.2",
    ),
    **{f"{_COPY_PASTE}_{kind}_option": ("random", "none", "all") for kind in ("thing", "stuff", "void")},
    "evaluator_options.instance_ap": ("coco", "cityscapes", "none"),
    "model_options.backbone.drop_path_schedule": ("constant", "linear"),
    "model_options.backbone.flavor": ("deeplab2", "paper"),
    "model_options.decoder.decoder_conv_type": _CONV_TYPES,
    "model_options.panoptic_deeplab.semantic_head.head_conv_type": _CONV_TYPES,
    "model_options.panoptic_deeplab.instance.instance_decoder_override.decoder_conv_type": _CONV_TYPES,
    "model_options.panoptic_deeplab.instance.center_head.head_conv_type": _CONV_TYPES,
    "model_options.panoptic_deeplab.instance.regression_head.head_conv_type": _CONV_TYPES,
    "trainer_options.precision": ("float32", "mixed_bfloat16"),
    "trainer_options.loss_options.semantic_loss.name": ("softmax_cross_entropy",),
    "trainer_options.loss_options.center_loss.name": ("mse",),
    "trainer_options.loss_options.regression_loss.name": ("l1",),
    "trainer_options.solver_options.learning_policy": ("poly", "cosine"),
    "trainer_options.solver_options.optimizer": ("adam", "adamw", "sgd", "radam", ADDONS_OPTIMIZER),
}
LOSSES = tuple(f"trainer_options.loss_options.{slot}_loss" for slot in ("semantic", "center", "regression"))
CLASSIFICATION_LOSS = "trainer_options.loss_options.classification_loss"


class Range(NamedTuple):
    rule: str
    holds: Callable[[Any], bool]
    paths: tuple[str, ...]


RANGES: tuple[Range, ...] = (
    Range(
        "must be above 0",
        lambda v: v > 0,
        (
            "model_options.backbone.stem_width_multiplier",
            "model_options.backbone.backbone_width_multiplier",
            "model_options.backbone.backbone_layer_multiplier",
            "model_options.classification.num_classes",
            "model_options.decoder.decoder_channels",
            "model_options.decoder.aspp_channels",
            "model_options.panoptic_deeplab.instance.instance_decoder_override.decoder_channels",
            "model_options.panoptic_deeplab.instance.instance_decoder_override.aspp_channels",
            "trainer_options.num_checkpoints_to_keep",
            "trainer_options.save_checkpoints_steps",
            "trainer_options.save_summaries_steps",
            "trainer_options.steps_per_loop",
            "trainer_options.solver_options.batchnorm_epsilon",
            "trainer_options.solver_options.base_learning_rate",
            "trainer_options.solver_options.poly_learning_power",
            "trainer_options.solver_options.clip_gradient_norm",
            "trainer_options.solver_options.training_number_of_steps",
            "trainer_options.solver_options.lookahead.sync_period",
            "trainer_options.solver_options.gradient_accumulation_steps",
            "*_dataset_options.batch_size",
            "*_dataset_options.sigma",
            "*_dataset_options.shuffle_buffer_mebibytes",
            "*_dataset_options.augmentations.min_scale_factor",
            "*_dataset_options.augmentations.max_scale_factor",
            f"{_AUGMENTATIONS}.inception_crop.min_aspect_ratio",
            f"{_AUGMENTATIONS}.inception_crop.max_aspect_ratio",
            f"{_AUGMENTATIONS}.rand_augment.num_layers",
            "evaluator_options.eval_interval",
            "evaluator_options.keep_k_centers",
        ),
    ),
    Range(
        "must be 0 or more",
        lambda v: v >= 0,
        (
            *(f"{loss}.weight" for loss in LOSSES),
            "model_options.backbone.attention_logits_at_once",
            "trainer_options.solver_options.poly_end_learning_rate",
            "trainer_options.solver_options.warmup_steps",
            "trainer_options.solver_options.weight_decay",
            "trainer_options.solver_options.adamw_weight_decay",
            "trainer_options.solver_options.backbone_learning_rate_multiplier",
            "trainer_options.seed",
            "*_dataset_options.resize_factor",
            "*_dataset_options.small_instance_threshold",
            "*_dataset_options.small_instance_weight",
            "*_dataset_options.augmentations.scale_factor_step_size",
            f"{_COPY_PASTE}_scale",
            f"{_PHOTOMETRIC}.brightness_delta",
            f"{_PHOTOMETRIC}.hue_delta",
            "evaluator_options.stuff_area_limit",
            "evaluator_options.thing_area_limit",
            "evaluator_options.num_vis_samples",
        ),
    ),
    Range(
        "must lie in (0, 1]",
        lambda v: 0 < v <= 1,
        (
            *(f"{loss}.top_k_percent" for loss in LOSSES),
            "model_options.backbone.drop_path_keep_prob",
            "trainer_options.solver_options.lookahead.slow_step_size",
            f"{_AUGMENTATIONS}.inception_crop.min_area",
            f"{_AUGMENTATIONS}.inception_crop.max_area",
        ),
    ),
    # Factors are 1 - x to 1 + x, and none may be negative.
    Range(
        "must lie in [0, 1]",
        lambda v: 0 <= v <= 1,
        (f"{_PHOTOMETRIC}.contrast_range", f"{_PHOTOMETRIC}.saturation_range"),
    ),
    Range(
        "must lie in [0, 1)",
        lambda v: 0 <= v < 1,
        (
            "trainer_options.loss_options.classification_loss.label_smoothing",
            "trainer_options.solver_options.batchnorm_momentum",
            "trainer_options.solver_options.sgd_momentum",
            "trainer_options.solver_options.ema_decay",
        ),
    ),
    Range("must lie in [0, 10]", lambda v: 0 <= v <= 10, (f"{_AUGMENTATIONS}.rand_augment.magnitude",)),
    # More would be a slip of the pen, and more memory than there is.
    Range("must lie in (0, 10]", lambda v: 0 < v <= 10, ("evaluator_options.eval_scales",)),
    Range(
        "must be -1 or above 0",
        lambda v: v == -1 or v > 0,
        ("model_options.backbone.use_sac_beyond_stride", "evaluator_options.eval_steps"),
    ),
    Range("must be -1 or more", lambda v: v >= -1, ("evaluator_options.continuous_eval_timeout",)),
    Range("must be an odd number above 0", lambda v: v > 0 and v % 2 == 1, ("evaluator_options.nms_kernel",)),
    Range(
        "must be 0 (the whole axis) or an odd number from 3 on",
        lambda v: v == 0 or (v >= 3 and v % 2 == 1),
        ("model_options.backbone.attention_span",),
    ),
    Range("must be 8, 16 or 32", lambda v: v in (8, 16, 32), ("model_options.backbone.output_stride",)),
)

# What only one kind of model has a use for; what else it does not need may come from a base.
CLASSIFICATION_ONLY = (f"{_AUGMENTATIONS}.inception_crop", f"{_AUGMENTATIONS}.rand_augment")
SEGMENTATION_ONLY = (
    f"{_AUGMENTATIONS}.min_scale_factor",
    f"{_AUGMENTATIONS}.max_scale_factor",
    f"{_AUGMENTATIONS}.scale_factor_step_size",
    f"{_AUGMENTATIONS}.autoaugment_policy_name",
    f"{_AUGMENTATIONS}.panoptic_copy_paste",
    f"{_AUGMENTATIONS}.photometric_distortion",
    "*_dataset_options.min_resize_value",
    "*_dataset_options.max_resize_value",
    "evaluator_options.eval_scales",
    "evaluator_options.add_flipped_images",
    "evaluator_options.save_predictions",
)


def expand(path: str) -> tuple[str, ...]:
    """The paths that a table's path stands for."""
    return (path.replace("*", "train", 1), path.replace("*", "eval", 1)) if path.startswith("*") else (path,)


# `REFUSED` with `*` expanded.
REFUSED_PATHS: dict[str, str] = {p: reason for path, reason in REFUSED.items() for p in expand(path)}
