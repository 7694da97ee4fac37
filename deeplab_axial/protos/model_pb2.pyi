from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ModelOptions(_message.Message):
    __slots__ = ("backbone", "decoder", "panoptic_deeplab", "classification", "deeplab_v3", "deeplab_v3_plus", "motion_deeplab", "max_deeplab", "vip_deeplab", "initial_checkpoint", "restore_semantic_last_layer_from_initial_checkpoint", "restore_instance_last_layer_from_initial_checkpoint")
    BACKBONE_FIELD_NUMBER: _ClassVar[int]
    DECODER_FIELD_NUMBER: _ClassVar[int]
    PANOPTIC_DEEPLAB_FIELD_NUMBER: _ClassVar[int]
    CLASSIFICATION_FIELD_NUMBER: _ClassVar[int]
    DEEPLAB_V3_FIELD_NUMBER: _ClassVar[int]
    DEEPLAB_V3_PLUS_FIELD_NUMBER: _ClassVar[int]
    MOTION_DEEPLAB_FIELD_NUMBER: _ClassVar[int]
    MAX_DEEPLAB_FIELD_NUMBER: _ClassVar[int]
    VIP_DEEPLAB_FIELD_NUMBER: _ClassVar[int]
    INITIAL_CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    RESTORE_SEMANTIC_LAST_LAYER_FROM_INITIAL_CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    RESTORE_INSTANCE_LAST_LAYER_FROM_INITIAL_CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    backbone: BackboneOptions
    decoder: DecoderOptions
    panoptic_deeplab: PanopticDeeplabOptions
    classification: ClassificationOptions
    deeplab_v3: DeeplabV3Options
    deeplab_v3_plus: DeeplabV3PlusOptions
    motion_deeplab: MotionDeepLabOptions
    max_deeplab: MaXDeepLabOptions
    vip_deeplab: PanopticDeeplabOptions
    initial_checkpoint: str
    restore_semantic_last_layer_from_initial_checkpoint: bool
    restore_instance_last_layer_from_initial_checkpoint: bool
    def __init__(self, backbone: _Optional[_Union[BackboneOptions, _Mapping]] = ..., decoder: _Optional[_Union[DecoderOptions, _Mapping]] = ..., panoptic_deeplab: _Optional[_Union[PanopticDeeplabOptions, _Mapping]] = ..., classification: _Optional[_Union[ClassificationOptions, _Mapping]] = ..., deeplab_v3: _Optional[_Union[DeeplabV3Options, _Mapping]] = ..., deeplab_v3_plus: _Optional[_Union[DeeplabV3PlusOptions, _Mapping]] = ..., motion_deeplab: _Optional[_Union[MotionDeepLabOptions, _Mapping]] = ..., max_deeplab: _Optional[_Union[MaXDeepLabOptions, _Mapping]] = ..., vip_deeplab: _Optional[_Union[PanopticDeeplabOptions, _Mapping]] = ..., initial_checkpoint: _Optional[str] = ..., restore_semantic_last_layer_from_initial_checkpoint: bool = ..., restore_instance_last_layer_from_initial_checkpoint: bool = ...) -> None: ...

