from deeplab_axial.protos import dataset_pb2 as _dataset_pb2
from deeplab_axial.protos import evaluator_pb2 as _evaluator_pb2
from deeplab_axial.protos import label_space_pb2 as _label_space_pb2
from deeplab_axial.protos import model_pb2 as _model_pb2
from deeplab_axial.protos import trainer_pb2 as _trainer_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ExperimentOptions(_message.Message):
    __slots__ = ("experiment_name", "model_options", "trainer_options", "train_dataset_options", "evaluator_options", "eval_dataset_options", "base", "published", "label_space")
    EXPERIMENT_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_OPTIONS_FIELD_NUMBER: _ClassVar[int]
    TRAINER_OPTIONS_FIELD_NUMBER: _ClassVar[int]
    TRAIN_DATASET_OPTIONS_FIELD_NUMBER: _ClassVar[int]
    EVALUATOR_OPTIONS_FIELD_NUMBER: _ClassVar[int]
    EVAL_DATASET_OPTIONS_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    LABEL_SPACE_FIELD_NUMBER: _ClassVar[int]
    experiment_name: str
    model_options: _model_pb2.ModelOptions
    trainer_options: _trainer_pb2.TrainerOptions
    train_dataset_options: _dataset_pb2.DatasetOptions
    evaluator_options: _evaluator_pb2.EvaluatorOptions
    eval_dataset_options: _dataset_pb2.DatasetOptions
    base: _containers.RepeatedScalarFieldContainer[str]
    published: PublishedFigures
    label_space: _label_space_pb2.LabelSpaceOptions
    def __init__(self, experiment_name: _Optional[str] = ..., model_options: _Optional[_Union[_model_pb2.ModelOptions, _Mapping]] = ..., trainer_options: _Optional[_Union[_trainer_pb2.TrainerOptions, _Mapping]] = ..., train_dataset_options: _Optional[_Union[_dataset_pb2.DatasetOptions, _Mapping]] = ..., evaluator_options: _Optional[_Union[_evaluator_pb2.EvaluatorOptions, _Mapping]] = ..., eval_dataset_options: _Optional[_Union[_dataset_pb2.DatasetOptions, _Mapping]] = ..., base: _Optional[_Iterable[str]] = ..., published: _Optional[_Union[PublishedFigures, _Mapping]] = ..., label_space: _Optional[_Union[_label_space_pb2.LabelSpaceOptions, _Mapping]] = ...) -> None: ...

class PublishedFigures(_message.Message):
    __slots__ = ("source", "split", "input_size", "parameters", "multiply_adds", "pq", "pq_things", "pq_stuff", "ap", "miou", "top1")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    INPUT_SIZE_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    MULTIPLY_ADDS_FIELD_NUMBER: _ClassVar[int]
    PQ_FIELD_NUMBER: _ClassVar[int]
    PQ_THINGS_FIELD_NUMBER: _ClassVar[int]
    PQ_STUFF_FIELD_NUMBER: _ClassVar[int]
    AP_FIELD_NUMBER: _ClassVar[int]
    MIOU_FIELD_NUMBER: _ClassVar[int]
    TOP1_FIELD_NUMBER: _ClassVar[int]
    source: str
    split: str
    input_size: _containers.RepeatedScalarFieldContainer[int]
    parameters: float
    multiply_adds: float
    pq: float
    pq_things: float
    pq_stuff: float
    ap: float
    miou: float
    top1: float
    def __init__(self, source: _Optional[str] = ..., split: _Optional[str] = ..., input_size: _Optional[_Iterable[int]] = ..., parameters: _Optional[float] = ..., multiply_adds: _Optional[float] = ..., pq: _Optional[float] = ..., pq_things: _Optional[float] = ..., pq_stuff: _Optional[float] = ..., ap: _Optional[float] = ..., miou: _Optional[float] = ..., top1: _Optional[float] = ...) -> None: ...
