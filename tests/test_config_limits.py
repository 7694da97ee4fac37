# SPDX-License-Identifier: Apache-2.0
"""What no field of a config may hold: no number, a number that nothing is built of, a NUL character, a crowd."""

import math
import time

import pytest

from deeplab_axial import config, config_limits
from deeplab_axial.config_messages import MOST_PROBLEMS, is_repeated
from deeplab_axial.protos import config_pb2
from tests.config_texts import PANOPTIC, SOLVER, load_over, problems_of, write_valid


@pytest.fixture
def folder(tmp_path):
    return write_valid(tmp_path)


def _set_in(message, descriptor, kind: int, value, prefix: str = ""):
    """Yields the path of each field of a kind, by itself set to the value in `message`; lists get one section."""
    for field in descriptor.fields:
        path = f"{prefix}{field.name}"
        if field.message_type is not None and not is_repeated(field):
            yield from _set_in(getattr(message, field.name), field.message_type, kind, value, f"{path}.")
        elif field.message_type is not None:
            section = getattr(message, field.name).add()
            yield from _set_in(section, field.message_type, kind, value, f"{path}[0].")
            message.ClearField(field.name)
        elif field.cpp_type == kind:
            getattr(message, field.name).append(value) if is_repeated(field) else setattr(message, field.name, value)
            yield path
            message.ClearField(field.name)


def _paths(value):
    """Every field of the schema that takes a value like this one, with the problems of a config that is this field."""
    options = config_pb2.ExperimentOptions()
    field = options.DESCRIPTOR.fields_by_name["experiment_name"]
    kind = field.CPPTYPE_FLOAT if isinstance(value, float) else field.CPPTYPE_STRING
    for path in _set_in(options, options.DESCRIPTOR, kind, value):
        yield path, config.validate(options, "c")


@pytest.mark.parametrize("value", [math.nan, 1e30])
def test_no_float_of_the_schema_may_be_no_number_or_one_that_means_nothing(value):
    seen = []
    for path, problems in _paths(value):
        assert any(line.startswith((f"c: {path}: ", f"c: {path.rpartition('.')[0]}: ")) for line in problems), path
        seen.append(path)
    assert len(seen) > 50
    assert "evaluator_options.center_score_threshold" in seen
    assert f"{SOLVER}.learning_rate_multiplier[0].multiplier" in seen
    assert "published.pq" in seen


def test_no_text_of_the_schema_may_have_a_nul_character():
    for path, problems in _paths("a\0b"):
        if path != "base":  # read, and cleared, before
            assert any(line.startswith(f"c: {path}") for line in problems), path


@pytest.mark.parametrize(
    "override",
    [
        "evaluator_options.center_score_threshold=nan",
        "evaluator_options.eval_scales=1,nan",
        f"{SOLVER}.base_learning_rate=inf",
        f"{SOLVER}.base_learning_rate=1e400",
        f"{SOLVER}.base_learning_rate=1e30",
        "published.pq=-inf",
        "trainer_options.loss_options.center_loss.weight=1e30",
        "model_options.backbone.backbone_layer_multiplier=1e9",
        "model_options.backbone.backbone_width_multiplier=1e30",
        "model_options.backbone.stem_width_multiplier=9",
        "model_options.backbone.attention_span=2147483647",
        "model_options.decoder.decoder_channels=2000000000",
        f"{PANOPTIC}.semantic_head.output_channels=2000000000",
        f"{PANOPTIC}.instance.center_head.head_channels=2000000000",
        f"{PANOPTIC}.instance.instance_decoder_override.atrous_rates=6,12,130",
        "train_dataset_options.batch_size=2147483647",
        "train_dataset_options.batch_size=130000",
        "train_dataset_options.sigma=1e8",
        "train_dataset_options.augmentations.max_scale_factor=1e6",
        "train_dataset_options.augmentations.scale_factor_step_size=1e-30",
        "eval_dataset_options.min_resize_value=2147483647",
        "evaluator_options.keep_k_centers=2147483647",
        "evaluator_options.nms_kernel=2147483647",
        "evaluator_options.nms_kernel=131",
        f"{SOLVER}.gradient_accumulation_steps=2147483647",
        "trainer_options.seed=-1",
        "trainer_options.seed=4294967296",
        "train_dataset_options.file_pattern=a\0b",
        f"{SOLVER}.sgd_momentum=1",
    ],
)
def test_one_error_names_the_field_within_a_second(folder, override):
    path = override.split("=")[0]
    also = ["train_dataset_options.augmentations.max_scale_factor=2", "train_dataset_options.crop_size=129,257"]
    also = also if "step_size" in path or override.endswith("=130000") else []
    started = time.perf_counter()
    lines = [line for line in problems_of(folder, "", overrides=[*also, override]) if not line.endswith("the two.")]
    assert time.perf_counter() - started < 1
    named = [line for line in lines or problems_of(folder, "", overrides=[*also, override]) if f": {path}: " in line]
    assert len(named) == 1
    assert "Received: " in named[0]


def test_what_is_large_but_can_be_built_is_left_alone(folder):
    overrides = [
        "evaluator_options.nms_kernel=129",
        f"{PANOPTIC}.instance.instance_decoder_override.atrous_rates=6,12,129",
        "model_options.backbone.backbone_layer_multiplier=4.5",
        "train_dataset_options.batch_size=65536",
        "trainer_options.seed=4294967295",
        "train_dataset_options.augmentations.max_scale_factor=10",
    ]
    load_over(folder, "", overrides=overrides)


def test_each_limit_is_of_a_field_and_is_one_that_counts():
    found = set()

    def walk(descriptor):
        for field in descriptor.fields:
            found.add(f"{descriptor.name}.{field.name}")
            if field.message_type is not None:
                walk(field.message_type)

    walk(config_pb2.ExperimentOptions.DESCRIPTOR)
    assert set(config_limits.LARGEST) <= found
    assert set(config_limits.MOST_VALUES) <= found


def test_a_window_of_local_attention(folder):
    backbone = "model_options.backbone"
    overrides = [f"{backbone}.name=local_deeplab_l", f"{backbone}.attention_span=129"]
    (line,) = problems_of(folder, "", overrides=overrides)
    assert f"{backbone}.attention_span: must be at most 127 with local attention" in line
    load_over(folder, "", overrides=overrides[1:])


def test_crowds_are_told_alone(folder):
    (line,) = problems_of(folder, "model_options { panoptic_deeplab { " + "low_level {} " * 101 + " } }")
    assert f"{PANOPTIC}.low_level: may have 100 values. Received: 101. Leave most of them out." in line


def test_an_error_lists_so_many_problems(folder):
    lines = problems_of(folder, 'label_space { name: "x" ' + "label_class {} " * 200 + "}")
    assert len(lines) == MOST_PROBLEMS + 1
    assert lines[-1] == "and 350 more"
