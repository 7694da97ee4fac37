# SPDX-License-Identifier: Apache-2.0
"""The exceptions that the command line turns into one message."""

import signal


class InputError(ValueError):
    """A config, data set, image or checkpoint is not usable.

    The message names the file, the field, what was received and what to do. The command line prints the message alone
    and exits with status 1; every other exception keeps its traceback.
    """


class NonFiniteLoss(ArithmeticError):
    """A loss term or the gradient is not a finite number; the message names the step and every term."""


class WorkerLost(Exception):
    """Another process of the training is gone; the message names it and says what to do."""


class Terminated(KeyboardInterrupt):
    """SIGTERM came. What is cleaned up after Ctrl-C is after this, too; the command line exits with status 143."""


class Interrupted(Exception):
    """SIGTERM or SIGINT (Ctrl-C) came, and a checkpoint was written first.

    Args:
      message: what was done.
      signal_number: of the signal; the command line exits with 128 + this, as a shell reports it.
    """

    def __init__(self, message: str, signal_number: int = signal.SIGTERM):
        super().__init__(message)
        self.signal_number = signal_number
