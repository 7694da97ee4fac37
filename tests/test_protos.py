# SPDX-License-Identifier: Apache-2.0
"""The generated code of the schema is that of protos/*.proto, and the schema holds all fields of DeepLab2's."""

import ast
import hashlib
import pathlib
import re

import pytest

from deeplab_axial.protos import config_pb2, dataset_pb2, evaluator_pb2, label_space_pb2, model_pb2, trainer_pb2

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = ROOT / "protos"
GENERATED = ROOT / "deeplab_axial" / "protos"
MODULES = {
    "config": config_pb2,
    "dataset": dataset_pb2,
    "evaluator": evaluator_pb2,
    "label_space": label_space_pb2,
    "model": model_pb2,
    "trainer": trainer_pb2,
}
REMEDY = "the generated code is old: run protos/generate.py (make protos)"

# A message, then its fields with type and default (none: the type's zero value).
DEEPLAB2 = """
ExperimentOptions
  experiment_name: string
  model_options: ModelOptions
  trainer_options: TrainerOptions
  train_dataset_options: DatasetOptions
  evaluator_options: EvaluatorOptions
  eval_dataset_options: DatasetOptions
ModelOptions
  backbone: BackboneOptions
  decoder: DecoderOptions
  deeplab_v3: DeeplabV3Options
  deeplab_v3_plus: DeeplabV3PlusOptions
  panoptic_deeplab: PanopticDeeplabOptions
  motion_deeplab: MotionDeepLabOptions
  max_deeplab: MaXDeepLabOptions
  vip_deeplab: PanopticDeeplabOptions
  initial_checkpoint: string
  restore_semantic_last_layer_from_initial_checkpoint: bool = True
  restore_instance_last_layer_from_initial_checkpoint: bool = True
BackboneOptions
  name: string = 'resnet50'
  output_stride: int32 = 32
  pretrained_weights: string
  use_squeeze_and_excite: bool = False
  drop_path_keep_prob: float = 1
  drop_path_schedule: string = 'constant'
  stem_width_multiplier: float = 1
  backbone_width_multiplier: float = 1
  backbone_layer_multiplier: float = 1
  use_sac_beyond_stride: int32 = -1
DecoderOptions
  feature_key: string
  decoder_channels: int32 = 256
  decoder_conv_type: string = 'depthwise_separable_conv'
  aspp_channels: int32 = 256
  atrous_rates: repeated int32
  aspp_use_only_1x1_proj_conv: bool = False
DeeplabV3Options
  num_classes: int32
DeeplabV3PlusOptions
  low_level: LowLevelOptions
  num_classes: int32
LowLevelOptions
  feature_key: string
  channels_project: int32
PanopticDeeplabOptions
  low_level: repeated LowLevelOptions
  instance: InstanceOptions
  semantic_head: HeadOptions
  depth_head: HeadOptions
InstanceOptions
  enable: bool = True
  low_level_override: repeated LowLevelOptions
  instance_decoder_override: DecoderOptions
  center_head: HeadOptions
  regression_head: HeadOptions
  next_regression_head: HeadOptions
HeadOptions
  output_channels: int32
  head_channels: int32
  head_conv_type: string = 'depthwise_separable_conv'
  max_value_after_activation: float = 0
  min_value_after_activation: float = 0
TrainerOptions
  num_checkpoints_to_keep: int32 = 5
  save_checkpoints_steps: int32 = 1000
  save_summaries_steps: int32 = 1000
  steps_per_loop: int32 = 1000
  loss_options: LossOptions
  solver_options: SolverOptions
LossOptions
  semantic_loss: SingleLossOptions
  center_loss: SingleLossOptions
  regression_loss: SingleLossOptions
  motion_loss: SingleLossOptions
  next_regression_loss: SingleLossOptions
  pq_style_loss: SingleLossOptions
  mask_id_cross_entropy_loss: SingleLossOptions
  instance_discrimination_loss: SingleLossOptions
  depth_loss: SingleLossOptions
SingleLossOptions
  name: string
  weight: float = 1
  top_k_percent: float = 1
SolverOptions
  use_sync_batchnorm: bool = True
  batchnorm_momentum: float = 0.99
  batchnorm_epsilon: float = 0.001
  learning_policy: string = 'poly'
  base_learning_rate: float = 0.001
  poly_learning_power: float = 0.9
  poly_end_learning_rate: float = 0
  warmup_steps: int32 = 0
  optimizer: string = 'adam'
  weight_decay: float = 0
  adamw_weight_decay: float = 0
  use_gradient_clipping: bool = False
  clip_gradient_norm: float = 10
  training_number_of_steps: int32 = 60000
  backbone_learning_rate_multiplier: float = 1
DatasetOptions
  dataset: string
  file_pattern: repeated string
  batch_size: int32 = 32
  crop_size: repeated int32
  min_resize_value: repeated int32
  max_resize_value: repeated int32
  resize_factor: int32
  augmentations: AugmentationOptions
  sigma: float = 8
  increase_small_instance_weights: bool = False
  small_instance_threshold: int32 = 4096
  small_instance_weight: float = 3
  use_two_frames: bool = False
  decode_groundtruth_label: bool = True
  thing_id_mask_annotations: bool = False
  max_thing_id: int32 = 128
  use_next_frame: bool = False
  cameras_to_use: repeated string
AugmentationOptions
  min_scale_factor: float = 1
  max_scale_factor: float = 1
  scale_factor_step_size: float = 0.25
  autoaugment_policy_name: string
  panoptic_copy_paste: PanopticCopyPasteOptions
PanopticCopyPasteOptions
  panoptic_copy_paste_scale: float = 0
  panoptic_copy_paste_thing_option: string = 'random'
  panoptic_copy_paste_stuff_option: string = 'random'
  panoptic_copy_paste_void_option: string = 'none'
EvaluatorOptions
  eval_steps: int32 = -1
  eval_interval: int32 = 5000
  continuous_eval_timeout: int32 = -1
  use_tf_function: bool = True
  stuff_area_limit: int32 = 0
  thing_area_limit: int32 = 0
  transformer_class_confidence_threshold: float = 0.7
  pixel_confidence_threshold: float = 0.4
  transformer_post_processing: string = 'pixelwise'
  maskwise_postprocessing: MaskwisePostProcessingOptions
  center_score_threshold: float = 0.1
  nms_kernel: int32 = 3
  keep_k_centers: int32 = 400
  save_predictions: bool = False
  override_save_dir: string
  num_vis_samples: int32 = 10
  save_raw_predictions: bool = False
  raw_panoptic_format: string = 'two_channel_png'
  convert_raw_to_eval_ids: bool = True
  add_flipped_images: bool = False
  eval_scales: repeated float
  merge_semantic_and_instance_with_tf_op: bool = True
  detailed_ap_metrics: bool = False
MaskwisePostProcessingOptions
  transformer_class_confidence_threshold_thing: float = 0.7
  transformer_class_confidence_threshold_stuff: float = 0.7
  overlapping_threshold: float = 0.5
  reorder_class_weight: float = 1
  reorder_mask_weight: float = 0
"""

