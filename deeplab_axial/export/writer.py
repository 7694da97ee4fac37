# SPDX-License-Identifier: Apache-2.0
"""Exports a predictor: folds, traces, saves, checks in a fresh process, and only then puts the folder in place."""

import contextlib
import dataclasses
import datetime
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf

from deeplab_axial import locks
from deeplab_axial.errors import InputError
from deeplab_axial.export import check, lite, signatures
from deeplab_axial.export.metadata import METADATA_FILE, Metadata, Variant
from deeplab_axial.inference import Predictor
from deeplab_axial.layers import normalization

# What may differ from evaluation, see check.problems: where another rounding may decide otherwise.
TOLERANCE = {"float32": 0.01, "mixed_bfloat16": 0.05}


def write(
    predictor: Predictor,
    metadata: Metadata,
    output_dir: str,
    samples: Sequence[np.ndarray],
    variant: Variant | None = None,
    evaluation: Predictor | None = None,
    version: int | None = None,
) -> str:
    """Exports a predictor, its batch normalisations folded: its model is for inference only from then on.

    The functions of `signatures.build` become the signatures `serving_default`, `encoded` and `raw`; a LiteRT model
    has `raw` alone, for a batch of one. What is exported must predict what evaluation predicts (TOLERANCE, or
    lite.TOLERANCE), and predict it again in a fresh process that does not know this library (check.SAME); the folder
    appears only then.

    Args:
      predictor: the network with its post-processing.
      metadata: see `Metadata`; variant, padding, tensorflow_version and created are filled in.
      output_dir: a folder that does not exist or is empty; with a version, a folder that may hold others.
      samples: images [H, W, 3] uint8 to compare on, at least one; resized if the variant has an input_size.
      variant: see `Variant`; None: the SavedModel for any size.
      evaluation: predicts as evaluation does; None: the predictor, as it is before folding.
      version: of TensorFlow Serving; the export is written to output_dir/version.

    Returns:
      The folder of the export.

    Raises:
      InputError: the folder is in use or cannot be written.
      RuntimeError: the export predicts something else.
      ValueError: there is no sample.
    """
    if not samples:
        raise ValueError("samples must hold one image or more. Received: none")
    variant = variant or Variant()
    target = os.path.abspath(output_dir if version is None else os.path.join(output_dir, str(version)))
    _check_target(target)
    with contextlib.ExitStack() as stack:
        with _explain_errors(target):
            # Hidden from model servers, which look for numbers.
            partial = stack.enter_context(locks.partial_folder(target, "export"))
        samples = [_fitted(image, variant) for image in samples]
        expected = [_expected(evaluation or predictor, image, variant) for image in samples]
        normalization.fold_batch_norm(predictor.model)
        module = signatures.build(
            predictor, variant, batch=1 if variant.format == "tflite" else None, value_range=metadata.value_range
        )
        results = _results(module, samples, variant)
        _compare_with_evaluation(expected, results, metadata)
        export, recorded = os.path.join(partial, "export"), os.path.join(partial, "check")
        with _explain_errors(target):
            _save(module, variant, export)
            now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
            _write_text(
                os.path.join(export, METADATA_FILE),
                dataclasses.replace(
                    metadata,
                    variant=variant,
                    padding=predictor.padding,
                    tensorflow_version=tf.__version__,
                    created=now,
                ).to_json(),
            )
            _record(recorded, samples, results, metadata, variant)
        _check(export, recorded)
        with _explain_errors(target):
            if os.path.isdir(target):
                os.rmdir(target)
            os.replace(export, target)
    return target


def _check_target(target: str) -> None:
    if os.path.isdir(target) and os.listdir(target):
        raise InputError(f"--output_dir={target} is not empty. Name a new folder, or remove this one first.")


@contextlib.contextmanager
def _explain_errors(target: str) -> Iterator[None]:
    """Turns what a full disk or a folder without permission causes into an InputError."""
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(
            f"--output_dir={target} cannot be written ({reason}). Free space there, or name another folder."
        ) from error


def _fitted(image: np.ndarray, variant: Variant) -> np.ndarray:
    if variant.input_size in (None, image.shape[:2]):
        return image
    return tf.cast(tf.round(tf.image.resize(image, variant.input_size)), tf.uint8).numpy()


def _expected(predictor: Predictor, image: np.ndarray, variant: Variant) -> dict[str, np.ndarray]:
    images = tf.constant(image[None])
    if variant.format == "tflite":
        x, _ = predictor.prepare(images)
        return _numpy(predictor.model(x, training=False, scale=1.0))
    return _numpy(predictor.predict_images(images))


def _results(module: tf.Module, samples: Sequence[np.ndarray], variant: Variant) -> list[dict[str, dict]]:
    """Name of a signature -> what its function returns here, for each image."""
    functions = {"raw": module.raw}
    if variant.format == "saved_model":
        functions["serving_default"] = module.serve
    return [{name: _numpy(function(image[None])) for name, function in functions.items()} for image in samples]


def _numpy(entries: Mapping[str, tf.Tensor]) -> dict[str, np.ndarray]:
    return {key: value.numpy() for key, value in entries.items()}


def _compare_with_evaluation(expected, results, metadata: Metadata) -> None:
    tolerance = TOLERANCE[metadata.precision]
    divisor = metadata.label_space.label_divisor
    for number, (wanted, found) in enumerate(zip(expected, results)):
        found = found.get("serving_default", found["raw"])
        problems = check.problems(wanted, found, divisor, tolerance)
        if problems:
            raise RuntimeError(
                f"The export does not predict what evaluation does, on image {number}: {'; '.join(problems)}. Its "
                "batch normalisations may have degenerate statistics: evaluate the checkpoint, or train it further."
            )


def _save(module: tf.Module, variant: Variant, folder: str) -> None:
    if variant.format == "tflite":
        lite.save(module, folder, variant.quantization)
        return
    named = {"serving_default": module.serve, "encoded": module.encoded, "raw": module.raw}
    tf.saved_model.save(module, folder, signatures=named)


def _record(folder: str, samples, results, metadata: Metadata, variant: Variant) -> None:
    """Writes what the fresh process compares with."""
    tolerance = lite.TOLERANCE[variant.quantization] if variant.format == "tflite" else check.SAME
    settings = {"label_divisor": metadata.label_space.label_divisor, "tolerance": tolerance}
    _write_text(os.path.join(folder, "settings.json"), json.dumps(settings))
    for number, (image, entries) in enumerate(zip(samples, results)):
        for name, arrays in entries.items():
            np.savez(os.path.join(folder, f"{number}.{name}.npz"), input=image, **arrays)
        if "serving_default" in entries:
            # A PNG keeps every pixel, so that its prediction is the image's.
            file = np.frombuffer(tf.io.encode_png(image).numpy(), np.uint8)
            np.savez(os.path.join(folder, f"{number}.encoded.npz"), input=file, **entries["serving_default"])


def _write_text(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def _check(export: str, recorded: str) -> None:
    # A copy in a folder of its own: Python searches the folder of a script for what it imports.
    script = shutil.copy(check.__file__, recorded)
    # From inside: TensorFlow does not find the variables below a folder named "run[1]".
    command = [sys.executable, script, os.curdir, recorded]
    result = subprocess.run(command, cwd=export, capture_output=True, text=True, check=False)
    if result.returncode:
        problems = result.stdout or result.stderr[-4000:]
        raise RuntimeError(f"The export, loaded again, does not predict what the model does:\n{problems}")
