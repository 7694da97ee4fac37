# SPDX-License-Identifier: Apache-2.0
"""A valid config, and what loads configs over it."""

import pathlib

import pytest
from google.protobuf import text_format

from deeplab_axial import config, config_placeholders
from deeplab_axial.errors import InputError
from deeplab_axial.protos import config_pb2

VALID = """
experiment_name: "${EXPERIMENT_NAME}"
model_options {
  backbone { name: "axial_resnet_s" output_stride: 16 }
  decoder { feature_key: "res5" aspp_use_only_1x1_proj_conv: true }
  panoptic_deeplab {
    low_level { feature_key: "res3" channels_project: 64 }
    low_level { feature_key: "res2" channels_project: 32 }
    instance {
      low_level_override { feature_key: "res3" channels_project: 32 }
      low_level_override { feature_key: "res2" channels_project: 16 }
      instance_decoder_override { feature_key: "res5" decoder_channels: 128 atrous_rates: [6, 12, 18] }
      center_head { output_channels: 1 head_channels: 32 }
      regression_head { output_channels: 2 head_channels: 32 }
    }
    semantic_head { output_channels: 19 head_channels: 256 }
  }
  initial_checkpoint: "${INIT_CHECKPOINT}"
}
trainer_options {
  loss_options {
    semantic_loss { name: "softmax_cross_entropy" top_k_percent: 0.2 }
    center_loss { name: "mse" weight: 200 }
    regression_loss { name: "l1" weight: 0.01 }
  }
  solver_options { training_number_of_steps: 100 warmup_steps: 10 }
}
train_dataset_options { file_pattern: "${TRAIN_SET}" crop_size: 65 crop_size: 129 min_resize_value: 0 }
eval_dataset_options { file_pattern: "val.tfrecord" crop_size: [65, 129] batch_size: 1 }
evaluator_options { eval_scales: 1.0 transformer_class_confidence_threshold: 0.7 pixel_confidence_threshold: 0.4 }
"""
FILLED = {"EXPERIMENT_NAME": "a", "INIT_CHECKPOINT": "b", "TRAIN_SET": "c"}
PANOPTIC = "model_options.panoptic_deeplab"
SOLVER = "trainer_options.solver_options"


def write_valid(folder: pathlib.Path) -> pathlib.Path:
    """Writes the valid config into a folder, which it returns."""
    (folder / "valid.textproto").write_text(VALID)
    return folder


def load_over(folder: pathlib.Path, text: str, *, mode: str | None = "train_and_eval", **kwargs):
    (folder / "over.textproto").write_text(f'base: "valid.textproto"\n{text}')
    return config.load(folder / "over.textproto", mode=mode, **{"placeholders": FILLED, **kwargs})


def problems_of(folder: pathlib.Path, text: str, **kwargs) -> list[str]:
    with pytest.raises(InputError) as error:
        load_over(folder, text, **kwargs)
    return str(error.value).split("\n")


def strip(*sections: str) -> config_pb2.ExperimentOptions:
    """The valid config without some sections."""
    options = text_format.Parse(VALID, config_pb2.ExperimentOptions())
    for path in sections:
        *parents, name = path.split(".")
        message = options
        for parent in parents:
            message = getattr(message, parent)
        message.ClearField(name)
    config_placeholders.fill(options, FILLED)
    return options