_FIELD = re.compile(r"(?:(optional|repeated) )?(\w+) (\w+) = (\d+)(?: \[default = (.+)\])?;")


def declared(proto: str) -> dict[str, dict[str, tuple]]:
    """Message -> field -> (number, type, whether repeated, default) of a .proto text, read line by line."""
    messages: dict[str, dict[str, tuple]] = {}
    current: dict[str, tuple] = {}
    for line in (raw.split("//")[0].strip() for raw in proto.splitlines()):
        message = re.match(r"message (\w+) \{", line)
        if message:
            current = messages.setdefault(message[1], {})
        field = _FIELD.fullmatch(line)
        if field:
            label, kind, name, number, default = field.groups()
            value = ast.literal_eval({"true": "True", "false": "False"}.get(default, default)) if default else None
            current[name] = (int(number), kind, label == "repeated", value)
    return messages


def is_repeated(field) -> bool:
    return isinstance(field.default_value, list)


def type_name(field) -> str:
    """The type as a .proto writes it."""
    if field.message_type is not None:
        return field.message_type.name
    names = {field.TYPE_INT32: "int32", field.TYPE_INT64: "int64", field.TYPE_FLOAT: "float"}
    return names.get(field.type) or {field.TYPE_BOOL: "bool", field.TYPE_STRING: "string"}[field.type]


