# SPDX-License-Identifier: Apache-2.0
"""Reads the records of a config and reports what is wrong with them, before anything is trained.

  deeplab-axial check_data --config_file=CONFIG [--split=train] [--limit=1000]

Prints one line for each fault (what, in which file and record, what to do), then figures: sizes, crop, classes,
instances. The exit status is 1 if there is an error, 0 if there are warnings at most.
"""

from absl import flags

from deeplab_axial import builders
from deeplab_axial.cli import experiment
from deeplab_axial.config_placeholders import PLACEHOLDER
from deeplab_axial.data import check_report, checks, dataset_info
from deeplab_axial.errors import InputError
from deeplab_axial.protos import config_pb2

FLAGS = flags.FLAGS
SPLITS = ("train", "eval")

flags.DEFINE_enum("split", None, SPLITS, "Which records; by default all that the config names.")
flags.DEFINE_integer("limit", 0, "Most records of a split to read, spread over its files; 0 for all.", lower_bound=0)
flags.declare_key_flag("config_file")
flags.declare_key_flag("set")
flags.declare_key_flag("placeholder")


def main() -> None:
    """Checks."""
    options = experiment.load_config()
    errors = {}
    for split in [FLAGS.split] if FLAGS.split else _named_splits(options):
        count = _check(options, split)
        if count:
            errors[split] = count
    if errors:
        counts = ", ".join(f"{split}_dataset_options: {count}" for split, count in errors.items())
        raise InputError(f"The records of {FLAGS.config_file} have errors ({counts}). They are listed above.")


def _named_splits(options: config_pb2.ExperimentOptions) -> list[str]:
    """The splits whose files the config names."""
    splits = []
    for split in SPLITS:
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


def _check(options: config_pb2.ExperimentOptions, split: str) -> int:
    """Checks one split, prints the report and returns the number of errors."""
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
    )
    if source.info.task == dataset_info.PANOPTIC:
        try:
            builders.check_classes(options, split, source)
        except InputError as error:
            summary.faults.add(checks.ERROR, "configs that contradict the data", FLAGS.config_file, str(error))
    print(f"{section}: {', '.join(dataset.file_pattern)} ({len(source.files)} file{'s' * (len(source.files) != 1)})\n")
    print("".join(f"{text}\n\n" for text in [check_report.format_faults(summary)] if text), end="")
    print(check_report.format_summary(summary, image_options, output_stride, split == "train"), end="\n\n", flush=True)
    return summary.faults.count(checks.ERROR)
