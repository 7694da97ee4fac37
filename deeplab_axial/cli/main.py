# SPDX-License-Identifier: Apache-2.0
"""The `deeplab-axial` command: one name, one absl app for each command."""

import contextlib
import importlib
import inspect
import os
import re
import signal
import sys
import tempfile
import textwrap
import types
from collections.abc import Callable, Iterator, Sequence

from absl import app, flags, logging

from deeplab_axial import errors
from deeplab_axial.cli import allocator

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
# What is left when a command is stopped by a signal; training says more where it has saved a checkpoint.
KEPT = {
    "convert": "Finished files are kept: the same command makes the rest.",
    "check_data": "It writes nothing.",
    "visualize_data": "Finished sheets are kept.",
    "train": "Finished checkpoints and evaluations are kept: the same command goes on from there.",
    "export": "An export is complete or absent: run the same command again.",
    "predict": "Finished files are kept: the same command with --resume makes the rest.",
    "submit": "A submission is complete or absent: run the same command again.",
    "report": "A report is complete or as it was before.",
    "import_deeplab2": "The folder is complete or absent: run the same command again.",
    "describe": "It writes nothing.",
    "tpu_check": "Its figures are complete or absent: run the same command again.",
    "make_scenes": "A data set that is not complete is made by the same command.",
    "demo": "Finished steps are kept: the same command goes on from there.",
}
_NOTE = re.compile(r"I\d{4} |WARNING: All log messages before absl::InitializeLog|To enable the following instructions")
HELP = ("-h", "--help", "-help", "--helpfull", "--helpshort")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit status; the arguments default to those of the process."""
    _print_every_character()
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
    allocator.keep_memory()
    with _terminable():
        try:
            options = importlib.import_module(f"deeplab_axial.cli.options.{argv[1]}")
            if any(argument in HELP for argument in argv[2:]):
                print(_help(argv[1], options))
                return 0
            name = f"{os.path.basename(argv[0])} {argv[1]}"
            return app.run(lambda rest: _check_and_run(argv[1], options, rest[1:]), [name, *argv[2:]])
        except KeyboardInterrupt as stop:
            number = signal.SIGTERM if isinstance(stop, errors.Terminated) else signal.SIGINT
            for each in (signal.SIGTERM, signal.SIGINT):
                signal.signal(each, signal.SIG_IGN)
            key = " (Ctrl-C)" if number == signal.SIGINT else ""
            line_break = "\n" if sys.stderr.isatty() else ""  # after ^C, or a progress bar
            print(f"{line_break}Stopped by {number.name}{key}. {KEPT[argv[1]]}", file=sys.stderr)
            return 128 + number


def _check_and_run(name: str, options: types.ModuleType, words: Sequence[str]) -> int:
    """What can be said of flags and config is said before TensorFlow is imported, which takes seconds."""
    status = run(options.check, words) if hasattr(options, "check") else 0
    return status or run(_import_quietly(COMMANDS[name][0]).main, words)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Inside, SIGTERM raises Terminated, so that what is unfinished is cleaned up, as after Ctrl-C."""

    def terminate(*_) -> None:
        if not _is_ending(sys.exc_info()[1]):  # a second one amid the clean-up changes nothing
            raise errors.Terminated

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _is_ending(error: BaseException | None) -> bool:
    """Whether an exception that is being handled, or one that it came after, is that of a signal."""
    while error is not None and not isinstance(error, KeyboardInterrupt | errors.Interrupted):
        error = error.__context__
    return error is not None


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
    _expand_home()
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
    return 0


def _print_every_character() -> None:
    """Lets characters that the console cannot show be printed as \\xe9: a result must not be lost for a name in it."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _expand_home() -> None:
    """Replaces "~" at the start of what flags say by the home folder, as shells do where it begins a word.

    Of entries NAME=VALUE (--set, --placeholder) it is the start of VALUE that counts.
    """
    for name in flags.FLAGS:
        value = flags.FLAGS[name].value
        if isinstance(value, str) and value.startswith("~"):
            flags.FLAGS[name].value = os.path.expanduser(value)
        elif isinstance(value, list) and any("~" in str(entry) for entry in value):
            expand = _expand_value if name in ("set", "placeholder") else os.path.expanduser
            flags.FLAGS[name].value = [expand(entry) for entry in value]


def _expand_value(entry: str) -> str:
    name, equals, value = entry.partition("=")
    return f"{name}{equals}{os.path.expanduser(value)}"


def _import_quietly(name: str) -> types.ModuleType:
    """Imports a command without TensorFlow's notes on the processor and on GPUs that are not there.

    TensorFlow's libraries write some of them to the file descriptor before any setting of theirs is read. What else is
    written meanwhile is passed on.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # else it imports Keras 3, too, which nothing here uses
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
