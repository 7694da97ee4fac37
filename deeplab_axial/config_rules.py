# SPDX-License-Identifier: Apache-2.0
"""The rules that a config keeps: the tables of `config_tables`, and what needs more than one field to tell."""

import math
import re
from collections.abc import Collection, Mapping
from typing import Any

from deeplab_axial import config_label_space, config_limits, config_placeholders, config_solver
from deeplab_axial.config_messages import nearest, show
from deeplab_axial.config_tables import (
    ADDONS_OPTIMIZER,
    CHOICES,
    CLASSIFICATION_LOSS,
    CLASSIFICATION_ONLY,
    LOSSES,
    RANGES,
    REFUSED_PATHS,
    SEGMENTATION_ONLY,
    expand,
)

MODES = ("train", "eval", "train_and_eval", "continuous_eval")


def validate(
    options: Any,
    source: str,
    mode: str | None = None,
    backbone_names: Collection[str] | None = None,
    refused_backbones: Mapping[str, str] | None = None,
) -> list[str]:
    """Finds everything that is wrong with a config.

    Args:
      options: an ExperimentOptions message.
      source: name of the config in the messages.
      mode: one of `MODES`, which says what sections are needed; None needs the model alone (export, describe).
      backbone_names: the known backbones; None leaves `backbone.name` unchecked.
      refused_backbones: name -> why a backbone of DeepLab2 is not among them.

    Returns:
      One "<source>: <field path>: <rule>. Received: <value>. <remedy>." for each problem; empty for a good config.
    """
    if mode is not None and mode not in MODES:
        raise ValueError(f"mode must be None or one of {', '.join(MODES)}. Received: {mode!r}. Name one of these")
    report = _Report(options, source)
    for problem in config_limits.find_crowds(options):
        report.add(*problem)
    if report.problems:
        return report.problems
    _check_tables(report)
    _check_model(report, backbone_names, refused_backbones or {})
    _check_training(report, mode)
    _check_label_space(report)
    for split in ("train", "eval"):
        _check_dataset(report, f"{split}_dataset_options", needed=mode is not None and split in mode)
    _check_idle(report)
    _check_eval_scales(report)
    _check_placeholders(report, mode)
    for problem in config_limits.find_problems(options):
        if problem.path not in report.paths:
            report.add(*problem)
    return list(dict.fromkeys(report.problems))


def label_space_problems(options: Any, source: str) -> list[str]:
    """What `validate` finds in the section `label_space` of an ExperimentOptions message, which must be set."""
    report = _Report(options, source)
    if not report.has("label_space"):
        report.add("label_space", "must be set", None, 'Add a section, as label_space { name: "mine" label_class ... }')
    _check_label_space(report)
    return report.problems


class _Report:
    """Collects the problems of one config."""

    def __init__(self, options: Any, source: str):
        self.options = options
        self.source = source
        self.problems: list[str] = []
        self.paths: set[str] = set()

    def add(self, path: str, rule: str, received: Any, remedy: str) -> None:
        self.paths.add(path)
        self.problems.append(f"{self.source}: {path}: {rule}. Received: {show(received)}. {remedy}.")

    def find(self, path: str) -> tuple[Any, Any]:
        """The message that holds the last field of `path`, and the field's descriptor."""
        *sections, name = path.split(".")
        message = self.options
        for section in sections:
            message = getattr(message, section)
        return message, message.DESCRIPTOR.fields_by_name[name]

    def get(self, path: str) -> Any:
        """Value of the field, or its default."""
        message, field = self.find(path)
        return getattr(message, field.name)

    def has(self, path: str) -> bool:
        """Whether the field, which is not repeated, is set."""
        message, field = self.find(path)
        return message.HasField(field.name)


