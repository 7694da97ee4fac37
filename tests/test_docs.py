# SPDX-License-Identifier: Apache-2.0
"""The commands, flags, config fields and files that README.md, docs/ and the headers of configs/ name exist."""

import importlib
import inspect
import multiprocessing
import pathlib
import re
import shlex
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pytest
from absl import flags

from deeplab_axial import config
from deeplab_axial.backbones import presets
from deeplab_axial.cli import main
from deeplab_axial.errors import InputError
from deeplab_axial.protos import config_pb2

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CONFIGS = sorted((ROOT / "configs").rglob("*.textproto"))
# Where a command ends and the shell goes on.
_SHELL = {"|", "||", "&", "&&", ";", ">", ">>", "<", ")"}
_LINK = re.compile(r"\]\((?!https?:|#)([^()\[=#\s]+)[)#]")
_FIELD = re.compile(r"`((?:model|trainer|evaluator|train_dataset|eval_dataset)_options(?:\.\w+)+)[`:=]")


class Command(NamedTuple):
    """A command of `deeplab-axial` as a page shows it: where, and its words without the program's name."""

    place: str
    words: tuple[str, ...]


def _blocks(path: pathlib.Path) -> Iterator[tuple[int, str]]:
    """(line number, text) of what a page shows as commands: whole lines, with what continues them, and code in text."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".textproto":
        text = re.sub(r"^#", " ", "\n".join(line for line in text.splitlines() if line.startswith("#")), flags=re.M)
    lines = re.sub(r"\\\n", lambda _: "\0\n", text).split("\n")
    for number, line in enumerate(lines, 1):
        if re.match(r"\s*(\$ |until |do )*deeplab-axial \S", line):
            while line.endswith("\0"):
                line = line[:-1] + lines[(number := number + 1) - 1]
            yield number, line
    for match in re.finditer(r"`(deeplab-axial\s[^`]+)`", text):
        yield text.count("\n", 0, match.start()) + 1, match[1].replace("\n", " ")


def _commands(path: pathlib.Path) -> Iterator[Command]:
    for number, line in _blocks(path):
        lexer = shlex.shlex(line[line.index("deeplab-axial ") :], posix=True, punctuation_chars=True)
        lexer.wordchars += "[]{}$,:*=@%"
        words = list(lexer)[1:]
        end = next((i for i, word in enumerate(words) if word in _SHELL), len(words))
        yield Command(f"{path.relative_to(ROOT)}:{number}", tuple(words[:end]))


def _all_commands() -> list[Command]:
    found = [command for path in [*PAGES, *CONFIGS] for command in _commands(path)]
    return [c for c in found if c.words[0] not in ("COMMAND", *main.HELP, "--version")]


def _values(command: Command, flag: str) -> list[str]:
    prefix = f"--{flag}="
    return [word.removeprefix(prefix) for word in command.words if word.startswith(prefix)]


def test_commands_are_found():
    found = list(_commands(ROOT / "README.md"))
    assert len(found) > 15
    assert ("convert", "coco_panoptic", "--image_dir=demo/data/val") in [command.words[:3] for command in found]
    assert not [command for command in found if "\0" in " ".join(command.words)]
    assert len(_all_commands()) > 100


def test_the_commands_exist():
    assert [c for c in _all_commands() if c.words[0] not in main.COMMANDS] == []


def _parse(name: str, lines: Sequence[Sequence[str]], pipe) -> None:
    """Parses command lines of one command as it would, and sends what it says of each, None if nothing."""
    importlib.import_module(f"deeplab_axial.cli.options.{name}")
    module = importlib.import_module(main.COMMANDS[name][0])
    told = []
    for words in lines:
        flags.FLAGS.unparse_flags()
        try:
            rest = flags.FLAGS([name, *words])[1:]
            expected = len(inspect.signature(module.main).parameters)
            told.append(None if len(rest) == expected else f"takes {expected} words, got {rest}")
        except flags.Error as error:
            told.append(str(error))
    pipe.send(told)


def _complaints(name: str, lines: Sequence[Sequence[str]]) -> list[str | None]:
    """What a command says of command lines; in a process of its own, as commands define flags of the same names."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tensorflow", "tf_keras"])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_parse, args=(name, lines, sender))
    process.start()
    sender.close()
    told = receiver.recv()
    process.join()
    return told


def test_the_commands_take_their_flags():
    by_name = defaultdict(list)
    for command in _all_commands():
        by_name[command.words[0]].append(command)
    problems = []
    for name, commands in by_name.items():
        lines = [[word for word in command.words[1:] if word != "..."] for command in commands]
        for command, complaint in zip(commands, _complaints(name, lines)):
            # In running text a command need not be whole.
            if complaint and "must have a value other than None" not in complaint:
                problems.append(f"{command.place}: {complaint}")
    assert problems == []


def test_a_wrong_flag_would_be_found():
    good, unknown, value = _complaints(
        "train",
        [["--config_file=x", "--model_dir=y"], ["--modell_dir=y"], ["--config_file=x", "--model_dir=y", "--mode=ev"]],
    )
    assert good is None
    assert "modell_dir" in unknown
    assert "one of <train|eval|" in value


def _unknown_field(path: str) -> bool:
    """Whether a dotted path leads to no field of a config; entries of a map and of a repeated field have no names."""
    descriptor = config_pb2.ExperimentOptions.DESCRIPTOR
    for name in path.split("."):
        if descriptor is None or name not in descriptor.fields_by_name:
            return True
        descriptor = descriptor.fields_by_name[name].message_type
    return False


def test_the_fields_that_are_set_exist():
    for command in _all_commands():
        for change in _values(command, "set"):
            field, equals, _ = change.partition("=")
            assert equals, command
            assert not _unknown_field(field), command


def test_the_configs_that_are_named_exist_and_take_the_changes():
    for command in _all_commands():
        for name in _values(command, "config_file"):
            # Words in capitals stand for the reader's own.
            if not name.startswith(("configs/", "tests/")):
                assert re.fullmatch(r"[A-Z_]+|yard\.textproto", name), command
                continue
            try:
                config.load(ROOT / name, _values(command, "set"), backbone_names=presets.NAMES)
            except InputError as error:
                pytest.fail(f"{command.place}: {error}")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_fields_in_the_text_exist(path):
    assert [name for name in _FIELD.findall(path.read_text(encoding="utf-8")) if _unknown_field(name)] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    links = _LINK.findall(path.read_text(encoding="utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []
