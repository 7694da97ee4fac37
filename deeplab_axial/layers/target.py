# SPDX-License-Identifier: Apache-2.0
"""What kind of device layers are traced for: some compute the same in another way on a CPU."""

import contextlib
from collections.abc import Iterator

import tensorflow as tf

_assumed = False


def is_accelerator() -> bool:
    """Whether layers are traced for a GPU or TPU: this process sees one, or `assume_accelerator` says so."""
    return _assumed or bool(tf.config.list_logical_devices("GPU") + tf.config.list_logical_devices("TPU"))


@contextlib.contextmanager
def assume_accelerator() -> Iterator[None]:
    """Inside, layers are traced as for an accelerator that this machine need not have. Not for several threads."""
    global _assumed
    before, _assumed = _assumed, True
    try:
        yield
    finally:
        _assumed = before
