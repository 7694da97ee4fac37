# SPDX-License-Identifier: Apache-2.0
"""SavedModels: written, checked in a fresh process, and only then put in place."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from deeplab_axial import keys
from deeplab_axial.data.label_space import LabelSpace
from deeplab_axial.errors import InputError
from deeplab_axial.inference import Predictor
from deeplab_axial.layers import normalization

# In the SavedModel's folder for extra assets, which loaders leave alone.
METADATA_FILE = os.path.join("assets.extra", "deeplab_axial.json")
# Share of an image's pixels where another rounding may decide otherwise.
_ROUNDING = 0.01


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What an export says about itself.

    Attributes:
      label_space: meaning of the class ids.
      config: the experiment, in text format.
      step: training steps behind the weights.
      version: of this library.
      metrics: of the last evaluation, or None.
    """

    label_space: LabelSpace
    config: str
    step: int
    version: str
    metrics: dict | None = None


def write(predictor: Predictor, metadata: Metadata, output_dir: str, samples: Sequence[np.ndarray]) -> None:
    """Exports a predictor, its batch normalisations folded: its model is for inference only from then on.

    The signature `serving_default` takes `images`, [B, H, W, 3] uint8 RGB of any size, and returns the prediction
    entries of keys.TABLE. The export is loaded again in a fresh process and must predict there what the predictor
    predicts here, pixel for pixel; the folder appears only then.

    Args:
      predictor: the network with its post-processing.
      metadata: see `Metadata`.
      output_dir: a folder that does not exist or is empty.
      samples: images [H, W, 3] uint8 to compare on.

    Raises:
      InputError: the folder is in use or cannot be written.
      RuntimeError: folding changed what the model predicts, or the reloaded export predicts something else.
    """
    output_dir = os.path.abspath(output_dir)
    if os.path.isdir(output_dir) and os.listdir(output_dir):
        raise InputError(f"--output_dir={output_dir} is not empty. Name a new folder, or remove this one first.")
    parent = os.path.dirname(output_dir)
    try:
        os.makedirs(parent, exist_ok=True)
        partial = tempfile.mkdtemp(prefix=f".{os.path.basename(output_dir)}.", dir=parent)
    except OSError as error:
        raise InputError(f"--output_dir={output_dir} cannot be written ({error}). Name another folder.") from error
    try:
        _fold(predictor, samples)
        saved, check = os.path.join(partial, "saved_model"), os.path.join(partial, "check")
        function = _save(predictor, saved)
        _write_metadata(metadata, saved)
        _compare(function, saved, check, samples)
        if os.path.isdir(output_dir):
            os.rmdir(output_dir)
        os.replace(saved, output_dir)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _fold(predictor: Predictor, samples: Sequence[np.ndarray]) -> None:
    before = [predictor.predict_images(image[None])[keys.PANOPTIC_MAP].numpy() for image in samples]
    normalization.fold_batch_norm(predictor.model)
    for panoptic, image in zip(before, samples):
        differing = np.mean(predictor.predict_images(image[None])[keys.PANOPTIC_MAP].numpy() != panoptic)
        if differing > _ROUNDING:
            raise RuntimeError(
                f"Without batch normalisation the model predicts other classes or instances in {differing:.2%} of the "
                "pixels of an image. Its statistics may be degenerate: evaluate the checkpoint, or train it further."
            )


def _save(predictor: Predictor, folder: str):
    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")], autograph=False)
    def serve(images):
        return predictor.predict_images(images)

    # A bare module: saving the Keras model itself would trace every layer for a second time.
    module = tf.Module()
    module.weights = predictor.model.weights
    module.serve = serve
    tf.saved_model.save(module, folder, signatures=serve)
    return serve


def _write_metadata(metadata: Metadata, folder: str) -> None:
    path = os.path.join(folder, METADATA_FILE)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    content = {**dataclasses.asdict(metadata), "label_space": metadata.label_space.to_dict()}
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)


def _compare(function, saved: str, check: str, samples: Sequence[np.ndarray]) -> None:
    os.makedirs(check)
    for i, image in enumerate(samples):
        predictions = {key: value.numpy() for key, value in function(image[None]).items()}
        np.savez(os.path.join(check, f"{i}.npz"), image=image, **predictions)
    command = [sys.executable, "-m", "deeplab_axial.export", saved, check]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        problems = result.stdout or result.stderr[-4000:]
        raise RuntimeError(f"The export does not predict what the model does:\n{problems}")


def load(folder: str) -> tuple[tf.Module, Metadata]:
    """Loads an export.

    Returns:
      The loaded module, whose `serve` maps images [B, H, W, 3] uint8 to predictions, and its metadata.

    Raises:
      InputError: the folder is no export of this library.
    """
    path = os.path.join(folder, METADATA_FILE)
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        metadata = Metadata(**{**content, "label_space": LabelSpace.from_dict(content["label_space"])})
        module = tf.saved_model.load(folder)
    except (OSError, ValueError, LookupError, TypeError, tf.errors.OpError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(
            f"{folder!r} is no export of deeplab-axial ({reason}). Make one with `deeplab-axial export`."
        ) from error
    return module, metadata


def _check(saved: str, check: str) -> int:
    """Compares a reloaded export with recorded predictions; the fresh process of `write`."""
    module, _ = load(saved)
    problems = []
    for name in sorted(os.listdir(check)):
        with np.load(os.path.join(check, name)) as recorded:
            predictions = module.serve(tf.constant(recorded["image"][None]))
            for key in set(recorded.files) - {"image"}:
                got, expected = predictions[key].numpy(), recorded[key]
                # Scores are sums of floats; a map has to be the same in every pixel.
                same = np.allclose(got, expected, atol=1e-5) if key == keys.CENTER_SCORES else (got == expected).all()
                if not same:
                    problems.append(f"{name}: {key} differs in {np.mean(got != expected):.2%} of its entries")
    print(*problems, sep="\n", end="")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(_check(*sys.argv[1:]))
