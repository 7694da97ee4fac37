# SPDX-License-Identifier: Apache-2.0
"""deeplab_axial.config: bases, overrides, placeholders and saving."""

import pathlib
import subprocess
import sys

import pytest

from deeplab_axial import config
from deeplab_axial.errors import InputError
from tests import config_texts
from tests.config_texts import FILLED, PANOPTIC, SOLVER, load_over, problems_of, strip


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    return config_texts.write_valid(tmp_path)


def test_a_valid_config_loads_in_every_mode(folder):
    for mode in (None, *config.MODES):
        options = config.load(folder / "valid.textproto", mode=mode, placeholders=FILLED)
        assert list(options.train_dataset_options.crop_size) == [65, 129]
    # Presence: what is not set stays unset and reads as its default.
    assert not options.train_dataset_options.HasField("batch_size")
    assert options.train_dataset_options.batch_size == 32


def test_overlay_replaces_scalars_and_repeated_merges_sections_and_switches_oneofs(folder):
    (folder / "sub").mkdir()
    (folder / "sub" / "second.textproto").write_text("trainer_options { seed: 7 steps_per_loop: 5 }")
    (folder / "first.textproto").write_text(
        'base: ["valid.textproto", "sub/second.textproto"] trainer_options { steps_per_loop: 6 }'
    )
    (folder / "top.textproto").write_text("""
      base: "first.textproto"
      model_options { backbone { output_stride: 32 } panoptic_deeplab { low_level { feature_key: "res4"
        channels_project: 8 } } }
      train_dataset_options { crop_size: 97 crop_size: 97 }
      eval_dataset_options { crop_size: 97 crop_size: 97 file_pattern: "x" file_pattern: "y" }
    """)
    options = config.load(folder / "top.textproto", placeholders=FILLED)
    assert options.model_options.backbone.name == "axial_resnet_s"
    assert options.model_options.backbone.output_stride == 32
    assert [x.feature_key for x in options.model_options.panoptic_deeplab.low_level] == ["res4"]
    assert options.model_options.panoptic_deeplab.semantic_head.output_channels == 19
    assert list(options.eval_dataset_options.crop_size) == [97, 97]
    assert list(options.eval_dataset_options.file_pattern) == ["x", "y"]
    assert (options.trainer_options.seed, options.trainer_options.steps_per_loop) == (7, 6)
    assert not options.base


def test_a_member_of_a_oneof_replaces_the_other(folder):
    (folder / "v3.textproto").write_text("model_options { deeplab_v3 { num_classes: 3 } }")
    (folder / "top.textproto").write_text('base: ["v3.textproto", "valid.textproto"]')
    options = config.load(folder / "top.textproto")
    assert options.model_options.WhichOneof("meta_architecture") == "panoptic_deeplab"
    (line,) = problems_of(folder, "model_options { deeplab_v3 { num_classes: 3 } }")
    assert "model_options.deeplab_v3: DeepLabv3 is not part of this project" in line


def test_a_cycle_of_bases_names_the_chain(folder):
    (folder / "a.textproto").write_text('base: "b.textproto"')
    (folder / "b.textproto").write_text('base: "./a.textproto"')
    with pytest.raises(InputError, match=r"a\.textproto -> .*b\.textproto -> .*a\.textproto") as error:
        config.load(folder / "a.textproto")
    assert "must not start from itself" in str(error.value)


def test_a_base_may_be_reached_twice(folder):
    for name in ("left", "right"):
        (folder / f"{name}.textproto").write_text('base: "valid.textproto"')
    (folder / "top.textproto").write_text('base: ["left.textproto", "right.textproto"]')
    assert config.load(folder / "top.textproto").model_options.backbone.output_stride == 16


def test_a_missing_file_names_itself_its_referrer_and_a_near_name(folder):
    with pytest.raises(InputError, match=r"valit\.textproto: .*No such file.*Did you mean \"valid\.textproto\""):
        config.load(folder / "valit.textproto")
    (folder / "top.textproto").write_text('base: "valit.textproto"')
    with pytest.raises(InputError, match=r"valit\.textproto \(base of .*top\.textproto\)"):
        config.load(folder / "top.textproto")
    (folder / "binary.textproto").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8 text"):
        config.load(folder / "binary.textproto")
    with pytest.raises(InputError, match="a folder, where a file is expected"):
        config.load(folder)


