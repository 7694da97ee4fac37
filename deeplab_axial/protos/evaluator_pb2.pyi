from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EvaluatorOptions(_message.Message):
    __slots__ = ("eval_steps", "eval_interval", "continuous_eval_timeout", "use_tf_function", "stuff_area_limit", "thing_area_limit", "center_score_threshold", "nms_kernel", "keep_k_centers", "save_predictions", "override_save_dir", "num_vis_samples", "save_raw_predictions", "raw_panoptic_format", "convert_raw_to_eval_ids", "add_flipped_images", "eval_scales", "merge_semantic_and_instance_with_tf_op", "instance_ap", "detailed_ap_metrics", "deeplab2_panoptic_quality", "transformer_class_confidence_threshold", "pixel_confidence_threshold", "transformer_post_processing", "maskwise_postprocessing")
    EVAL_STEPS_FIELD_NUMBER: _ClassVar[int]
    EVAL_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    CONTINUOUS_EVAL_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    USE_TF_FUNCTION_FIELD_NUMBER: _ClassVar[int]
    STUFF_AREA_LIMIT_FIELD_NUMBER: _ClassVar[int]
    THING_AREA_LIMIT_FIELD_NUMBER: _ClassVar[int]
    CENTER_SCORE_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    NMS_KERNEL_FIELD_NUMBER: _ClassVar[int]
    KEEP_K_CENTERS_FIELD_NUMBER: _ClassVar[int]
    SAVE_PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    OVERRIDE_SAVE_DIR_FIELD_NUMBER: _ClassVar[int]
    NUM_VIS_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    SAVE_RAW_PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    RAW_PANOPTIC_FORMAT_FIELD_NUMBER: _ClassVar[int]
    CONVERT_RAW_TO_EVAL_IDS_FIELD_NUMBER: _ClassVar[int]
    ADD_FLIPPED_IMAGES_FIELD_NUMBER: _ClassVar[int]
    EVAL_SCALES_FIELD_NUMBER: _ClassVar[int]
    MERGE_SEMANTIC_AND_INSTANCE_WITH_TF_OP_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_AP_FIELD_NUMBER: _ClassVar[int]
    DETAILED_AP_METRICS_FIELD_NUMBER: _ClassVar[int]
    DEEPLAB2_PANOPTIC_QUALITY_FIELD_NUMBER: _ClassVar[int]
    TRANSFORMER_CLASS_CONFIDENCE_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    PIXEL_CONFIDENCE_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    TRANSFORMER_POST_PROCESSING_FIELD_NUMBER: _ClassVar[int]
    MASKWISE_POSTPROCESSING_FIELD_NUMBER: _ClassVar[int]
    eval_steps: int
    eval_interval: int
    continuous_eval_timeout: int
    use_tf_function: bool
    stuff_area_limit: int
    thing_area_limit: int
    center_score_threshold: float
    nms_kernel: int
    keep_k_centers: int
    save_predictions: bool
    override_save_dir: str
    num_vis_samples: int
    save_raw_predictions: bool
    raw_panoptic_format: str
    convert_raw_to_eval_ids: bool
    add_flipped_images: bool
    eval_scales: _containers.RepeatedScalarFieldContainer[float]
    merge_semantic_and_instance_with_tf_op: bool
    instance_ap: str
    detailed_ap_metrics: bool
    deeplab2_panoptic_quality: bool
    transformer_class_confidence_threshold: float
    pixel_confidence_threshold: float
    transformer_post_processing: str
    maskwise_postprocessing: MaskwisePostProcessingOptions
    def __init__(self, eval_steps: _Optional[int] = ..., eval_interval: _Optional[int] = ..., continuous_eval_timeout: _Optional[int] = ..., use_tf_function: bool = ..., stuff_area_limit: _Optional[int] = ..., thing_area_limit: _Optional[int] = ..., center_score_threshold: _Optional[float] = ..., nms_kernel: _Optional[int] = ..., keep_k_centers: _Optional[int] = ..., save_predictions: bool = ..., override_save_dir: _Optional[str] = ..., num_vis_samples: _Optional[int] = ..., save_raw_predictions: bool = ..., raw_panoptic_format: _Optional[str] = ..., convert_raw_to_eval_ids: bool = ..., add_flipped_images: bool = ..., eval_scales: _Optional[_Iterable[float]] = ..., merge_semantic_and_instance_with_tf_op: bool = ..., instance_ap: _Optional[str] = ..., detailed_ap_metrics: bool = ..., deeplab2_panoptic_quality: bool = ..., transformer_class_confidence_threshold: _Optional[float] = ..., pixel_confidence_threshold: _Optional[float] = ..., transformer_post_processing: _Optional[str] = ..., maskwise_postprocessing: _Optional[_Union[MaskwisePostProcessingOptions, _Mapping]] = ...) -> None: ...

class MaskwisePostProcessingOptions(_message.Message):
    __slots__ = ("transformer_class_confidence_threshold_thing", "transformer_class_confidence_threshold_stuff", "overlapping_threshold", "reorder_class_weight", "reorder_mask_weight")
    TRANSFORMER_CLASS_CONFIDENCE_THRESHOLD_THING_FIELD_NUMBER: _ClassVar[int]
    TRANSFORMER_CLASS_CONFIDENCE_THRESHOLD_STUFF_FIELD_NUMBER: _ClassVar[int]
    OVERLAPPING_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    REORDER_CLASS_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    REORDER_MASK_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    transformer_class_confidence_threshold_thing: float
    transformer_class_confidence_threshold_stuff: float
    overlapping_threshold: float
    reorder_class_weight: float
    reorder_mask_weight: float
    def __init__(self, transformer_class_confidence_threshold_thing: _Optional[float] = ..., transformer_class_confidence_threshold_stuff: _Optional[float] = ..., overlapping_threshold: _Optional[float] = ..., reorder_class_weight: _Optional[float] = ..., reorder_mask_weight: _Optional[float] = ...) -> None: ...
