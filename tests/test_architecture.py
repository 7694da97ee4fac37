# SPDX-License-Identifier: Apache-2.0
"""Which way imports go, and what no file may hold. The checkers below are themselves tested on fake modules."""

import ast
import os
import pathlib
import re
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = "deeplab_axial"

_LEAVES = ("choices", "keys", "errors", "files", "json_files", "progress")
# What a part of the package may import of ours, itself included; parts without a row are bound by FORBIDDEN alone.
ALLOWED: dict[str, tuple[str, ...]] = {
    "choices": (),
    "progress": (),
    "keys": (),
    "errors": (),
    "processes": (),
    "files": ("errors", "processes"),
    "json_files": ("files", "errors"),
    "locks": ("errors", "files", "processes"),
    "kernels": ("kernels",),
    "layers": ("layers", "kernels", *_LEAVES),
    "backbones": ("backbones", "layers", *_LEAVES),
    "models": ("models", "backbones", "layers", *_LEAVES),
    "importing": ("importing", "models", "backbones", "layers", *_LEAVES),
    "data": ("data", "locks", *_LEAVES),
    "losses": ("losses", *_LEAVES),
    "postprocessing": ("postprocessing", *_LEAVES),
    "metrics": ("metrics", *_LEAVES),
}
# What only the named parts may import.
ONLY_FOR: dict[str, tuple[str, ...]] = {
    "protos": ("protos", "config", "config_text", "builders", "api", "cli"),
    "config": ("builders", "api", "cli"),
    "builders": ("builders", "api", "cli"),
    "api": ("__init__", "cli"),
    "cli": ("cli",),
}
FORBIDDEN_OUTSIDE = ("keras", "tensorflow.keras", "tensorflow.python", "tf_keras.src")

SKIPPED_FOLDERS = {"build", "dist", "demo", "runs"}
TEXT_SUFFIXES = {".py", ".md", ".toml", ".cfg", ".yml", ".yaml", ".txt", ".textproto", ".proto", ".csv", ".html", ".sh"}
# A folder of somebody's machine, or a package source that is set for one place only.
MACHINE_PATH = re.compile(r"(?<![\w.~)>}])/(?:home|root|work|Users)/\w")
REGISTRY = re.compile(
    r"--(?:extra-)?index-url|--trusted-host|pypi\.org/simple|files\.pythonhosted|artifactory|devpi|nexus|"
    r"https?://(?:localhost|\d+\.\d+\.\d+\.\d+)"
)


def imports(source: str) -> Iterator[tuple[int, str, int]]:
    """Yields (line, dotted name, level) of all imports, those inside functions and of `from package import x` too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (
                (node.lineno, f"{node.module or ''}.{alias.name}".strip("."), node.level) for alias in node.names
            )


def attributes(source: str) -> Iterator[tuple[int, str]]:
    """Yields (line, "name.attribute") wherever an attribute of a plain name is used."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield node.lineno, f"{node.value.id}.{node.attr}"


def part_of(path: str) -> str:
    """ "layers" for deeplab_axial/layers/aspp.py, "config" for deeplab_axial/config.py."""
    return pathlib.PurePosixPath(path).relative_to(PACKAGE).parts[0].removesuffix(".py")


def _within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def import_violations(path: str, source: str) -> list[str]:
    """What the module at `path`, relative to the checkout, imports or uses against the rules."""
    part = part_of(path)
    found = []
    for line, name, level in imports(source):
        place = f"{path}:{line}"
        if level:
            found.append(f"{place}: relative import of {name}; write {PACKAGE}...")
        found += [f"{place}: {name} must not be used" for bad in FORBIDDEN_OUTSIDE if _within(name, bad)]
        if not name.startswith(f"{PACKAGE}."):
            continue
        other = name.split(".")[1]
        if other not in ALLOWED.get(part, (other,)):
            found.append(
                f"{place}: {part} must not import {other}; it may import {', '.join(ALLOWED[part]) or 'nothing'}"
            )
        if part not in ONLY_FOR.get(other, (part,)):
            found.append(f"{place}: {part} must not import {other}; only {', '.join(ONLY_FOR[other])} may")
    names = ("tf.keras", "tensorflow.keras", "tf.python", "tensorflow.python")
    return found + [f"{path}:{line}: {name} must not be used" for line, name in attributes(source) if name in names]


