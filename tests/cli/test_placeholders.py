# SPDX-License-Identifier: Apache-2.0
"""`--placeholder`: what it fills, and how mistakes are told."""

import pytest

from tests.cli import commands


@pytest.fixture
def config_file(tmp_path):
    file = tmp_path / "mine.textproto"
    file.write_text(f'base: "{commands.TINY}"\nexperiment_name: "${{NAME}} of ${{WHOM}}"\n')
    return file


def test_placeholders_are_filled(config_file):
    flags = ("--placeholder=NAME=son=1", "--placeholder=WHOM=somebody")
    result = commands.run("describe", f"--config_file={config_file}", *flags)
    assert result.status == 0, result.err
    assert "son=1 of somebody" in result.out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--placeholder=NAM=x",), 'the config has no such placeholder. Received: NAM. Did you mean "NAME"?'),
        (("--placeholder=NAME",), "--placeholder must be NAME=VALUE. Received: NAME. Write --placeholder=TRAIN_SET="),
        (("--placeholder=A-B=x",), "--placeholder must be NAME=VALUE. Received: A-B=x."),
        (
            ("--placeholder=NAME=x", "--placeholder=NAME=y"),
            "--placeholder gives each name one value. Received: NAME=x and NAME=y. Remove one.",
        ),
    ],
)
def test_mistakes(config_file, flags, said):
    assert said in commands.one_message(commands.run("describe", f"--config_file={config_file}", *flags))


def test_what_is_missing_is_named_with_both_remedies(config_file):
    flags = ("--placeholder=NAME=x", "--model_dir=x", "--set=train_dataset_options.file_pattern=${TRAIN}")
    lines = commands.one_message(commands.run("train", f"--config_file={config_file}", *flags)).splitlines()
    assert (
        f"{config_file}: experiment_name: placeholder ${{WHOM}} is not filled. "
        'Received: "x of ${WHOM}". Say --placeholder=WHOM=VALUE, or set the environment variable WHOM.'
    ) in lines
    assert any("train_dataset_options.file_pattern: placeholder ${TRAIN} is not filled" in line for line in lines)
