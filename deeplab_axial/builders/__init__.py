# SPDX-License-Identifier: Apache-2.0
"""From config messages to objects: the only bridge between the two."""

from deeplab_axial.builders.batch_statistics import check_batch_statistics
from deeplab_axial.builders.data import (
    build_evaluation_dataset,
    build_evaluation_image_options,
    build_image_options,
    build_training_dataset,
    check_classes,
    check_same_classes,
    data_warnings,
    expected_images,
    open_records,
    open_source,
)
from deeplab_axial.builders.inference import (
    build_metric_options,
    build_multi_scale,
    build_postprocessor,
    build_predictor,
)
from deeplab_axial.builders.label_spaces import (
    SHIPPED_NAMES,
    build_label_space,
    load_label_space,
)
from deeplab_axial.builders.model import (
    build_backbone,
    build_model,
    build_symbolic_model,
    portable,
)
from deeplab_axial.builders.step_program import build_layer_programs, build_step_program
from deeplab_axial.builders.strategy import build_strategy, check_tpu
from deeplab_axial.builders.training import (
    build_loop_options,
    build_loss,
    build_optimizer,
    build_trainer,
    check_statistics,
    learning_rate,
    set_precision_and_seed,
)

__all__ = [
    "SHIPPED_NAMES",
    "build_backbone",
    "build_evaluation_dataset",
    "build_evaluation_image_options",
    "build_image_options",
    "build_label_space",
    "build_layer_programs",
    "build_loop_options",
    "build_loss",
    "build_metric_options",
    "build_model",
    "build_multi_scale",
    "build_optimizer",
    "build_postprocessor",
    "build_predictor",
    "build_step_program",
    "build_strategy",
    "build_symbolic_model",
    "build_trainer",
    "build_training_dataset",
    "check_batch_statistics",
    "check_classes",
    "check_same_classes",
    "check_statistics",
    "check_tpu",
    "data_warnings",
    "expected_images",
    "learning_rate",
    "load_label_space",
    "open_records",
    "open_source",
    "portable",
    "set_precision_and_seed",
]
