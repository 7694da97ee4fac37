# SPDX-License-Identifier: Apache-2.0
"""What may change between a run and its continuation, and what is refused."""

import dataclasses
import json

import pytest
from google.protobuf import text_format

from deeplab_axial import builders, config
from deeplab_axial.cli import config_changes, config_differences, experiment
from deeplab_axial.data.label_space import LabelSpace
from deeplab_axial.errors import InputError
from deeplab_axial.protos import config_pb2
from deeplab_axial.training import classification, label_space_file, log
from tests.cli import commands

HARMLESS = (
    "experiment_name=other",
    "eval_dataset_options.batch_size=1",
    "eval_dataset_options.file_pattern=elsewhere/*",
    "evaluator_options.eval_interval=7",
    "model_options.initial_checkpoint=elsewhere",
    "model_options.restore_semantic_last_layer_from_initial_checkpoint=false",
    "model_options.restore_instance_last_layer_from_initial_checkpoint=false",
    "model_options.backbone.attention_logits_at_once=1000",
    "model_options.backbone.attention_kernel=XLA",
    "trainer_options.num_checkpoints_to_keep=9",
    "trainer_options.save_checkpoints_steps=9",
    "trainer_options.save_summaries_steps=9",
    "trainer_options.steps_per_loop=9",
    "trainer_options.recompute=true",
    "trainer_options.use_xla=true",
    "train_dataset_options.data_service_address=grpc://a:1",
)


def _load(*overrides):
    return config.load(commands.TINY, ["train_dataset_options.file_pattern=a", *overrides])


@pytest.fixture
def folder(tmp_path):
    """Of a run that has saved a checkpoint."""
    config.save(_load(), tmp_path / "config.textproto")
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "ckpt-3"')
    return tmp_path


def test_the_same_config_goes_on(folder):
    config_changes.check(_load(), str(folder))


@pytest.mark.parametrize("override", HARMLESS)
def test_harmless_fields(folder, override):
    config_changes.check(_load(override), str(folder))
    assert any(override.startswith(name) for name in config_differences.HARMLESS)


def test_every_harmless_field_is_one_and_is_tried_here():
    for name in set(config_differences.HARMLESS) - {"published"}:
        assert any(override.startswith(name) for override in HARMLESS)
        message = config_pb2.ExperimentOptions.DESCRIPTOR
        for part in name.split("."):
            message = message.fields_by_name[part].message_type if message else None


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trainer_options.solver_options.base_learning_rate=0.01", "was 0.005, now 0.01"),
        ("trainer_options.solver_options.optimizer=radam", 'was "adam", now "radam"'),
        ("trainer_options.solver_options.lookahead.sync_period=4", "was 6, now 4"),
        ("train_dataset_options.augmentations.photometric_distortion.hue_delta=9", None),
        ("trainer_options.precision=mixed_bfloat16", 'was "float32", now "mixed_bfloat16"'),
        ("trainer_options.seed=1", "was 0, now 1"),
        ("train_dataset_options.batch_size=2", "was 4, now 2"),
        ("train_dataset_options.crop_size=65,65", "was 49, 65, now 65, 65"),
        ("train_dataset_options.file_pattern=b", 'was "a", now "b"'),
        ("train_dataset_options.augmentations.random_flip=false", "was true, now false"),
        ("model_options.backbone.attention_span=0", "was not set, now 0"),
    ],
)
def test_fields_that_bear_on_what_is_learnt(folder, override, said):
    with pytest.raises(InputError) as error:
        config_changes.check(_load(override), str(folder))
    first, change, remedy = str(error.value).split("\n")
    assert first == f"The config has changed since the run in {folder} was last started:"
    name = override.split("=")[0]
    if said is None:
        assert change.endswith("augmentations.photometric_distortion: was not set, now { hue_delta: 9.0 }")
    else:
        assert change == f"  {name}: {said}"
    assert remedy.startswith(f"Undo the change ({folder}/config.textproto is the config of the run), name another")
    assert remedy.endswith("or go on as it is with --allow_config_change.")


