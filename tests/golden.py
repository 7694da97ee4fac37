# SPDX-License-Identifier: Apache-2.0
"""Reads the fixtures that were computed with DeepLab2; they lie beside the checkout, not in it."""

import pathlib

import numpy as np
import pytest

FOLDER = pathlib.Path(__file__).parents[2] / "shared" / "data" / "golden"
_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"


def load(name: str) -> dict[str, np.ndarray]:
    """The arrays of a fixture by name, "w:" entries under their checkpoint keys without the suffix; skips if absent."""
    path = FOLDER / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"the fixture {name}.npz needs the folder ../shared/data/golden beside the checkout")
    with np.load(path) as arrays:
        return {key.replace(_SUFFIX, ""): arrays[key] for key in arrays.files}


def weights(arrays: dict[str, np.ndarray], prefix: str = "w:") -> dict[str, np.ndarray]:
    """The weights of a fixture under their checkpoint keys."""
    return {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}
