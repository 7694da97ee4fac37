from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LabelSpaceOptions(_message.Message):
    __slots__ = ("name", "num_classes", "ignore_label", "label_divisor", "label_class")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NUM_CLASSES_FIELD_NUMBER: _ClassVar[int]
    IGNORE_LABEL_FIELD_NUMBER: _ClassVar[int]
    LABEL_DIVISOR_FIELD_NUMBER: _ClassVar[int]
    LABEL_CLASS_FIELD_NUMBER: _ClassVar[int]
    name: str
    num_classes: int
    ignore_label: int
    label_divisor: int
    label_class: _containers.RepeatedCompositeFieldContainer[LabelClassOptions]
    def __init__(self, name: _Optional[str] = ..., num_classes: _Optional[int] = ..., ignore_label: _Optional[int] = ..., label_divisor: _Optional[int] = ..., label_class: _Optional[_Iterable[_Union[LabelClassOptions, _Mapping]]] = ...) -> None: ...

class LabelClassOptions(_message.Message):
    __slots__ = ("id", "name", "is_thing", "color", "category_id")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    IS_THING_FIELD_NUMBER: _ClassVar[int]
    COLOR_FIELD_NUMBER: _ClassVar[int]
    CATEGORY_ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    name: str
    is_thing: bool
    color: _containers.RepeatedScalarFieldContainer[int]
    category_id: int
    def __init__(self, id: _Optional[int] = ..., name: _Optional[str] = ..., is_thing: bool = ..., color: _Optional[_Iterable[int]] = ..., category_id: _Optional[int] = ...) -> None: ...
