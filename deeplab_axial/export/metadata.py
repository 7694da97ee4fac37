# SPDX-License-Identifier: Apache-2.0
"""What an export says about itself, and how it is read again."""

import contextlib
import dataclasses
import json
import os
import pathlib
import subprocess
from typing import Any

import tensorflow as tf

from deeplab_axial import files, json_files
from deeplab_axial.choices import MINIMAL
from deeplab_axial.data import value_range as value_ranges
from deeplab_axial.data.label_space import LabelSpace
from deeplab_axial.data.value_range import ValueRange
from deeplab_axial.errors import InputError
from deeplab_axial.json_files import Count

# In the SavedModel's folder for extra assets, which loaders leave alone.
METADATA_FILE = os.path.join("assets.extra", "deeplab_axial.json")
# What TensorFlow opens.
_PARTS = ("saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001")
_REMEDY = "Export the checkpoint again with `deeplab-axial export`, or bring the file back."


@dataclasses.dataclass(frozen=True)
class Variant:
    """Which of the exports of a network is meant.

    Attributes:
      format: "saved_model", or "tflite" for a LiteRT model of the raw network alone.
      input_size: (height, width) of the images that it takes; None for any.
      xla: whether XLA compiles it, once for each size of a batch.
      quantization: of a LiteRT model's weights: "none", "float16" or "int8" (with a range for each channel; sums stay
        float32).
    """

    format: str = "saved_model"
    input_size: tuple[int, int] | None = None
    xla: bool = False
    quantization: str = "none"

    def __post_init__(self):
        if self.format not in ("saved_model", "tflite"):
            raise ValueError(f'format must be "saved_model" or "tflite". Received: {self.format!r}')
        if self.quantization not in ("none", "float16", "int8"):
            raise ValueError(f'quantization must be "none", "float16" or "int8". Received: {self.quantization!r}')
        lite = self.format == "tflite"
        if self.input_size is None and (self.xla or lite):
            raise ValueError(f"XLA and LiteRT compile for one input_size. Received: {self}. Give it")
        if self.xla and lite:
            raise ValueError(f"LiteRT does not use XLA. Received: {self}. Leave one of the two out")
        if self.quantization != "none" and not lite:
            raise ValueError(f"Only LiteRT models are quantized. Received: {self}. Give the format tflite")


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What an export says about itself.

    Attributes:
      label_space: meaning of the class ids.
      config: the experiment, in text format.
      step: training steps behind the weights.
      version: of this library.
      metrics: of the last evaluation, or None.
      git_revision: of the checkout that wrote it, see `git_revision`.
      precision: in which layers compute, "float32" or "mixed_bfloat16".
      variant: see `Variant`.
      padding: how images are padded, see `inference.Predictor`; "minimal" where an older export does not say. The crop
        size and the rule of resizing are the config's.
      tensorflow_version: that wrote it; None before it is written.
      created: UTC in ISO format, as "2025-01-31T12:00:00+00:00"; None before it is written.
      value_range: (low, high) that images of 16 bits were scaled from for the training; None where it was none.
    """

    label_space: LabelSpace
    config: str
    step: Count
    version: str
    metrics: dict[str, Any] | None = None
    git_revision: str | None = None
    precision: str = "float32"
    variant: Variant = Variant()
    padding: str = MINIMAL
    tensorflow_version: str | None = None
    created: str | None = None
    value_range: ValueRange | None = None

    def __post_init__(self):
        value_ranges.checked(self.value_range, "value_range")

    def to_json(self) -> str:
        """All of it as JSON."""
        return json.dumps({**dataclasses.asdict(self), "label_space": self.label_space.to_dict()}, indent=1)

    @classmethod
    def from_json(cls, text: bytes | str, name: str = METADATA_FILE, remedy: str = _REMEDY) -> "Metadata":
        """The reverse of `to_json`; `name` stands for the text in messages, and `remedy` says what to do.

        Raises:
          InputError: the text is damaged.
        """
        return json_files.parse(text, cls, name, remedy)


def git_revision() -> str | None:
    """The commit of the checkout that this code is part of, with "+dirty" if files differ; None outside a checkout."""
    folder = pathlib.Path(__file__).parents[1]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    try:
        # An installed copy may lie in the checkout of something else.
        git("ls-files", "--error-unmatch", "__init__.py")
        return git("rev-parse", "HEAD") + ("+dirty" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def load(folder: str) -> tuple[tf.Module, Metadata]:
    """Loads an exported SavedModel.

    Returns:
      The loaded module, with the functions `serve` (images [B, H, W, 3] uint8 -> predictions), `encoded` (image bytes
      [B] -> predictions) and `raw` (images -> outputs of the heads), and its metadata.

    Raises:
      InputError: the folder is no SavedModel of this library.
    """
    path = os.path.join(folder, METADATA_FILE)
    try:
        content = json_files.read_bytes(path, "")
        if content is None:
            raise ValueError(f"it has no {METADATA_FILE}")
        metadata = Metadata.from_json(content, path, "")
        if metadata.variant.format != "saved_model":
            raise ValueError("it is a LiteRT model, which LiteRT's own interpreter loads")
        for part in _PARTS:
            with contextlib.suppress(FileNotFoundError):  # a network without variables has none; else TensorFlow tells
                files.check_regular(os.path.join(folder, part))
        module = tf.saved_model.load(files.without_glob(folder))
    except Exception as error:  # TensorFlow's reader raises many kinds for a graph that is damaged
        raise InputError(
            f"{folder!r} is no export of deeplab-axial ({files.first_line(error).rstrip('. ')}). Make one with "
            "`deeplab-axial export`."
        ) from error
    return module, metadata
