# SPDX-License-Identifier: Apache-2.0
"""Runs an export in a process of its own and compares it with recorded results.

This file runs alone, as a script: it imports nothing of this library, so that what it loads must stand on its own.

  python check.py EXPORT RECORDED
"""

import json
import os
import sys

import numpy as np

# Share of an image's pixels. A process of its own may choose other kernels on a GPU, which round differently.
SAME = 0.001
MAPS = ("semantic", "instance", "panoptic")
OUTPUTS = ("semantic_logits", "center_heatmap", "offset_map")


def problems(expected: dict, found: dict, label_divisor: int, tolerance: float = SAME) -> list[str]:
    """What tells two predictions of one image apart.

    Instances are compared as segments, whatever their numbers: one centre more or less moves the numbers of all that
    follow.

    Args:
      expected: prediction entries, or outputs of heads.
      found: likewise.
      label_divisor: panoptic id = class * label_divisor + instance id.
      tolerance: largest share of pixels that may be of another class, or in another segment. For outputs of heads: the
        largest norm of the difference, as a share of the norm of what is expected.

    Returns:
      One line for each entry that differs; empty if none does.
    """
    if set(expected) != set(found):
        return [f"has the entries {', '.join(sorted(found))}; expected: {', '.join(sorted(expected))}"]
    lines, same = [], True
    for key in sorted(expected, key=lambda key: key not in MAPS):  # maps first
        a, b = np.asarray(expected[key]), np.asarray(found[key])
        if a.shape != b.shape or a.dtype != b.dtype:
            lines.append(f"{key} is {b.dtype} {list(b.shape)}; expected: {a.dtype} {list(a.shape)}")
            continue
        if key in MAPS:
            share = differing_pixels(key, a, b, label_divisor)
            same = same and not (a != b).any()
        elif key in OUTPUTS:
            share = np.linalg.norm(np.float64(a) - b) / max(np.linalg.norm(np.float64(a)), 1e-12)
        else:
            # What is said of each instance: one more would move the others to other slots.
            share = np.mean(~np.isclose(a, b, rtol=tolerance, atol=tolerance)) if same else 0.0
        if not share <= tolerance:
            lines.append(f"{key} differs by {share:.2%}; allowed: {tolerance:.2%}")
    return lines


def differing_pixels(key: str, a: np.ndarray, b: np.ndarray, label_divisor: int) -> float:
    """Share of an image's pixels of another class or in another segment; `key` is one of MAPS."""
    if key == "semantic":
        return float(np.mean(a != b))
    if key == "panoptic":
        return max(_moved(a, b), float(np.mean(a // label_divisor != b // label_divisor)))
    return _moved(a, b)


def _moved(a: np.ndarray, b: np.ndarray) -> float:
    """Share of pixels outside the largest overlaps of segments, looked at from whichever map has more of them."""
    (rows, i), (columns, j) = (np.unique(x.ravel(), return_inverse=True) for x in (a, b))
    pairs = np.bincount(i.ravel() * columns.size + j.ravel(), minlength=rows.size * columns.size)
    pairs = pairs.reshape(rows.size, columns.size)
    return 1.0 - min(pairs.max(0).sum(), pairs.max(1).sum()) / a.size


def _functions(export: str):
    """Name of a signature -> function of an image [H, W, 3] or of the bytes of its file."""
    import tensorflow as tf

    if os.path.exists(os.path.join(export, "model.tflite")):
        return {"raw": _lite(os.path.join(export, "model.tflite"))}
    signatures = tf.saved_model.load(export).signatures
    return {
        "serving_default": lambda image: signatures["serving_default"](images=tf.constant(image[None])),
        "raw": lambda image: signatures["raw"](images=tf.constant(image[None])),
        "encoded": lambda file: signatures["encoded"](image_bytes=tf.constant([file.tobytes()])),
    }


def _lite(path: str):
    """The function of a LiteRT model; the newer package of its interpreter is preferred."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        from tensorflow import lite

        Interpreter = lite.Interpreter
    runner = Interpreter(model_path=path).get_signature_runner("raw")
    return lambda image: runner(images=image[None])


def main(export: str, recorded: str) -> int:
    """Compares; `recorded` holds settings.json and, for each image, files N.SIGNATURE.npz."""
    with open(os.path.join(recorded, "settings.json"), encoding="utf-8") as file:
        settings = json.load(file)
    functions = _functions(export)
    lines = []
    for name in sorted(name for name in os.listdir(recorded) if name.endswith(".npz")):
        with np.load(os.path.join(recorded, name)) as arrays:
            expected = dict(arrays)
        given = expected.pop("input")
        found = {key: np.asarray(value) for key, value in functions[name.split(".")[1]](given).items()}
        lines += [f"{name}: {line}" for line in problems(expected, found, **settings)]
    # Keras may be there: with TF_USE_LEGACY_KERAS TensorFlow 2.15 imports it by itself.
    ours = sorted(name for name in sys.modules if name.split(".")[0] == "deeplab_axial")
    lines += [f"needs the code of the model to load: {', '.join(ours[:3])}"] if ours else []
    print(*lines, sep="\n", end="")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
