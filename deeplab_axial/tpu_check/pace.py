# SPDX-License-Identifier: Apache-2.0
"""What cycles mean: seconds at a chip's clock, the floors below them, and the price of a run."""

import dataclasses
import math

from deeplab_axial.errors import InputError
from deeplab_axial.tpu_check.topologies import Topology


@dataclasses.dataclass(frozen=True)
class Run:
    """A training as the config has it.

    Attributes:
      steps: of the optimizer.
      price_per_chip_hour: in whatever currency; None if it was not said.
    """

    steps: int
    price_per_chip_hour: float | None = None


@dataclasses.dataclass(frozen=True)
class Pace:
    """How long a step takes on one core if the compiler is right, and a whole run on all of them.

    Attributes:
      seconds: of a step.
      images_per_second: of a core.
      flops_seconds: floor: the step's floating-point operations at the peak of bfloat16.
      bytes_seconds: the other floor: what the compiled instructions read and write, at the bandwidth of HBM. It is none
        where they find it in the fast memory of the core.
      hours: of the run, without waiting for data, for other cores or for evaluation.
      chip_hours: the same times the chips.
      cost: of the run, in the currency of the price; None without one.
    """

    seconds: float
    images_per_second: float
    flops_seconds: float
    bytes_seconds: float
    hours: float
    chip_hours: float
    cost: float | None


def make(cycles: int, flops: float, moved: float, images: int, topology: Topology, run: Run) -> Pace:
    """Turns cycles of a core into time and money.

    Args:
      cycles: of a step.
      flops: floating-point operations of a step.
      moved: bytes that the instructions of a step read and write.
      images: of a core and step.
      topology: whose chips run it.
      run: how often, and at what price.
    """
    chip = topology.chip
    seconds = cycles / (chip.clock_mhz * 1e6)
    hours = seconds * run.steps / 3600
    chip_hours = hours * topology.num_cores / chip.cores
    return Pace(
        seconds,
        images / seconds,
        flops / (chip.peak_tflops * 1e12),
        moved / (chip.bandwidth_gb * 1e9),
        hours,
        chip_hours,
        None if run.price_per_chip_hour is None else chip_hours * run.price_per_chip_hour,
    )


def parse_price(text: str) -> float | None:
    """Reads --price_per_chip_hour; None if it is empty.

    Raises:
      InputError: it is no positive number.
    """
    if not text:
        return None
    try:
        price = float(text)
    except ValueError:
        price = math.nan
    if not (math.isfinite(price) and price > 0):
        raise InputError(
            f"--price_per_chip_hour must be a positive number, what one chip costs an hour, as 1.2. Received: {text}."
        )
    return price
