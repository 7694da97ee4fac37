# SPDX-License-Identifier: Apache-2.0
"""The exceptions that the command line turns into one message."""


class InputError(ValueError):
    """A config, data set, image or checkpoint is not usable.

    The message names the file, the field, what was received and what to do. The command line prints the message alone
    and exits with status 1; every other exception keeps its traceback.
    """


class NonFiniteLoss(ArithmeticError):
    """A loss term or the gradient is not a finite number; the message names the step and every term."""


class Interrupted(Exception):
    """SIGTERM came, and a checkpoint was written first."""