def test_unknown_fields_are_all_reported_with_place_and_nearest_name(folder):
    lines = problems_of(
        folder,
        '# A comment with nonsense: 1 {\nmodel_options {\n  backbone { nam: "x: { y" flavor: "paper" }\n'
        "  decoder < aspp_chanels: 3 >\n}\n7: 1\ntrainer_options: { steps_per_loop: 0 }",
    )
    assert (
        "over.textproto:4:14: model_options.backbone.nam: BackboneOptions has no such field. Received: nam. Did"
        in lines[0]
    )
    assert 'mean "name"? Valid names: name, output_stride' in lines[0]
    assert "over.textproto:5:13: model_options.decoder.aspp_chanels" in lines[1]
    assert 'mean "aspp_channels"?' in lines[1]
    assert "over.textproto:7:1: 7: ExperimentOptions has no such field" in lines[2]
    assert "trainer_options.steps_per_loop: must be above 0" in lines[3]
    assert len(lines) == 4


def test_unknown_fields_inside_lists_of_sections(folder):
    lines = problems_of(
        folder,
        'model_options { panoptic_deeplab { low_level: [ { feature_key: "res3" channels_project: 1 }, { ke: 1 } ] } }',
    )
    assert f"{PANOPTIC}.low_level.ke: LowLevelOptions has no such field" in lines[0]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("trainer_options { steps_per_loop: x }", ":2:35"),
        ("trainer_options { steps_per_loop: 1 steps_per_loop: 2 }", ":2:"),
        ("trainer_options { ", ":2:"),
        ("trainer_options } seed: 1", ":2:"),
        ("trainer_options { use_xla: maybe }", ":2:"),
        ("[some.extension]: 3", ":2:"),
    ],
)
def test_broken_text_is_reported_with_its_place(folder, text, place):
    (line,) = problems_of(folder, text)
    assert f"over.textproto{place}" in line
    assert "Correct the text format" in line


def test_a_family_with_fields_that_the_schema_lacks_is_named_as_not_ours(folder):
    text = "model_options { motion_deeplab { motion_head { output_channels: 2 } low_level { x: 1 } } }"
    (line,) = problems_of(folder, text)
    assert "model_options.motion_deeplab: Motion-DeepLab is not part of this project" in line
    assert line.endswith("Choose panoptic_deeplab.")


# --- Overrides -------------------------------------------------------------------------------------------------------


def test_overrides_of_every_kind(folder):
    options = load_over(
        folder,
        "",
        overrides=[
            f"{SOLVER}.training_number_of_steps=77",
            f"{SOLVER}.base_learning_rate = 1e-3",
            "trainer_options.use_xla=true",
            "train_dataset_options.crop_size=[33, 49]",
            "eval_dataset_options.crop_size=33,33",
            'train_dataset_options.file_pattern="a,b", ${TRAIN_SET}#1',
            f"{PANOPTIC}.instance.instance_decoder_override.atrous_rates=1,2,3",
            "evaluator_options.eval_scales=[]",
            "experiment_name='x=y'",
            "model_options.initial_checkpoint=",
        ],
    )
    assert options.trainer_options.solver_options.training_number_of_steps == 77
    assert options.trainer_options.solver_options.base_learning_rate == pytest.approx(1e-3)
    assert options.trainer_options.use_xla
    assert list(options.train_dataset_options.crop_size) == [33, 49]
    assert list(options.eval_dataset_options.crop_size) == [33, 33]
    assert list(options.train_dataset_options.file_pattern) == ["a,b", "c#1"]
    assert list(options.model_options.panoptic_deeplab.instance.instance_decoder_override.atrous_rates) == [1, 2, 3]
    assert not options.evaluator_options.eval_scales
    assert options.experiment_name == "x=y"
    assert options.model_options.HasField("initial_checkpoint")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trainer_options", "Write the path, = and the value"),
        ("=3", "Write the path, = and the value"),
        ("trainer_options=3", "trainer_options is a section. Received: 3. Name a field inside it"),
        ("trainer_option.seed=3", 'Received: trainer_option. Did you mean "trainer_options"?'),
        ("trainer_options.sed=3", 'TrainerOptions has no such field. Received: sed. Did you mean "seed"?'),
        ("trainer_options.seed.x=3", "trainer_options.seed is not a single section"),
        (f"{PANOPTIC}.low_level.feature_key=res3", "set this one in the config file"),
        ("trainer_options.seed=a", "seed takes a whole number. Received: a"),
        ("trainer_options.steps_per_loop=9999999999", "takes a whole number. Received: 9999999999"),
        (f"{SOLVER}.base_learning_rate=high", "takes a number. Received: high"),
        ("trainer_options.use_xla=yes", "takes true or false. Received: yes"),
        ("train_dataset_options.crop_size=1;2", "takes a whole number. Received: 1;2"),
        ('train_dataset_options.file_pattern="a', "takes text"),
        ("base=x", "Name it in the config file"),
        ("model_options.motion_deeplab.x=1", "Motion-DeepLab is not part of this project"),
    ],
)
def test_bad_overrides_are_named(folder, override, said):
    (line,) = problems_of(folder, "", overrides=["trainer_options.seed=1", override])
    assert line.startswith(f'override "{override}": ')
    assert said in line