class BackboneOptions(_message.Message):
    __slots__ = ("name", "output_stride", "pretrained_weights", "use_squeeze_and_excite", "drop_path_keep_prob", "drop_path_schedule", "stem_width_multiplier", "backbone_width_multiplier", "backbone_layer_multiplier", "use_sac_beyond_stride", "flavor", "attention_span", "attention_batch_norm", "attention_query_position", "attention_key_position", "attention_value_position", "attention_logits_at_once", "attention_kernel")
    NAME_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_STRIDE_FIELD_NUMBER: _ClassVar[int]
    PRETRAINED_WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    USE_SQUEEZE_AND_EXCITE_FIELD_NUMBER: _ClassVar[int]
    DROP_PATH_KEEP_PROB_FIELD_NUMBER: _ClassVar[int]
    DROP_PATH_SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    STEM_WIDTH_MULTIPLIER_FIELD_NUMBER: _ClassVar[int]
    BACKBONE_WIDTH_MULTIPLIER_FIELD_NUMBER: _ClassVar[int]
    BACKBONE_LAYER_MULTIPLIER_FIELD_NUMBER: _ClassVar[int]
    USE_SAC_BEYOND_STRIDE_FIELD_NUMBER: _ClassVar[int]
    FLAVOR_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_SPAN_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_BATCH_NORM_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_QUERY_POSITION_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_KEY_POSITION_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_VALUE_POSITION_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_LOGITS_AT_ONCE_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_KERNEL_FIELD_NUMBER: _ClassVar[int]
    name: str
    output_stride: int
    pretrained_weights: str
    use_squeeze_and_excite: bool
    drop_path_keep_prob: float
    drop_path_schedule: str
    stem_width_multiplier: float
    backbone_width_multiplier: float
    backbone_layer_multiplier: float
    use_sac_beyond_stride: int
    flavor: str
    attention_span: int
    attention_batch_norm: bool
    attention_query_position: bool
    attention_key_position: bool
    attention_value_position: bool
    attention_logits_at_once: int
    attention_kernel: str
    def __init__(self, name: _Optional[str] = ..., output_stride: _Optional[int] = ..., pretrained_weights: _Optional[str] = ..., use_squeeze_and_excite: bool = ..., drop_path_keep_prob: _Optional[float] = ..., drop_path_schedule: _Optional[str] = ..., stem_width_multiplier: _Optional[float] = ..., backbone_width_multiplier: _Optional[float] = ..., backbone_layer_multiplier: _Optional[float] = ..., use_sac_beyond_stride: _Optional[int] = ..., flavor: _Optional[str] = ..., attention_span: _Optional[int] = ..., attention_batch_norm: bool = ..., attention_query_position: bool = ..., attention_key_position: bool = ..., attention_value_position: bool = ..., attention_logits_at_once: _Optional[int] = ..., attention_kernel: _Optional[str] = ...) -> None: ...

class DecoderOptions(_message.Message):
    __slots__ = ("feature_key", "decoder_channels", "decoder_conv_type", "aspp_channels", "atrous_rates", "aspp_use_only_1x1_proj_conv")
    FEATURE_KEY_FIELD_NUMBER: _ClassVar[int]
    DECODER_CHANNELS_FIELD_NUMBER: _ClassVar[int]
    DECODER_CONV_TYPE_FIELD_NUMBER: _ClassVar[int]
    ASPP_CHANNELS_FIELD_NUMBER: _ClassVar[int]
    ATROUS_RATES_FIELD_NUMBER: _ClassVar[int]
    ASPP_USE_ONLY_1X1_PROJ_CONV_FIELD_NUMBER: _ClassVar[int]
    feature_key: str
    decoder_channels: int
    decoder_conv_type: str
    aspp_channels: int
    atrous_rates: _containers.RepeatedScalarFieldContainer[int]
    aspp_use_only_1x1_proj_conv: bool
    def __init__(self, feature_key: _Optional[str] = ..., decoder_channels: _Optional[int] = ..., decoder_conv_type: _Optional[str] = ..., aspp_channels: _Optional[int] = ..., atrous_rates: _Optional[_Iterable[int]] = ..., aspp_use_only_1x1_proj_conv: bool = ...) -> None: ...

class LowLevelOptions(_message.Message):
    __slots__ = ("feature_key", "channels_project")
    FEATURE_KEY_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_PROJECT_FIELD_NUMBER: _ClassVar[int]
    feature_key: str
    channels_project: int
    def __init__(self, feature_key: _Optional[str] = ..., channels_project: _Optional[int] = ...) -> None: ...

