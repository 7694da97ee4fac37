# SPDX-License-Identifier: Apache-2.0
"""deeplab_axial.config: every rule with its message."""

import pathlib

import pytest

from deeplab_axial import config, config_tables
from deeplab_axial.errors import InputError
from deeplab_axial.protos import config_pb2
from tests import config_texts
from tests.config_texts import PANOPTIC, SOLVER, load_over, problems_of, strip


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    return config_texts.write_valid(tmp_path)


DECODER = f"{PANOPTIC}.instance.instance_decoder_override"
REMEDY_RANGE = "Correct it, or leave it out for the default"
# override, rule in the message, received, remedy
RULES = [
    ("model_options.backbone.output_stride=4", "must be 8, 16 or 32", "4", "default 32"),
    (
        "train_dataset_options.crop_size=[60,129]",
        "output_stride 16",
        "[60, 129]",
        "nearest sizes are 49 x 129 or 65 x 129",
    ),
    ("eval_dataset_options.crop_size=[1,1]", "output_stride * k + 1", "[1, 1]", "nearest sizes are 17 x 17"),
    ("eval_dataset_options.crop_size=[65]", "must have two values above 0", "[65]", "Give crop_size twice"),
    ("eval_dataset_options.crop_size=[65,-1]", "must have two values above 0", "[65, -1]", "Give crop_size twice"),
    ("train_dataset_options.file_pattern=", "must name files", "[]", "Name the TFRecord files"),
    ("eval_dataset_options.file_pattern=['']", "must name files", '[""]', "Name the TFRecord files"),
    (f"{PANOPTIC}.semantic_head.output_channels=0", "must be above 0", "0", "number of classes"),
    (f"{PANOPTIC}.semantic_head.head_channels=0", "must be above 0", "0", "Set it"),
    (f"{PANOPTIC}.instance.center_head.output_channels=2", "must be 1", "2", "Set it to 1"),
    (f"{PANOPTIC}.instance.regression_head.output_channels=1", "must be 2", "1", "Set it to 2"),
    ("model_options.decoder.feature_key=res6", "must be an endpoint", '"res6"', 'Did you mean "res'),
    (f"{DECODER}.feature_key=", "must be an endpoint", '""', "Valid names: res2, res3, res4, res5"),
    (f"{DECODER}.atrous_rates=6,12", "must have three values", "[6, 12]", "or set aspp_use_only_1x1_proj_conv: true"),
    (
        "model_options.backbone.drop_path_schedule=liner",
        "no such choice",
        '"liner"',
        'mean "linear"? Valid names: constant, linear',
    ),
    ("model_options.backbone.flavor=papr", "no such choice", '"papr"', 'mean "paper"?'),
    ("model_options.decoder.decoder_conv_type=depthwise", "no such choice", '"depthwise"', "depthwise_separable_conv"),
    (f"{DECODER}.decoder_conv_type=a", "no such choice", '"a"', "Valid names: depthwise_separable_conv"),
    (f"{PANOPTIC}.semantic_head.head_conv_type=a", "no such choice", '"a"', "Valid names: depthwise_separable_conv"),
    (f"{PANOPTIC}.instance.center_head.head_conv_type=a", "no such choice", '"a"', "depthwise_separable_conv"),
    (f"{PANOPTIC}.instance.regression_head.head_conv_type=a", "no such choice", '"a"', "depthwise_separable_conv"),
    (
        "train_dataset_options.augmentations.autoaugment_policy_name=simple_classification_policy_0.2",
        "no such choice",
        '"simple_classification_policy_0.2"',
        'Did you mean "simple_classification_policy',
    ),
    (
        "train_dataset_options.augmentations.panoptic_copy_paste.panoptic_copy_paste_thing_option=al",
        "no such choice",
        '"al"',
        'Did you mean "all"? Valid names: random, none, all',
    ),
    ("trainer_options.precision=float16", "no such choice", '"float16"', 'mean "float32"?'),
    (f"{SOLVER}.learning_policy=polynomial", "no such choice", '"polynomial"', 'mean "poly"?'),
    (
        f"{SOLVER}.optimizer=adamm",
        "no such choice",
        '"adamm"',
        'mean "adam"? Valid names: adam, adamw, sgd, radam, tfa.',
    ),
    (f"{SOLVER}.optimizer=tfa.1", "no such choice", '"tfa.1"', "tfa.<ClassName>"),
    ("trainer_options.loss_options.semantic_loss.name=mse", "no such choice", '"mse"', "softmax_cross_entropy"),
    ("trainer_options.loss_options.center_loss.name=l1", "no such choice", '"l1"', "Valid names: mse"),
    ("trainer_options.loss_options.regression_loss.name=mse", "no such choice", '"mse"', "Valid names: l1"),
    (f"{SOLVER}.warmup_steps=100", "less than training_number_of_steps (100)", "100", "fewer steps"),
    ("train_dataset_options.augmentations.min_scale_factor=3", "at most max_scale_factor (1)", "3", "Swap or correct"),
    ("eval_dataset_options.min_resize_value=1,2,3", "at most two values", "[1, 2, 3]", "Give one value"),
    ("eval_dataset_options.max_resize_value=-1", "each 0 or more", "[-1]", "0 to keep the size"),
    (f"{SOLVER}.base_learning_rate=nan", "must be above 0", "nan", REMEDY_RANGE),
    (f"{SOLVER}.base_learning_rate=inf", "must be above 0", "inf", "default 0.001"),
    ("evaluator_options.eval_scales=0.5,0", "each must lie in (0, 10]", "[0.5, 0]", "default []"),
    ("evaluator_options.eval_scales=1,-0.5", "each must lie in (0, 10]", "[1, -0.5]", REMEDY_RANGE),
    ("evaluator_options.eval_scales=nan", "each must lie in (0, 10]", "[nan]", REMEDY_RANGE),
    (
        "evaluator_options.eval_scales=0.02,1",
        "each must leave more than output_stride (16) pixels of either side of eval_dataset_options.crop_size",
        "[0.02, 1]",
        "Give scales of ",
    ),
    (
        "evaluator_options.instance_ap=cityscape",
        "no such choice",
        '"cityscape"',
        'mean "cityscapes"? Valid names: coco',
    ),
]
BAD_VALUES = {
    "must be above 0": "0",
    "must be 0 or more": "-1",
    "must lie in (0, 1]": "0",
    "must lie in [0, 1]": "1.5",
    "must lie in [0, 1)": "1",
    "must lie in [0, 10]": "10.5",
    "must lie in (0, 10]": "[0]",
    "must be -1 or above 0": "0",
    "must be -1 or more": "-2",
    "must be an odd number above 0": "4",
    "must be 0 (the whole axis) or an odd number from 3 on": "1",
    "must be 8, 16 or 32": "64",
}
RANGE_CASES = [
    (f"{path}={BAD_VALUES[rule]}", rule, BAD_VALUES[rule], REMEDY_RANGE)
    for rule, _, paths in config_tables.RANGES
    for table_path in paths
    for path in config_tables.expand(table_path)
]


