# SPDX-License-Identifier: Apache-2.0
"""Trains and evaluates the model of a config.

  deeplab-axial train --config_file=CONFIG --mode=train_and_eval --model_dir=FOLDER

The folder gets the config as it was read, checkpoints, TensorBoard events, history.jsonl and at the end summary.json;
evaluation adds metrics.json.

A run that was interrupted goes on from its last checkpoint when the same command is given again. SIGTERM and Ctrl-C
save one first, after the present step; on a TPU after the present loop of trainer_options.steps_per_loop steps. A
checkpoint that cannot be read is kept under another name, with a warning, and the one before is taken. A config whose
fields have changed is refused, unless they do not bear on what is learnt.

Modes: train; eval (the newest checkpoint, once); train_and_eval (in turns, every evaluator_options.eval_interval
steps); continuous_eval (each checkpoint once, until training ends or none comes for
evaluator_options.continuous_eval_timeout seconds). The last two keep a copy of the best checkpoint in the folder
`best`.
"""

from absl import flags

from deeplab_axial import choices, config
from deeplab_axial.cli.options import experiment

FLAGS = flags.FLAGS

flags.DEFINE_enum("mode", "train_and_eval", config.MODES, "What to do.")
flags.DEFINE_string("model_dir", None, "Folder of the checkpoints and logs.", required=True)
flags.DEFINE_integer(
    "num_gpus", 0, "GPUs to train on, of each machine if TF_CONFIG names several; 0 for the CPU.", lower_bound=0
)
flags.DEFINE_string("tpu", "", 'TPU to train on: its name, grpc://host:port, or "local" on its own machine.')
flags.DEFINE_alias("master", "tpu")
# No DEFINE_enum, whose help would have all values on one line.
flags.DEFINE_string(
    "best_metric",
    None,
    "What decides which checkpoint is kept as the best. "
    f"Default: {choices.SEGMENTATION_METRICS[0]}; {choices.CLASSIFICATION_METRICS[0]} of a classifier.",
)
flags.DEFINE_string(
    "profile",
    "",
    "FIRST:LAST, training steps to profile for TensorBoard, as 11:20. On a TPU the loops of "
    "trainer_options.steps_per_loop steps that have some of them, as a whole.",
)
flags.declare_key_flag("config_file")
flags.declare_key_flag("set")
flags.declare_key_flag("placeholder")
flags.DEFINE_bool(
    "allow_config_change",
    False,
    "Go on with a run although fields of its config have changed that bear on what is learnt. The files of "
    "train_dataset_options.file_pattern are among them, also when they have only moved.",
)


def check() -> None:
    """Reads the config."""
    experiment.load_config(FLAGS.mode)
