# SPDX-License-Identifier: Apache-2.0
"""Names of topologies."""

import pytest

from deeplab_axial.errors import InputError
from deeplab_axial.tpu_check import topologies


@pytest.mark.parametrize(
    ("text", "name", "cores", "accelerator_type"),
    [
        ("v5e:2x2", "v5e:2x2", 4, "v5litepod-4"),
        ("v5e", "v5e:2x2", 4, "v5litepod-4"),
        ("v5e:4x8", "v5e:4x8", 32, "v5litepod-32"),
        # The paper's 32 cores.
        ("v3:4x4", "v3:4x4", 32, "v3-32"),
        ("v4:2x2x4", "v4:2x2x4", 16, "v4-32"),
        ("v5p", "v5p:2x2x1", 4, "v5p-8"),
        ("v6e:2x4", "v6e:2x4", 8, "v6e-8"),
    ],
)
def test_cores_and_type(text, name, cores, accelerator_type):
    topology = topologies.parse(text)
    assert (topology.name, topology.num_cores, topology.accelerator_type) == (name, cores, accelerator_type)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "nothing"),
        ("v9:2x2", "v3, v4, v5e, v5p, v6e"),
        ("v5e:2x2x2", "2 sides"),
        ("v4:2x2", "3 sides"),
        ("v5e:0x2", "2 sides"),
        ("v5e:", "2 sides"),
        ("v5litepod-4", "one of the chips"),
    ],
)
def test_other_names_are_refused(text, rule):
    with pytest.raises(InputError, match=rule):
        topologies.parse(text)


def test_what_is_usable_is_about_what_is_sold():
    for chip in topologies.CHIPS.values():
        assert 0.95 * chip.hbm_gib < chip.usable_gib < 1.01 * chip.hbm_gib
        assert topologies.parse(chip.default).chip is chip