SOLVER = "trainer_options.solver_options"
MORE = f"{SOLVER}.training_number_of_steps=12"


@pytest.mark.parametrize(
    ("step", "policy", "told"),
    [
        (6, "poly", "the learning rate would jump from 0 to 0.00268, at step 6"),
        (6, "cosine", "the learning rate would jump from 0 to 0.0025, at step 6"),
        (3, "cosine", "the learning rate would jump from 0.0025 to 0.00427, 1.71 times as much, at step 3"),
        (1, "poly", "the learning rate would be another one after step 1"),
    ],
)
def test_more_steps_say_what_becomes_of_the_learning_rate(folder, step, policy, told):
    policy_is = f"{SOLVER}.learning_policy={policy}"
    config.save(_load(policy_is), folder / "config.textproto")
    (folder / "checkpoint").write_text(f'model_checkpoint_path: "ckpt-{step}"')
    with pytest.raises(InputError) as error:
        config_changes.check(_load(policy_is, MORE), str(folder))
    line = (
        f'  {SOLVER}.training_number_of_steps: was 6, now 12; {told}, for learning_policy "{policy}" ends at the last'
    )
    assert f"{line} step" in str(error.value).splitlines()


def test_more_steps_are_harmless_under_a_constant_learning_rate(folder):
    constant = f"{SOLVER}.poly_end_learning_rate=0.005"
    config.save(_load(constant), folder / "config.textproto")
    config_changes.check(_load(constant, MORE), str(folder))
    config_changes.check(_load(constant, MORE.replace("12", "4")), str(folder))
    # Not fewer than are done, and no other field with it.
    for overrides in (
        (constant, f"{SOLVER}.warmup_steps=1", MORE.replace("12", "2")),
        (MORE,),
        (constant, MORE, "trainer_options.seed=1"),
    ):
        with pytest.raises(InputError, match="The config has changed"):
            config_changes.check(_load(*overrides), str(folder))


def test_all_changes_come_at_once(folder):
    with pytest.raises(InputError) as error:
        config_changes.check(
            _load("trainer_options.seed=1", "train_dataset_options.seed=1", "experiment_name=x"), str(folder)
        )
    lines = str(error.value).splitlines()
    assert lines[1:3] == ["  trainer_options.seed: was 0, now 1", "  train_dataset_options.seed: was 0, now 1"]
    assert len(lines) == 4


def test_a_default_that_is_spelt_out_is_no_change(folder):
    config_changes.check(_load("trainer_options.seed=0", "trainer_options.precision=float32"), str(folder))


@pytest.mark.parametrize(
    "section",
    [
        "train_dataset_options { augmentations { } }",
        "train_dataset_options { augmentations { random_flip: true } }",
        "trainer_options { loss_options { center_loss { } } }",
    ],
)
def test_a_section_of_defaults_is_no_change(folder, section):
    before = config_pb2.ExperimentOptions()
    now = text_format.Parse(section, config_pb2.ExperimentOptions())
    assert config_differences.differences(before, now) == []


@pytest.mark.parametrize("name", ["lookahead", "photometric_distortion", "label_space"])
def test_a_section_that_switches_something_on_is_a_change(name):
    paths = {
        "lookahead": "trainer_options { solver_options { lookahead { } } }",
        "photometric_distortion": "train_dataset_options { augmentations { photometric_distortion { } } }",
        "label_space": "label_space { }",
    }
    now = text_format.Parse(paths[name], config_pb2.ExperimentOptions())
    (change,) = config_differences.differences(config_pb2.ExperimentOptions(), now)
    assert change.endswith(f"{name}: was not set, now {{  }}")


def test_the_best_of_an_earlier_run_is_not_taken_for_that_of_a_new_one(folder):
    (folder / "best").mkdir()
    (folder / "best" / "best.json").write_text("{}")
    config_changes.check(_load(), str(folder))
    (folder / "checkpoint").unlink()
    with pytest.raises(InputError, match=r"has no checkpoint to go on from, but .*best/best\.json of an earlier run"):
        config_changes.check(_load(), str(folder))


