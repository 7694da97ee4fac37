# SPDX-License-Identifier: Apache-2.0
"""The command `report`: what it does. Its flags are in `options`."""

import os

from absl import flags

from deeplab_axial import files
from deeplab_axial.cli import folders
from deeplab_axial.errors import InputError
from deeplab_axial.report import comparison, details, page
from deeplab_axial.training import log

FLAGS = flags.FLAGS


def main() -> None:
    """Writes the page."""
    folders.refuse_remote(FLAGS.output, "output")
    if FLAGS.compare is not None and os.path.realpath(FLAGS.compare) == os.path.realpath(FLAGS.model_dir):
        raise InputError(f"--compare must name another folder than --model_dir. Received: {FLAGS.compare} for both.")
    if os.path.isdir(FLAGS.output):
        raise InputError(f"--output={FLAGS.output} is a folder. Name a file: --output={FLAGS.output}/report.html")
    folders.refuse_foreign([FLAGS.output], "output")
    folders.make(os.path.dirname(os.path.abspath(FLAGS.output)), "output")
    run = _read(FLAGS.model_dir)
    if FLAGS.compare is None:
        page.write_report(FLAGS.output, run.name, run)
    else:
        second = _read(FLAGS.compare)
        comparison.write_comparison(FLAGS.output, f"{run.name} and {second.name}", run, second)
    print(os.path.abspath(FLAGS.output))


def _read(model_dir: str) -> page.Run:
    if "accuracy" in (log.read_metrics(model_dir) or {}):
        raise InputError(
            f"A report is about segmentation. Received: {model_dir}, the run of a classifier. Its accuracy stands in "
            f"{os.path.join(model_dir, log.METRICS_FILE)}."
        )
    name = model_dir if files.is_remote(model_dir) else os.path.normpath(model_dir)
    return page.Run(name, details.read(model_dir), log.read_history(model_dir))
