# SPDX-License-Identifier: Apache-2.0
"""The command `import_deeplab2`: what it does. Its flags are in `options`."""

import contextlib
import os

import tensorflow as tf
import tf_keras
from absl import flags

from deeplab_axial import builders, config, files, locks
from deeplab_axial.cli import folders
from deeplab_axial.cli.options.experiment import load_config
from deeplab_axial.errors import InputError
from deeplab_axial.importing import deeplab2
from deeplab_axial.importing.report import Report
from deeplab_axial.training import checkpoints

FLAGS = flags.FLAGS


def main() -> None:
    """Imports."""
    folders.refuse_remote(FLAGS.output_dir, "output_dir")
    options = load_config()
    output_dir = os.path.abspath(FLAGS.output_dir)
    if os.path.exists(output_dir) and not os.path.isdir(output_dir):
        raise InputError(f"--output_dir={output_dir} is a file. Name a folder.")
    if os.path.isdir(output_dir) and os.listdir(output_dir):
        raise InputError(f"--output_dir={output_dir} is not empty. Name a new folder, or remove this one first.")
    path = checkpoints.latest(FLAGS.checkpoint) if files.is_folder(FLAGS.checkpoint) else FLAGS.checkpoint
    if path is None:
        raise InputError(f"--checkpoint={FLAGS.checkpoint} is a folder without checkpoint. Name a checkpoint's prefix.")
    model = builders.build_model(options)
    report = deeplab2.restore(path, model, "--checkpoint", same_function=True)
    written = _write(options, model, report, output_dir)
    print(report)
    print(f"Imported step {report.step or 0}: {written}")
    if report.absent:
        print(
            "It holds a part of the model only: name it in model_options.initial_checkpoint of a training. Evaluation "
            "and export refuse it."
        )


def _write(options, model: tf_keras.Model, report: Report, output_dir: str) -> str:
    """Writes the restored parts as checkpoint of their step, and the config; the folder appears complete or not."""
    with contextlib.ExitStack() as stack:
        try:
            partial = stack.enter_context(locks.partial_folder(output_dir, "import_deeplab2"))
        except OSError as error:
            raise InputError(f"--output_dir={output_dir} cannot be written ({error}). Name another folder.") from error
        os.chmod(partial, 0o755)
        step = tf.Variable(report.step or 0, dtype=tf.int64)
        objects = {"model": checkpoints.parts_of(model, report.restored)}
        written = checkpoints.Manager(partial, objects, step, max_to_keep=1).save()
        config.save(options, os.path.join(partial, config.FILE_NAME))
        os.replace(partial, output_dir)  # over an empty folder, too
    return os.path.join(output_dir, os.path.basename(written))