def _check_tables(report: _Report) -> None:
    for path, reason in REFUSED_PATHS.items():
        message, field = report.find(path)
        value = getattr(message, field.name)
        default = field.default_value
        if isinstance(default, list):
            refused = len(value) > 0
        elif isinstance(default, float):
            # The default is a double in some versions of protobuf, the value went through float32.
            refused = not math.isclose(value, default, rel_tol=1e-6)
        else:
            refused = message.HasField(field.name) and (field.message_type is not None or value != default)
        if refused:
            report.add(path, reason, value, _refusal_remedy(path, field))
    for table_path, choices in CHOICES.items():
        for path in expand(table_path):
            message, field = report.find(path)
            name = getattr(message, field.name)
            known = name in choices or (ADDONS_OPTIMIZER in choices and re.fullmatch(r"tfa\.[A-Za-z_]\w*", name))
            if name != field.default_value and not known:
                report.add(path, "has no such choice", name, nearest(name, choices))
    for rule, holds, paths in RANGES:
        for path in (p for table_path in paths for p in expand(table_path)):
            message, field = report.find(path)
            value = getattr(message, field.name)
            repeated = isinstance(field.default_value, list)
            # Infinity passes most comparisons but is never meant.
            if not all(math.isfinite(v) and holds(v) for v in (value if repeated else [value])):
                remedy = f"Correct it, or leave it out for the default {show(field.default_value)}"
                report.add(path, f"each {rule}" if repeated else rule, value, remedy)


def _refusal_remedy(path: str, field: Any) -> str:
    if field.containing_oneof is not None:
        return "Choose panoptic_deeplab"
    if field.message_type is not None:
        return "Remove the section"
    default = field.default_value
    text = "" if isinstance(default, list) else default if isinstance(default, str) else show(default)
    return f'Remove the field, or override "{path}={text}"'


def _check_model(report: _Report, backbone_names: Collection[str] | None, refused_backbones: Mapping[str, str]) -> None:
    if not report.has("model_options"):
        return report.add("model_options", "must be set", None, "Add the section, or a base that has it")
    backbone = report.get("model_options.backbone.name")
    if backbone_names is not None and backbone not in backbone_names:
        reason = refused_backbones.get(backbone)
        if reason is None:
            rule, remedy = "has no such backbone", nearest(backbone, backbone_names)
        else:  # No slip of the pen, so no guess either.
            rule, remedy = f"is not part of this project: {reason}", f"Valid names: {', '.join(backbone_names)}"
        report.add("model_options.backbone.name", rule, backbone, remedy)
    family = report.options.model_options.WhichOneof("meta_architecture")
    path = "model_options.panoptic_deeplab"
    if family is None:
        report.add(path, "must be set", None, "Add the section with its low_level, instance and semantic_head")
    if family != "panoptic_deeplab":
        return None
    _check_head(report, f"{path}.semantic_head", None)
    _check_decoder(report, "model_options.decoder", f"{path}.low_level")
    if report.get(f"{path}.instance.enable"):
        _check_instance(report, f"{path}.instance")
    return None


def _check_instance(report: _Report, path: str) -> None:
    _check_head(report, f"{path}.center_head", 1)
    _check_head(report, f"{path}.regression_head", 2)
    own_decoder = report.has(f"{path}.instance_decoder_override")
    own_low_level = len(report.get(f"{path}.low_level_override")) > 0
    if report.get(f"{path}.share_decoder"):
        for name, own in (("instance_decoder_override", own_decoder), ("low_level_override", own_low_level)):
            if own:
                rule = "must not be set with share_decoder"
                remedy = "Remove it, or share_decoder"
                report.add(f"{path}.{name}", rule, report.get(f"{path}.{name}"), remedy)
    elif own_decoder or own_low_level:
        _check_decoder(
            report,
            f"{path}.instance_decoder_override" if own_decoder else "model_options.decoder",
            f"{path}.low_level_override" if own_low_level else "model_options.panoptic_deeplab.low_level",
        )


