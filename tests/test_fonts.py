# SPDX-License-Identifier: Apache-2.0
"""Characters that Pillow's own font lacks come from another one, or a warning says that none has them."""

import numpy as np
import pytest
from absl import logging
from PIL import Image, ImageDraw

from deeplab_axial import fonts

_NOWHERE = "\U000f0000"  # for private use


def _drawn(text: str, anchor: str = "mm") -> np.ndarray:
    image = Image.new("L", (300, 60))
    fonts.draw(ImageDraw.Draw(image), (150 if anchor == "mm" else 4, 30), text, 24, anchor, fill=255)
    return np.asarray(image)


@pytest.fixture
def warnings(monkeypatch):
    said = []
    monkeypatch.setattr(logging, "warning", lambda text, *values: said.append(text % values))
    fonts._parts.cache_clear()
    fonts._warn.cache_clear()
    return said


def test_english_is_drawn_as_before(warnings):
    image = Image.new("L", (300, 60))
    ImageDraw.Draw(image).text((150, 30), "sky 0.93", fill=255, font=fonts.default(24), anchor="mm")
    np.testing.assert_array_equal(_drawn("sky 0.93"), np.asarray(image))
    assert fonts.length("sky 0.93", 24) == fonts.default(24).getlength("sky 0.93")


@pytest.mark.parametrize("text", ["δρόμος", "кошка", "Fußgänger é"])
def test_other_alphabets_are_no_boxes(warnings, text):
    ((path, part),) = fonts._parts(text)
    assert path is not None
    assert part == text
    letters = {char: np.trim_zeros(_drawn(char).sum(0)).tobytes() for char in text if char != " "}
    assert len(set(letters.values())) == len(letters)  # boxes are all alike
    drawn = _drawn(text)
    columns = np.flatnonzero(drawn.any(0))
    assert abs((columns[0] + columns[-1]) / 2 - 150) < 4
    assert abs(columns[-1] - columns[0] - fonts.length(text, 24)) < 6
    assert warnings == []


def test_characters_that_no_font_has(warnings):
    for _ in range(2):
        assert _drawn(f"é{_NOWHERE}a", "lm").any()
    assert fonts._parts(f"é{_NOWHERE}a")[-1] == (None, f"{_NOWHERE}a")
    assert len(warnings) == 1
    assert "(U+F0000): they are drawn as boxes. Install a font that has them" in warnings[0]


def test_what_has_no_shape_is_left_out(warnings):
    assert fonts._parts("a\u200d\ufe0fb") == ((None, "ab"),)
    assert fonts.length("", 24) == 0
    assert not _drawn("").any()
