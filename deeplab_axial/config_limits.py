# SPDX-License-Identifier: Apache-2.0
"""What no field may hold whatever it means: numbers that are none or that no machine can build, and text with a NUL.

The fields are walked, those in lists and in sections of refused families too, so that none can be forgotten.
"""

import math
from collections.abc import Iterator
from typing import Any

from deeplab_axial.config_label_space import Problem
from deeplab_axial.config_messages import is_repeated, show

# No float of a config means anything beyond it; a field may have a limit of its own.
_LARGEST_FLOAT = 1e9
# Pixels of all images of a step: four times a pod of 1024 cores with a Cityscapes image each.
_MOST_PIXELS = 2**32
# Factors of the random scale.
_MOST_FACTORS = 10_000

# "Message.field" -> the largest value that is built; far beyond any network or data set there is.
LARGEST: dict[str, float] = {
    "AugmentationOptions.min_scale_factor": 10,
    "AugmentationOptions.max_scale_factor": 10,
    "BackboneOptions.attention_span": 2**14 - 1,
    "BackboneOptions.backbone_layer_multiplier": 32,
    "BackboneOptions.backbone_width_multiplier": 8,
    "BackboneOptions.stem_width_multiplier": 8,
    "ClassificationOptions.num_classes": 2**16,
    "DatasetOptions.batch_size": 2**17,
    "DatasetOptions.crop_size": 2**14,
    "DatasetOptions.max_resize_value": 2**14,
    "DatasetOptions.min_resize_value": 2**14,
    "DatasetOptions.resize_factor": 2**14,
    "DatasetOptions.sigma": 128,
    "DecoderOptions.aspp_channels": 2**13,
    "DecoderOptions.atrous_rates": 2**14,
    "DecoderOptions.decoder_channels": 2**13,
    "EvaluatorOptions.keep_k_centers": 2**16,
    "EvaluatorOptions.nms_kernel": 2**14 - 1,
    "HeadOptions.head_channels": 2**13,
    "HeadOptions.output_channels": 2**16,
    "InceptionCropOptions.max_aspect_ratio": 100,
    "InceptionCropOptions.min_aspect_ratio": 100,
    "LowLevelOptions.channels_project": 2**13,
    "PanopticCopyPasteOptions.panoptic_copy_paste_scale": 10,
    "PhotometricDistortionOptions.brightness_delta": 255,
    "PhotometricDistortionOptions.hue_delta": 360,
    "RandAugmentOptions.num_layers": 100,
    "SolverOptions.gradient_accumulation_steps": 2**12,
    "SolverOptions.poly_learning_power": 100,
    "TrainerOptions.seed": 2**32 - 1,
}
# A window of local attention has the square of it.
_LARGEST_LOCAL_SPAN = 127
# "Message.field" -> values of a repeated field; of others _MOST_VALUES.
MOST_VALUES = {"DatasetOptions.file_pattern": 100_000, "LabelSpaceOptions.label_class": 100_000}
_MOST_VALUES = 100
_LOWER = "Lower it"


def find_crowds(message: Any, prefix: str = "") -> Iterator[Problem]:
    """Repeated fields with more values than the other rules, which look at each, can take."""
    for field, value in message.ListFields():
        path = f"{prefix}{field.name}"
        if not is_repeated(field):
            if field.message_type is not None:
                yield from find_crowds(value, f"{path}.")
            continue
        most = MOST_VALUES.get(_name(field), _MOST_VALUES)
        if len(value) > most:
            yield Problem(path, f"may have {most:,} values", len(value), "Leave most of them out")


