# SPDX-License-Identifier: Apache-2.0
"""docs/tpu_memory.md is what docs/tpu.py makes of docs/tpu_memory.csv."""

import importlib.util
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def tpu():
    spec = importlib.util.spec_from_file_location("tpu", ROOT / "docs" / "tpu.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date(tpu):
    assert tpu.PAGE.read_text(encoding="utf-8") == tpu.page(tpu.training_steps(), tpu.read_trials())


def test_every_config_has_a_row_and_those_of_one_training_step_share_it(tpu):
    groups = tpu.training_steps()
    members = [member for group in groups.values() for member in group]
    configs = [path for folder in tpu._FOLDERS for path in (tpu.CONFIGS / folder).glob("*.textproto")]
    assert sorted(members) == sorted(path.relative_to(tpu.CONFIGS).as_posix() for path in configs)
    assert "cityscapes/axial_deeplab_l_multi_scale.textproto" in groups["cityscapes/axial_deeplab_l.textproto"]
    assert "cityscapes/axial_deeplab_l_span9.textproto" in groups


def _row(batch_size, gib, fits, setting="as it is", chip="v5e:2x2"):
    values = ["a.textproto", chip, setting, batch_size, int(gib * 2**30), fits, batch_size * 5e11, 100, "layer"]
    return values


@pytest.mark.parametrize(
    ("rows", "cell"),
    [
        ([], ""),
        ([_row(1, 9, True), _row(2, 17, False)], "1: 9.0"),
        ([_row(1, 3, True), _row(2, 5, True), _row(7, 15, True)], "7: 15.0"),
        ([_row(1, 3, True), _row(2, 5, True)], "at least 2: 5.0"),
        ([_row(1, 57, False)], "0 (1: 57.0)"),
        ([_row(1, 57, False), _row(1, 6, True, "small"), _row(2, 16, False, "small")], "1*: 6.0"),
        ([_row(1, 57, False), _row(1, 20, False, "small")], "0* (1: 20.0)"),
        ([_row(1, 9, True, chip="v6e:2x2")], ""),
    ],
)
def test_cells(tpu, rows, cell):
    trials = [dict(zip(tpu.COLUMNS, map(str, row))) for row in rows]
    assert tpu._cell(trials, "a.textproto", "v5e:2x2", int(15.75 * 2**30)) == cell
