# SPDX-License-Identifier: Apache-2.0
"""What kind of device layers are traced for: some compute the same in another way on a CPU."""

import contextlib
import os
from collections.abc import Iterator

import tensorflow as tf

# Prefixes of Cloud TPU's accelerator types, which its machines have in TPU_ACCELERATOR_TYPE: "v5litepod-8".
_CHIPS = {"v2": "v2", "v3": "v3", "v4": "v4", "v5litepod": "v5e", "v5p": "v5p", "v6e": "v6e"}

_assumed = False
_assumed_chip = ""


def is_accelerator() -> bool:
    """Whether layers are traced for a GPU or TPU: this process sees one, or `assume_accelerator` says so."""
    return _assumed or bool(tf.config.list_logical_devices("GPU") + tf.config.list_logical_devices("TPU"))


def tpu_chip() -> str | None:
    """The chip that layers are traced for, "v5e"; "" for a TPU of unknown kind, None for another device."""
    if _assumed_chip:
        return _assumed_chip
    if _assumed or not tf.config.list_logical_devices("TPU"):
        return None
    return _CHIPS.get(os.environ.get("TPU_ACCELERATOR_TYPE", "").partition("-")[0], "")


@contextlib.contextmanager
def assume_accelerator(chip: str = "") -> Iterator[None]:
    """Inside, layers are traced as for an accelerator that this machine need not have. Not for several threads.

    Args:
      chip: of a TPU, "v5e"; "" for no TPU.
    """
    global _assumed, _assumed_chip
    before = _assumed, _assumed_chip
    _assumed, _assumed_chip = True, chip
    try:
        yield
    finally:
        _assumed, _assumed_chip = before
