# SPDX-License-Identifier: Apache-2.0
"""The processes of a training on several machines: who writes, what they agree on, and when one of them is gone."""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator

import tensorflow as tf

from deeplab_axial.errors import Interrupted, NonFiniteLoss, WorkerLost
from deeplab_axial.training import checkpoint_files

# As TensorFlow names a worker.
_TASK = re.compile(r"/job:(\w+)/(?:replica:\d+/)?task:(\d+)")
# What the others see of a worker that is gone.
_KINDS = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.InternalError,
    tf.errors.UnavailableError,
    tf.errors.UnknownError,
)


class Workers:
    """The processes that train together: those of a `MultiWorkerMirroredStrategy`; one with any other strategy.

    Methods that say "together" wait until all workers have called them; what all compute together, TensorFlow's
    collective operations, must come in the same order on each.

    Args:
      strategy: what trains; None: one device.

    Attributes:
      count: how many there are.
      is_chief: whether this one writes to the model's folder and to the screen.
    """

    def __init__(self, strategy: tf.distribute.Strategy | None = None):
        self.count, self.is_chief = 1, True
        self._own = ("worker", 0)
        self._replicas = 1  # of each worker
        self._addresses: dict[str, list[str]] = {}
        if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            return
        resolver = strategy.cluster_resolver
        jobs = resolver.cluster_spec().as_dict()
        self._addresses = {job: jobs[job] for job in ("chief", "worker") if job in jobs}
        self.count = sum(map(len, self._addresses.values()))
        self._own = (resolver.task_type, resolver.task_id)
        self.is_chief = self._own == ("chief" if "chief" in jobs else "worker", 0)
        self._replicas = strategy.num_replicas_in_sync // self.count

        def total(value):
            return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(tf.identity, (value,)), axis=None)

        self._total = tf.function(total, autograph=False)

    def any(self, flag: bool) -> bool:
        """Whether the flag is True on at least one worker; together."""
        return flag if self.count == 1 else bool(self._total(tf.constant(float(flag))).numpy() > 0)

    def agree(self, number: int) -> bool:
        """Whether all workers have the number that the chief has, below 2^53; together."""
        if self.count == 1:
            return True
        total = self._total(tf.constant(number if self.is_chief else 0, tf.float64)).numpy()
        return not self.any(number != total / self._replicas)

    def wait(self) -> None:
        """Returns when all workers are here; together."""
        self.any(False)

    @contextlib.contextmanager
    def job(self, folder: str) -> Iterator[str]:
        """The whole work of a worker, which all end together. Only the chief prints inside.

        Args:
          folder: of the model, the same for all workers.

        Yields:
          The folder that this worker writes to: the chief's is `folder`, the others have a temporary one.

        Raises:
          WorkerLost: another worker is gone; names the newest checkpoint.
        """
        with contextlib.ExitStack() as stack:
            own = folder
            if not self.is_chief:
                own = stack.enter_context(tempfile.TemporaryDirectory())
                nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
                stack.enter_context(contextlib.redirect_stdout(nowhere))
            try:
                try:
                    yield own
                except (Interrupted, NonFiniteLoss):  # on all workers, after the same step
                    self._leave()
                    raise
                self._leave()
            except tf.errors.OpError as error:
                if not self.tells_loss(error):
                    raise
                known = checkpoint_files.listed(folder)
                path = known[-1] if known else None
                raise WorkerLost(
                    f"{self._name_lost(str(error))} is gone, and no worker can go on without it. Its own output tells "
                    "why. Restart all workers with the same commands: training resumes from "
                    f"{path or 'the start'}."
                ) from error

    def tells_loss(self, error: Exception) -> bool:
        """Whether an error tells that another worker is gone, and not of something wrong in this process."""
        if self.count == 1 or not isinstance(error, _KINDS):
            return False
        # A file system that does not answer is Unavailable, too.
        return bool(re.search("[Cc]ollective|NCCL", str(error))) or self._lost_task(str(error)) is not None

    def _leave(self) -> None:
        """Lets the process end without the others taking it for dead; together."""
        self.wait()
        # Who ends first may cut this second meeting short: all have passed the first one then, and nothing is lost.
        with contextlib.suppress(tf.errors.OpError):
            self.wait()

    def _lost_task(self, message: str) -> tuple[str, int] | None:
        """(job, index) of the first worker in TensorFlow's message that is not this one."""
        tasks = ((job, int(index)) for job, index in _TASK.findall(message))
        return next((task for task in tasks if task != self._own), None)

    def _name_lost(self, message: str) -> str:
        """ "Worker 1 (host:port)" if the message tells, else "Another worker"."""
        task = self._lost_task(message)
        if task is None or task[1] >= len(self._addresses.get(task[0], [])):
            return "Another worker"
        job, index = task
        return f"{job.capitalize()} {index} ({self._addresses[job][index]})"
