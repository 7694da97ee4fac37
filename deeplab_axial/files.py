# SPDX-License-Identifier: Apache-2.0
"""Writing local files."""

import os
import pathlib


def write_atomically(path: str | os.PathLike, content: bytes | str) -> None:
    """Writes a file that readers see complete or not at all, and makes the folders above it; text as UTF-8."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