# --- Placeholders ----------------------------------------------------------------------------------------------------


def test_placeholders_come_from_the_environment_and_hold_any_text(folder, monkeypatch):
    monkeypatch.setenv("TRAIN_SET", 'c:\\a "b"')
    options = config.load(folder / "valid.textproto")
    assert list(options.train_dataset_options.file_pattern) == ['c:\\a "b"']
    assert options.model_options.initial_checkpoint == "${INIT_CHECKPOINT}"


@pytest.mark.parametrize(
    ("mode", "fields"),
    [
        (None, []),
        ("eval", ["experiment_name"]),
        ("train", ["experiment_name", "model_options.initial_checkpoint", "train_dataset_options.file_pattern"]),
    ],
)
def test_unfilled_placeholders_are_reported_where_the_mode_needs_them(folder, mode, fields):
    if not fields:
        load_over(folder, "", mode=mode, placeholders={})
        return
    lines = problems_of(folder, "", mode=mode, placeholders={})
    assert [line.split(": ")[1] for line in lines] == fields
    assert lines[0] == (
        f"{folder / 'over.textproto'}: experiment_name: placeholder ${{EXPERIMENT_NAME}} is not filled. Received: "
        '"${EXPERIMENT_NAME}". Say --placeholder=EXPERIMENT_NAME=VALUE, or set the environment variable '
        "EXPERIMENT_NAME."
    )


def test_given_placeholders_win_over_the_environment_in_every_string(folder, monkeypatch):
    monkeypatch.setenv("TRAIN_SET", "from the environment")
    monkeypatch.setenv("NET", "resnet50")
    text = """model_options { backbone { name: "${NET}" } }
      evaluator_options { override_save_dir: "${OUT}/${NET}" }
      train_dataset_options { file_pattern: ["${TRAIN_SET}/a", "${TRAIN_SET}/b"] }"""
    options = load_over(folder, text, placeholders={**FILLED, "OUT": "here"})
    assert options.model_options.backbone.name == "resnet50"
    assert options.evaluator_options.override_save_dir == "here/resnet50"
    assert list(options.train_dataset_options.file_pattern) == ["c/a", "c/b"]
    (line,) = problems_of(folder, text, mode=None)
    assert "evaluator_options.override_save_dir: placeholder ${OUT} is not filled" in line


def test_a_placeholder_that_the_config_does_not_have_is_named(folder):
    (line,) = problems_of(folder, "", placeholders={**FILLED, "TRAIN_SETS": "x"})
    assert line.endswith(
        "over.textproto: the config has no such placeholder. Received: TRAIN_SETS. "
        'Did you mean "TRAIN_SET"? Valid names: EXPERIMENT_NAME, INIT_CHECKPOINT, TRAIN_SET.'
    )
    # One that an override has replaced is no mistake, nor is one that an override brought in.
    options = load_over(
        folder,
        "",
        overrides=["experiment_name=x", "evaluator_options.override_save_dir=${OUT}"],
        placeholders={**FILLED, "OUT": "o"},
    )
    assert (options.experiment_name, options.evaluator_options.override_save_dir) == ("x", "o")


def test_save_writes_what_loads_again(folder):
    options = load_over(folder, "trainer_options { solver_options { base_learning_rate: 0.1 } }")
    target = folder / "run" / "config.textproto"
    config.save(options, target)
    assert config.load(target, mode="train_and_eval") == options
    assert "base_learning_rate: 0.1\n" in target.read_text()
    assert target.read_text() == config.to_text(options)
    assert [p.name for p in target.parent.iterdir()] == ["config.textproto"]


def test_save_that_fails_leaves_the_old_file(folder, monkeypatch):
    target = folder / "config.textproto"
    target.write_text("old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(config.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        config.save(strip(), target)
    assert target.read_text() == "old"
    assert not list(folder.glob("*.tmp"))


def test_import_leaves_tensorflow_alone():
    code = (
        "import sys, deeplab_axial.config; sys.exit(any(m in sys.modules for m in ('tensorflow', 'tf_keras', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_textproto_of_deeplab2_loads():
    path = pathlib.Path(__file__).parents[2] / "shared/data/golden/checkpoint_panoptic_deeplab_tiny/config.textproto"
    if not path.exists():
        pytest.skip("the folder ../shared with the golden config is not beside this checkout")
    assert config.load(path).model_options.backbone.backbone_width_multiplier == 0.125
