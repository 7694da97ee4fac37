# SPDX-License-Identifier: Apache-2.0
"""Post-processing and predictors from configs."""

from deeplab_axial.builders.data import build_evaluation_image_options
from deeplab_axial.choices import EVALUATION
from deeplab_axial.data.label_space import LabelSpace
from deeplab_axial.inference import Predictor
from deeplab_axial.models.panoptic_deeplab import PanopticDeepLab
from deeplab_axial.postprocessing.multi_scale import MultiScale
from deeplab_axial.postprocessing.panoptic_deeplab import PostProcessor
from deeplab_axial.protos import config_pb2, evaluator_pb2
from deeplab_axial.training.evaluation_metrics import MetricOptions


def build_postprocessor(options: config_pb2.ExperimentOptions, label_space: LabelSpace) -> PostProcessor:
    """The post-processing of a config."""
    evaluator = options.evaluator_options
    return PostProcessor(
        num_classes=options.model_options.panoptic_deeplab.semantic_head.output_channels,
        thing_ids=label_space.thing_ids,
        label_divisor=label_space.label_divisor,
        ignore_label=label_space.ignore_label,
        center_score_threshold=evaluator.center_score_threshold,
        nms_kernel=evaluator.nms_kernel,
        keep_k_centers=evaluator.keep_k_centers,
        stuff_area_limit=evaluator.stuff_area_limit,
        thing_area_limit=evaluator.thing_area_limit,
    )


def build_predictor(
    options: config_pb2.ExperimentOptions, model: PanopticDeepLab, label_space: LabelSpace, padding: str = EVALUATION
) -> Predictor:
    """The network with its post-processing, as evaluation and export use it; `padding` is that of `Predictor`."""
    return Predictor(
        model,
        build_postprocessor(options, label_space),
        options.model_options.backbone.output_stride,
        build_evaluation_image_options(options),
        build_multi_scale(options.evaluator_options),
        padding,
    )


def build_multi_scale(options: evaluator_pb2.EvaluatorOptions) -> MultiScale:
    """The variants of an image that evaluation and export average over."""
    # Fields are float32, where 0.7 is a little less.
    scales = tuple(float(f"{scale:.6g}") for scale in options.eval_scales)
    return MultiScale(scales or (1.0,), options.add_flipped_images)


def build_metric_options(options: config_pb2.ExperimentOptions) -> MetricOptions:
    """What an evaluation measures; average precision needs the heads that find instances."""
    evaluator = options.evaluator_options
    has_instances = options.model_options.panoptic_deeplab.instance.enable
    return MetricOptions(evaluator.instance_ap if has_instances else "none", evaluator.deeplab2_panoptic_quality)
