from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DatasetOptions(_message.Message):
    __slots__ = ("dataset", "file_pattern", "batch_size", "crop_size", "min_resize_value", "max_resize_value", "resize_factor", "augmentations", "sigma", "increase_small_instance_weights", "small_instance_threshold", "small_instance_weight", "use_two_frames", "decode_groundtruth_label", "thing_id_mask_annotations", "max_thing_id", "use_next_frame", "cameras_to_use", "seed", "shuffle_buffer_mebibytes", "data_service_address", "allow_subset", "pad_with_grey_alone")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    FILE_PATTERN_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    CROP_SIZE_FIELD_NUMBER: _ClassVar[int]
    MIN_RESIZE_VALUE_FIELD_NUMBER: _ClassVar[int]
    MAX_RESIZE_VALUE_FIELD_NUMBER: _ClassVar[int]
    RESIZE_FACTOR_FIELD_NUMBER: _ClassVar[int]
    AUGMENTATIONS_FIELD_NUMBER: _ClassVar[int]
    SIGMA_FIELD_NUMBER: _ClassVar[int]
    INCREASE_SMALL_INSTANCE_WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    SMALL_INSTANCE_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    SMALL_INSTANCE_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    USE_TWO_FRAMES_FIELD_NUMBER: _ClassVar[int]
    DECODE_GROUNDTRUTH_LABEL_FIELD_NUMBER: _ClassVar[int]
    THING_ID_MASK_ANNOTATIONS_FIELD_NUMBER: _ClassVar[int]
    MAX_THING_ID_FIELD_NUMBER: _ClassVar[int]
    USE_NEXT_FRAME_FIELD_NUMBER: _ClassVar[int]
    CAMERAS_TO_USE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    SHUFFLE_BUFFER_MEBIBYTES_FIELD_NUMBER: _ClassVar[int]
    DATA_SERVICE_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ALLOW_SUBSET_FIELD_NUMBER: _ClassVar[int]
    PAD_WITH_GREY_ALONE_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    file_pattern: _containers.RepeatedScalarFieldContainer[str]
    batch_size: int
    crop_size: _containers.RepeatedScalarFieldContainer[int]
    min_resize_value: _containers.RepeatedScalarFieldContainer[int]
    max_resize_value: _containers.RepeatedScalarFieldContainer[int]
    resize_factor: int
    augmentations: AugmentationOptions
    sigma: float
    increase_small_instance_weights: bool
    small_instance_threshold: int
    small_instance_weight: float
    use_two_frames: bool
    decode_groundtruth_label: bool
    thing_id_mask_annotations: bool
    max_thing_id: int
    use_next_frame: bool
    cameras_to_use: _containers.RepeatedScalarFieldContainer[str]
    seed: int
    shuffle_buffer_mebibytes: int
    data_service_address: str
    allow_subset: bool
    pad_with_grey_alone: bool
    def __init__(self, dataset: _Optional[str] = ..., file_pattern: _Optional[_Iterable[str]] = ..., batch_size: _Optional[int] = ..., crop_size: _Optional[_Iterable[int]] = ..., min_resize_value: _Optional[_Iterable[int]] = ..., max_resize_value: _Optional[_Iterable[int]] = ..., resize_factor: _Optional[int] = ..., augmentations: _Optional[_Union[AugmentationOptions, _Mapping]] = ..., sigma: _Optional[float] = ..., increase_small_instance_weights: bool = ..., small_instance_threshold: _Optional[int] = ..., small_instance_weight: _Optional[float] = ..., use_two_frames: bool = ..., decode_groundtruth_label: bool = ..., thing_id_mask_annotations: bool = ..., max_thing_id: _Optional[int] = ..., use_next_frame: bool = ..., cameras_to_use: _Optional[_Iterable[str]] = ..., seed: _Optional[int] = ..., shuffle_buffer_mebibytes: _Optional[int] = ..., data_service_address: _Optional[str] = ..., allow_subset: bool = ..., pad_with_grey_alone: bool = ...) -> None: ...

