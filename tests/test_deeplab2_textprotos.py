# SPDX-License-Identifier: Apache-2.0
"""The experiments that DeepLab2 ships for this project's models: the same fields with the same values run here."""

import dataclasses
import pathlib
import re

import pytest
import tensorflow as tf

from deeplab_axial import builders, config
from deeplab_axial.backbones import presets
from deeplab_axial.errors import InputError

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
FILLED = {"EXPERIMENT_NAME": "a", "INIT_CHECKPOINT": "b", "TRAIN_SET": "t*.tfrecord", "VAL_SET": "v*.tfrecord"}
AUTOAUGMENT = 'autoaugment_policy_name: "simple_classification_policy_magnitude_scale_0.2"'
SCALED = 'drop_path_keep_prob: 0.8 drop_path_schedule: "linear"'


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What tells the textprotos apart; the defaults are those of Cityscapes at output stride 32."""

    backbone: str
    rate: float
    stride: int = 32
    more_backbone: str = ""
    rates: tuple[int, ...] = (3, 6, 9)  # empty: the 1 x 1 projection alone
    classes: int = 19
    instances: bool = True
    every: tuple[int, int, int] = (1000, 100, 100)
    steps: str = "training_number_of_steps: 60000"
    dataset: str = "cityscapes_panoptic"
    batch: int = 32
    crop: tuple[int, int] = (1025, 2049)
    resize: int = 0
    max_scale: float = 2.0
    policy: str = ""
    second_pattern: str = ""
    evaluator: str = "continuous_eval_timeout: -1 stuff_area_limit: 2048 center_score_threshold: 0.1 nms_kernel: 13"


def _os16(backbone: str, rate: float, more: str = SCALED, axial: bool = False, **changes) -> Experiment:
    rates = () if axial else (6, 12, 18)
    return Experiment(backbone, rate, 16, more, rates=rates, **{"policy": AUTOAUGMENT, **changes})


def _swidernet(layers: float, rate: float, axial: bool) -> Experiment:
    multipliers = f"stem_width_multiplier: 1 backbone_width_multiplier: 1 backbone_layer_multiplier: {layers} "
    sac = "" if axial else "use_sac_beyond_stride: 32 "
    return _os16("axial_swidernet" if axial else "swidernet", rate, multipliers + sac + SCALED, axial)


_COCO = {
    "classes": 134,
    "steps": "training_number_of_steps: 200000 warmup_steps: 2000",
    "dataset": "coco_panoptic",
    "batch": 64,
    "crop": (641, 641),
    "resize": 641,
    "max_scale": 1.5,
    "policy": AUTOAUGMENT,
    "evaluator": "continuous_eval_timeout: 43200 stuff_area_limit: 4096 center_score_threshold: 0.1 nms_kernel: 41",
}
_STEP = {
    "evaluator": "continuous_eval_timeout: 10000 stuff_area_limit: 0 center_score_threshold: 0.1 nms_kernel: 13 "
    "convert_raw_to_eval_ids: false",
}
_KITTI = {
    **_STEP,
    "every": (1000, 500, 500),
    "steps": "training_number_of_steps: 30000",
    "dataset": "kitti_step",
    "crop": (385, 1249),
}
EXPERIMENTS = {
    "cityscapes resnet50_os32": Experiment("resnet50", 0.00025, batch=8),
    "cityscapes resnet50_os32_semseg": Experiment(
        "resnet50", 0.0005, batch=8, instances=False, evaluator="continuous_eval_timeout: -1"
    ),
    "cityscapes resnet50_beta_os32": Experiment("resnet50_beta", 0.00025),
    "cityscapes wide_resnet41_os16": _os16("wide_resnet41", 0.0001),
    "cityscapes swidernet_sac_1_1_1_os16": _swidernet(1, 0.0001, axial=False),
    "cityscapes swidernet_sac_1_1_3_os16": _swidernet(3, 0.0001, axial=False),
    "cityscapes swidernet_sac_1_1_4.5_os16": _swidernet(4.5, 0.00025, axial=False),
    "cityscapes axial_swidernet_1_1_1_os16": _swidernet(1, 0.0001, axial=True),
    "cityscapes axial_swidernet_1_1_3_os16": _swidernet(3, 0.0001, axial=True),
    "cityscapes axial_swidernet_1_1_4.5_os16": _swidernet(4.5, 0.000075, axial=True),
    "cityscapes max_deeplab_s_backbone_os16": _os16("max_deeplab_s_backbone", 0.0001, axial=True),
    "coco resnet50_os32": Experiment("resnet50", 0.0005, **_COCO),
    "coco resnet50_os16": _os16("resnet50", 0.0005, "", **_COCO),
    "coco resnet50_beta_os32": Experiment("resnet50_beta", 0.0005, **_COCO),
    "coco resnet50_beta_os16": _os16("resnet50_beta", 0.0005, "", **_COCO),
    "kitti resnet50_os32": Experiment("resnet50", 0.00001, **_KITTI),
    "kitti resnet50_os32_trainval": Experiment(
        "resnet50", 0.000001, **_KITTI, second_pattern='file_pattern: "${VAL_SET}"'
    ),
    "motchallenge resnet50_os32": Experiment(
        "resnet50",
        0.00001,
        **_STEP,
        classes=7,
        every=(200, 50, 50),
        steps="training_number_of_steps: 10000",
        dataset="motchallenge_step",
        crop=(1089, 1921),
    ),
}


def _low_level(field: str, *channels: int) -> str:
    return " ".join(
        f'{field} {{ feature_key: "{key}" channels_project: {n} }}' for key, n in zip(("res3", "res2"), channels)
    )


def _aspp(rates: tuple[int, ...]) -> str:
    return " ".join(f"atrous_rates: {rate}" for rate in rates) or "aspp_use_only_1x1_proj_conv: true"


def _data(e: Experiment, pattern: str, batch: int, more: str = "") -> str:
    small = "increase_small_instance_weights: true small_instance_weight: 3.0" if e.instances else ""
    return f"""dataset: "{e.dataset}" file_pattern: "{pattern}" batch_size: {batch} crop_size: {e.crop[0]}
      crop_size: {e.crop[1]} min_resize_value: {e.resize} max_resize_value: {e.resize} {small} {more}"""


def textproto(e: Experiment) -> str:
    """An experiment as DeepLab2 writes it."""
    instance = f"""{_low_level("low_level_override", 32, 16)}
      instance_decoder_override {{ feature_key: "res5" decoder_channels: 128 {_aspp(e.rates)} }}
      center_head {{ output_channels: 1 head_channels: 32 }}
      regression_head {{ output_channels: 2 head_channels: 32 }}"""
    losses = 'center_loss { name: "mse" weight: 200 } regression_loss { name: "l1" weight: 0.01 }'
    scales = f"min_scale_factor: 0.5 max_scale_factor: {e.max_scale} scale_factor_step_size: 0.1"
    save, summary, loop = e.every
    return f"""
