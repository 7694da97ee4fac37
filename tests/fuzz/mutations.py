# SPDX-License-Identifier: Apache-2.0
"""Strategies of hypothesis: sound inputs, and what becomes of them when they are cut, edited, spliced or replaced."""

import copy
import json
import re
from typing import Any

from hypothesis import strategies as st

# In place of any value of a JSON file. DELETED takes it out.
DELETED = "<deleted>"
JUNK = (
    *(None, True, -1, 0, 1, 255, 256, 2**31, 2**63, -(2**70), 10**400, 0.5, 1e999, float("nan"), -0.0),
    *("", "a", "0", "-1", "NaN", "\ud800", "\x00", "../../x", "/dev/zero", "é" * 200, "x" * 10_000),
    *([], {}, [[]], [{}], {"": {}}, [None] * 50, {"id": {}}, [0, 0, 0], [1e999] * 3, DELETED),
)
# Put into any text file.
TOKENS = (
    *b"{ } [ ] \" ' : , # /* nan NaN inf null true false \\ud800 name type".split(),
    *b"-1 0 1 3 17 0.5 -0.5 1e9 1e30 1e999 2147483647 1000000000 99999999999999999999 0x7fffffff 'a'".split(),
    *(b"", b"\n", b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\\" * 99, b"x" * 5000, b"\x00" * 5000),
    *(b"[" * 3000, b"{" * 3000, b'{"a":' * 2000, b"a { " * 2000),
)
_EDITS = ("word", "word", "word", "cut", "flip", "insert", "replace", "delete", "repeat", "splice")
_places = st.floats(0, 1, exclude_max=True)


def edited(seeds: list[bytes], tokens: tuple[bytes, ...] = TOKENS) -> st.SearchStrategy[bytes]:
    """Sound files with up to four edits of their bytes, and now and then bytes of no file at all."""
    edit = st.tuples(st.sampled_from(_EDITS), _places, _places, st.sampled_from(tokens), st.sampled_from(seeds))
    changed = st.builds(_edit, st.sampled_from(seeds), st.lists(edit, max_size=4))
    return st.one_of(changed, changed, changed, st.binary(max_size=200))


def edited_json(values: list[Any]) -> st.SearchStrategy[bytes]:
    """JSON files of which up to three values, anywhere, are other ones; or whose bytes are edited."""
    change = st.tuples(_places, st.sampled_from(JUNK))
    changed = st.builds(_change, st.sampled_from(values), st.lists(change, min_size=1, max_size=3)).map(_dump)
    return st.one_of(changed, changed, edited([_dump(value) for value in values]))


def _dump(value: Any) -> bytes:
    return json.dumps(value).encode()


def _edit(data: bytes, edits: list[tuple]) -> bytes:
    for kind, first, second, token, other in edits:
        low, high = sorted((int(first * len(data)), int(second * len(data))))
        match kind:
            case "word":
                start, end = _word(data, low)
                data = data[:start] + token + data[end:]
            case "cut":
                data = data[:low]
            case "flip":
                data = data[:low] + bytes(255 - byte for byte in data[low : low + 1]) + data[low + 1 :]
            case "insert":
                data = data[:low] + token + data[low:]
            case "replace":
                data = data[:low] + token + data[low + len(token) :]
            case "delete":
                data = data[:low] + data[high:]
            case "repeat":
                data = data[:high] + data[low:high] * (2 if len(data) > 10**6 else 5) + data[high:]
            case "splice":
                data = data[:low] + other[int(second * len(other)) :]
    return data


def _word(data: bytes, place: int) -> tuple[int, int]:
    """Where the next name or number begins and ends."""
    match = re.compile(rb"[\w.+-]+").search(data, place)
    return match.span() if match else (place, place)


def _change(value: Any, changes: list[tuple[float, Any]]) -> Any:
    value = copy.deepcopy(value)
    for place, new in changes:
        spots = list(_spots(value))
        if not spots:
            return new
        container, key = spots[int(place * len(spots))]
        if new == DELETED:
            del container[key]
        else:
            container[key] = copy.deepcopy(new)
    return value


def _spots(value: Any):
    """(container, key) of every value inside."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in list(keys):
        yield value, key
        yield from _spots(value[key])
