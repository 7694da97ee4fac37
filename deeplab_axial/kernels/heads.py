# SPDX-License-Identifier: Apache-2.0
"""Where a kernel finds the channels of each head: in an array of their own, or side by side with others."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from deeplab_axial.kernels.plan import LANES, SUBLANES


class Place(NamedTuple):
    """Where the channels of a head are in a block.

    Attributes:
      depth: channels of a head, D.
      at_once: heads of a block, a power of two.
    """

    depth: int
    at_once: int

    def reader(self, ref) -> Callable[[jax.Array], jax.Array]:
        """A function of a position that reads [D, 128] there; call it at the start of a kernel."""
        if self.at_once == 1:
            return lambda position: ref[position]
        head = pl.program_id(0) & (self.at_once - 1)

        def read(position: jax.Array) -> jax.Array:
            # Chosen from the whole block: registers cannot be loaded from a sublane that is known only at run time.
            block = ref[position].astype(jnp.float32)
            chosen = block[: self.depth]
            for i in range(1, self.at_once):
                chosen = jnp.where(head == i, block[i * self.depth : (i + 1) * self.depth], chosen)
            return chosen.astype(ref.dtype)

        return read


class Heads(NamedTuple):
    """The heads of queries, keys, values or gradients.

    Attributes:
      array: [L, blocks, channels of a block, R].
      first: block of the first head.
      num_heads: A.
      depth: channels of a head, D.
    """

    array: jax.Array
    first: int
    num_heads: int
    depth: int

    @property
    def place(self) -> Place:
        """For kernels."""
        return Place(self.depth, self.array.shape[2] // self.depth)

    def spec(self, positions: int, block: Callable[[int], int]) -> pl.BlockSpec:
        """One head of 128 lanes, perhaps with others.

        Args:
          positions: of a block.
          block: the innermost index of the grid -> which block of positions.
        """
        shift = self.place.at_once.bit_length() - 1  # not //: Pallas would ask which TPU this machine has
        shape = (positions, None, self.array.shape[2], LANES)
        return pl.BlockSpec(shape, lambda a, r, t: (block(t), self.first + (a >> shift), 0, r))


def whole(array: jax.Array) -> Heads:
    """Of an array [L, A, D, R] of nothing else."""
    return Heads(array, 0, array.shape[1], array.shape[2])


def side_by_side(array: jax.Array, num_heads: int, depths: Sequence[int]) -> list[Heads]:
    """Of an array [L, sum of A D, R] that holds all heads of the first depth, then all of the second, and so on.

    They stay where they are if eight channels, the sublanes of a register, are heads of one kind; else they are copied.
    """
    heads, first = [], 0
    for depth in depths:
        block = max(depth, SUBLANES)
        aligned = block % depth == 0 and block % SUBLANES == 0 and num_heads * depth % block == 0
        if aligned and first % block == 0 and array.shape[1] % block == 0:
            view = array.reshape(array.shape[0], -1, block, array.shape[2])
            heads.append(Heads(view, first // block, num_heads, depth))
        else:
            channels = array[:, first : first + num_heads * depth]
            heads.append(whole(channels.reshape(array.shape[0], num_heads, depth, array.shape[2])))
        first += num_heads * depth
    return heads
