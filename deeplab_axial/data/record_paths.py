# SPDX-License-Identifier: Apache-2.0
"""The files behind a file_pattern."""

import os
import re

import tensorflow as tf

_WILDCARD = re.compile(r"([*?\[\\])")


def matching(pattern: str) -> list[str]:
    """The files that a pattern stands for, sorted; anywhere that `tf.io.gfile` reads.

    What exists under the very name is no pattern, and the folders that it starts with are taken literally where they
    exist: in a folder "run[1]", "run[1]/*.tfrecord" finds files.
    """
    if tf.io.gfile.exists(pattern):
        return [pattern]
    parts = pattern.split(os.sep)
    for count in range(len(parts) - 1, 0, -1):
        root = os.sep.join(parts[:count])
        if _WILDCARD.search(root) and tf.io.gfile.isdir(root):
            # What the glob function finds, it gives back without the backslashes.
            return sorted(tf.io.gfile.glob(os.sep.join([_WILDCARD.sub(r"\\\1", root), *parts[count:]])))
    return sorted(tf.io.gfile.glob(pattern))
