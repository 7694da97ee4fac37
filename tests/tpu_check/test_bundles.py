# SPDX-License-Identifier: Apache-2.0
"""Counting the bundles of schedules that are written by hand."""

import pytest

from deeplab_axial.tpu_check import bundles

HEADER = "= control target key start\nLB: loop body\n= control target key end\n\n"
# 2 bundles, then 5 passes of 4 (the branch and 1 behind it included), then 1.
LOOP = """\
     0   :  { %s1_s3 = smov.u32 0  ;;  %v1_v0 = vmov 0.0 /* a { comment } ;; of any kind */ }
   0x1   :  {} /* End region 1 */
   0x2 LB: > { %s4_s3 = sadd.s32 1, %s2_s3  ;;  %s2_s3 = sphi %s1_s3, %s4_s3 /* phi copy */ } /* Start region 7 */
   0x3   : > { %p5_p0 = scmp.ge.s32.totalorder %s4_s3, 5 /* loop exit test */ }
   0x4   : > { %9 = sbr.rel (!%p5_p0) target = $region7 }
   0x5   : > { %10 = vst [vmem:[%s3_s1] sm:$0xff] %v1_v0 } /* End region 7 */
   0x6   :  { %11 = vsyncpa [#allocation9], 1 }
"""
# Three steps of a grid; what the first alone does are 2 bundles more.
FIRST_STEP = """\
     0   :  { %s1_s3 = smov.u32 0 }
   0x1 LB: > { %p2_p1 = scmp.ne.s32.totalorder %s3_s3, 0 } /* Start region 7 */
   0x2   : > { %8 = sbr.rel (%p2_p1) target = $region9 }
   0x3   :  {}
   0x4   : > { %v1_v0 = vmov 0.0 } /* Start region 8 */
   0x5   :  {} /* End region 8 */
   0x6 PF: > { %s4_s3 = sadd.s32 1, %s3_s3 } /* Start/End empty region 9 :: Start region 10 */
   0x7   : > { %p5_p0 = scmp.lt.s32.totalorder %s4_s3, 3 }
   0x8   : > { %9 = sbr.rel (%p5_p0) target = $region7 }
   0x9   :  {} /* End region 7 */
"""


def _count(text, delay=1):
    return bundles.count(HEADER + text, delay)


def test_straight_bundles_count_once():
    assert _count("     0   :  { %v1_v0 = vmov 0.0 }\n   0x1   :  {}\n") == 2


def test_a_loop_counts_its_passes():
    assert _count(LOOP) == 2 + 5 * 4 + 1


def test_what_only_the_first_step_does_counts_once():
    assert _count(FIRST_STEP) == 1 + 3 * 7 + 2


def test_bundles_behind_a_branch_run():
    three_behind = LOOP.replace("0x6   :  {", "0x6   :  {}\n   0x7   :  {}\n   0x8   :  {")
    assert _count(three_behind, delay=3) == 2 + 5 * 6 + 1


def test_a_loop_in_a_loop():
    text = """\
     0   :  { %s1_s3 = smov.u32 0 }
   0x1 LB: > { %s5_s4 = smov.u32 0 } /* Start region 1 */
   0x2 LB: >> { %s6_s4 = sadd.s32 2, %s5_s4 } /* Start region 2 */
   0x3   : >> { %p1_p0 = scmp.ge.s32.totalorder %s6_s4, %s3_s3 }
   0x4   : >> { %9 = sbr.rel (!%p1_p0) target = $region2 }
   0x5   :  {} /* End region 2 */
   0x6   : > { %s4_s3 = sadd.s32 1, %s3_s3 }
   0x7   : > { %p2_p1 = scmp.ge.s32.totalorder %s4_s3, 6 }
   0x8   : > { %8 = sbr.rel (!%p2_p1) target = $region1 }
   0x9   :  {} /* End region 1 */
"""
    # The inner loop goes to 0, 1, ... 5 in steps of two, once at least: 1, 1, 1, 2, 2, 3 passes.
    assert _count(text) == 1 + 6 * 5 + 4 * (1 + 1 + 1 + 2 + 2 + 3)


def test_all_of_a_bundle_read_before_one_writes():
    # Swapped, s4 is 2 and the loop of region 7 ends at once.
    text = """\
     0   :  { %s1_s3 = smov.u32 2  ;;  %s1_s4 = smov.u32 0 }
   0x1 LB: > { %s2_s3 = smov.u32 %s1_s4  ;;  %s2_s4 = smov.u32 %s1_s3 } /* Start region 7 */
   0x2   : > { %p1_p0 = scmp.eq.s32.totalorder %s2_s4, 2 }
   0x3   : > { %9 = sbr.rel (!%p1_p0) target = $region7 }
   0x4   :  {}
"""
    assert _count(text) == 5


def test_spills_and_guards_are_followed():
    text = """\
     0   :  { %s1_s3 = smov.u32 4294967295  ;;  %p1_p1 = scmp.lt.s32.totalorder 1, 0 }
   0x1   :  { %7 = sst [smem:[#allocation3_spill]] %s1_s3 }
   0x2   :  { %s1_s3 = smov.u32 (%p1_p1, %s1_s3), 5 }
   0x3   :  { %s5_s5 = sld [smem:[#allocation3_spill]] /* spilled */ }
   0x4   :  { %p2_p0 = scmp.ge.s32.totalorder %s5_s5, 0 }
   0x5   :  { %9 = sbr.rel (!%p2_p0) target = $region3 }
   0x6   :  {}
   0x7   :  { %v1_v0 = vmov 0.0 }
   0x8   :  {} /* Start region 3 */
"""
    assert _count(text) == 8


def test_the_first_half_of_a_chip_is_followed():
    text = """\
     0   :  { %s1_s3 = sld [smem:[#allocation0]] /* megacore core id :: core id */ }
   0x1   :  { %p1_p0 = scmp.ne.s32.totalorder %s1_s3, 0 }
   0x2   :  { %9 = sbr.rel (%p1_p0) target = $region3 }
   0x3   :  {}
   0x4   :  { %v1_v0 = vmov 0.0 }
   0x5   :  {} /* Start region 3 */
"""
    assert _count(text) == 6


def test_bundles_may_go_over_several_lines():
    text = LOOP.replace("{ %11 = vsyncpa", "{ %12 = dma.hbm_to_vmem %s3_s1\nbase_bounds: (6, 1)\n ;;  %11 = vsyncpa")
    assert _count(text) == 2 + 5 * 4 + 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no bundles"),
        (LOOP.replace("sadd.s32 1, %s2_s3", "spop.s32 %v1_v0"), "cannot tell whether the branch to region 7"),
        (LOOP.replace("region7 }", "region70 }"), "cannot follow the branch to region 70"),
        (LOOP.replace("%s4_s3, 5", "%s4_s3"), "cannot read the operands"),
    ],
)
def test_what_cannot_be_followed_is_said(text, said):
    with pytest.raises(ValueError, match=said):
        _count(text)


def test_a_loop_without_end_is_noticed(monkeypatch):
    monkeypatch.setattr(bundles, "_MOST_STEPS", 1000)
    with pytest.raises(ValueError, match="has not ended after 1001"):
        _count(LOOP.replace("sadd.s32 1,", "sadd.s32 0,"))
