# SPDX-License-Identifier: Apache-2.0
"""`${NAME}` in the strings of a config, as DeepLab2's textprotos have it: finding it and filling it."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

PLACEHOLDER = re.compile(r"\$\{(\w+)\}")


def strings(message: Any, prefix: str = "") -> Iterator[tuple[str, str, Callable[[str], None]]]:
    """Walks the strings that are set in a message.

    Args:
      message: any protobuf message.
      prefix: of the paths.

    Yields:
      (path as "section.field", the string, what replaces it by another); a repeated field comes once for each value.
    """
    for field, value in message.ListFields():
        path = f"{prefix}{field.name}"
        repeated = not isinstance(value, str) and not hasattr(value, "ListFields")
        if field.message_type is not None:
            for section in value if repeated else [value]:
                yield from strings(section, f"{path}.")
        elif field.cpp_type == field.CPPTYPE_STRING and repeated:
            for i, text in enumerate(value):
                yield path, text, lambda new, i=i, values=value: values.__setitem__(i, new)
        elif field.cpp_type == field.CPPTYPE_STRING:
            yield path, value, lambda new, name=field.name: setattr(message, name, new)


def names(message: Any) -> set[str]:
    """The placeholders that the strings of a message hold."""
    return {name for _, text, _ in strings(message) for name in PLACEHOLDER.findall(text)}


def fill(message: Any, values: Mapping[str, str]) -> list[str]:
    """Replaces the placeholders that `values` knows, in all strings of a message; the others stay.

    Returns:
      A problem for each string that a value which is no text cannot be put into; it stays, too.
    """
    problems = []
    for path, text, replace in list(strings(message)):
        if not PLACEHOLDER.search(text):
            continue
        try:
            replace(PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), text))
        except ValueError as error:  # a surrogate, from bytes of the command line or the environment
            problems.append(
                f"{path}: a placeholder must stand for UTF-8 text. Received: {text} ({error}). Give it another value."
            )
    return problems