def _check_head(report: _Report, path: str, channels: int | None) -> None:
    if not report.has(path):
        remedy = "Add the section" if channels is None else "Add the section, or set instance { enable: false }"
        return report.add(path, "must be set", None, remedy)
    head = report.get(path)
    if channels is not None and head.output_channels != channels:
        report.add(f"{path}.output_channels", f"must be {channels}", head.output_channels, f"Set it to {channels}")
    elif head.output_channels <= 0:
        remedy = "Set it to the number of classes of the data set"
        report.add(f"{path}.output_channels", "must be above 0", head.output_channels, remedy)
    if head.head_channels <= 0:
        report.add(f"{path}.head_channels", "must be above 0", head.head_channels, "Set it, for example to 32")
    return None


def _check_decoder(report: _Report, path: str, low_level_path: str) -> None:
    """Checks a decoder with its low-level features: endpoints, order, projections, atrous rates."""
    decoder = report.get(path)
    keys = ("res2", "res3", "res4", "res5")
    named = {f"{path}.feature_key": decoder.feature_key}
    for i, low_level in enumerate(report.get(low_level_path)):
        named[f"{low_level_path}[{i}].feature_key"] = low_level.feature_key
        if low_level.channels_project <= 0:
            field = f"{low_level_path}[{i}].channels_project"
            report.add(field, "must be above 0", low_level.channels_project, "Set it, for example to 32")
    for field, key in named.items():
        if key not in keys:
            report.add(field, "must be an endpoint of the backbone", key, nearest(key, keys))
    order = list(named.values())
    if set(order) <= set(keys) and order != sorted(set(order), reverse=True):
        rule = "must run from coarse to fine, below the decoder's own feature"
        report.add(low_level_path, rule, order[1:], f'Order them as "res3", "res2" below "{order[0]}"')
    rates = list(decoder.atrous_rates)
    if not decoder.aspp_use_only_1x1_proj_conv and (len(rates) != 3 or min(rates) <= 0):
        remedy = "Give three, as 6, 12, 18 at output stride 16, or set aspp_use_only_1x1_proj_conv: true"
        report.add(f"{path}.atrous_rates", "must have three values above 0", rates, remedy)


def _check_training(report: _Report, mode: str | None) -> None:
    for problem in config_solver.find_problems(report.options):
        report.add(*problem)
    if mode is None or "train" not in mode:
        return
    if report.get("model_options").HasField("classification"):
        needed = (CLASSIFICATION_LOSS,)
    else:
        needed = LOSSES if report.get("model_options.panoptic_deeplab.instance.enable") else LOSSES[:1]
    for loss in needed:
        if not report.has(loss):
            report.add(loss, "must be set to train", None, "Add the section (an empty one takes the defaults)")


def _check_label_space(report: _Report) -> None:
    if report.has("label_space"):
        for path, rule, received, remedy in config_label_space.find_problems(report.get("label_space")):
            report.add(f"label_space.{path}", rule, received, remedy)


def _check_dataset(report: _Report, path: str, needed: bool) -> None:
    """Checks the data of one split; what is not there is a problem only if it is needed."""
    if not report.has(path):
        if needed:
            report.add(path, "must be set in this mode", None, "Add the section, or a base that has it")
        return
    dataset = report.get(path)
    if needed and not (dataset.file_pattern and all(dataset.file_pattern)):
        remedy = f'Name the TFRecord files, as {path}.file_pattern="data/train-*.tfrecord"'
        report.add(f"{path}.file_pattern", "must name files", list(dataset.file_pattern), remedy)
    _check_crop(report, f"{path}.crop_size", list(dataset.crop_size))
    for name in ("min_resize_value", "max_resize_value"):
        values = list(getattr(dataset, name))
        if len(values) > 2 or any(v < 0 for v in values):
            rule = "must have at most two values, each 0 or more"
            report.add(f"{path}.{name}", rule, values, "Give one value, or height and width, or 0 to keep the size")
    address = dataset.data_service_address
    if path.startswith("train") and address and not re.fullmatch(r"grpc://[^\s/]+:\d{1,5}", address):
        remedy = "Write it as grpc://10.0.0.2:5000, or leave it out"
        report.add(f"{path}.data_service_address", "must be grpc://host:port", address, remedy)
    _check_augmentations(report, f"{path}.augmentations")