@pytest.mark.parametrize(("override", "rule", "received", "remedy"), RULES + RANGE_CASES)
def test_each_rule_names_field_value_and_remedy(folder, override, rule, received, remedy):
    path = override.split("=")[0]
    lines = [line for line in problems_of(folder, "", overrides=[override]) if f": {path}: " in line]
    assert len(lines) == 1
    problem, _, advice = lines[0].partition(". Received: ")
    assert problem.startswith(f"{folder / 'over.textproto'}: {path}: ")
    assert rule in problem
    assert advice.startswith(f"{received}. ")
    assert remedy in advice


def test_the_rules_of_repeated_sections(folder):
    low = 'low_level { feature_key: "%s" channels_project: %d } '
    text = "model_options { panoptic_deeplab { " + low % ("res2", 1) + low % ("res3", 0) + " } }"
    lines = problems_of(folder, text)
    assert f"{PANOPTIC}.low_level[1].channels_project: must be above 0. Received: 0. Set it" in lines[0]
    assert f"{PANOPTIC}.low_level: must run from coarse to fine" in lines[1]
    assert 'Received: ["res2", "res3"]. Order them' in lines[1]
    (line,) = problems_of(folder, "model_options { panoptic_deeplab { " + low % ("rs3", 4) + " } }")
    assert f"{PANOPTIC}.low_level[0].feature_key: must be an endpoint of the backbone" in line
    assert 'Received: "rs3". Did you mean "res3"?' in line
    (line,) = problems_of(folder, "model_options { panoptic_deeplab { " + low % ("res5", 4) + " } }")
    assert "coarse to fine, below the decoder's own feature" in line


