# SPDX-License-Identifier: Apache-2.0
"""The command, with the compiler replaced."""

import json

import pytest

from tests.cli import commands

GIB = 2**30


def _main_with_another_compiler(arguments: list[str], code_gib: float = 0.0) -> int:
    """Runs the command with a compiler that needs 2 GiB and 3 GiB an image; prints "compiled IMAGES MAKES_CODE"."""
    from deeplab_axial import builders
    from deeplab_axial.cli import main
    from deeplab_axial.tpu_check import plan, process, step

    def build(options, batch_size, chip):
        return step.Program(b"", batch_size, 0, 0)

    def compile_program(program, topology, makes_code=True, timeout=0.0):
        print("compiled", program.batch_size, makes_code)
        total = (2 + 3 * program.batch_size) * GIB
        fits = total <= 15.75 * GIB
        planned = plan.Plan(total, GIB, ())
        code = int(code_gib * GIB) if makes_code and fits else None
        return process.Result(planned, fits, code, 1e12, 1e9, 0, "", 1.0)

    builders.build_step_program = build
    process.compile_program = compile_program
    process.check_installed = lambda: None
    return main.main(["deeplab-axial", "tpu_check", *arguments])


def _run(*flags, code_gib=0.0):
    """What the command left, and the compilations: (images, whether code was made)."""
    result = commands.call(_main_with_another_compiler, [f"--config_file={commands.TINY}", *flags], code_gib)
    words = [line.split() for line in result.out.splitlines() if line.startswith("compiled ")]
    return result, [(int(images), makes_code == "True") for _, images, makes_code in words]


def test_the_batch_of_the_config_is_shared_out(tmp_path):
    flags = ["--topology=v5e:2x2", "--set=train_dataset_options.batch_size=8", f"--json={tmp_path / 'out.json'}"]
    result, compiled = _run(*flags)
    assert result.status == 0, result.err
    assert compiled == [(2, True)]
    assert "8.00 of 15.75 GiB a core: fits" in result.out
    values = json.loads((tmp_path / "out.json").read_text())
    assert (values["batch_size_per_core"], values["fits"], values["hbm_needed"]) == (2, True, 8 * GIB)


def test_auto_finds_the_largest_batch_and_makes_code_for_it_alone():
    result, compiled = _run("--topology=v5e:2x2", "--batch_size=auto")
    assert result.status == 0, result.err
    assert compiled == [(1, False), (2, False), (4, False), (4, True)]
    assert "batch 4: 14.00 GiB, fits" in result.out


def test_auto_goes_back_if_there_is_no_room_for_the_code():
    result, compiled = _run("--topology=v5e:2x2", "--batch_size=auto", code_gib=2.0)
    assert result.status == 0, result.err
    assert compiled == [(1, False), (2, False), (4, False), (4, True), (3, True)]
    assert "13.00 of 15.75 GiB a core: fits" in result.out


def test_plan_only():
    result, compiled = _run("--topology=v5e:2x2", "--batch_size=3", "--plan_only")
    assert result.status == 0, result.err
    assert compiled == [(3, False)]
    assert "no machine code was made" in result.out


@pytest.mark.parametrize(
    ("flags", "rule"),
    [
        (["--topology=v9"], "--topology must name one of the chips"),
        (["--topology=v5e:4x8"], "must be a multiple of the 32 cores of v5e:4x8"),
        (["--topology=v5e", "--batch_size=0"], "--batch_size must be auto or a multiple"),
        (["--topology=v5e", "--price_per_chip_hour=-1"], "--price_per_chip_hour must be a positive number"),
        (["--topology=v5e", "--layers", "--plan_only"], "--layers compiles single layers to the end"),
        (["--topology=v5e", "--layers", "--batch_size=auto"], "nor --batch_size=auto"),
        (["--topology=v5e", "--batch_size=two"], "--batch_size must be auto or a multiple"),
    ],
)
def test_mistakes(flags, rule):
    result, compiled = _run(*flags)
    assert result.status == 1
    assert rule in result.err
    assert not compiled


def _main_for_layers(arguments: list[str]) -> int:
    """Runs the command with layers and a compiler that expects 1.5 M cycles of everything."""
    from deeplab_axial import builders
    from deeplab_axial.cli import main
    from deeplab_axial.tpu_check import cycles, layers, process, step

    layer = layers.attention_layer((1, 257, 257, 64), 32, 64, 65)
    program = step.Program(b"", 1, 0, 0)
    expected = cycles.Cycles(1_500_000, {cycles.KERNELS: 750_000}, ())
    builders.build_layer_programs = lambda options, batch_size, chip: [(layer, program, program)]
    process.compile_program = lambda *_, **__: process.Result(None, True, 1, 1e9, 1e9, 0, "", 1.0, expected)
    process.check_installed = lambda: None
    return main.main(["deeplab-axial", "tpu_check", *arguments])


def test_layers(tmp_path):
    flags = [f"--config_file={commands.TINY}", "--topology=v5e", "--layers", "--batch_size=1"]
    result = commands.call(_main_for_layers, [*flags, f"--json={tmp_path / 'out.json'}"])
    assert result.status == 0, result.err
    assert "not a measurement" in result.out
    assert "1x257x257x64     65      1      1      1.500     1.00      1.500     1.00  50%/50%" in result.out
    (values,) = json.loads((tmp_path / "out.json").read_text())["layers"]
    assert (values["attention"]["span"], values["training"]["cycles"]) == (65, 1_500_000)
