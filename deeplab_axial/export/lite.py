# SPDX-License-Identifier: Apache-2.0
"""LiteRT (TFLite) models of the raw network."""

import os
import tempfile

import tensorflow as tf

from deeplab_axial import files

MODEL_FILE = "model.tflite"
# How far outputs may be from TensorFlow's, see check.problems, by the quantization of the weights.
TOLERANCE = {"none": 0.001, "float16": 0.01, "int8": 0.2}


def save(module: tf.Module, folder: str, quantization: str) -> None:
    """Converts `module.raw` and writes it to MODEL_FILE in a folder.

    LiteRT's built-in operations suffice, as long as attention does not go in loops over rows: make the network with
    attention_logits_at_once so large that it does not.

    Args:
      module: of `signatures.build`, for a batch of one and one size.
      folder: is made.
      quantization: of `Variant`.
    """
    os.makedirs(folder)
    with tempfile.TemporaryDirectory(dir=folder) as saved:
        alone = tf.Module()  # saving a module traces all functions that it has
        alone.weights, alone.raw = module.weights, module.raw
        tf.saved_model.save(alone, saved, signatures={"raw": module.raw})
        converter = tf.lite.TFLiteConverter.from_saved_model(files.without_glob(saved), signature_keys=["raw"])
        if quantization != "none":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantization == "float16":
            converter.target_spec.supported_types = [tf.float16]
        content = converter.convert()
    with open(os.path.join(folder, MODEL_FILE), "wb") as file:
        file.write(content)
