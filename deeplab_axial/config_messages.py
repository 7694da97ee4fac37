# SPDX-License-Identifier: Apache-2.0
"""How problems of a config are worded: values, near names, and not more of either than a reader wants."""

import difflib
import json
from collections.abc import Collection, Sequence
from typing import Any

# Problems that one error lists.
MOST_PROBLEMS = 50
_LONGEST = 300  # characters
# Comparing longer names takes long, and they are nobody's slip of the pen.
_LONGEST_NAME = 100


def nearest(name: str, names: Collection[str]) -> str:
    """'Did you mean "x"? ' for the name closest to `name`, or nothing, then all the names."""
    close = difflib.get_close_matches(name[:_LONGEST_NAME], list(names), n=1, cutoff=0.5)
    hint = f'Did you mean "{close[0]}"? ' if close else ""
    return f"{hint}Valid names: {', '.join(names) or 'none'}"


def shorten(text: str) -> str:
    """A text that is received, cut where it is longer than a message should be."""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({len(text):,} characters)"


def summarise(problems: Sequence[str]) -> str:
    """The problems one a line, the first MOST_PROBLEMS of them."""
    lines = list(problems[:MOST_PROBLEMS])
    if len(problems) > MOST_PROBLEMS:
        lines.append(f"and {len(problems) - MOST_PROBLEMS} more")
    return "\n".join(lines)


def show(value: Any) -> str:
    """A value as the text format writes it."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return shorten(json.dumps(value, ensure_ascii=False))
    if isinstance(value, float):
        return format(value, ".7g")
    if isinstance(value, int):
        return str(value)
    if hasattr(value, "DESCRIPTOR"):
        return f"a {value.DESCRIPTOR.name} section"
    return shorten(f"[{', '.join(show(v) for v in value)}]")


def is_repeated(field: Any) -> bool:
    """Whether a field of a message, a FieldDescriptor, is repeated."""
    # protobuf 4 and 5 have label alone, 7 has is_repeated alone.
    return field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED
