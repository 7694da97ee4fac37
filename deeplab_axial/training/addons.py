# SPDX-License-Identifier: Apache-2.0
"""Optimizers of tensorflow-addons, by class name, for configs that say `optimizer: "tfa.<ClassName>"`."""

import difflib
import importlib
import os
from typing import Any

import tf_keras

from deeplab_axial.errors import InputError

LegacyOptimizer = tf_keras.optimizers.legacy.Optimizer


def tfa_optimizer(class_name: str, **kwargs: Any) -> LegacyOptimizer:
    """Makes an optimizer of tensorflow-addons.

    They are legacy Keras optimizers: `apply_gradients` takes `experimental_aggregate_gradients=False` in place of
    `skip_gradients_aggregation=True`, and `tf_keras.optimizers.Optimizer` is not their base class.

    Args:
        class_name: as in `tfa.optimizers`, without "tfa."; for example "RectifiedAdam".
        **kwargs: arguments of the class.

    Returns:
        The optimizer.

    Raises:
        InputError: if tensorflow-addons is not installed or runs on another Keras than this library, or if the name or
            an argument is unknown.
    """
    classes = _optimizer_classes()
    if class_name not in classes:
        near = difflib.get_close_matches(class_name, classes, n=3) or sorted(classes)
        raise InputError(
            f"optimizer: tensorflow-addons has no optimizer of this name. Received: 'tfa.{class_name}'. "
            f"Use {' or '.join('tfa.' + name for name in near)}."
        )
    try:
        return classes[class_name](**kwargs)
    except TypeError as error:
        raise InputError(
            f"optimizer: tfa.{class_name} cannot be made from a config. Received: {sorted(kwargs)} ({error}). "
            "Choose an optimizer that needs no other argument."
        ) from error


def _optimizer_classes() -> dict[str, type]:
    try:
        module = importlib.import_module("tensorflow_addons.optimizers")
    except ImportError as error:
        raise InputError(
            f"optimizer: 'tfa.' optimizers need tensorflow-addons, which cannot be imported. Received: {error}. "
            "Install it with pip install 'deeplab-axial[addons]' on Python 3.10 or 3.11 (it brings TensorFlow 2.15), "
            "or use radam with lookahead."
        ) from error
    classes = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, LegacyOptimizer) and value is not LegacyOptimizer
    }
    # tensorflow-addons builds on tf.keras, which TensorFlow binds to a Keras while it is imported: too late to change
    # it here. With another Keras the addons would take our learning rate schedules for functions without arguments.
    if not classes:
        raise InputError(
            "optimizer: tensorflow-addons was loaded with a Keras other than tf_keras. Received: TF_USE_LEGACY_KERAS="
            f"{os.environ.get('TF_USE_LEGACY_KERAS')!r}. Set TF_USE_LEGACY_KERAS=1 before Python starts."
        )
    return classes