def find_problems(options: Any) -> Iterator[Problem]:
    """Everything in an ExperimentOptions message that no field may hold, or none of its size can be built."""
    for path, field, value in _leaves(options):
        largest = LARGEST.get(_name(field))
        if isinstance(value, str) and "\0" in value:
            yield Problem(path, "must not have a NUL character", value, "Remove it")
        elif isinstance(value, float) and not math.isfinite(value):
            yield Problem(path, "must be a finite number", value, "Correct it, or leave it out")
        elif largest is not None and value > largest:
            yield Problem(path, f"must be at most {show(largest)}, beyond which nothing is built", value, _LOWER)
        elif isinstance(value, float) and abs(value) > _LARGEST_FLOAT:
            yield Problem(path, f"must lie in [-{_LARGEST_FLOAT:g}, {_LARGEST_FLOAT:g}]", value, "Correct it")
    yield from _check_atrous_rates(options)
    backbone = options.model_options.backbone
    if backbone.name.startswith("local_") and backbone.attention_span > _LARGEST_LOCAL_SPAN:
        rule = f"must be at most {_LARGEST_LOCAL_SPAN} with local attention, whose window is its square"
        yield Problem("model_options.backbone.attention_span", rule, backbone.attention_span, _LOWER)
    for split in ("train", "eval"):
        yield from _check_images(getattr(options, f"{split}_dataset_options"), f"{split}_dataset_options")
    crop, kernel = list(options.eval_dataset_options.crop_size), options.evaluator_options.nms_kernel
    if crop and max(crop) < kernel and options.evaluator_options.HasField("nms_kernel"):
        rule = f"must be at most the larger side of eval_dataset_options.crop_size ({max(crop)})"
        yield Problem("evaluator_options.nms_kernel", rule, kernel, _LOWER)


def _check_atrous_rates(options: Any) -> Iterator[Problem]:
    crops = [options.train_dataset_options.crop_size, options.eval_dataset_options.crop_size]
    side = max((side for crop in crops for side in crop), default=0)
    instance = options.model_options.panoptic_deeplab.instance
    decoders = {
        "model_options.decoder": options.model_options.decoder,
        "model_options.panoptic_deeplab.instance.instance_decoder_override": instance.instance_decoder_override,
    }
    for path, decoder in decoders.items():
        rates = list(decoder.atrous_rates)
        if side and rates and not decoder.aspp_use_only_1x1_proj_conv and max(rates) > side:
            rule = f"each must be at most the larger side of the images, crop_size ({side})"
            yield Problem(f"{path}.atrous_rates", rule, rates, "Give three, as 6, 12, 18 at output stride 16")


def _check_images(dataset: Any, path: str) -> Iterator[Problem]:
    crop, augment = list(dataset.crop_size), dataset.augmentations
    # What is too large by itself has been said.
    sizes = [*crop, dataset.batch_size]
    if len(crop) == 2 and max(crop) <= LARGEST["DatasetOptions.crop_size"] and math.prod(sizes) > _MOST_PIXELS:
        rule = f"times the pixels of crop_size ({crop[0]} x {crop[1]}) must be at most {_MOST_PIXELS:,}"
        yield Problem(f"{path}.batch_size", rule, dataset.batch_size, "Lower one of the two")
    step, room = augment.scale_factor_step_size, augment.max_scale_factor - augment.min_scale_factor
    if step > 0 and room / step > _MOST_FACTORS:
        rule = f"must give at most {_MOST_FACTORS:,} factors from min_scale_factor to max_scale_factor"
        remedy = "Enlarge it, or set it to 0 for any factor between"
        yield Problem(f"{path}.augmentations.scale_factor_step_size", rule, step, remedy)


def _leaves(message: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(path, descriptor, value) of all that is set in a message; a repeated field comes once for each value."""
    for field, value in message.ListFields():
        path, repeated = f"{prefix}{field.name}", is_repeated(field)
        for i, one in enumerate(value if repeated else [value]):
            if field.message_type is not None:
                yield from _leaves(one, f"{path}[{i}]." if repeated else f"{path}.")
            else:
                yield path, field, one


def _name(field: Any) -> str:
    return f"{field.containing_type.name}.{field.name}"