def _with_multipliers(folder, *entries: tuple[str, float], model: str = "", **solver) -> list[str]:
    """The problems of a config with learning rate multipliers; none if it loads."""
    fields = [f'learning_rate_multiplier {{ part: "{part}" multiplier: {value} }}' for part, value in entries]
    fields += [f"{name}: {value}" for name, value in solver.items()]
    text = f"{model} trainer_options {{ solver_options {{ {' '.join(fields)} }} }}"
    try:
        load_over(folder, text)
    except InputError as error:
        return str(error).split("\n")
    return []


def test_the_rules_of_learning_rate_multipliers(folder):
    field = f"{SOLVER}.learning_rate_multiplier"
    heads = [(part, 10) for part in ("semantic_head", "center_head", "offset_head")]
    assert _with_multipliers(folder, ("backbone", 0), *heads) == []
    assert _with_multipliers(folder, *heads, backbone_learning_rate_multiplier=0.1) == []
    (line,) = _with_multipliers(folder, ("semantic_haed", 2))
    assert (
        f'{field}[0].part: must be a part of the model. Received: "semantic_haed". Did you mean "semantic_head"?'
        in line
    )
    assert "Its parts: backbone, semantic_decoder, semantic_head, instance_decoder, center_head, offset_head" in line
    for value in (-1, "nan", "inf"):
        (line,) = _with_multipliers(folder, ("center_head", 2), ("backbone", value))
        assert f"{field}[1].multiplier: must be 0 or more. Received: {value}" in line
    (line,) = _with_multipliers(folder, ("backbone", 0.5), ("center_head", 1), ("backbone", 0.1))
    assert f'{field}: must name the part "backbone" once. Received: ["backbone", "center_head", "backbone"]' in line
    (line,) = _with_multipliers(folder, ("backbone", 0.5), backbone_learning_rate_multiplier=1)
    assert f"{SOLVER}.backbone_learning_rate_multiplier: must not be set with a learning_rate_multiplier" in line


def test_parts_that_a_model_does_not_have_get_no_multiplier(folder):
    share = "model_options { panoptic_deeplab { instance { share_decoder: true } } }"
    alone = "model_options { panoptic_deeplab { instance { enable: false } } }"
    assert _with_multipliers(folder, ("instance_decoder", 2)) == []
    (line,) = _with_multipliers(folder, ("instance_decoder", 2), model=alone)
    assert line.endswith("Its parts: backbone, semantic_decoder, semantic_head.")
    assert any(
        "a part of the model" in line for line in _with_multipliers(folder, ("instance_decoder", 2), model=share)
    )
    options = strip()
    options.model_options.classification.num_classes = 10
    options.trainer_options.solver_options.learning_rate_multiplier.add(part="semantic_head", multiplier=2)
    assert any("Its parts: backbone, classification_head" in line for line in config.validate(options, "config"))


def test_a_part_must_keep_the_learning_rate(folder):
    parts = ("semantic_decoder", "semantic_head", "instance_decoder", "center_head", "offset_head")
    entries = [(part, 2) for part in parts]
    assert _with_multipliers(folder, *entries) == []
    (line,) = _with_multipliers(folder, *entries, backbone_learning_rate_multiplier=0)
    assert "must leave a part of the model at 1. Received: [0, 2, 2, 2, 2, 2]. Change base_learning_rate" in line


def test_the_batch_is_a_multiple_of_its_parts(folder):
    overrides = ["train_dataset_options.batch_size=6", f"{SOLVER}.gradient_accumulation_steps=4"]
    (line,) = problems_of(folder, "", overrides=overrides)
    assert "train_dataset_options.batch_size: must be a multiple of gradient_accumulation_steps (4)" in line
    assert "Received: 6. Change one of the two." in line
    overrides[0] = "train_dataset_options.batch_size=12"
    assert load_over(folder, "", overrides=overrides).train_dataset_options.batch_size == 12


def test_atrous_rates_are_needed_by_the_full_aspp(folder):
    (line,) = problems_of(folder, "", overrides=["model_options.decoder.aspp_use_only_1x1_proj_conv=false"])
    assert "model_options.decoder.atrous_rates: must have three values above 0. Received: []. Give three" in line


