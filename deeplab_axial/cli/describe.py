# SPDX-License-Identifier: Apache-2.0
"""Prints the model of a config: its parts with output shapes, parameters and multiply-adds.

deeplab-axial describe --config_file=CONFIG [--input_size=HEIGHT,WIDTH]
"""

from absl import flags

from deeplab_axial import builders, describe
from deeplab_axial.cli import experiment
from deeplab_axial.errors import InputError

FLAGS = flags.FLAGS

flags.DEFINE_list(
    "input_size", None, "Height and width of the image in pixels; the crop size of the evaluation data by default."
)
flags.declare_key_flag("config_file")
flags.declare_key_flag("set")


def main() -> None:
    """Describes."""
    options = experiment.load_config()
    height, width = _input_size(options)
    backbone = options.model_options.backbone
    model = builders.build_model(options)
    print(f"{options.experiment_name}: {backbone.name}, flavor {backbone.flavor!r}, stride {backbone.output_stride}")
    print(f"image: {height} x {width}\n")
    print(describe.table(describe.describe(model, height, width)))


def _input_size(options) -> tuple[int, int]:
    if FLAGS.input_size is not None:
        if len(FLAGS.input_size) != 2 or not all(size.isdigit() and int(size) > 0 for size in FLAGS.input_size):
            raise InputError(f"--input_size must be HEIGHT,WIDTH in pixels. Received: {','.join(FLAGS.input_size)}")
        return int(FLAGS.input_size[0]), int(FLAGS.input_size[1])
    for dataset in (options.eval_dataset_options, options.train_dataset_options):
        if dataset.crop_size:
            return tuple(dataset.crop_size)
    raise InputError(f"{FLAGS.config_file} names no crop_size. Say --input_size=HEIGHT,WIDTH.")
