# SPDX-License-Identifier: Apache-2.0
"""The chips of Cloud TPU and how many of them there are."""

import dataclasses
import math
import re

from deeplab_axial.errors import InputError


@dataclasses.dataclass(frozen=True)
class Chip:
    """A generation of TPU. A core is what runs one replica of the training step.

    Attributes:
      name: as in a topology.
      cores: of a chip. Both halves of a v4 or v5p chip work as one core.
      hbm_gib: memory of one core as it is sold, GiB (https://cloud.google.com/tpu/docs/system-architecture-tpu-vm).
      usable_gib: what the compiler gives a program; the rest is its own. Said by libtpu 0.0.52 where a program of
        192 GiB did not fit.
      default: the smallest topology with four chips.
      accelerator: prefix of the type that Cloud TPU calls it, "v5litepod" of "v5litepod-4".
      counted: in that type, by chip: 2 for those with two halves.
      dimensions: of its network.
      clock_mhz: of a core. v3, v4: Jouppi et al., "TPU v4: An Optically Reconfigurable Supercomputer" (ISCA 2023),
        table 4. The others are derived: the peak over the operations of the matrix units in a cycle (v5e: four of 128 x
        128, v5p: twice as many, v6e: as many as v5p and twice the peak a cycle), 1.5, 1.75 and 1.75 GHz.
      peak_tflops: of a core, bfloat16, 10^12 operations a second (the pages of the chips at
        https://cloud.google.com/tpu/docs/system-architecture-tpu-vm).
      bandwidth_gb: of the memory of a core, 10^9 bytes a second (the same pages).
      branch_delay: bundles of instructions behind a branch that run whether it is taken or not, as libtpu's schedules
        show; those of v3 are not looked at.
    """

    name: str
    cores: int
    hbm_gib: int
    usable_gib: float
    default: str
    accelerator: str
    counted: int
    dimensions: int
    clock_mhz: float
    peak_tflops: float
    bandwidth_gb: float
    branch_delay: int


CHIPS: dict[str, Chip] = {
    chip.name: chip
    for chip in (
        Chip("v3", 2, 16, 15.48, "v3:2x2", "v3", 2, 2, 940.0, 61.5, 450.0, 1),
        Chip("v4", 1, 32, 30.75, "v4:2x2x1", "v4", 2, 3, 1050.0, 275.0, 1228.0, 1),
        Chip("v5e", 1, 16, 15.75, "v5e:2x2", "v5litepod", 1, 2, 1500.0, 197.0, 819.0, 4),
        Chip("v5p", 1, 95, 95.73, "v5p:2x2x1", "v5p", 2, 3, 1750.0, 459.0, 2765.0, 4),
        Chip("v6e", 1, 32, 31.24, "v6e:2x2", "v6e", 1, 2, 1750.0, 918.0, 1638.0, 4),
    )
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """Chips in a grid.

    Attributes:
      chip: which.
      shape: chips along each side.
    """

    chip: Chip
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """As on the command line, "v5e:2x2"."""
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    @property
    def num_cores(self) -> int:
        """Replicas that it runs."""
        return math.prod(self.shape) * self.chip.cores

    @property
    def accelerator_type(self) -> str:
        """As Cloud TPU calls it, "v5litepod-4"."""
        return f"{self.chip.accelerator}-{math.prod(self.shape) * self.chip.counted}"


def parse(text: str) -> Topology:
    """Reads "v5e:2x2", or the name of a chip alone for four of them.

    Raises:
      InputError: there is no such chip, or the shape is not one of its network.
    """
    name, colon, sides = text.partition(":")
    chip = CHIPS.get(name)
    if chip is None:
        raise InputError(
            f"--topology must name one of the chips {', '.join(CHIPS)} and their number, as v5e:2x2. "
            f"Received: {text or 'nothing'}."
        )
    if not colon:
        return parse(chip.default)
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", sides) or sides.count("x") != chip.dimensions - 1:
        raise InputError(
            f"--topology: {name} has {chip.dimensions} sides. Received: {text}. Write {chip.default}, say."
        )
    shape = tuple(int(side) for side in sides.split("x"))
    return Topology(chip, shape)