@pytest.mark.parametrize(
    ("section", "mode", "remedy"),
    [
        ("model_options", None, "Add the section, or a base that has it"),
        (PANOPTIC, None, "Add the section with its low_level"),
        (f"{PANOPTIC}.semantic_head", None, "Add the section"),
        (f"{PANOPTIC}.instance.center_head", None, "or set instance { enable: false }"),
        (f"{PANOPTIC}.instance.regression_head", None, "or set instance { enable: false }"),
        ("train_dataset_options", "train", "Add the section, or a base"),
        ("train_dataset_options", "train_and_eval", "Add the section, or a base"),
        ("eval_dataset_options", "train_and_eval", "Add the section, or a base"),
        ("eval_dataset_options", "eval", "Add the section, or a base"),
        ("eval_dataset_options", "continuous_eval", "Add the section, or a base"),
        ("trainer_options.loss_options.semantic_loss", "train", "an empty one takes the defaults"),
        ("trainer_options.loss_options.center_loss", "train", "an empty one takes the defaults"),
    ],
)
def test_sections_that_are_needed(section, mode, remedy):
    (line,) = config.validate(strip(section), "x", mode)
    assert line.startswith(f"x: {section}: must be set")
    assert "Received: nothing. " in line
    assert remedy in line


def test_sections_that_are_not_needed():
    assert config.validate(strip("train_dataset_options", "trainer_options"), "x", "eval") == []
    assert config.validate(strip("eval_dataset_options", "evaluator_options"), "x", "train") == []
    assert config.validate(strip("train_dataset_options", "eval_dataset_options", "trainer_options"), "x") == []
    semantic_only = strip(
        f"{PANOPTIC}.instance",
        "trainer_options.loss_options.center_loss",
        "trainer_options.loss_options.regression_loss",
    )
    semantic_only.model_options.panoptic_deeplab.instance.enable = False
    assert config.validate(semantic_only, "x", "train") == []


def test_mode_and_backbone_name(folder):
    with pytest.raises(ValueError, match="Received: 'trian'"):
        config.validate(strip(), "x", "trian")
    names = ["resnet50", "axial_resnet_l"]
    (line,) = problems_of(folder, "", backbone_names=names)
    assert (
        'model_options.backbone.name: has no such backbone. Received: "axial_resnet_s". Did you mean "axial_resnet_l"?'
        in line
    )
    load_over(folder, "", backbone_names=["axial_resnet_s"])


def test_backbones_that_are_no_part_of_the_project_are_named_so(folder):
    refused = {"axial_resnet_s": "for a reason"}
    (line,) = problems_of(folder, "", backbone_names=["resnet50"], refused_backbones=refused)
    assert "model_options.backbone.name: is not part of this project: for a reason. Received: " in line
    assert "Valid names: resnet50." in line


CLASSIFIER = """
model_options {
  backbone { name: "axial_resnet_s" flavor: "paper" attention_span: 15 output_stride: 32 }
  classification { num_classes: 10 }
}
trainer_options { loss_options { classification_loss {} } solver_options { training_number_of_steps: 9 } }
train_dataset_options { file_pattern: "train.tfrecord" crop_size: [224, 200] augmentations { inception_crop {} } }
eval_dataset_options { file_pattern: "val.tfrecord" crop_size: [224, 224] }
"""


def _classifier_problems(folder, *overrides: str, text: str = CLASSIFIER, mode: str = "train_and_eval") -> list[str]:
    path = folder / "classifier.textproto"
    path.write_text(text)
    try:
        config.load(path, overrides, mode=mode)
    except InputError as error:
        return [line.removeprefix(f"{path}: ") for line in str(error).splitlines()]
    return []


@pytest.mark.parametrize("mode", [None, *config.MODES])
def test_a_classifier_is_described_trained_and_evaluated(folder, mode):
    assert _classifier_problems(folder, mode=mode) == []
    (problem,) = _classifier_problems(folder, "model_options.classification.num_classes=-1", mode=mode)
    assert problem.startswith("model_options.classification.num_classes: must be above 0. Received: -1.")


def test_a_classifier_needs_its_loss_to_train(folder):
    text = CLASSIFIER.replace("classification_loss {}", "semantic_loss {}")
    (problem,) = _classifier_problems(folder, text=text)
    assert problem == (
        "trainer_options.loss_options.classification_loss: must be set to train. Received: nothing. Add the section "
        "(an empty one takes the defaults)."
    )
    assert _classifier_problems(folder, text=text, mode="eval") == []
    path = "trainer_options.loss_options.classification_loss.label_smoothing"
    for value in ("1", "-0.1", "nan"):
        (problem,) = _classifier_problems(folder, f"{path}={value}")
        assert problem.startswith(f"{path}: must lie in [0, 1). Received: {value}")


