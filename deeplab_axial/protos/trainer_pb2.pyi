from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TrainerOptions(_message.Message):
    __slots__ = ("num_checkpoints_to_keep", "save_checkpoints_steps", "save_summaries_steps", "steps_per_loop", "loss_options", "solver_options", "use_xla", "precision", "seed", "recompute")
    NUM_CHECKPOINTS_TO_KEEP_FIELD_NUMBER: _ClassVar[int]
    SAVE_CHECKPOINTS_STEPS_FIELD_NUMBER: _ClassVar[int]
    SAVE_SUMMARIES_STEPS_FIELD_NUMBER: _ClassVar[int]
    STEPS_PER_LOOP_FIELD_NUMBER: _ClassVar[int]
    LOSS_OPTIONS_FIELD_NUMBER: _ClassVar[int]
    SOLVER_OPTIONS_FIELD_NUMBER: _ClassVar[int]
    USE_XLA_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    RECOMPUTE_FIELD_NUMBER: _ClassVar[int]
    num_checkpoints_to_keep: int
    save_checkpoints_steps: int
    save_summaries_steps: int
    steps_per_loop: int
    loss_options: LossOptions
    solver_options: SolverOptions
    use_xla: bool
    precision: str
    seed: int
    recompute: bool
    def __init__(self, num_checkpoints_to_keep: _Optional[int] = ..., save_checkpoints_steps: _Optional[int] = ..., save_summaries_steps: _Optional[int] = ..., steps_per_loop: _Optional[int] = ..., loss_options: _Optional[_Union[LossOptions, _Mapping]] = ..., solver_options: _Optional[_Union[SolverOptions, _Mapping]] = ..., use_xla: bool = ..., precision: _Optional[str] = ..., seed: _Optional[int] = ..., recompute: bool = ...) -> None: ...

class LossOptions(_message.Message):
    __slots__ = ("semantic_loss", "center_loss", "regression_loss", "motion_loss", "next_regression_loss", "pq_style_loss", "mask_id_cross_entropy_loss", "instance_discrimination_loss", "depth_loss", "classification_loss")
    SEMANTIC_LOSS_FIELD_NUMBER: _ClassVar[int]
    CENTER_LOSS_FIELD_NUMBER: _ClassVar[int]
    REGRESSION_LOSS_FIELD_NUMBER: _ClassVar[int]
    MOTION_LOSS_FIELD_NUMBER: _ClassVar[int]
    NEXT_REGRESSION_LOSS_FIELD_NUMBER: _ClassVar[int]
    PQ_STYLE_LOSS_FIELD_NUMBER: _ClassVar[int]
    MASK_ID_CROSS_ENTROPY_LOSS_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_DISCRIMINATION_LOSS_FIELD_NUMBER: _ClassVar[int]
    DEPTH_LOSS_FIELD_NUMBER: _ClassVar[int]
    CLASSIFICATION_LOSS_FIELD_NUMBER: _ClassVar[int]
    semantic_loss: SingleLossOptions
    center_loss: SingleLossOptions
    regression_loss: SingleLossOptions
    motion_loss: SingleLossOptions
    next_regression_loss: SingleLossOptions
    pq_style_loss: SingleLossOptions
    mask_id_cross_entropy_loss: SingleLossOptions
    instance_discrimination_loss: SingleLossOptions
    depth_loss: SingleLossOptions
    classification_loss: ClassificationLossOptions
    def __init__(self, semantic_loss: _Optional[_Union[SingleLossOptions, _Mapping]] = ..., center_loss: _Optional[_Union[SingleLossOptions, _Mapping]] = ..., regression_loss: _Optional[_Union[SingleLossOptions, _Mapping]] = ..., motion_loss: _Optional[_Union[SingleLossOptions, _Mapping]] = ..., next_regression_loss: _Optional[_Union[SingleLossOptions, _Mapping]] = ..., pq_style_loss: _Optional[_Union[SingleLossOptions, _Mapping]] = ..., mask_id_cross_entropy_loss: _Optional[_Union[SingleLossOptions, _Mapping]] = ..., instance_discrimination_loss: _Optional[_Union[SingleLossOptions, _Mapping]] = ..., depth_loss: _Optional[_Union[SingleLossOptions, _Mapping]] = ..., classification_loss: _Optional[_Union[ClassificationLossOptions, _Mapping]] = ...) -> None: ...

class ClassificationLossOptions(_message.Message):
    __slots__ = ("label_smoothing",)
    LABEL_SMOOTHING_FIELD_NUMBER: _ClassVar[int]
    label_smoothing: float
    def __init__(self, label_smoothing: _Optional[float] = ...) -> None: ...

class SingleLossOptions(_message.Message):
    __slots__ = ("name", "weight", "top_k_percent")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    TOP_K_PERCENT_FIELD_NUMBER: _ClassVar[int]
    name: str
    weight: float
    top_k_percent: float
    def __init__(self, name: _Optional[str] = ..., weight: _Optional[float] = ..., top_k_percent: _Optional[float] = ...) -> None: ...