# proto-file: deeplab2/config.proto
# proto-message: ExperimentOptions
experiment_name: "${{EXPERIMENT_NAME}}"
model_options {{
  initial_checkpoint: "${{INIT_CHECKPOINT}}"
  backbone {{ name: "{e.backbone}" output_stride: {e.stride} {e.more_backbone} }}
  decoder {{ feature_key: "res5" decoder_channels: 256 aspp_channels: 256 {_aspp(e.rates)} }}
  panoptic_deeplab {{
    {_low_level("low_level", 64, 32)}
    instance {{ {instance if e.instances else "enable: false"} }}
    semantic_head {{ output_channels: {e.classes} head_channels: 256 }}
  }}
}}
trainer_options {{
  save_checkpoints_steps: {save} save_summaries_steps: {summary} steps_per_loop: {loop}
  loss_options {{
    semantic_loss {{ name: "softmax_cross_entropy" weight: 1.0 top_k_percent: 0.2 }}
    {losses if e.instances else ""}
  }}
  solver_options {{ base_learning_rate: {e.rate} {e.steps} }}
}}
train_dataset_options {{
  {_data(e, "${TRAIN_SET}", e.batch, f"{e.second_pattern} augmentations {{ {scales} {e.policy} }}")}
}}
eval_dataset_options {{ {_data(e, "${VAL_SET}", 1)} }}
evaluator_options {{
  {e.evaluator} save_predictions: true save_raw_predictions: false merge_semantic_and_instance_with_tf_op: false
}}
"""


def _load(folder: pathlib.Path, text: str, mode: str | None = "train_and_eval"):
    path = folder / "experiment.textproto"
    path.write_text(text)
    placeholders = {name: value for name, value in FILLED.items() if f"${{{name}}}" in text}
    known = {"backbone_names": presets.NAMES, "refused_backbones": presets.REFUSED}
    return config.load(path, mode=mode, **known, placeholders=placeholders)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_it_loads_unchanged(tmp_path, name):
    experiment = EXPERIMENTS[name]
    options = _load(tmp_path, textproto(experiment))
    assert options.experiment_name == "a"
    assert list(options.eval_dataset_options.file_pattern) == ["v*.tfrecord"]
    assert options.model_options.backbone.flavor == "deeplab2"
    space = builders.load_label_space(options.train_dataset_options.dataset)
    assert options.model_options.panoptic_deeplab.semantic_head.output_channels == space.num_classes
    images = builders.build_image_options(options.train_dataset_options)
    assert images.resizes == (experiment.resize > 0)


# Experiment -> the config of ours that stands for it.
SHIPPED = {
    "cityscapes resnet50_os32": "cityscapes/resnet50",
    "cityscapes resnet50_beta_os32": "cityscapes/resnet50_beta",
    **{
        name: f"cityscapes/{name.removeprefix('cityscapes ').removesuffix('_os16')}"
        for name in EXPERIMENTS
        if name.startswith("cityscapes") and name.endswith("_os16")
    },
    **{name: name.replace(" ", "/").replace("_os", "_stride") for name in EXPERIMENTS if name.startswith("coco")},
}
# What ours leave at the defaults: it changes no weight and no metric.
_INDIFFERENT = re.compile(
    r"experiment_name|published\.|eval_dataset_options\.increase_small_instance_weights|"
    r"evaluator_options\.(continuous_eval_timeout|save_predictions|merge_semantic_and_instance_with_tf_op)"
)


def _values(message, prefix: str = "") -> dict[str, object]:
    """Dotted path -> value of all fields of the sections that are set, those at their defaults included."""
    values = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        path = f"{prefix}{field.name}"
        if hasattr(value, "DESCRIPTOR"):
            values |= _values(value, f"{path}.") if message.HasField(field.name) else {}
        elif not _INDIFFERENT.match(path):
            values[path] = value if isinstance(value, (bool, int, float, str)) else list(map(str, value))
            if values[path] == ["0"]:  # of min_resize_value: no resizing, as if it were not set
                values[path] = []
    return values


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_config_says_the_same(tmp_path, name):
    filled = {key: value for key, value in FILLED.items() if key != "EXPERIMENT_NAME"}
    shipped = config.load(CONFIGS / f"{SHIPPED[name]}.textproto", placeholders=filled)
    assert _values(shipped) == _values(_load(tmp_path, textproto(EXPERIMENTS[name])))


def _build(folder: pathlib.Path, experiment: Experiment):
    options = _load(folder, textproto(experiment))
    with tf.Graph().as_default():
        model = builders.build_model(options)
    builders.build_optimizer(options)
    space = builders.load_label_space(experiment.dataset)
    assert builders.build_loss(options, space).ignore_label == space.ignore_label
    builders.build_postprocessor(options, space)
    return model


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if "swidernet" in name or "coco" in name else [])
        for name in EXPERIMENTS
        if not name.startswith(("kitti", "motchallenge"))  # The networks are those of Cityscapes.
    ],
)
def test_it_builds(tmp_path, name):
    model = _build(tmp_path, EXPERIMENTS[name])
    names = {weight.name.split("/")[1] for weight in model.trainable_weights}
    assert {"semantic_decoder", "semantic_head"} <= names
    assert ("offset_head" in names) == EXPERIMENTS[name].instances


def test_the_example_without_training_options_is_described(tmp_path):
    experiment = Experiment("resnet50", 0.1, rates=(6, 12, 18))
    text = textproto(experiment)
    model, after = text.split("trainer_options")[0], "train_dataset_options { crop_size: 1025 crop_size: 2049 }"
    options = _load(tmp_path, model + after, mode=None)
    assert list(options.train_dataset_options.crop_size) == [1025, 2049]


@pytest.mark.parametrize("backbone", presets.REFUSED)
def test_backbones_of_other_projects_are_refused_by_name(tmp_path, backbone):
    with pytest.raises(InputError) as error:
        _load(tmp_path, textproto(Experiment(backbone, 0.1)))
    (line,) = str(error.value).splitlines()
    rule = f"is not part of this project: {presets.REFUSED[backbone]}"
    assert f'model_options.backbone.name: {rule}. Received: "{backbone}". ' in line
    assert "Valid names: " in line
    assert "Did you mean" not in line


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("motion_deeplab { motion_head { output_channels: 2 } }", "Motion-DeepLab"),
        ("vip_deeplab { depth_head { output_channels: 1 } }", "ViP-DeepLab"),
        ("max_deeplab { auxiliary_semantic_head { output_channels: 19 } }", "MaX-DeepLab (and kMaX-DeepLab)"),
        ("deeplab_v3 { num_classes: 19 }", "DeepLabv3"),
        ("deeplab_v3_plus { num_classes: 19 }", "DeepLabv3+"),
    ],
)
def test_other_families_are_refused_by_name(tmp_path, section, said):
    text = f'model_options {{ backbone {{ name: "resnet50" }} {section} }}'
    with pytest.raises(InputError, match="is not part of this project") as error:
        _load(tmp_path, text, mode=None)
    assert f"{said} is not part of this project. Received: a " in str(error.value)


def test_copy_paste_of_another_family_loads_with_this_one(tmp_path):
    # Only its kMaX-DeepLab textprotos set these fields; the reader of the records is common to all families.
    text = textproto(EXPERIMENTS["cityscapes axial_swidernet_1_1_1_os16"])
    section = """panoptic_copy_paste { panoptic_copy_paste_scale: 0.5 panoptic_copy_paste_thing_option: "all"
        panoptic_copy_paste_stuff_option: "random" panoptic_copy_paste_void_option: "none" }"""
    options = _load(tmp_path, text.replace("scale_factor_step_size: 0.1", f"scale_factor_step_size: 0.1 {section}"))
    assert options.train_dataset_options.augmentations.panoptic_copy_paste.panoptic_copy_paste_scale == 0.5
