# SPDX-License-Identifier: Apache-2.0
"""The classes beside a model's checkpoints."""

import pytest

from deeplab_axial import builders
from deeplab_axial.errors import InputError
from deeplab_axial.training import label_space_file

SPACE = builders.load_label_space("cityscapes_panoptic")


def test_round_trip(tmp_path):
    assert label_space_file.read(str(tmp_path)) is None
    label_space_file.write(str(tmp_path), SPACE)
    assert label_space_file.read(str(tmp_path)) == SPACE
    for checkpoint in (tmp_path, tmp_path / "ckpt-3"):
        assert label_space_file.read_beside(str(checkpoint)) == SPACE
    assert builders.load_label_space(tmp_path / "label_space.json") == SPACE


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"classes": 1}', "\x00", "[" * 20000])
def test_a_damaged_file_is_named(tmp_path, text):
    (tmp_path / "label_space.json").write_text(text)
    with pytest.raises(InputError, match=rf"^{tmp_path}/label_space\.json is damaged \(.+\).*remove the file"):
        label_space_file.read(str(tmp_path))