def test_without_a_checkpoint_nothing_is_compared(folder):
    (folder / "checkpoint").unlink()
    config_changes.check(_load("trainer_options.seed=1"), str(folder))


def test_a_checkpoint_that_is_not_listed_is_gone_on_from(folder):
    (folder / "checkpoint").unlink()
    (folder / "ckpt-3.index").touch()
    with pytest.raises(InputError, match=r"trainer_options\.seed: was 0, now 1"):
        config_changes.check(_load("trainer_options.seed=1"), str(folder))


def test_without_a_config_nothing_is_compared(folder):
    (folder / "config.textproto").unlink()
    config_changes.check(_load("trainer_options.seed=1"), str(folder))


@pytest.mark.parametrize("content", [b"\xff\xfe", b"model_options { no_such_field: 1 }", b"{"])
def test_a_config_that_is_damaged(folder, content):
    (folder / "config.textproto").write_bytes(content)
    with pytest.raises(InputError, match=r"config\.textproto cannot be read, so nothing tells"):
        config_changes.check(_load(), str(folder))


def test_allowed_changes_are_told(folder, caplog):
    config_changes.check(_load("trainer_options.seed=1"), str(folder), are_allowed=True)
    assert "trainer_options.seed: was 0, now 1\nGoing on as --allow_config_change says." in caplog.text


def test_every_harmless_field_is_documented():
    page = (commands.REPOSITORY / "docs" / "recovery.md").read_text()
    for name in config_differences.HARMLESS:
        last = name.split(".")[-1]
        assert f"`{last}`" in page or f".{last}`" in page or last.startswith("restore_"), name


def test_the_saved_config_holds_all_that_is_compared():
    options = _load()
    again = text_format.Parse(config.to_text(options), config_pb2.ExperimentOptions())
    assert config_differences.differences(again, options) == []


NETWORK = "model_options.backbone.output_stride: was 16, now 32"
EVALUATION = "evaluator_options.add_flipped_images: was false, now true"


def test_what_differs_in_an_evaluation_is_told_by_what_it_bears_on(folder, capsys):
    assert config_differences.since_run(_load(), str(folder)) == {}
    changed = _load(
        "evaluator_options.add_flipped_images=true",
        # What an evaluation takes no notice of.
        *("trainer_options.seed=5", "model_options.backbone.drop_path_keep_prob=0.5", "experiment_name=x"),
        *(
            "model_options.initial_checkpoint=x",
            "evaluator_options.eval_interval=9",
            "eval_dataset_options.batch_size=1",
        ),
    )
    changed.model_options.backbone.output_stride = 32
    differs = config_differences.since_run(changed, str(folder))
    assert differs == {log.NETWORK: [NETWORK], log.EVALUATION: [EVALUATION]}
    config_differences.tell(differs, "runs/a")
    assert capsys.readouterr().err.splitlines() == [
        "warning: what is predicted differs from the run's, for the config does (runs/a):",
        f"  {NETWORK}",
        "note: the evaluation is not that of the run's config (runs/a):",
        f"  {EVALUATION}",
    ]
    config_differences.tell({}, "runs/a")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "override",
    [
        "trainer_options.precision=mixed_bfloat16",
        "trainer_options.solver_options.batchnorm_epsilon=0.01",
        "evaluator_options.center_score_threshold=0.3",
        "evaluator_options.keep_k_centers=7",
        "model_options.panoptic_deeplab.semantic_head.head_channels=32",
        "label_space.name=x",
    ],
)
def test_fields_that_change_what_is_predicted(folder, override):
    options = config.load(commands.TINY, ["train_dataset_options.file_pattern=a"])
    kept = text_format.Parse((folder / "config.textproto").read_text(), config_pb2.ExperimentOptions())
    assert config_differences.differences(kept, options) == []
    name, value = override.split("=")
    *sections, last = name.split(".")
    message = options
    for section in sections:
        message = getattr(message, section)
    setattr(message, last, type(getattr(message, last))(value))
    (change,) = config_differences.since_run(options, str(folder))[log.NETWORK]
    assert change.startswith(f"{name if sections[0] != 'label_space' else 'label_space'}: was ")


