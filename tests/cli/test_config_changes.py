# SPDX-License-Identifier: Apache-2.0
"""What may change between a run and its continuation, and what is refused."""

import pytest
from absl import flags
from google.protobuf import text_format

from deeplab_axial import config
from deeplab_axial.cli import config_changes
from deeplab_axial.errors import InputError
from deeplab_axial.protos import config_pb2
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
    "trainer_options.num_checkpoints_to_keep=9",
    "trainer_options.save_checkpoints_steps=9",
    "trainer_options.save_summaries_steps=9",
    "trainer_options.steps_per_loop=9",
    "trainer_options.recompute=true",
    "trainer_options.use_xla=true",
    "train_dataset_options.data_service_address=grpc://a:1",
)


@pytest.fixture(autouse=True)
def _flags():
    flags.FLAGS(["test"], known_only=True) if not flags.FLAGS.is_parsed() else None
    yield
    flags.FLAGS["allow_config_change"].value = False


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
    assert any(override.startswith(name) for name in config_changes.HARMLESS)


def test_every_harmless_field_is_one_and_is_tried_here():
    for name in set(config_changes.HARMLESS) - {"published"}:
        assert any(override.startswith(name) for override in HARMLESS)
        message = config_pb2.ExperimentOptions.DESCRIPTOR
        for part in name.split("."):
            message = message.fields_by_name[part].message_type if message else None


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trainer_options.solver_options.base_learning_rate=0.01", "was 0.005, now 0.01"),
        ("trainer_options.solver_options.training_number_of_steps=60", "was 6, now 60"),
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
    assert config_changes.differences(before, now) == []


@pytest.mark.parametrize("name", ["lookahead", "photometric_distortion", "label_space"])
def test_a_section_that_switches_something_on_is_a_change(name):
    paths = {
        "lookahead": "trainer_options { solver_options { lookahead { } } }",
        "photometric_distortion": "train_dataset_options { augmentations { photometric_distortion { } } }",
        "label_space": "label_space { }",
    }
    now = text_format.Parse(paths[name], config_pb2.ExperimentOptions())
    (change,) = config_changes.differences(config_pb2.ExperimentOptions(), now)
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
    flags.FLAGS["allow_config_change"].value = True
    config_changes.check(_load("trainer_options.seed=1"), str(folder))
    assert "trainer_options.seed: was 0, now 1\nGoing on as --allow_config_change says." in caplog.text


def test_every_harmless_field_is_documented():
    page = (commands.REPOSITORY / "docs" / "recovery.md").read_text()
    for name in config_changes.HARMLESS:
        last = name.split(".")[-1]
        assert f"`{last}`" in page or f".{last}`" in page or last.startswith("restore_"), name


def test_the_saved_config_holds_all_that_is_compared():
    options = _load()
    again = text_format.Parse(config.to_text(options), config_pb2.ExperimentOptions())
    assert config_changes.differences(again, options) == []
