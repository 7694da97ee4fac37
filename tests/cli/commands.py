# SPDX-License-Identifier: Apache-2.0
"""Runs commands of `deeplab-axial` as a person would, each in a process of its own."""

import multiprocessing
import os
import pathlib
import resource
import sys
import tempfile
from collections.abc import Callable
from typing import NamedTuple

REPOSITORY = pathlib.Path(__file__).parents[2]
TINY = REPOSITORY / "tests" / "data" / "tiny.textproto"


class Result(NamedTuple):
    """What a command left."""

    status: int
    out: str
    err: str


def run(*arguments: object, largest_file: int | None = None) -> Result:
    """Runs `deeplab-axial <arguments>`; writing a file beyond so many bytes fails, as on a full disk.

    The process is forked off a server that has imported TensorFlow, which spares seconds for each command; flags,
    random numbers and TensorFlow's own state start afresh.
    """
    return call(_command, [str(a) for a in arguments], largest_file)


def call(function: Callable[..., int | None], *arguments: object) -> Result:
    """Calls a function of a module, with arguments that can be pickled; the status is what it returns."""
    return _Running(function, arguments).finish()


def start(*arguments: object) -> "_Running":
    """Starts `deeplab-axial <arguments>`, as `run`, to be interrupted."""
    return _Running(_command, ([str(a) for a in arguments], None))


class _Running:
    """A process that calls a function."""

    def __init__(self, function: Callable[..., int | None], arguments: tuple):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tensorflow", "tf_keras"])
        self._folder = tempfile.TemporaryDirectory()
        self._process = context.Process(target=_call, args=(function, arguments, self._folder.name))
        self._process.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.is_alive()

    def send(self, number: int) -> None:
        os.kill(self._process.pid, number)

    def finish(self) -> Result:
        """Waits for the end."""
        self._process.join()
        texts = [pathlib.Path(self._folder.name, name).read_text() for name in ("out", "err")]
        self._folder.cleanup()
        return Result(self._process.exitcode, *texts)


def _call(function: Callable[..., int | None], arguments: tuple, folder: str) -> None:
    for stream, name in ((sys.stdout, "out"), (sys.stderr, "err")):
        with open(os.path.join(folder, name), "wb") as file:
            os.dup2(file.fileno(), stream.fileno())
    os.chdir(folder)
    status = function(*arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(status)


def _command(arguments: list[str], largest_file: int | None) -> int:
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    from deeplab_axial.cli import main

    return main.main(["deeplab-axial", *arguments])


def one_message(result: Result) -> str:
    """The message of a command that refused its input: exit status 1, one error, no traceback."""
    assert result.status == 1, result
    assert "Traceback" not in result.err, result.err
    _, *messages = f"\n{result.err}".split("\nerror: ")
    assert len(messages) == 1, result.err
    return messages[0].strip()
