# SPDX-License-Identifier: Apache-2.0
"""Writes checkpoints whose object graph is that of DeepLab2."""

from collections.abc import Iterable, Mapping

import numpy as np
import tensorflow as tf
import tf_keras

from deeplab_axial.importing import deeplab2_names

NORM = ("gamma", "beta", "moving_mean", "moving_variance")


def random_arrays(entries: Iterable[deeplab2_names.Entry], seed: int = 0) -> dict[str, np.ndarray]:
    """Random values for rows of the table, in DeepLab2's shapes; a network with them gives finite numbers."""
    rng = np.random.default_rng(seed)

    def values(key, shape):
        if key.split("/")[-1] in NORM:
            return rng.uniform(0.5, 1.5, shape)
        return rng.normal(0, np.prod(shape[:-1]) ** -0.5, shape)

    return {entry.key: values(entry.key, entry.shape).astype(np.float32) for entry in entries}


def of_model(model: tf_keras.Model, seed: int = 0) -> dict[str, np.ndarray]:
    """Random values for everything that DeepLab2 has of a model."""
    return random_arrays((entry for part in deeplab2_names.parts(model) for entry in part.entries), seed)


def write(
    path: str, arrays: Mapping[str, np.ndarray], global_step: int | None = 7, with_optimizer: bool = False
) -> str:
    """Writes arrays under their keys, each a variable at a path of attributes, and returns the prefix.

    Args:
      path: prefix of the checkpoint.
      arrays: key without suffix -> value.
      global_step: None for a checkpoint without.
      with_optimizer: adds the slot variables of Adam as Keras kept them in 2021, under the keys of the variables.
    """
    roots: dict[str, tf.Module] = {}
    variables = []
    for key, array in arrays.items():
        first, *names, last = key.split("/")
        node = roots.setdefault(first, tf.Module())
        for name in names:
            if not hasattr(node, name):
                setattr(node, name, tf.Module())
            node = getattr(node, name)
        variables.append(tf.Variable(array))
        setattr(node, last, variables[-1])
    objects = dict(roots)
    if global_step is not None:
        objects["global_step"] = tf.Variable(global_step, dtype=tf.int64)
    if with_optimizer:
        objects["optimizer"] = tf_keras.optimizers.legacy.Adam()
        objects["optimizer"].apply_gradients([(tf.zeros_like(v), v) for v in variables])
    return tf.train.Checkpoint(**objects).save(path)


def conv(prefix: str, kernel: str = "_conv/kernel") -> set[str]:
    """Keys of a convolution with batch normalisation."""
    return {f"{prefix}/{kernel}", *(f"{prefix}/_batch_norm/{name}" for name in NORM)}


def separable(prefix: str) -> set[str]:
    """Keys of a depthwise-separable convolution with two batch normalisations."""
    return conv(f"{prefix}/_depthwise", "_depthwise_conv/depthwise_kernel") | conv(f"{prefix}/_pointwise")


def switchable(prefix: str, switch: bool = True) -> set[str]:
    """Keys of a switchable atrous convolution; with a stride, it has no switch."""
    contexts = {
        f"{prefix}/_{place}_global_context/convolution/{name}"
        for place in ("pre", "post")
        for name in ("kernel", "bias")
    }
    own = {f"{prefix}/_conv/_switch/{name}" for name in ("kernel", "bias")} if switch else set()
    return conv(prefix) | contexts | own


def attention(prefix: str, tables: Iterable[str] = ("query", "key", "value")) -> set[str]:
    """Keys of attention along both axes."""
    keys = set()
    for axis in ("_height_axis", "_width_axis"):
        here = f"{prefix}/_attention/{axis}"
        keys |= {f"{here}/qkv_kernel", *(f"{here}/_{table}_rpe/embeddings" for table in tables)}
        for norm in ("qkv", "similarity", "retrieved_output"):
            keys |= {f"{here}/_batch_norm_{norm}/{name}" for name in NORM}
    return keys
