# SPDX-License-Identifier: Apache-2.0
"""From cycles to seconds and money."""

import pytest

from deeplab_axial.errors import InputError
from deeplab_axial.tpu_check import pace, topologies


def test_a_run():
    found = pace.make(1_500_000, 1.97e11, 8.19e8, 4, topologies.parse("v5e:2x4"), pace.Run(3_600_000, 1.5))
    assert found.seconds == pytest.approx(1e-3)
    assert found.images_per_second == pytest.approx(4000)
    assert (found.flops_seconds, found.bytes_seconds) == (pytest.approx(1e-3), pytest.approx(1e-3))
    assert (found.hours, found.chip_hours, found.cost) == (pytest.approx(1), pytest.approx(8), pytest.approx(12))


def test_both_cores_of_a_chip_share_its_price():
    found = pace.make(940_000, 0.0, 0.0, 1, topologies.parse("v3:2x2"), pace.Run(3_600_000, 2.0))
    assert (found.hours, found.chip_hours, found.cost) == (pytest.approx(1), pytest.approx(4), pytest.approx(8))


def test_without_a_price_there_is_no_cost():
    assert pace.make(1, 1.0, 1.0, 1, topologies.parse("v5e"), pace.Run(1)).cost is None
    assert pace.parse_price("") is None


@pytest.mark.parametrize("chip", topologies.CHIPS.values(), ids=lambda chip: chip.name)
def test_peaks_and_clocks_belong_together(chip):
    # Operations of all matrix units in a cycle: two for each of 128 x 128 or 256 x 256 multiply-adds.
    per_cycle = {"v3": 2 * 2 * 128**2, "v4": 8 * 2 * 128**2, "v5e": 4 * 2 * 128**2, "v5p": 8 * 2 * 128**2}
    expected = per_cycle.get(chip.name, 4 * 2 * 256**2) * chip.clock_mhz * 1e6
    assert chip.peak_tflops * 1e12 == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("price", ["0", "-1", "nan", "inf", "cheap", "1,2"])
def test_prices_that_are_none(price):
    with pytest.raises(InputError, match=r"--price_per_chip_hour must be a positive number.*Received: " + price):
        pace.parse_price(price)