def _check_augmentations(report: _Report, path: str) -> None:
    """Checks pairs of limits."""
    for limits in ("{}_scale_factor", "inception_crop.{}_area", "inception_crop.{}_aspect_ratio"):
        name, largest = f"{path}.{limits.format('min')}", limits.format("max")
        low, high = report.get(name), report.get(f"{path}.{largest}")
        if low > high:
            report.add(name, f"must be at most {largest} ({show(high)})", low, "Swap or correct the two")


def _check_idle(report: _Report) -> None:
    """Refuses what the config asks for in vain, as the other kind of model has a use for it."""
    is_classification = report.get("model_options").HasField("classification")
    rule = f"is not for {'classification' if is_classification else 'segmentation'}"
    for path in (
        p for table in (SEGMENTATION_ONLY if is_classification else CLASSIFICATION_ONLY) for p in expand(table)
    ):
        message, field = report.find(path)
        value = getattr(message, field.name)
        repeated = isinstance(field.default_value, list)
        is_set = len(value) > 0 if repeated else message.HasField(field.name)
        if is_set and (field.message_type is not None or value != field.default_value):
            report.add(path, rule, value, _refusal_remedy(path, field))


def _check_crop(report: _Report, path: str, crop: list[int]) -> None:
    if len(crop) != 2 or min(crop) <= 0:
        return report.add(path, "must have two values above 0, height and width", crop, "Give crop_size twice")
    if report.get("model_options").HasField("classification"):
        return None
    stride = report.get("model_options.backbone.output_stride")
    if stride not in (8, 16, 32) or all(side > 1 and side % stride == 1 for side in crop):
        return None
    below = [max((side - 1) // stride, 1) * stride + 1 for side in crop]
    # A side that is aligned already stays as it is in both suggestions.
    above = [-(-(side - 1) // stride) * stride + 1 for side in crop]
    rule = f"each side must be output_stride * k + 1 with output_stride {stride}"
    near = " or ".join(dict.fromkeys(f"{h} x {w}" for h, w in (below, above) if min(h, w) > 1))
    return report.add(path, rule, crop, f"The nearest sizes are {near}")


def _check_eval_scales(report: _Report) -> None:
    """Refuses scales that leave less of an image than one position of the network's output and its neighbour."""
    crop = list(report.get("eval_dataset_options.crop_size"))
    stride = report.get("model_options.backbone.output_stride")
    scales = list(report.get("evaluator_options.eval_scales"))
    if len(crop) != 2 or min(crop) <= stride or stride <= 0:
        return  # reported by itself
    least = stride / (min(crop) - 1)
    # Fields are float32. What is not in the table's range is reported there.
    if any(0 < scale < least * (1 - 1e-6) for scale in scales):
        rule = (
            f"each must leave more than output_stride ({stride}) pixels of either side of "
            f"eval_dataset_options.crop_size ({crop[0]} x {crop[1]})"
        )
        remedy = f"Give scales of {math.ceil(1000 * least) / 1000:g} or more, or a larger crop_size"
        report.add("evaluator_options.eval_scales", rule, scales, remedy)


def _check_placeholders(report: _Report, mode: str | None) -> None:
    # DeepLab2's textprotos come with placeholders here, and not every mode needs all of them.
    needed = {
        "experiment_name": mode is not None,
        "model_options.initial_checkpoint": "train" in (mode or ""),
        "train_dataset_options.file_pattern": "train" in (mode or ""),
        "eval_dataset_options.file_pattern": "eval" in (mode or ""),
    }
    for path, text, _ in config_placeholders.strings(report.options):
        for name in config_placeholders.PLACEHOLDER.findall(text):
            if needed.get(path, True):
                remedy = f"Say --placeholder={name}=VALUE, or set the environment variable {name}"
                report.add(path, f"placeholder ${{{name}}} is not filled", text, remedy)