class AugmentationOptions(_message.Message):
    __slots__ = ("min_scale_factor", "max_scale_factor", "scale_factor_step_size", "autoaugment_policy_name", "panoptic_copy_paste", "random_flip", "photometric_distortion", "inception_crop", "rand_augment")
    MIN_SCALE_FACTOR_FIELD_NUMBER: _ClassVar[int]
    MAX_SCALE_FACTOR_FIELD_NUMBER: _ClassVar[int]
    SCALE_FACTOR_STEP_SIZE_FIELD_NUMBER: _ClassVar[int]
    AUTOAUGMENT_POLICY_NAME_FIELD_NUMBER: _ClassVar[int]
    PANOPTIC_COPY_PASTE_FIELD_NUMBER: _ClassVar[int]
    RANDOM_FLIP_FIELD_NUMBER: _ClassVar[int]
    PHOTOMETRIC_DISTORTION_FIELD_NUMBER: _ClassVar[int]
    INCEPTION_CROP_FIELD_NUMBER: _ClassVar[int]
    RAND_AUGMENT_FIELD_NUMBER: _ClassVar[int]
    min_scale_factor: float
    max_scale_factor: float
    scale_factor_step_size: float
    autoaugment_policy_name: str
    panoptic_copy_paste: PanopticCopyPasteOptions
    random_flip: bool
    photometric_distortion: PhotometricDistortionOptions
    inception_crop: InceptionCropOptions
    rand_augment: RandAugmentOptions
    def __init__(self, min_scale_factor: _Optional[float] = ..., max_scale_factor: _Optional[float] = ..., scale_factor_step_size: _Optional[float] = ..., autoaugment_policy_name: _Optional[str] = ..., panoptic_copy_paste: _Optional[_Union[PanopticCopyPasteOptions, _Mapping]] = ..., random_flip: bool = ..., photometric_distortion: _Optional[_Union[PhotometricDistortionOptions, _Mapping]] = ..., inception_crop: _Optional[_Union[InceptionCropOptions, _Mapping]] = ..., rand_augment: _Optional[_Union[RandAugmentOptions, _Mapping]] = ...) -> None: ...

class PhotometricDistortionOptions(_message.Message):
    __slots__ = ("brightness_delta", "contrast_range", "saturation_range", "hue_delta")
    BRIGHTNESS_DELTA_FIELD_NUMBER: _ClassVar[int]
    CONTRAST_RANGE_FIELD_NUMBER: _ClassVar[int]
    SATURATION_RANGE_FIELD_NUMBER: _ClassVar[int]
    HUE_DELTA_FIELD_NUMBER: _ClassVar[int]
    brightness_delta: float
    contrast_range: float
    saturation_range: float
    hue_delta: float
    def __init__(self, brightness_delta: _Optional[float] = ..., contrast_range: _Optional[float] = ..., saturation_range: _Optional[float] = ..., hue_delta: _Optional[float] = ...) -> None: ...

class InceptionCropOptions(_message.Message):
    __slots__ = ("min_area", "max_area", "min_aspect_ratio", "max_aspect_ratio")
    MIN_AREA_FIELD_NUMBER: _ClassVar[int]
    MAX_AREA_FIELD_NUMBER: _ClassVar[int]
    MIN_ASPECT_RATIO_FIELD_NUMBER: _ClassVar[int]
    MAX_ASPECT_RATIO_FIELD_NUMBER: _ClassVar[int]
    min_area: float
    max_area: float
    min_aspect_ratio: float
    max_aspect_ratio: float
    def __init__(self, min_area: _Optional[float] = ..., max_area: _Optional[float] = ..., min_aspect_ratio: _Optional[float] = ..., max_aspect_ratio: _Optional[float] = ...) -> None: ...

class RandAugmentOptions(_message.Message):
    __slots__ = ("num_layers", "magnitude")
    NUM_LAYERS_FIELD_NUMBER: _ClassVar[int]
    MAGNITUDE_FIELD_NUMBER: _ClassVar[int]
    num_layers: int
    magnitude: float
    def __init__(self, num_layers: _Optional[int] = ..., magnitude: _Optional[float] = ...) -> None: ...

class PanopticCopyPasteOptions(_message.Message):
    __slots__ = ("panoptic_copy_paste_scale", "panoptic_copy_paste_thing_option", "panoptic_copy_paste_stuff_option", "panoptic_copy_paste_void_option")
    PANOPTIC_COPY_PASTE_SCALE_FIELD_NUMBER: _ClassVar[int]
    PANOPTIC_COPY_PASTE_THING_OPTION_FIELD_NUMBER: _ClassVar[int]
    PANOPTIC_COPY_PASTE_STUFF_OPTION_FIELD_NUMBER: _ClassVar[int]
    PANOPTIC_COPY_PASTE_VOID_OPTION_FIELD_NUMBER: _ClassVar[int]
    panoptic_copy_paste_scale: float
    panoptic_copy_paste_thing_option: str
    panoptic_copy_paste_stuff_option: str
    panoptic_copy_paste_void_option: str
    def __init__(self, panoptic_copy_paste_scale: _Optional[float] = ..., panoptic_copy_paste_thing_option: _Optional[str] = ..., panoptic_copy_paste_stuff_option: _Optional[str] = ..., panoptic_copy_paste_void_option: _Optional[str] = ...) -> None: ...