def text_violations(path: str, text: str) -> list[str]:
    """Machine paths and registry hosts in a file, and a missing licence line in a Python file."""
    found = []
    if (
        path.endswith(".py")
        and not path.endswith("_pb2.py")
        and not text.startswith("# SPDX-License-Identifier: Apache-2.0\n")
    ):
        found.append(f"{path}:1: must start with the SPDX line")
    for number, line in enumerate(text.splitlines(), start=1):
        for pattern in (MACHINE_PATH, REGISTRY):
            match = pattern.search(line)
            if match:
                found.append(f"{path}:{number}: {match[0]!r} belongs to one machine or network")
    return found


def files() -> Iterator[pathlib.Path]:
    """The text files of the checkout."""
    for folder, folders, names in os.walk(ROOT):
        folders[:] = sorted(f for f in folders if not (f.startswith((".", "__")) or f.endswith(".egg-info")))
        if pathlib.Path(folder) == ROOT:
            folders[:] = [f for f in folders if f not in SKIPPED_FOLDERS]
        for path in (pathlib.Path(folder, name) for name in sorted(names)):
            if (path.suffix in TEXT_SUFFIXES or path.name == "Makefile") and path != pathlib.Path(__file__):
                yield path


def test_imports_go_one_way():
    found = []
    modules = [p for p in files() if p.suffix == ".py" and p.relative_to(ROOT).parts[0] == PACKAGE]
    assert len(modules) > 10
    for path in modules:
        found += import_violations(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
    assert not found, "\n".join(found)


def test_files_are_licensed_and_belong_to_no_machine():
    found = []
    for path in files():
        found += text_violations(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
    assert not found, "\n".join(found)


OPENS_IMAGES = re.compile(
    r"\bImage\.open\(|\bImageFile\.Parser|\btf\.(?:io|image)\.decode_(?:image|png|jpeg|bmp|gif)\("
)
OPENER = f"{PACKAGE}/data/image_bytes.py"
# The map of a record is checked against the size that the record says, which may be its own limit.
MAP_OF_A_RECORD = "tf.io.decode_png(png, channels=4)"


def opening_violations(path: str, text: str) -> list[str]:
    """Where images are opened outside OPENER, which limits their formats and sizes."""
    lines = enumerate(text.replace(MAP_OF_A_RECORD, "").splitlines(), start=1)
    return [f"{path}:{number}: open images with {OPENER}" for number, line in lines if OPENS_IMAGES.search(line)]


def test_images_are_opened_in_one_place():
    found = []
    for path in files():
        name = path.relative_to(ROOT).as_posix()
        if name.endswith(".py") and name.startswith((PACKAGE, "benchmarks")) and name != OPENER:
            found += opening_violations(name, path.read_text(encoding="utf-8"))
    assert not found, "\n".join(found)
    assert OPENS_IMAGES.search((ROOT / OPENER).read_text(encoding="utf-8"))
    for bad in ("with Image.open(x) as y:", "x = PIL.Image.open(y)", "tf.io.decode_image(x)", "tf.io.decode_png(x)"):
        (violation,) = opening_violations("a.py", f"import x\n    {bad}\n")
        assert violation.startswith("a.py:2: ")
    assert not opening_violations("a.py", "def decode_image(x):\n    return sampling.decode_image(x)\n")


@pytest.mark.parametrize(
    ("module", "source", "said"),
    [
        ("keys.py", "from deeplab_axial import errors", "keys must not import errors; it may import nothing"),
        ("errors.py", "import deeplab_axial.keys", "errors must not import keys"),
        ("layers/a.py", "from deeplab_axial.backbones import presets", "layers must not import backbones"),
        ("layers/a.py", "def f():\n  from deeplab_axial import models", "a.py:2: layers must not import models"),
        ("backbones/a.py", "import deeplab_axial.models.heads as h", "backbones must not import models"),
        ("models/a.py", "from deeplab_axial.losses import x", "models must not import losses"),
        ("models/a.py", "from deeplab_axial.data import x", "models must not import data"),
        ("data/converters/a.py", "from deeplab_axial.metrics import x", "data must not import metrics"),
        ("losses/a.py", "from deeplab_axial import keys, data", "losses must not import data"),
        ("postprocessing/a.py", "from deeplab_axial.models.heads import x", "postprocessing must not import models"),
        ("metrics/a.py", "from deeplab_axial import postprocessing", "metrics must not import postprocessing"),
        ("metrics/a.py", "from deeplab_axial import training", "metrics must not import training"),
        ("training/a.py", "from deeplab_axial.protos import model_pb2", "training must not import protos"),
        (
            "training/a.py",
            "from deeplab_axial import config",
            "training must not import config; only builders, api, cli may",
        ),
        ("export.py", "from deeplab_axial import builders", "export must not import builders"),
        ("predict.py", "from deeplab_axial.cli import main", "predict must not import cli"),
        ("visualization.py", "import deeplab_axial.config", "visualization must not import config"),
        ("report.py", "from deeplab_axial.builders import build", "report must not import builders"),
        ("describe.py", "from deeplab_axial.protos import config_pb2", "describe must not import protos"),
        ("builders.py", "from deeplab_axial.cli import train", "builders must not import cli"),
        ("layers/a.py", "import keras", "keras must not be used"),
        ("layers/a.py", "from keras import layers", "keras.layers must not be used"),
        ("layers/a.py", "from tensorflow import keras", "tensorflow.keras must not be used"),
        ("layers/a.py", "import tensorflow as tf\nx = tf.keras.layers.Layer", "a.py:2: tf.keras must not be used"),
        ("layers/a.py", "from tensorflow.python.ops import nn", "tensorflow.python.ops.nn must not be used"),
        ("layers/a.py", "from tf_keras.src import backend", "tf_keras.src.backend must not be used"),
        ("layers/a.py", "from . import aspp", "relative import of aspp"),
        ("layers/a.py", "from .aspp import x", "relative import of aspp.x"),
    ],
)
def test_the_import_checker_finds(module, source, said):
    (violation,) = import_violations(f"{PACKAGE}/{module}", source)
    assert said in violation


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("layers/a.py", "import tf_keras\nimport tensorflow as tf\nfrom deeplab_axial import keys\nx = tf.nn.relu"),
        ("models/a.py", "from deeplab_axial.backbones import axial_resnet\nfrom deeplab_axial.layers import aspp"),
        ("config.py", "from deeplab_axial.protos import config_pb2\nfrom deeplab_axial import config_rules"),
        ("builders.py", "from deeplab_axial import config, data, losses, metrics, models, protos"),
        ("cli/train.py", "from deeplab_axial import builders, config\nfrom deeplab_axial.cli import flags"),
        ("training/a.py", "from deeplab_axial.models import panoptic_deeplab\nfrom deeplab_axial import keys"),
    ],
)
def test_the_import_checker_lets_pass(module, source):
    assert import_violations(f"{PACKAGE}/{module}", source) == []


def test_the_text_checker():
    spdx = "# SPDX-License-Identifier: Apache-2.0\n"
    assert text_violations("a.py", spdx + "x = 1\n") == []
    assert text_violations("a_pb2.py", "x = 1\n") == []
    assert text_violations("a.md", "See https://pypi.org/project/x/ and https://a.org/work/x and ~/home/x\n") == []
    assert text_violations("a.py", "x = 1\n") == ["a.py:1: must start with the SPDX line"]
    for bad in (
        "cd /home/me",
        'open("/root/x")',
        "pip install --index-url x",
        "http://10.0.0.1/simple",
        "=/Users/me/x",
    ):
        (violation,) = text_violations("a.py", f"{spdx}# {bad}\n")
        assert violation.startswith("a.py:2: ")
