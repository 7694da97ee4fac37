# SPDX-License-Identifier: Apache-2.0
"""Files of this program, read again: the type that is named, or one error that names the file and the field."""

import dataclasses
import json
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import pytest

from deeplab_axial import json_files
from deeplab_axial.errors import InputError
from deeplab_axial.json_files import Bounds, Count, FileText, Finite


class Part(NamedTuple):
    file: str
    size: Count = 0


class Extra(TypedDict, total=False):
    note: str


class Named(Extra):
    step: Count


@dataclasses.dataclass(frozen=True)
class Everything:
    name: str
    parts: tuple[Part, ...]
    pair: tuple[int, float] | None = None
    counts: dict[int, Count] | None = None
    kind: Literal["a", "b"] = "a"
    named: Named | None = None
    score: Finite = 0.0
    flag: bool = False
    free: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if self.name == "forbidden":
            raise ValueError("name must not be forbidden")


WHOLE = {
    "name": "é",
    "parts": [{"file": "x", "size": 3}, {"file": "y"}],
    "pair": [1, 2],
    "counts": {"7": 9},
    "kind": "b",
    "named": {"step": 4, "other": [1]},
    "score": 1,
    "flag": True,
    "free": {"a": [None, {"b": 1.5}]},
}


def test_a_value_of_every_kind():
    found = json_files.parse(json.dumps(WHOLE), Everything, "x.json", "")
    assert found == Everything(
        "é", (Part("x", 3), Part("y")), (1, 2.0), {7: 9}, "b", {"step": 4, "other": [1]}, 1.0, True, WHOLE["free"]
    )
    assert type(found.parts[0]) is Part
    assert type(found.score) is float
    assert json_files.parse('{"name": "x", "parts": []}', Everything, "x.json", "") == Everything("x", ())


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("name", 5, "name: must be text. Received: 5"),
        ("name", "\ud800", 'name: must be text in Unicode. Received: "\\ud800"'),
        ("name", "forbidden", "name must not be forbidden"),
        ("parts", {}, "parts: must be a list. Received: an object of 0 entries"),
        ("parts", [{"size": 1}], "parts[0]: must have the field 'file'. Received: an object of 'size'"),
        ("parts", [{"file": "x", "size": -1}], "parts[0].size: must lie in [0, "),
        ("parts", [{"file": "x", "size": 1.0}], "parts[0].size: must be a whole number. Received: 1.0"),
        ("parts", [{"file": "x", "size": True}], "parts[0].size: must be a whole number. Received: true"),
        ("parts", [3], "parts[0]: must be an object with fields. Received: 3"),
        ("pair", [1], "pair: must have 2 entries"),
        ("pair", [2**70, 0], "pair[0]: must fit 64 bits"),
        ("counts", {"x": 1}, 'counts: must have whole numbers for keys. Received: "x"'),
        ("counts", {"-1": 1}, "counts: must have whole numbers for keys"),
        ("counts", {"1": "a"}, 'counts.1: must be a whole number. Received: "a"'),
        ("kind", "c", "kind: must be one of 'a', 'b'. Received: \"c\""),
        ("kind", [], "kind: must be one of 'a', 'b'"),
        ("named", {}, "named: must have the field 'step'"),
        ("named", {"step": 1, "note": 3}, "named.note: must be text"),
        ("score", float("nan"), "score: must lie in [-1.7e+308, 1.7e+308]. Received: NaN"),
        ("score", float("inf"), "Received: Infinity"),
        ("score", None, "score: must be a number. Received: null"),
        ("flag", 1, "flag: must be true or false. Received: 1"),
        ("free", json.loads("[" * 60 + "]" * 60), "free: must be an object with fields"),
        ("free", {"a": json.loads("[" * 60 + "]" * 60)}, "must not be nested deeper than 50"),
        ("free", {"a": {"\udfff": 1}}, "must be text in Unicode"),
        ("free", {"a": 10**400}, "free.a: must fit 64 bits. Received: a number of too many digits"),
    ],
)
def test_a_field_of_another_type(field, value, said):
    with pytest.raises(InputError) as caught:
        json_files.parse(json.dumps({**WHOLE, field: value}), Everything, "x.json", "Make it again.")
    message = str(caught.value)
    assert message.startswith("x.json is damaged (")
    assert said in message
    assert message.endswith("). Make it again.")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b"{", "Expecting property name"),
        (b"[]", "the whole must be an object with fields. Received: a list of 0 entries"),
        (b"NaN", "the whole must be an object with fields. Received: NaN"),
        (b"\xff\xfe\x00garbage", "codec can't decode"),
        (b"\x00" * 50, "Expecting value"),
        (b"[" * 20_000 + b"]" * 20_000, "nested too deeply"),
        (b'{"a":' * 20_000, "nested too deeply"),
        (b"9" * 5000, "digit"),
    ],
)
def test_another_content(tmp_path, content, said):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        json_files.read(path, Everything, "Make it again.")
    assert str(caught.value).startswith(f"{path} is damaged (")
    assert said in str(caught.value)


