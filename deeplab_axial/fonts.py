# SPDX-License-Identifier: Apache-2.0
"""Letters of pictures: Pillow's own font and, for characters that it lacks, what else the system has.

Pillow's font has the letters of English alone. Matplotlib, which is installed with this library, brings DejaVu Sans
(accents, Greek, Cyrillic, some symbols) and finds the fonts of the system (Chinese, emoji, ...).
"""

import functools
import io
import unicodedata

from absl import logging
from PIL import ImageDraw, ImageFont

# Of matplotlib's own: placeholders for every character, and fonts whose characters are not what their codes say.
_NO_LETTERS = (
    "Last Resort",
    "LastResort",
    "STIXNonUnicode",
    "STIXSize",
    "cmb",
    "cmex",
    "cmmi",
    "cmr",
    "cmss",
    "cmsy",
    "cmtt",
)
_PREFERRED = ("DejaVu Sans", "Noto Sans")
_PROBE = 20  # pixels; fonts of bitmaps cannot be drawn at any size but their own


@functools.cache
def default(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font, `size` pixels high."""
    return ImageFont.load_default(size=size)


def length(text: str, size: int) -> float:
    """The width of a text in pixels."""
    return sum(letters.getlength(part) for letters, part in _runs(text, size))


def draw(canvas: ImageDraw.ImageDraw, place: tuple[float, float], text: str, size: int, anchor: str, **options) -> None:
    """Writes a text.

    Characters that no font of the system has are drawn as boxes, and a warning says so once.

    Args:
      canvas: what is drawn on.
      place: (x, y) in pixels.
      text: one line.
      size: height of the letters in pixels.
      anchor: what lies at the place: "mm", the middle of the text, or "lm", the middle of its left side.
      **options: of `ImageDraw.text`, as fill and stroke_width.
    """
    runs = _runs(text, size)
    if len(runs) == 1:
        canvas.text(place, runs[0][1], font=runs[0][0], anchor=anchor, **options)
        return
    x, y = place
    if anchor == "mm":
        x -= length(text, size) / 2
    for letters, part in runs:
        canvas.text((x, y), part, font=letters, anchor="lm", **options)
        x += letters.getlength(part)


def _runs(text: str, size: int) -> list[tuple[ImageFont.FreeTypeFont, str]]:
    """Pieces of a text with their fonts, from left to right."""
    return [(default(size) if path is None else _load(path, size), part) for path, part in _parts(text)]


@functools.lru_cache(maxsize=4096)
def _parts(text: str) -> tuple[tuple[str | None, str], ...]:
    """Pieces of a text with the files of their fonts; None is Pillow's own. As few fonts as can be."""
    text = "".join(char for char in unicodedata.normalize("NFC", text) if _has_shape(char))
    if _is_in_default(text):
        return ((None, text),)
    whole = next((path for path in _fonts() if _has(path, text)), None)
    if whole is not None:
        return ((whole, text),)
    parts: list[tuple[str | None, str]] = []
    missing = []
    for char in text:
        path = None
        if parts and parts[-1][0] is not None and _has(parts[-1][0], char):
            path = parts[-1][0]
        elif not _is_in_default(char):
            path = _find(char)
            missing += [char] if path is None else []
        if parts and parts[-1][0] == path:
            parts[-1] = (path, parts[-1][1] + char)
        else:
            parts.append((path, char))
    if missing:
        _warn("".join(dict.fromkeys(missing)))
    return tuple(parts)


def _has_shape(char: str) -> bool:
    """Not what controls, joins or chooses a variant of other characters."""
    return unicodedata.category(char) not in ("Cc", "Cf") and not "\ufe00" <= char <= "\ufe0f"


@functools.cache
def _warn(missing: str) -> None:
    codes = ", ".join(f"U+{ord(char):04X}" for char in missing)
    logging.warning(
        "No font of this system has %s (%s): they are drawn as boxes. Install a font that has them, as Noto Sans.",
        missing,
        codes,
    )


def _is_in_default(text: str) -> bool:
    return text.isascii() or all(c.isascii() or ord(c) in _default_characters() for c in text)


@functools.cache
def _default_characters() -> frozenset[int]:
    """The codes that Pillow's own font has shapes for."""
    from matplotlib import ft2font  # takes a second to import, and English needs it not

    return frozenset(ft2font.FT2Font(io.BytesIO(default(_PROBE).font_bytes)).get_charmap())


@functools.cache
def _find(char: str) -> str | None:
    """The file of a font that has a character; None if none has."""
    return next((path for path in _fonts() if _has(path, char)), None)


def _has(path: str, text: str) -> bool:
    characters = _characters(path)
    return all(ord(char) in characters for char in text)


@functools.cache
def _fonts() -> tuple[str, ...]:
    """The files of fonts, upright ones of normal weight, the best first."""
    from matplotlib import font_manager

    found = {
        entry.fname: (
            next((i for i, name in enumerate(_PREFERRED) if entry.name.startswith(name)), len(_PREFERRED)),
            str(entry.weight) not in ("400", "normal", "regular"),
            len(entry.name),
            entry.name,
            entry.fname,
        )
        for entry in font_manager.fontManager.ttflist
        if entry.style == "normal" and not entry.name.startswith(_NO_LETTERS)
    }
    return tuple(sorted(found, key=found.get))


@functools.cache
def _characters(path: str) -> frozenset[int]:
    """The codes that a font file has shapes for; none if it cannot be drawn."""
    from matplotlib import ft2font

    try:
        _load(path, _PROBE)
        return frozenset(ft2font.FT2Font(path).get_charmap())
    except (OSError, RuntimeError, ValueError):
        return frozenset()


@functools.lru_cache(maxsize=256)
def _load(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)
