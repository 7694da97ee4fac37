# SPDX-License-Identifier: Apache-2.0
"""What `train` says when a run has ended."""

import os
import shlex

from deeplab_axial import config, files
from deeplab_axial.training import summary


def tell(folder: str, told: summary.Summary, was_evaluated: bool, is_classifier: bool) -> None:
    """Files and prints the summary of a run, and what to do next.

    Args:
      folder: of the model.
      told: of the run.
      was_evaluated: whether its last checkpoint was.
      is_classifier: whether the model is one; they are not exported.
    """
    summary.write(folder, told)
    lines = [summary.format_summary(told)]
    lines += [f"Next: {command}" for command in next_commands(folder, told.best_folder, was_evaluated, is_classifier)]
    print("\n".join(lines), flush=True)


def next_commands(folder: str, best_folder: str | None, was_evaluated: bool, is_classifier: bool) -> list[str]:
    """The commands that follow a training; they take the config that it left in its folder."""
    config_flag = f"--config_file={shlex.quote(os.path.join(folder, config.FILE_NAME))}"
    commands = []
    if not was_evaluated:
        commands.append(f"deeplab-axial train --mode=eval {config_flag} --model_dir={shlex.quote(folder)}")
    if not is_classifier:
        local = os.path.basename(folder.rstrip("/")) if files.is_remote(folder) else folder.rstrip("/")
        output_folder = f"{local}_export"
        places = f"--model_dir={shlex.quote(best_folder or folder)} --output_dir={shlex.quote(output_folder)}"
        commands.append(f"deeplab-axial export {config_flag} {places}")
    return commands
