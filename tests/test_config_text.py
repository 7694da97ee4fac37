# SPDX-License-Identifier: Apache-2.0
"""Configs that nobody should have to read: nested without an end, huge, in circles, no files at all."""

import os
import time

import pytest

from deeplab_axial import config, config_text
from deeplab_axial.errors import InputError


def _error(path) -> str:
    started = time.perf_counter()
    with pytest.raises(InputError) as error:
        config.load(path, mode="train")
    assert time.perf_counter() - started < 5
    assert len(str(error.value)) < 20_000
    return str(error.value)


def _error_of(folder, text: str | bytes) -> str:
    path = folder / "c.textproto"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return _error(path)


@pytest.mark.parametrize(
    "text", ["model_options {" * 1000, "a<" * 300_000, "x: " + "[" * 1000, "u: 1 " * 100 + "x {" * 500]
)
def test_sections_inside_each_other(tmp_path, text):
    assert "sections may lie 100 deep. Received: more. Close the sections" in _error_of(tmp_path, text)


def test_a_file_that_is_too_large(tmp_path, monkeypatch):
    assert config_text.LARGEST_FILE == 4_000_000
    monkeypatch.setattr(config_text, "LARGEST_FILE", 1000)
    assert "larger than 1,000 bytes" in _error_of(tmp_path, "#" * 1001)
    assert "model_options: must be set" in _error_of(tmp_path, "#" * 1000)
    monkeypatch.setattr(config_text, "MOST_WORDS", 100)
    assert "may have 100 names, values and signs" in _error_of(tmp_path, "u:1 " * 51)


def test_names_and_numbers_without_an_end(tmp_path):
    long = 300_000
    for text in (f"{'u' * long}: 1", f"trainer_options {{ seed: {'9' * long} }}", f"model_options: {'x' * long}"):
        assert len(_error_of(tmp_path, text)) < 3000
    many = _error_of(tmp_path, "".join(f"u{i}: 1 " for i in range(1000)))
    assert len(many.split("\n")) == 50


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (r'base: "a\000b"', "embedded null byte"),
        (r'experiment_name: "a\000b"', "experiment_name: must not have a NUL character"),
        (b'experiment_name: "a\0b"', ""),
        (b'experiment_name: "\xed\xa0\x80"', "not UTF-8 text"),
        (r'experiment_name: "\355\240\200"', "Correct the text format"),
        (r'experiment_name: "\377"', "Correct the text format"),
        ("model_options {}".encode("utf-16"), "not UTF-8 text"),
    ],
)
def test_text_that_is_none(tmp_path, text, said):
    assert said in _error_of(tmp_path, text)


def test_values_that_are_no_text(tmp_path, monkeypatch):
    (tmp_path / "c.textproto").write_text('experiment_name: "${NAME}"')
    monkeypatch.setenv("NAME", "a\udc80")
    assert "experiment_name: a placeholder must stand for UTF-8 text" in _error(tmp_path / "c.textproto")
    with pytest.raises(InputError, match="experiment_name takes text"):
        config.load(tmp_path / "c.textproto", ["experiment_name=a\udc80"])


def test_each_base_is_read_once(tmp_path, monkeypatch):
    for i in range(40):
        (tmp_path / f"{i}").write_text(f'base: ["{i + 1}", "./{i + 1}"]' if i < 39 else "model_options {}")
    reads = []
    read = config_text.files.read
    monkeypatch.setattr(config_text.files, "read", lambda path, largest: reads.append(path) or read(path, largest))
    assert "panoptic_deeplab: must be set" in _error(tmp_path / "0")
    assert len(reads) == 40


def test_bases_without_an_end(tmp_path):
    for i in range(150):
        (tmp_path / f"{i}").write_text(f'base: "{i + 1}"')
    assert "a config may be made of 100 files" in _error(tmp_path / "0")
    # Each file is good, and only their number is not.
    names = " ".join(f'base: "flat{i}"' for i in range(120))
    for i in range(120):
        (tmp_path / f"flat{i}").write_text("")
    assert "a config may be made of 100 files" in _error_of(tmp_path, names)


def test_one_file_in_two_folders_has_the_bases_of_each(tmp_path):
    (tmp_path / "shared").write_text('base: "own"')
    for name, text in {"left": 'experiment_name: "l"', "right": "evaluator_options { eval_steps: 3 }"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "own").write_text(text)
        os.symlink("../shared", tmp_path / name / "link")
    (tmp_path / "top").write_text('base: ["left/link", "right/link"]')
    options = config_text.Reader().read(tmp_path / "top")
    assert (options.experiment_name, options.evaluator_options.eval_steps) == ("l", 3)


def test_paths_that_are_no_files(tmp_path):
    os.symlink("second", tmp_path / "first")
    os.symlink("first", tmp_path / "second")
    os.mkfifo(tmp_path / "fifo")
    assert "symbolic links" in _error(tmp_path / "first")
    assert "symbolic links" in _error_of(tmp_path, 'base: "first"')
    assert "a FIFO, where a file is expected" in _error(tmp_path / "fifo")
    assert "a device, where a file is expected" in _error_of(tmp_path, 'base: "/dev/zero"')
    assert "a folder, where a file is expected" in _error(tmp_path)
    assert "embedded null byte" in _error("a\0b")
    assert "surrogates not allowed" in _error("a\ud800b")
    assert "File name too long" in _error(tmp_path / ("a" * 5000))


def test_label_spaces_and_configs_of_runs_are_read_within_the_same_limits(tmp_path):
    (tmp_path / "c").write_text("label_space {" * 1000)
    for read in (config.load_label_space, config.read_alone):
        with pytest.raises(InputError, match="sections may lie 100 deep"):
            read(tmp_path / "c")
        with pytest.raises(InputError, match="a device, where a file is expected"):
            read("/dev/zero")


def test_an_open_quote_takes_its_line(tmp_path):
    # Looked for at each of them, the end of the text would take the square of their number.
    text = '\\"' * 1_000_000 + '\nx: "a\\"b"'
    assert [token[0] for token, _ in config_text._tokens(text)][-3:] == ["x", ":", '"a\\"b"']
    assert len(list(config_text._tokens(text))) == 5
    assert "Correct the text format" in _error_of(tmp_path, text)