def test_a_classifier_needs_files_and_a_crop(folder):
    problems = _classifier_problems(
        folder, "train_dataset_options.file_pattern=[]", "eval_dataset_options.crop_size=[0,224]"
    )
    assert [problem.split(": ")[0] for problem in problems] == [
        "train_dataset_options.file_pattern",
        "eval_dataset_options.crop_size",
    ]


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        (
            "evaluator_options.eval_scales=0.5,1",
            "evaluator_options.eval_scales: is not for classification. Received: [0.5, 1].",
        ),
        (
            "evaluator_options.add_flipped_images=true",
            "evaluator_options.add_flipped_images: is not for classification.",
        ),
        ("evaluator_options.save_predictions=true", "evaluator_options.save_predictions: is not for classification."),
        (
            "eval_dataset_options.min_resize_value=256",
            "eval_dataset_options.min_resize_value: is not for classification. Received: [256]. Remove the field",
        ),
        (
            "train_dataset_options.augmentations.max_scale_factor=2",
            "train_dataset_options.augmentations.max_scale_factor: is not for classification. Received: 2.",
        ),
    ],
)
def test_a_classifier_has_no_use_for(folder, override, problem):
    (found,) = _classifier_problems(folder, override)
    assert found.startswith(problem)


def test_the_policies_are_those_of_the_input_pipeline():
    from deeplab_axial.data import autoaugment

    path = "*_dataset_options.augmentations.autoaugment_policy_name"
    assert set(config_tables.CHOICES[path]) == set(autoaugment.POLICIES)


def test_the_copy_paste_options_are_those_of_the_input_pipeline():
    from deeplab_axial.data import copy_paste

    paths = [path for path in config_tables.CHOICES if "copy_paste" in path]
    assert len(paths) == 3
    assert all(config_tables.CHOICES[path] == copy_paste.OPTIONS for path in paths)


def test_tfa_optimizers_are_left_to_the_builder(folder):
    options = load_over(folder, "", overrides=[f"{SOLVER}.optimizer=tfa.LazyAdam"])
    assert options.trainer_options.solver_options.optimizer == "tfa.LazyAdam"


def _refused_value(path: str) -> str | None:
    """A textproto value that is not the default; None for a section."""
    field = None
    descriptor = config_pb2.ExperimentOptions.DESCRIPTOR
    for name in path.split("."):
        field = descriptor.fields_by_name[name]
        descriptor = field.message_type
    if descriptor is not None:
        return None
    if field.cpp_type == field.CPPTYPE_BOOL:
        return str(not field.default_value).lower()
    return '"a"' if field.cpp_type == field.CPPTYPE_STRING else "2"


@pytest.mark.parametrize("path", config_tables.REFUSED_PATHS)
def test_each_refused_field_is_refused_by_name(folder, path):
    value = _refused_value(path)
    *sections, name = path.split(".")
    text = f"{name} {{}}" if value is None else f"{name}: {value}"
    for section in reversed(sections):
        text = f"{section} {{ {text} }}"
    (line,) = problems_of(folder, text, mode=None)
    assert line.startswith(f"{folder / 'over.textproto'}: {path}: {config_tables.REFUSED_PATHS[path]}. Received: ")
    remedy = line.rsplit(". ", 1)[1]
    if 'override "' in remedy:  # The remedy works as it stands.
        load_over(folder, text, mode=None, overrides=[line.split('override "')[1].split('"')[0]])
    else:
        assert remedy in ("Remove the section.", "Choose panoptic_deeplab.")


def test_refused_fields_may_hold_their_defaults(folder):
    load_over(
        folder,
        """train_dataset_options { decode_groundtruth_label: true use_two_frames: false
             augmentations { autoaugment_policy_name: "" panoptic_copy_paste { panoptic_copy_paste_scale: 0 } } }
           model_options { backbone { pretrained_weights: "" } }
           evaluator_options { transformer_post_processing: "pixelwise"
             merge_semantic_and_instance_with_tf_op: false }""",
    )


def test_all_problems_come_at_once(folder):
    lines = problems_of(
        folder,
        "trainer_options { steps_per_loop: 0 nonsense: 1 } model_options { backbone { output_stride: 5 } }",
        overrides=["x=1", "evaluator_options.nms_kernel=2"],
    )
    fields = ["nonsense", 'override "x=1"', "output_stride", "steps_per_loop", "nms_kernel"]
    assert len(lines) == len(fields)
    assert all(any(field in line for line in lines) for field in fields)