def test_fields_that_are_compared_exist():
    names = (*config_differences._NETWORK, *config_differences._EVALUATION, *config_differences._NOT_EVALUATED)
    for name in names:
        message = config_pb2.ExperimentOptions.DESCRIPTOR
        for part in name.split("."):
            message = message.fields_by_name[part].message_type


def test_the_config_of_the_best_and_of_another_checkpoint(folder):
    (folder / "best").mkdir()
    changed = _load()
    changed.model_options.backbone.output_stride = 32
    expected = {log.NETWORK: [NETWORK]}
    assert config_differences.since_run(changed, str(folder / "best")) == expected
    assert config_differences.since_run(changed, "elsewhere", f"{folder}/best/ckpt-3") == expected
    assert config_differences.since_run(changed, str(folder), "elsewhere/ckpt-3") == {}
    config.save(changed, folder / "best" / "config.textproto")
    assert config_differences.since_run(changed, str(folder / "best")) == {}


def test_a_damaged_config_of_a_run_is_no_config_without_differences(folder):
    (folder / "config.textproto").write_text("{")
    with pytest.raises(InputError, match=r"config\.textproto cannot be read, so nothing tells whether .*or remove it"):
        config_differences.since_run(_load(), str(folder))


def test_the_table_names_what_differs():
    metrics = {"num_images": 3, "accuracy": {"top1": 0.5, "top5": None, "per_class": {}}}
    space = LabelSpace("x", (), 0, 255, 2)
    assert "differ" not in classification.format_accuracy(metrics, space)
    metrics[log.DIFFERS] = {log.NETWORK: [NETWORK], log.EVALUATION: [EVALUATION]}
    last = classification.format_accuracy(metrics, space).splitlines()[-1]
    assert last == "Not the run's network or post-processing: 1 fields differ, model_options.backbone.output_stride"


def test_an_export_takes_the_metrics_of_its_own_function_alone(tmp_path):
    (tmp_path / "metrics.json").write_text(json.dumps({"step": 3, log.DIFFERS: {log.NETWORK: [NETWORK]}}))
    assert experiment.read_metrics(str(tmp_path), 3, {}) is None
    assert experiment.read_metrics(str(tmp_path), 4, {log.NETWORK: [NETWORK]}) is None
    assert experiment.read_metrics(str(tmp_path), 3, {log.NETWORK: [NETWORK]})["step"] == 3
    (tmp_path / "metrics.json").write_text(json.dumps({"step": 3, log.DIFFERS: {log.EVALUATION: [EVALUATION]}}))
    assert experiment.read_metrics(str(tmp_path), 3, {}) is None  # an export has its scales, too
    other = "eval_dataset_options.file_pattern: was a, now b"
    (tmp_path / "metrics.json").write_text(json.dumps({"step": 3, log.DIFFERS: {log.EVALUATION: [other]}}))
    assert experiment.read_metrics(str(tmp_path), 3, {})["step"] == 3


def test_a_run_goes_on_with_the_same_classes(folder):
    space = builders.load_label_space("kitti_step")
    first, second, *rest = space.classes
    exchanged = (dataclasses.replace(second, id=first.id), dataclasses.replace(first, id=second.id), *rest)
    other = dataclasses.replace(space, classes=exchanged)
    config_changes.check_classes(space, str(folder))  # an older run, which tells none
    label_space_file.write(str(folder), space)
    config_changes.check_classes(space, str(folder))
    with pytest.raises(InputError) as error:
        config_changes.check_classes(other, str(folder))
    message = str(error.value)
    assert f"id {first.id} is {first.name} in the run and {second.name} in the records" in message
    assert f"--label_space={folder}/label_space.json" in message
    config_changes.check_classes(other, str(folder), are_allowed=True)
    (folder / "checkpoint").unlink()  # nothing to go on from
    config_changes.check_classes(other, str(folder))
