# SPDX-License-Identifier: Apache-2.0
"""Compiles the training step of a config for a TPU, without any TPU, and prints whether it fits and how long it takes.

  deeplab-axial tpu_check --config_file=CONFIG --topology=v5e:2x2 [--batch_size=NUMBER|auto] [--layers]

Needs the extra [tpu-check]. What is compiled is the real step of one core: forward, backward and optimizer, at the
crop size of the config. To make machine code takes minutes, most of the time; --plan_only leaves it out, and with it
how long a step takes: the compiler estimates that along with the code, and nothing was measured.
--layers compiles the layers of axial attention instead, each alone.
"""

from absl import flags

from deeplab_axial.cli.options import experiment
from deeplab_axial.errors import InputError
from deeplab_axial.tpu_check import pace, topologies

FLAGS = flags.FLAGS

flags.DEFINE_string("topology", None, "Chip and their number, as v5e:2x2.", required=True)
flags.DEFINE_string(
    "batch_size",
    "",
    "Images of one core: a number; auto for the most that fit; by default train_dataset_options.batch_size shared out.",
)
flags.DEFINE_bool("plan_only", False, "Whether to stop when the memory is planned, before machine code is made.")
flags.DEFINE_bool("layers", False, "Whether to compile the distinct layers of axial attention alone, not the step.")
flags.DEFINE_string("price_per_chip_hour", "", "What a chip costs an hour, in any currency, for the cost of the run.")
flags.DEFINE_string("json", None, "File for the same figures as JSON.")
flags.DEFINE_float("timeout", 7200.0, "Seconds that one compilation may take.", lower_bound=1.0)
flags.declare_key_flag("config_file")
flags.declare_key_flag("set")
flags.declare_key_flag("placeholder")


def check() -> None:
    """Reads chip, price and config, and refuses what does not go together."""
    topologies.parse(FLAGS.topology)
    pace.parse_price(FLAGS.price_per_chip_hour)
    if FLAGS.layers and (FLAGS.plan_only or FLAGS.batch_size == "auto" or FLAGS.price_per_chip_hour):
        raise InputError(
            "--layers compiles single layers to the end: it goes with neither --plan_only, nor --batch_size=auto, nor "
            "--price_per_chip_hour. Leave out --layers or these."
        )
    experiment.load_config()