class PanopticDeeplabOptions(_message.Message):
    __slots__ = ("low_level", "instance", "semantic_head", "depth_head")
    LOW_LEVEL_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    SEMANTIC_HEAD_FIELD_NUMBER: _ClassVar[int]
    DEPTH_HEAD_FIELD_NUMBER: _ClassVar[int]
    low_level: _containers.RepeatedCompositeFieldContainer[LowLevelOptions]
    instance: InstanceOptions
    semantic_head: HeadOptions
    depth_head: HeadOptions
    def __init__(self, low_level: _Optional[_Iterable[_Union[LowLevelOptions, _Mapping]]] = ..., instance: _Optional[_Union[InstanceOptions, _Mapping]] = ..., semantic_head: _Optional[_Union[HeadOptions, _Mapping]] = ..., depth_head: _Optional[_Union[HeadOptions, _Mapping]] = ...) -> None: ...

class InstanceOptions(_message.Message):
    __slots__ = ("enable", "low_level_override", "instance_decoder_override", "center_head", "regression_head", "next_regression_head", "share_decoder")
    ENABLE_FIELD_NUMBER: _ClassVar[int]
    LOW_LEVEL_OVERRIDE_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_DECODER_OVERRIDE_FIELD_NUMBER: _ClassVar[int]
    CENTER_HEAD_FIELD_NUMBER: _ClassVar[int]
    REGRESSION_HEAD_FIELD_NUMBER: _ClassVar[int]
    NEXT_REGRESSION_HEAD_FIELD_NUMBER: _ClassVar[int]
    SHARE_DECODER_FIELD_NUMBER: _ClassVar[int]
    enable: bool
    low_level_override: _containers.RepeatedCompositeFieldContainer[LowLevelOptions]
    instance_decoder_override: DecoderOptions
    center_head: HeadOptions
    regression_head: HeadOptions
    next_regression_head: HeadOptions
    share_decoder: bool
    def __init__(self, enable: bool = ..., low_level_override: _Optional[_Iterable[_Union[LowLevelOptions, _Mapping]]] = ..., instance_decoder_override: _Optional[_Union[DecoderOptions, _Mapping]] = ..., center_head: _Optional[_Union[HeadOptions, _Mapping]] = ..., regression_head: _Optional[_Union[HeadOptions, _Mapping]] = ..., next_regression_head: _Optional[_Union[HeadOptions, _Mapping]] = ..., share_decoder: bool = ...) -> None: ...

class HeadOptions(_message.Message):
    __slots__ = ("output_channels", "head_channels", "head_conv_type", "max_value_after_activation", "min_value_after_activation")
    OUTPUT_CHANNELS_FIELD_NUMBER: _ClassVar[int]
    HEAD_CHANNELS_FIELD_NUMBER: _ClassVar[int]
    HEAD_CONV_TYPE_FIELD_NUMBER: _ClassVar[int]
    MAX_VALUE_AFTER_ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    MIN_VALUE_AFTER_ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    output_channels: int
    head_channels: int
    head_conv_type: str
    max_value_after_activation: float
    min_value_after_activation: float
    def __init__(self, output_channels: _Optional[int] = ..., head_channels: _Optional[int] = ..., head_conv_type: _Optional[str] = ..., max_value_after_activation: _Optional[float] = ..., min_value_after_activation: _Optional[float] = ...) -> None: ...

class ClassificationOptions(_message.Message):
    __slots__ = ("num_classes",)
    NUM_CLASSES_FIELD_NUMBER: _ClassVar[int]
    num_classes: int
    def __init__(self, num_classes: _Optional[int] = ...) -> None: ...

class DeeplabV3Options(_message.Message):
    __slots__ = ("num_classes",)
    NUM_CLASSES_FIELD_NUMBER: _ClassVar[int]
    num_classes: int
    def __init__(self, num_classes: _Optional[int] = ...) -> None: ...

class DeeplabV3PlusOptions(_message.Message):
    __slots__ = ("low_level", "num_classes")
    LOW_LEVEL_FIELD_NUMBER: _ClassVar[int]
    NUM_CLASSES_FIELD_NUMBER: _ClassVar[int]
    low_level: LowLevelOptions
    num_classes: int
    def __init__(self, low_level: _Optional[_Union[LowLevelOptions, _Mapping]] = ..., num_classes: _Optional[int] = ...) -> None: ...

class MotionDeepLabOptions(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class MaXDeepLabOptions(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
