# SPDX-License-Identifier: Apache-2.0
"""The `deeplab-axial` command: one name, one absl app for each command."""

import importlib
import inspect
import os
import re
import signal
import sys
import tempfile
import textwrap
import types
from collections.abc import Callable, Sequence

from absl import app, flags, logging

from deeplab_axial import errors

# command -> (module, what it does)
COMMANDS = {
    "convert": ("deeplab_axial.cli.convert", "turn a data set into TFRecord files"),
    "check_data": ("deeplab_axial.cli.check_data", "find what is wrong with a config's records, and their figures"),
    "visualize_data": ("deeplab_axial.cli.visualize_data", "draw training images with their targets"),
    "train": ("deeplab_axial.cli.train", "train and evaluate the model of a config"),
    "export": ("deeplab_axial.cli.export", "write a checkpoint as SavedModel"),
    "predict": ("deeplab_axial.cli.predict", "segment images and videos"),
    "submit": ("deeplab_axial.cli.submit", "write files for the servers of COCO and Cityscapes"),
    "report": ("deeplab_axial.cli.report", "write an HTML page about a run, or two runs side by side"),
    "import_deeplab2": ("deeplab_axial.cli.import_deeplab2", "turn a DeepLab2 checkpoint into one of ours"),
    "describe": ("deeplab_axial.cli.describe", "print the stages, parameters and multiply-adds of a config"),
    "tpu_check": ("deeplab_axial.cli.tpu_check", "compile the training step for a TPU without one: does it fit?"),
    "make_scenes": ("deeplab_axial.cli.make_scenes", "write the synthetic data set of the demo"),
    "demo": ("deeplab_axial.cli.demo", "do all of the above once, small, and write a report"),
}
_NOTE = re.compile(r"I\d{4} |WARNING: All log messages before absl::InitializeLog|To enable the following instructions")
HELP = ("-h", "--help", "-help", "--helpfull", "--helpshort")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit status; the arguments default to those of the process."""
    argv = list(sys.argv if argv is None else argv)
    if len(argv) < 2 or argv[1] in HELP:
        print(_overview())
        return 0 if len(argv) > 1 else 2
    if argv[1] == "--version":
        from deeplab_axial import __version__

        print(f"deeplab-axial {__version__}")
        return 0
    if argv[1] not in COMMANDS:
        print(f"error: unknown command {argv[1]!r}.\n\n{_overview()}", file=sys.stderr)
        return 2
    module = _import_quietly(COMMANDS[argv[1]][0])
    if any(argument in HELP for argument in argv[2:]):
        print(_help(argv[1], module))
        return 0
    return app.run(lambda rest: run(module.main, rest[1:]), [f"{os.path.basename(argv[0])} {argv[1]}", *argv[2:]])


def run(command: Callable[..., None], arguments: Sequence[str]) -> int:
    """Runs a command; what a person can mend is printed as one message instead of a traceback.

    Args:
      command: takes as many words as it has parameters.
      arguments: words of the command line that are no options.
    """
    words = list(inspect.signature(command).parameters)
    if len(arguments) != len(words):
        expected = f"Expected: {' '.join(words).upper() or 'none'}. Options look like --name=value."
        print(f"error: wrong number of words. Received: {' '.join(arguments) or 'none'}. {expected}", file=sys.stderr)
        return 2
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # TensorFlow's Python side logs through absl, too
    try:
        command(*arguments)
    except (errors.InputError, errors.NonFiniteLoss, errors.WorkerLost) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except errors.Interrupted as interruption:
        print(interruption, file=sys.stderr)
        return 128 + interruption.signal_number
    except KeyboardInterrupt:
        print("\nStopped by Ctrl-C.", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def _import_quietly(name: str) -> types.ModuleType:
    """Imports a command without TensorFlow's notes on the processor and on GPUs that are not there.

    TensorFlow's libraries write some of them to the file descriptor before any setting of theirs is read. What else is
    written meanwhile is passed on.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            return importlib.import_module(name)
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            written.seek(0)
            for line in written.read().decode(errors="replace").splitlines():
                if not _NOTE.match(line):
                    print(line, file=sys.stderr)


def _overview() -> str:
    lines = ["usage: deeplab-axial COMMAND [--option=value ...]", ""]
    lines += [f"  {name:<15} {what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join([*lines, "", "deeplab-axial COMMAND --help lists the options of a command."])


def _help(name: str, module) -> str:
    lines = [f"usage: deeplab-axial {name} [--option=value ...]", "", module.__doc__.strip(), "", "Options:"]
    for flag in flags.FLAGS.get_key_flags_for_module(module.__name__):
        default = "" if flag.default in (None, "", []) else f" (default: {flag.default_as_str})"
        text = " ".join(f"{flag.help}{default}".split())
        lines += [f"  --{flag.name}", textwrap.fill(text, 120, initial_indent=" " * 6, subsequent_indent=" " * 6)]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
