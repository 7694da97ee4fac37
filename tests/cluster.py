# SPDX-License-Identifier: Apache-2.0
"""Processes of this machine that train together over its loopback, as several machines would."""

import contextlib
import json
import multiprocessing
import os
import pathlib
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

REPOSITORY = pathlib.Path(__file__).parents[1]


class Result(NamedTuple):
    """What a process left; status None: it was still there when the time was up, and was killed."""

    status: int | None
    out: str
    err: str


class Process:
    """A function in a process of its own, forked off a server that has imported TensorFlow.

    Args:
      target: called in the process; returns its exit status, None for 0.
      arguments: of the function.
      folder: gets the files `out` and `err`.
      environment: added to that of the process.
    """

    def __init__(self, target: Callable, arguments: tuple, folder: pathlib.Path, environment: Mapping[str, str]):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tensorflow", "tf_keras"])
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._process = context.Process(target=_run, args=(target, arguments, str(folder), dict(environment)))
        self._process.start()
        self.pid = self._process.pid

    def is_running(self) -> bool:
        return self._process.is_alive()

    def out(self) -> str:
        """What it has printed so far."""
        path = self.folder / "out"
        return path.read_text() if path.exists() else ""

    def kill(self) -> None:
        self._process.kill()

    def finish(self, seconds: float) -> Result:
        """Waits for the end, no longer than so long."""
        self._process.join(max(seconds, 0))
        status = self._process.exitcode
        if status is None:
            self.kill()
            self._process.join()
        return Result(status, self.out(), (self.folder / "err").read_text())


def _run(target: Callable, arguments: tuple, folder: str, environment: dict[str, str]) -> None:
    for stream, name in ((sys.stdout, "out"), (sys.stderr, "err")):
        with open(os.path.join(folder, name), "wb") as file:
            os.dup2(file.fileno(), stream.fileno())
    os.environ.update(environment)
    os.chdir(REPOSITORY)
    status = target(*arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(status)


def tf_configs(count: int = 2, with_chief: bool = False) -> list[str]:
    """TF_CONFIG of each worker of a cluster on free ports; the first is the job "chief" if so wished."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    chiefs = 1 if with_chief else 0
    cluster = {"worker": addresses[chiefs:]} | ({"chief": addresses[:1]} if with_chief else {})
    tasks = [{"type": "chief", "index": 0}] * chiefs
    tasks += [{"type": "worker", "index": index} for index in range(count - chiefs)]
    return [json.dumps({"cluster": cluster, "task": task}) for task in tasks]


@contextlib.contextmanager
def workers(
    target: Callable, arguments: Callable[[int], tuple], folder: pathlib.Path, count: int = 2, with_chief: bool = False
) -> Iterator[list[Process]]:
    """Starts a cluster, the chief first; kills inside's end what is left of it.

    Args:
      target: called in each process.
      arguments: number of the worker -> of the function.
      folder: gets `worker0` and so on, with what each prints.
      count: of the workers.
      with_chief: whether TF_CONFIG has the job "chief".
    """
    started: list[Process] = []
    try:
        for index, value in enumerate(tf_configs(count, with_chief)):
            place = folder / f"worker{index}"
            started.append(Process(target, arguments(index), place, {"TF_CONFIG": value, "CUDA_VISIBLE_DEVICES": "-1"}))
        yield started
    finally:
        for process in started:
            process.kill()


def finish(processes: list[Process], seconds: float) -> list[Result]:
    """Waits until all have ended, no longer than so long altogether."""
    end = time.monotonic() + seconds
    return [process.finish(end - time.monotonic()) for process in processes]
