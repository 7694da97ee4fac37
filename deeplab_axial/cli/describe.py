# SPDX-License-Identifier: Apache-2.0
"""The command `describe`: what it does. Its flags are in `options`."""

import tensorflow as tf
from absl import flags

from deeplab_axial import builders, describe
from deeplab_axial.cli.options.experiment import load_config
from deeplab_axial.errors import InputError
from deeplab_axial.protos import config_pb2

FLAGS = flags.FLAGS


# Field of PublishedFigures -> its name for people.
_METRICS = {
    "pq": "PQ",
    "pq_things": "PQ things",
    "pq_stuff": "PQ stuff",
    "ap": "AP",
    "miou": "mIoU",
    "top1": "top-1 accuracy",
}


def main() -> None:
    """Describes."""
    options = load_config()
    height, width = _input_size(options)
    backbone = options.model_options.backbone
    variants = builders.build_multi_scale(options.evaluator_options)
    # Symbolic weights: the largest network needs no memory for its own.
    with tf.Graph().as_default():
        model = builders.build_symbolic_model(options)
        parts = describe.describe(model, height, width)
        parameters, multiply_adds = describe.count(model, height, width, variants)
    name = options.experiment_name or FLAGS.config_file
    print(f"{name}: {backbone.name}, flavor {backbone.flavor!r}, stride {backbone.output_stride}")
    print(f"image: {height} x {width}\n")
    print(describe.table(parts))
    if variants.is_plain and not options.HasField("published"):
        return
    print()
    if not variants.is_plain:
        print(f"multiply-adds below: {variants}")
    print(describe.comparison(_figures(options.published, (height, width), parameters, multiply_adds)))
    if options.HasField("published"):
        print(f"published: {_metrics(options.published)}")


def _input_size(options: config_pb2.ExperimentOptions) -> tuple[int, int]:
    if FLAGS.input_size is not None:
        if len(FLAGS.input_size) != 2 or not all(size.isdigit() and int(size) > 0 for size in FLAGS.input_size):
            raise InputError(f"--input_size must be HEIGHT,WIDTH in pixels. Received: {','.join(FLAGS.input_size)}")
        return int(FLAGS.input_size[0]), int(FLAGS.input_size[1])
    published, evaluation, training = options.published, options.eval_dataset_options, options.train_dataset_options
    for size in (published.input_size, evaluation.crop_size, training.crop_size):
        if size:
            return tuple(size)
    raise InputError(f"{FLAGS.config_file} names no crop_size. Say --input_size=HEIGHT,WIDTH.")


def _figures(
    published: config_pb2.PublishedFigures, size: tuple[int, int], parameters: int, multiply_adds: int
) -> list[describe.Figure]:
    """Ours beside the published; multiply-adds compare at the published size only."""
    comparable = published.HasField("multiply_adds") and size == tuple(published.input_size)
    return [
        describe.Figure(
            "parameters", "M", parameters / 1e6, published.parameters if published.HasField("parameters") else None
        ),
        describe.Figure("multiply-adds", "B", multiply_adds / 1e9, published.multiply_adds if comparable else None),
    ]


def _metrics(published: config_pb2.PublishedFigures) -> str:
    """ "COCO val: PQ 43.4, PQ things 48.5, PQ stuff 35.6 (Axial-DeepLab, Table 2)"."""
    metrics = [f"{what} {getattr(published, name):.1f}" for name, what in _METRICS.items() if published.HasField(name)]
    return f"{published.split}: {', '.join(metrics) or 'no figures'} ({published.source})"
