# SPDX-License-Identifier: Apache-2.0
"""docs/tpu_memory.md is what docs/tpu.py makes of docs/tpu_memory.csv."""

import importlib.util
import pathlib
import types

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
        # The line of another chip settles that two do not fit.
        ([_row(1, 9, True), _row(1, 8, True, chip="v6e:2x2")], "at least 1: 9.0"),
        ([_row(1, 9, True), _row(1, 8, True, chip="v6e:2x2"), _row(2, 15, True, chip="v6e:2x2")], "1: 9.0"),
    ],
)
def test_cells(tpu, rows, cell):
    trials = [dict(zip(tpu.COLUMNS, map(str, row))) for row in rows]
    assert tpu._cell(trials, "a.textproto", "v5e:2x2", int(15.75 * 2**30)) == cell


@pytest.fixture
def measured(tpu, monkeypatch, tmp_path):
    """Measures with a compiler whose programs need so many GiB an image, and returns the cells by chip."""
    from deeplab_axial import builders
    from deeplab_axial.tpu_check import process, report, topologies

    def run(gib, chips):
        def compile_program(program, topology, makes_code):
            setting, batch_size = program
            needed = int(gib[setting] * batch_size * 2**30)
            plan = types.SimpleNamespace(buffers=[], total=needed)
            fits = needed <= report.available(topology)
            return process.Result(plan, fits, None, 5e11 * batch_size, 0.0, 0, "", 1.0)

        def build_step_program(options, batch_size):
            return ("small" if options.trainer_options.recompute else "as it is", batch_size)

        monkeypatch.setattr(process, "check_installed", lambda: None)
        monkeypatch.setattr(process, "compile_program", compile_program)
        monkeypatch.setattr(builders, "build_step_program", build_step_program)
        monkeypatch.setattr(report, "between_cores", lambda program, topology: 0)
        monkeypatch.setattr(report, "fits", lambda program, topology, result: result.fits)
        monkeypatch.setattr(tpu, "TRIALS", tmp_path / "trials.csv")
        monkeypatch.setattr(tpu, "PAGE", tmp_path / "page.md")
        name = "cityscapes/axial_deeplab_s.textproto"
        tpu.measure(name, chips, lambda row: tpu._add(row, {name: [name]}))
        trials = tpu.read_trials()
        topology_of = {chip: topologies.parse(chip) for chip in chips}
        cells = {
            chip: tpu._cell(trials, name, topology.name, report.available(topology))
            for chip, topology in topology_of.items()
        }
        return cells, [(row["topology"][:3].rstrip(":"), row["setting"], row["batch_size"]) for row in trials]

    return run


def test_measures_the_largest_batch_on_each_chip(measured):
    cells, tried = measured({"as it is": 4.3}, ["v6e", "v5e", "v5p"])
    assert cells == {"v6e": "7: 30.1", "v5e": "3: 12.9", "v5p": "22: 94.6"}
    assert len(tried) == 6  # 128 images on v5p in vain


def test_measures_a_program_that_is_too_large_with_less_memory(measured):
    cells, tried = measured({"as it is": 25, "small": 9}, ["v6e", "v5e"])
    assert cells == {"v6e": "1: 25.0", "v5e": "1*: 9.0"}
    assert tried == [
        ("v6e", "as it is", "1"),
        ("v6e", "as it is", "2"),
        ("v5e", "small", "1"),
        ("v5e", "small", "2"),
    ]