class SolverOptions(_message.Message):
    __slots__ = ("use_sync_batchnorm", "batchnorm_momentum", "batchnorm_epsilon", "learning_policy", "base_learning_rate", "poly_learning_power", "poly_end_learning_rate", "warmup_steps", "optimizer", "weight_decay", "adamw_weight_decay", "use_gradient_clipping", "clip_gradient_norm", "training_number_of_steps", "backbone_learning_rate_multiplier", "lookahead", "gradient_accumulation_steps", "ema_decay", "learning_rate_multiplier", "sgd_momentum", "sgd_nesterov")
    USE_SYNC_BATCHNORM_FIELD_NUMBER: _ClassVar[int]
    BATCHNORM_MOMENTUM_FIELD_NUMBER: _ClassVar[int]
    BATCHNORM_EPSILON_FIELD_NUMBER: _ClassVar[int]
    LEARNING_POLICY_FIELD_NUMBER: _ClassVar[int]
    BASE_LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    POLY_LEARNING_POWER_FIELD_NUMBER: _ClassVar[int]
    POLY_END_LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    WARMUP_STEPS_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_DECAY_FIELD_NUMBER: _ClassVar[int]
    ADAMW_WEIGHT_DECAY_FIELD_NUMBER: _ClassVar[int]
    USE_GRADIENT_CLIPPING_FIELD_NUMBER: _ClassVar[int]
    CLIP_GRADIENT_NORM_FIELD_NUMBER: _ClassVar[int]
    TRAINING_NUMBER_OF_STEPS_FIELD_NUMBER: _ClassVar[int]
    BACKBONE_LEARNING_RATE_MULTIPLIER_FIELD_NUMBER: _ClassVar[int]
    LOOKAHEAD_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_ACCUMULATION_STEPS_FIELD_NUMBER: _ClassVar[int]
    EMA_DECAY_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_MULTIPLIER_FIELD_NUMBER: _ClassVar[int]
    SGD_MOMENTUM_FIELD_NUMBER: _ClassVar[int]
    SGD_NESTEROV_FIELD_NUMBER: _ClassVar[int]
    use_sync_batchnorm: bool
    batchnorm_momentum: float
    batchnorm_epsilon: float
    learning_policy: str
    base_learning_rate: float
    poly_learning_power: float
    poly_end_learning_rate: float
    warmup_steps: int
    optimizer: str
    weight_decay: float
    adamw_weight_decay: float
    use_gradient_clipping: bool
    clip_gradient_norm: float
    training_number_of_steps: int
    backbone_learning_rate_multiplier: float
    lookahead: LookaheadOptions
    gradient_accumulation_steps: int
    ema_decay: float
    learning_rate_multiplier: _containers.RepeatedCompositeFieldContainer[LearningRateMultiplier]
    sgd_momentum: float
    sgd_nesterov: bool
    def __init__(self, use_sync_batchnorm: bool = ..., batchnorm_momentum: _Optional[float] = ..., batchnorm_epsilon: _Optional[float] = ..., learning_policy: _Optional[str] = ..., base_learning_rate: _Optional[float] = ..., poly_learning_power: _Optional[float] = ..., poly_end_learning_rate: _Optional[float] = ..., warmup_steps: _Optional[int] = ..., optimizer: _Optional[str] = ..., weight_decay: _Optional[float] = ..., adamw_weight_decay: _Optional[float] = ..., use_gradient_clipping: bool = ..., clip_gradient_norm: _Optional[float] = ..., training_number_of_steps: _Optional[int] = ..., backbone_learning_rate_multiplier: _Optional[float] = ..., lookahead: _Optional[_Union[LookaheadOptions, _Mapping]] = ..., gradient_accumulation_steps: _Optional[int] = ..., ema_decay: _Optional[float] = ..., learning_rate_multiplier: _Optional[_Iterable[_Union[LearningRateMultiplier, _Mapping]]] = ..., sgd_momentum: _Optional[float] = ..., sgd_nesterov: bool = ...) -> None: ...

class LearningRateMultiplier(_message.Message):
    __slots__ = ("part", "multiplier", "hold_statistics")
    PART_FIELD_NUMBER: _ClassVar[int]
    MULTIPLIER_FIELD_NUMBER: _ClassVar[int]
    HOLD_STATISTICS_FIELD_NUMBER: _ClassVar[int]
    part: str
    multiplier: float
    hold_statistics: bool
    def __init__(self, part: _Optional[str] = ..., multiplier: _Optional[float] = ..., hold_statistics: bool = ...) -> None: ...

class LookaheadOptions(_message.Message):
    __slots__ = ("sync_period", "slow_step_size")
    SYNC_PERIOD_FIELD_NUMBER: _ClassVar[int]
    SLOW_STEP_SIZE_FIELD_NUMBER: _ClassVar[int]
    sync_period: int
    slow_step_size: float
    def __init__(self, sync_period: _Optional[int] = ..., slow_step_size: _Optional[float] = ...) -> None: ...