def described(module) -> dict[str, dict[str, tuple]]:
    """The same of a generated module."""
    return {
        message.name: {
            f.name: (
                f.number,
                type_name(f),
                is_repeated(f),
                f.default_value if f.has_default_value and not is_repeated(f) else None,
            )
            for f in message.fields
        }
        for message in module.DESCRIPTOR.message_types_by_name.values()
    }


def assert_same(source: dict, generated: dict) -> None:
    assert source.keys() == generated.keys(), REMEDY
    for message, fields in source.items():
        assert fields.keys() == generated[message].keys(), f"{message}: {REMEDY}"
        for name, (*rest, default) in fields.items():
            *generated_rest, generated_default = generated[message][name]
            assert rest == generated_rest, f"{message}.{name}: {REMEDY}"
            # Floats go through float32.
            expected = pytest.approx(default, rel=1e-6) if isinstance(default, float) else default
            assert generated_default == expected, f"{message}.{name}: {REMEDY}"


def test_the_generated_code_is_not_older_than_its_sources():
    listed = dict(reversed(line.split()) for line in (GENERATED / "SOURCES.sha256").read_text().splitlines())
    now = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in SOURCES.glob("*.proto")}
    assert listed == now, REMEDY
    assert set(now) == {f"{name}.proto" for name in MODULES}


@pytest.mark.parametrize("name", MODULES)
def test_the_generated_code_says_what_its_source_says(name):
    source = declared((SOURCES / f"{name}.proto").read_text(encoding="utf-8"))
    assert source
    assert_same(source, described(MODULES[name]))
    # The stubs come from the same run.
    stub = (GENERATED / f"{name}_pb2.pyi").read_text(encoding="utf-8")
    slots = {m[1]: set(re.findall(r'"(\w+)"', m[2])) for m in re.finditer(r"class (\w+)\(.*\n.*__slots__ = (.*)", stub)}
    assert slots == {message: set(fields) for message, fields in source.items()}, REMEDY


@pytest.mark.parametrize("name", MODULES)
def test_the_generated_code_runs_under_protobuf_4_25(name):
    # Later compilers write a check that refuses the protobuf of TensorFlow 2.15.
    assert "# Protobuf Python Version: 4.25" in (GENERATED / f"{name}_pb2.py").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("eval_interval = 2", "eval_intervals = 2"),
        ("default = 5000", "default = 5001"),
        ("eval_steps = 1 ", "eval_steps = 99 "),
        ("repeated float eval_scales", "optional float eval_scales"),
        ("optional int32 nms_kernel", "optional int64 nms_kernel"),
        ("default = 0.1]", "default = 0.11]"),
        ("message MaskwisePostProcessingOptions", "message MaskOptions"),
    ],
)
def test_the_comparison_notices_a_change(old, new):
    text = (SOURCES / "evaluator.proto").read_text(encoding="utf-8")
    assert old in text
    with pytest.raises(AssertionError, match="the generated code is old"):
        assert_same(declared(text.replace(old, new)), described(evaluator_pb2))


def deeplab2_fields() -> list[tuple[str, str, str, str | None]]:
    """(message, field, type, default) of `DEEPLAB2`."""
    rows, message = [], ""
    for line in DEEPLAB2.strip("\n").splitlines():
        if line.startswith(" "):
            name, _, rest = line.strip().partition(": ")
            kind, _, default = rest.partition(" = ")
            rows.append((message, name, kind, default or None))
        else:
            message = line
    return rows


def test_the_schema_holds_every_field_of_deeplab2_with_its_default():
    ours = {name: message for m in MODULES.values() for name, message in m.DESCRIPTOR.message_types_by_name.items()}
    rows = deeplab2_fields()
    assert len(rows) > 130
    for message, name, kind, default in rows:
        field = ours[message].fields_by_name.get(name)
        assert field is not None, f"{message} lacks DeepLab2's field {name}"
        label = "repeated " if is_repeated(field) else ""
        assert label + type_name(field) == kind, f"{message}.{name} has another type than in DeepLab2"
        if default is not None:
            expected = ast.literal_eval(default)
            expected = pytest.approx(expected, rel=1e-6) if kind == "float" else expected
            assert field.default_value == expected, f"{message}.{name} has another default than in DeepLab2"
        elif field.message_type is None and not is_repeated(field):
            assert not field.has_default_value, f"{message}.{name} has a default, where DeepLab2's has none"