def test_a_file_that_is_not_there_or_too_large(tmp_path):
    assert json_files.read(tmp_path / "none", Everything, "") is None
    assert json_files.read_lines(tmp_path / "none", Named, "") == []
    (tmp_path / "large").write_bytes(b"[" + b" " * 100)
    with pytest.raises(InputError, match=r"large cannot be read \(larger than 50 bytes\)\. Make it again"):
        json_files.read(tmp_path / "large", Everything, "Make it again.", largest=50)
    with pytest.raises(InputError, match=r"cannot be read \(a folder, where a file is expected"):
        json_files.read(tmp_path, Everything, "")


def test_fields_of_a_newer_release_are_named_and_left_out(caplog):
    content = json.dumps({**WHOLE, "\ud800": 1, "parts": [{"file": "x", "also": {}}]})
    found = json_files.parse(content, Everything, "x.json", "")
    assert found.parts == (Part("x"),)
    (record,) = caplog.records
    said = "x.json has fields that this release does not know and leaves out: parts[0].also, \\ud800."
    assert record.getMessage() == said


def test_a_type_with_a_second_one():
    kind = Annotated[dict[str, int | str], Named]
    assert json_files.convert({"step": 3, "b": "x"}, kind) == {"step": 3, "b": "x"}
    with pytest.raises(json_files.Problem, match=r"b: must be a whole number or text. Received: 1\.5"):
        json_files.convert({"step": 3, "b": 1.5}, kind)
    with pytest.raises(json_files.Problem, match="must have the field 'step'"):
        json_files.convert({"b": 1}, kind)
    with pytest.raises(json_files.Problem, match=r"the whole must lie in \[0, 1\]"):
        json_files.convert(2, Annotated[int, Bounds(0, 1)])


def test_names_of_files_that_are_no_utf8():
    assert json_files.convert("caf\udce9", FileText) == "caf\udce9"
    assert json_files.convert({"a": "caf\udce9", "b": None}, dict[str, FileText | None]) == {
        "a": "caf\udce9",
        "b": None,
    }
    for value, said in (("\ud800", "text in Unicode"), ("\udcff\udfff", "text in Unicode"), (3, "text. Received: 3")):
        with pytest.raises(json_files.Problem, match=f"must be {said}"):
            json_files.convert(value, FileText)


def test_lines(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert json_files.read_lines(path, Named, "") == [{"step": 1}, {"step": 2}]
    path.write_bytes(b'{"step": 1}\r{"step": 3}\n{"step": 2}\n')
    with pytest.raises(InputError, match=r"x\.jsonl, line 1, is damaged"):
        json_files.read_lines(path, Named, "")
    path.write_text('{"step": 1}\n{"st\n{"step": 2}\n')
    with pytest.raises(InputError, match=r"x\.jsonl, line 2, is damaged \(.*\)\. Remove"):
        json_files.read_lines(path, Named, "Remove that line.")
    assert len(json_files.read_lines(path, Named, "", lambda line: line.endswith(b"}"))) == 2
