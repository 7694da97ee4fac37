# SPDX-License-Identifier: Apache-2.0
"""Writes a checkpoint as SavedModel, or its network as LiteRT model.

  deeplab-axial export --config_file=CONFIG --model_dir=FOLDER --output_dir=SAVED_MODEL

The SavedModel takes uint8 RGB images [B, H, W, 3] of any size, or JPEG and PNG files, and returns the panoptic,
semantic and instance maps [B, H, W], the centres [B, K, 2] (y, x) and scores. Images are resized and padded as their
evaluation does it, so that a prediction is what evaluation measures; --padding=minimal computes at the smallest size.
It is compared with evaluation on images of the evaluation data, and reloaded and compared once more in a fresh process,
before its folder appears.
"""

import re

from absl import flags

from deeplab_axial import choices
from deeplab_axial.cli.options import experiment
from deeplab_axial.errors import InputError

FLAGS = flags.FLAGS

flags.DEFINE_string("model_dir", None, "Folder of the checkpoints.", required=True)
flags.DEFINE_string("checkpoint", None, "A checkpoint's prefix; the newest of --model_dir by default.")
flags.DEFINE_string("output_dir", None, "Folder for the export; must be empty or absent.", required=True)
flags.DEFINE_integer(
    "version", None, "Writes OUTPUT_DIR/VERSION, as TensorFlow Serving expects it; other versions stay.", lower_bound=0
)
flags.DEFINE_enum("format", "saved_model", ["saved_model", "tflite"], "tflite: a LiteRT model of the network alone.")
flags.DEFINE_string("input_size", None, "HEIGHT,WIDTH of the only images that the export takes; any by default.")
flags.DEFINE_enum(
    "padding",
    choices.EVALUATION,
    choices.PADDINGS,
    "evaluation: pads images to the crop size; minimal: to the next size that fits.",
)
flags.DEFINE_bool("xla", False, "Whether XLA compiles the export; needs --input_size.")
flags.DEFINE_enum(
    "precision", None, list(choices.PRECISIONS), "In which layers compute; as the config says by default."
)
flags.DEFINE_enum(
    "quantization", "none", ["none", "float16", "int8"], "Weights of a LiteRT model; int8: with dynamic ranges."
)
flags.declare_key_flag("config_file")
flags.declare_key_flag("set")
flags.declare_key_flag("placeholder")


def check() -> None:
    """Refuses flags that do not go together, and reads the config."""
    size = input_size()
    lite = FLAGS.format == "tflite"
    if size is None and (FLAGS.xla or lite):
        flag = "--format=tflite" if lite else "--xla"
        raise InputError(f"{flag} compiles for one size. Add --input_size=HEIGHT,WIDTH.")
    for flag, ok in (("--xla", not (FLAGS.xla and lite)), ("--quantization", lite or FLAGS.quantization == "none")):
        if not ok:
            raise InputError(f"{flag} does not go with --format={FLAGS.format}. Leave one of them out.")
    if lite and FLAGS.precision == "bfloat16":
        raise InputError("--precision=bfloat16: LiteRT does not compute in it. Say --quantization=float16 instead.")
    experiment.load_segmentation_config("export", "eval")


def input_size() -> tuple[int, int] | None:
    """(height, width) of --input_size, pixels; None without it."""
    if FLAGS.input_size is None:
        return None
    match = re.fullmatch(r"([1-9]\d*)[,x]([1-9]\d*)", FLAGS.input_size)
    if not match:
        raise InputError(f"--input_size must be HEIGHT,WIDTH in pixels. Received: {FLAGS.input_size}")
    return int(match[1]), int(match[2])
