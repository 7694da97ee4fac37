# SPDX-License-Identifier: Apache-2.0
"""Summing up a small program that is written by hand."""

import pytest

from deeplab_axial.tpu_check import cycles

PROGRAM = """\
HloModule step

%fused (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %inner = f32[8]{0} add(%p, %p), backend_config={"estimated_cycles":"999"}
}

%body (b: (s32[], f32[8])) -> (s32[], f32[8]) {
  %b = (s32[], f32[8]{0}) parameter(0)
  %copy.1 = f32[8]{0} copy(%b), metadata={op_name="model/stage2/Add"}, backend_config={"estimated_cycles":"7"}
}

%condition (c: (s32[], f32[8])) -> pred[] {
  ROOT %compare = pred[] compare(%c, %c), backend_config={"estimated_cycles":"1"}
}

%small (x: f32[8]) -> f32[8] {
  ROOT %a = f32[8]{0} add(%x, %x), backend_config={"estimated_cycles":"2"}
}

%large (y: f32[8]) -> f32[8] {
  ROOT %d = f32[8]{0} add(%y, %y), backend_config={"estimated_cycles":"30"}
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %fusion.1 = f32[8]{0} fusion(%x), kind=kLoop, calls=%fused, metadata={op_name="model/conv1/Conv2D"}, \
backend_config={"estimated_cycles":"100"}
  %fusion.2 = (f32[8]{0}, f32[8]{0}) fusion(%x), calls=%fused, metadata={op_name="model/bn/FusedBatchNormV3"}, \
backend_config={"estimated_cycles":"50"}
  %while.1 = (s32[], f32[8]{0}) while(%t), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"4"}}
  %kernel.1 = f32[8]{0} custom-call(%x), custom_call_target="tpu_custom_call", \
metadata={op_name="model/attention/pallas_call"}, backend_config={"body":"abc"}
  %kernel.2 = f32[8]{0} custom-call(%x), custom_call_target="tpu_custom_call", backend_config={"body":"abc"}
  ROOT %choice = f32[8]{0} conditional(%p, %x, %x), branch_computations={%small, %large}
}
"""
SCHEDULE = "     0   :  { %v1_v0 = vmov 0.0 }\n   0x1   :  {}\n   0x2   :  {}\n"


def test_loops_calls_branches_and_kernels_count():
    found = cycles.instructions(PROGRAM, {"kernel.1": 1000, "kernel.2": 2000}.get)
    assert {i.name: i.cycles for i in found} == {
        "fusion.1": 100,
        "fusion.2": 50,
        "copy.1": 28,
        "compare": 4,
        "kernel.1": 1000,
        "kernel.2": 2000,
        "d": 30,
    }
    summary = cycles.summarize(found, num_dearest=2)
    assert summary.total == 3212
    assert summary.parts == {
        cycles.KERNELS: 3000,
        cycles.COPIES: 28,
        "normalization": 50,
        "convolution": 100,
        "other": 34,
    }
    assert [i.name for i in summary.dearest] == ["kernel.2", "kernel.1"]


def test_kernels_that_are_the_same_share_a_schedule(tmp_path):
    (tmp_path / "module_0.step.after_codegen.txt").write_text(PROGRAM)
    (tmp_path / "17-kernel.1-00-schedule-analysis_final_bundles.txt").write_text("something else")
    (tmp_path / "17-kernel.1-01-final_bundles.txt").write_text(SCHEDULE)
    (tmp_path / "17-kernel.10-01-final_bundles.txt").write_text(SCHEDULE * 2)
    assert cycles.read(tmp_path, tmp_path, 4).total == 212 + 2 * 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (PROGRAM.replace("known_trip_count", "other"), "the loop while.1 does not say how often it runs"),
        (PROGRAM, "no schedule of the kernel kernel.1"),
        ("HloModule step\n", "no entry"),
        ("ENTRY %main () -> f32[] {\n  %c = f32[] constant(1)\n}\n", "no instruction .* has an estimate"),
    ],
)
def test_what_is_missing_is_said(text, said, tmp_path):
    (tmp_path / "module_0.step.after_codegen.txt").write_text(text)
    with pytest.raises(ValueError, match=said):
        cycles.read(tmp_path, tmp_path, 4)


def test_a_program_that_was_only_planned_has_no_estimates(tmp_path):
    with pytest.raises(ValueError, match="left no program with estimates"):
        cycles.read(tmp_path, tmp_path, 4)


@pytest.mark.parametrize(
    ("name", "kind", "operation", "part"),
    [
        ("fusion.3", "fusion", "model/stage2_block1/attention/height_axis/qkv/Conv2D", "attention"),
        (
            "fusion.3",
            "fusion",
            "model/stage2_block1/attention/height_axis/XlaCallModule/jit(f)/transpose",
            cycles.COPIES,
        ),
        ("copy.3", "copy", "model/stage2_block1/attention/height_axis/add", cycles.COPIES),
        ("fusion.3", "fusion", "model/stage2_block1/attention/height_axis/qkv_norm/FusedBatchNormV3", "normalization"),
        ("convolution_add_fusion", "fusion", "", "convolution"),
        ("convert_fusion", "fusion", "optimizer/Cast", "other"),
    ],
)
def test_parts(name, kind, operation, part):
    assert cycles.part_of(name, kind, operation) == part
