# SPDX-License-Identifier: Apache-2.0
"""What is printed."""

import dataclasses
import json
import re

import pytest

from deeplab_axial.tpu_check import cycles, pace, plan, process, report, step, topologies

V5E = topologies.parse("v5e:2x2")
GIB = 2**30
RUN = pace.Run(200_000)
SETTING = report.Setting("cityscapes_l", (1025, 2049), "float32", False, 1, False)


def _program(batch_size=2, gradients=GIB // 4):
    return step.Program(b"", batch_size, gradients, 1000)


def _result(total=10 * GIB, code=GIB // 2, fits=True, error="", loops=0):
    buffers = (plan.Buffer(545 * 2**20, "f32[16,69768,80]{2,1,0:T(8,128)}", "model/stage2_block1/attention/MatMul"),)
    planned = None if error else plan.Plan(total, GIB, buffers)
    return process.Result(planned, fits and not error, code, 4e12, 2e9, loops, error, 61.0)


def test_a_step_that_fits():
    text = report.as_text(SETTING, _program(), V5E, _result(), RUN)
    assert "v5e:2x2 (v5litepod-4, 4 cores)" in text
    assert "2 a core, 8 a step; crop 1025 x 2049; float32, without recompute" in text
    assert "compiles: yes" in text
    assert "10.75 of 15.75 GiB a core: fits" in text
    assert "4,000.0 G a step, 2,000.0 G an image" in text
    assert "545.0 MiB  f32[16,69768,80]  model/stage2_block1/attention/MatMul" in text
    assert "to make it fit" not in text
    assert "at least" not in text


def test_each_part_of_a_batch_counts():
    setting = dataclasses.replace(SETTING, accumulation_steps=2)
    text = report.as_text(setting, _program(), V5E, _result(loops=1), RUN)
    whole = report.as_text(SETTING, _program(), V5E, _result(), RUN)
    count = float(re.search(r"FLOPs: ([\d,.]+) G a step", text)[1].replace(",", ""))
    assert count == 2 * float(re.search(r"FLOPs: ([\d,.]+) G a step", whole)[1].replace(",", ""))
    assert "loops" not in text
    values = report.as_json(setting, _program(), V5E, _result(loops=25), RUN)
    assert (values["flops"], values["bytes_accessed"], values["loops"]) == (8e12, 4e9, 24)


def test_loops_are_said_to_count_once():
    text = report.as_text(SETTING, _program(), V5E, _result(loops=24), RUN)
    assert "at least 4,000.0 G a step" in text
    assert "24 loops" in text


def test_a_step_that_does_not_fit_says_what_to_try():
    text = report.as_text(SETTING, _program(), V5E, _result(60 * GIB, None, fits=False), RUN)
    assert "60.25 of 15.75 GiB a core: DOES NOT FIT" in text
    for advice in (
        "recompute=true",
        "precision=mixed_bfloat16",
        "logits_at_once",
        "gradient_accumulation_steps=2",
        "another chip",
    ):
        assert advice in text


def test_what_is_done_already_is_not_advised():
    setting = report.Setting("l", (1025, 2049), "mixed_bfloat16", True, 2, True)
    advice = report.as_text(setting, _program(), V5E, _result(60 * GIB, fits=False), RUN).partition("to make it fit")[2]
    assert "another chip" in advice
    for done in ("recompute", "bfloat16", "logits_at_once", "accumulation"):
        assert done not in advice


def test_sums_over_cores_count_where_there_are_several():
    tight = _result(int(15.1 * GIB))
    assert not report.fits(_program(), V5E, tight)
    assert report.fits(_program(), topologies.parse("v5e:1x1"), tight)


def test_an_operation_that_does_not_compile_is_named():
    error = 'UNIMPLEMENTED: no such thing: op_name="model/stage3_block2/sort"'
    text = report.as_text(SETTING, _program(), V5E, _result(error=error, code=None), RUN)
    assert "does not compile at model/stage3_block2/sort:" in text
    assert error in text


@pytest.mark.parametrize("result", [_result(), _result(code=None), _result(error="no", code=None)])
def test_json_holds_the_same(result):
    values = json.loads(json.dumps(report.as_json(SETTING, _program(), V5E, result, RUN)))
    assert values["compiles"] == (result.error == "")
    assert values["fits"] == report.fits(_program(), V5E, result)
    if result.plan:
        parts = [values[name] or 0 for name in ("arguments", "temporaries", "code", "between_cores")]
        assert sum(parts) == values["hbm_needed"]
        assert values["largest_buffers"][0]["bytes"] == 545 * 2**20


def _timed(**changes):
    dearest = (cycles.Instruction("fusion.1", "convolution", "model/conv1/Conv2D", 100_000_000),)
    expected = cycles.Cycles(150_000_000, {cycles.KERNELS: 50_000_000, "convolution": 100_000_000}, dearest)
    return dataclasses.replace(_result(), expected=expected, bytes_after_fusion=8.19e9, **changes)


def test_time_is_the_compilers_estimate():
    text = report.as_text(SETTING, _program(), V5E, _timed(), RUN)
    assert "time: 100.0 ms a step, 20.00 images a second and core (the compiler's own estimate, not a meas" in text
    assert "floors: 20.3 ms for the FLOPs at 197 TFLOPS (bfloat16), 10.0 ms for the bytes" in text
    assert "attention's kernels 33%, convolution 67%" in text
    assert "the run: 200,000 steps of 8 images: 5.56 hours, 22.22 chip-hours of 4 chips\n" in text
    assert "100.000 M cycles  66.7%  fusion.1  model/conv1/Conv2D" in text


def test_a_price_gives_the_cost_of_the_run():
    run = pace.Run(200_000, 1.2)
    assert "22.22 chip-hours of 4 chips; 26.67 at 1.2 a chip" in report.as_text(SETTING, _program(), V5E, _timed(), run)
    values = json.loads(json.dumps(report.as_json(SETTING, _program(), V5E, _timed(), run)))["time"]
    assert values["cost"] == pytest.approx(26.67, rel=1e-3)
    assert (values["cycles"], values["seconds"], values["unknown"]) == (150_000_000, 0.1, "")
    assert values["dearest"][0]["operation"] == "model/conv1/Conv2D"
    assert "not a measurement" in values["what"]


def test_time_that_is_not_known_leaves_the_rest():
    result = dataclasses.replace(_result(), no_cycles="the loop while.1 does not say how often it runs")
    text = report.as_text(SETTING, _program(), V5E, result, RUN)
    assert "10.75 of 15.75 GiB a core: fits" in text
    assert "time: unknown: the loop while.1 does not say how often it runs" in text
    values = report.as_json(SETTING, _program(), V5E, result, RUN)["time"]
    assert (values["cycles"], values["seconds"], values["cost"]) == (None, None, None)
    assert values["unknown"].startswith("the loop")
