# SPDX-License-Identifier: Apache-2.0
"""The command `check_data`: what it does. Its flags are in `options`."""

import functools
from collections.abc import Sequence

from absl import flags

from deeplab_axial import builders
from deeplab_axial.cli.options.experiment import load_config
from deeplab_axial.config_placeholders import PLACEHOLDER
from deeplab_axial.data import check_report, checks, coverage, dataset_info
from deeplab_axial.data.source import Source
from deeplab_axial.errors import InputError
from deeplab_axial.protos import config_pb2

FLAGS = flags.FLAGS


def main() -> None:
    """Checks."""
    options = load_config()
    errors: dict[str, int] = {}
    others: list[Source] = []
    for split in [FLAGS.split] if FLAGS.split else _named_splits(options):
        source, count = _check(options, split, others)
        others.append(source)
        if count:
            errors[split] = count
    if errors:
        counts = ", ".join(f"{split}_dataset_options: {count}" for split, count in errors.items())
        raise InputError(f"The records of {FLAGS.config_file} have errors ({counts}). They are listed above.")


def _named_splits(options: config_pb2.ExperimentOptions) -> list[str]:
    """The splits whose files the config names."""
    splits = []
    for split in ("train", "eval"):
        patterns = getattr(options, f"{split}_dataset_options").file_pattern
        if patterns and not any(map(PLACEHOLDER.search, patterns)):
            splits.append(split)
        elif patterns:
            print(f"{split}_dataset_options.file_pattern has a placeholder that is not filled: not checked.\n")
    if not splits:
        raise InputError(
            f"{FLAGS.config_file}: file_pattern must name files in train_dataset_options or eval_dataset_options. "
            "Received: none. Set it, as --set=train_dataset_options.file_pattern='records/*.tfrecord'."
        )
    return splits


def _check(options: config_pb2.ExperimentOptions, split: str, others: Sequence[Source]) -> tuple[Source, int]:
    """Checks one split, also against others, and prints the report; the records, and the number of errors."""
    section = f"{split}_dataset_options"
    dataset = getattr(options, section)
    source = builders.open_records(options, split, allow_damage=True)
    image_options = builders.build_image_options(dataset)
    output_stride = options.model_options.backbone.output_stride
    summary = checks.check(
        source,
        image_options=image_options,
        output_stride=output_stride,
        small_instance_threshold=dataset.small_instance_threshold,
        with_labels=source.info.has_labels and dataset.decode_groundtruth_label,
        must_fit=split == "eval" and source.info.task == dataset_info.PANOPTIC,
        limit=FLAGS.limit,
        allow_subset=dataset.allow_subset,
    )
    _add_contradictions(options, split, source, others, summary.faults)
    if source.info.task == dataset_info.PANOPTIC and summary.with_labels:
        with_instances = options.model_options.panoptic_deeplab.instance.enable
        pixels = dict(enumerate(summary.class_pixels.tolist()))
        for kind, message in coverage.problems(source.info.label_space, pixels, with_instances).items():
            summary.faults.add(checks.WARNING, kind, section, message)
    print(f"{section}: {', '.join(dataset.file_pattern)} ({len(source.files)} file{'s' * (len(source.files) != 1)})\n")
    print("".join(f"{text}\n\n" for text in [check_report.format_faults(summary)] if text), end="")
    print(check_report.format_summary(summary, image_options, output_stride, split == "train"), end="\n\n", flush=True)
    return source, summary.faults.count(checks.ERROR)


def _add_contradictions(
    options: config_pb2.ExperimentOptions, split: str, source: Source, others: Sequence[Source], faults: checks.Faults
) -> None:
    """Adds where the classes of a split are not those of the model or of the other splits."""
    trials = [functools.partial(builders.check_same_classes, other, source) for other in others]
    if source.info.task == dataset_info.PANOPTIC:
        trials.append(functools.partial(builders.check_classes, options, split, source))
    for trial in trials:
        try:
            trial()
        except InputError as error:
            faults.add(checks.ERROR, "configs that contradict the data", FLAGS.config_file, str(error))
