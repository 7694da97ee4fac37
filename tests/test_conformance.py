# SPDX-License-Identifier: Apache-2.0
"""Every layer and every model passes the shared checks."""

import pytest

from tests import conformance

# One backbone of each kind takes minutes; their blocks and the paper's backbone are checked every time.
SLOW = ("backbone_deeplab2", "backbone_convolutional", "backbone_wide", "backbone_stand_alone")


def parametrize(cases):
    marks = {case.name: [pytest.mark.slow] if case.name in SLOW else [] for case in cases}
    return pytest.mark.parametrize("case", [pytest.param(c, id=c.name, marks=marks[c.name]) for c in cases])


each = parametrize(conformance.CASES)


@each
def test_graph_and_xla_equal_eager(case):
    conformance.check_graph_and_xla_equal_eager(case)


@parametrize([case for case in conformance.CASES if case.has_config])
def test_config_round_trip(case):
    conformance.check_config_round_trip(case)


@each
def test_unknown_sizes_and_saved_model(case, tmp_path):
    conformance.check_unknown_sizes_and_saved_model(case, str(tmp_path))


@each
def test_mixed_bfloat16(case):
    conformance.check_mixed_bfloat16(case)


@each
def test_other_size_after_build(case):
    conformance.check_other_size_after_build(case)


@each
def test_training(case):
    conformance.check_training(case)


@each
def test_folding(case):
    conformance.check_folding(case)
