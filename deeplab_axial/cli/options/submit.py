# SPDX-License-Identifier: Apache-2.0
"""Writes what the evaluation servers of COCO and Cityscapes take.

  deeplab-axial submit --format=coco --config_file=CONFIG --model_dir=FOLDER \\
      --image_list=image_info_test-dev2017.json --output=submission.zip
  deeplab-axial submit --format=cityscapes --config_file=CONFIG --model_dir=FOLDER --output_dir=FOLDER

The images are those of eval_dataset_options, predicted as evaluation does it, at several scales if the config says so.
They need no ground truth: name records of the test set, as
--set=eval_dataset_options.file_pattern='records/coco/test-dev/*.tfrecord'.

coco: a zip file, checked against the list of images. cityscapes: the folders panoptic, instance and pixel.
"""

from absl import flags

from deeplab_axial.cli.options import experiment
from deeplab_axial.errors import InputError

FLAGS = flags.FLAGS
# format -> (flags that it needs, flags that it also takes)
FORMATS = {
    "coco": (("image_list", "output"), ("algorithm",)),
    "cityscapes": (("output_dir",), ("split",)),
}

flags.DEFINE_enum("format", None, list(FORMATS), "Whose server it is for.", required=True)
flags.DEFINE_string("model_dir", None, "Folder of the checkpoints.", required=True)
flags.DEFINE_string("checkpoint", None, "A checkpoint's prefix; the newest of --model_dir by default.")
flags.DEFINE_string("image_list", None, "coco: COCO's JSON with the images, as image_info_test-dev2017.json.")
flags.DEFINE_string("output", None, "coco: the zip file.")
flags.DEFINE_string("algorithm", None, "coco: your method in the file names. Default: the config's experiment_name.")
flags.DEFINE_string("output_dir", None, "cityscapes: folder for the files; must be empty or absent.")
flags.DEFINE_enum("split", None, ["test", "val"], "cityscapes: in the name of the panoptic JSON. Default: test.")
flags.declare_key_flag("config_file")
flags.declare_key_flag("set")
flags.declare_key_flag("placeholder")


def check() -> None:
    """Refuses flags that are missing or for the other format, and reads the config."""
    _check_flags(FLAGS.format)
    experiment.load_segmentation_config("submit", "eval")


def _check_flags(name: str) -> None:
    """Refuses flags that are missing, or are of another format."""
    needed, taken = FORMATS[name]
    missing = [flag for flag in needed if not FLAGS[flag].value]
    every = {flag for both in FORMATS.values() for names in both for flag in names}
    surplus = [flag for flag in sorted(every - {*needed, *taken}) if FLAGS[flag].value]
    if missing or surplus:
        received = ", ".join([*(f"no --{flag}" for flag in missing), *(f"--{flag}" for flag in surplus)])
        raise InputError(
            f"--format={name} needs --{' and --'.join(needed)} and also takes --{' and --'.join(taken)}. "
            f"Received: {received}. Correct the command."
        )
