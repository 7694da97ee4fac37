# SPDX-License-Identifier: Apache-2.0
"""How a kernel cuts up an axis, and what that takes of a core's fast memory (VMEM)."""

import dataclasses

LANES = 128
SUBLANES = 8


def round_up(x: int, multiple: int) -> int:
    """The least multiple that is not below x."""
    return -(-x // multiple) * multiple


@dataclasses.dataclass(frozen=True)
class Plan:
    """An axis of L positions, cut into blocks of queries, each with a window of keys.

    In a kernel 128 pairs of a row and a head lie in the lanes of a vector register and eight keys in its sublanes. It
    goes through the queries one by one, so that a key's offset from the query is the same in all lanes: tables of
    positions are read at a moving offset, and nothing is rotated.

    Attributes:
      length: L.
      key_depth: of a head, d.
      value_depth: of a head, e.
      half: keys further than this from the query are not seen; None: all are.
      num_blocks: of queries.
      num_queries: of a block, a multiple of 8.
      window: keys of a block, a multiple of 8.
      query_position: whether q . rq takes part.
      key_position: whether k . rk takes part.
      value_position: whether rv takes part.
    """

    length: int
    key_depth: int
    value_depth: int
    half: int | None
    num_blocks: int
    num_queries: int
    window: int
    query_position: bool
    key_position: bool
    value_position: bool

    @property
    def size(self) -> int:
        """L, rounded up to full sublanes."""
        return round_up(self.length, SUBLANES)

    @property
    def query_end(self) -> int:
        """End of the last block of queries."""
        return self.num_blocks * self.num_queries

    @property
    def table_rows(self) -> int:
        """Rows of a table of positions in the kernel: one for each offset of a key from a query, and padding."""
        return round_up(self.size + self.query_end - 1, SUBLANES)

    @property
    def num_terms(self) -> int:
        """Of the logits."""
        return 1 + self.query_position + self.key_position

    @property
    def num_retrieved(self) -> int:
        """Retrieved terms: content and, where it takes part, position."""
        return 1 + self.value_position

    def first_key(self, block):
        """Where the window of a block begins: a multiple of 8. For a traced number, too."""
        if self.window == self.size:
            return 0
        first = block * self.num_queries - round_up(self.half, SUBLANES)
        if isinstance(block, int):
            return min(max(first, 0), self.size - self.window)
        import jax.numpy as jnp

        return jnp.clip(first, 0, self.size - self.window)

    def vmem_bytes(self, itemsize: int) -> int:
        """What the backward kernel, the larger, takes: scratch, and two copies of all that it reads or writes."""
        d, e = self.key_depth, self.value_depth
        padded_d, padded_e = (round_up(x, SUBLANES) for x in (d, e))
        logits = (self.num_queries + 2) * self.window
        accumulators = 2 * (d + e) * self.size + self.length * padded_d
        queries = self.num_queries * (2 * padded_d + 2 * padded_e + 1)
        keys = 2 * self.length * (padded_d + padded_e)
        tables = 2 * 3 * self.table_rows
        return 4 * LANES * (logits + accumulators + 2 * tables) + 2 * LANES * itemsize * (queries + keys)


def make(
    length: int,
    key_depth: int,
    value_depth: int,
    span: int | None,
    terms: tuple[bool, bool, bool],
    vmem_bytes: int,
    itemsize: int,
) -> Plan:
    """The plan with the fewest blocks whose backward pass fits.

    Args:
      length: L.
      key_depth: of a head.
      value_depth: of a head.
      span: odd number of positions that a query sees, or None for all.
      terms: whether q . rq, k . rk and rv take part.
      vmem_bytes: of a core.
      itemsize: bytes of a number of the inputs.

    Raises:
      ValueError: not even blocks of eight queries fit.
    """
    size = round_up(length, SUBLANES)
    half = None if span is None or span // 2 >= length - 1 else span // 2
    num_queries = size
    if half is not None:
        num_queries = min(size, round_up(max(half // 2, SUBLANES), SUBLANES))
    while True:
        num_blocks = -(-length // num_queries)
        num_queries = round_up(-(-length // num_blocks), SUBLANES)
        window = size if half is None else min(size, num_queries + 2 * round_up(half, SUBLANES))
        plan = Plan(length, key_depth, value_depth, half, num_blocks, num_queries, window, *terms)
        if plan.vmem_bytes(itemsize) <= vmem_bytes:
            return plan
        if num_queries == SUBLANES:
            raise ValueError(
                f"{plan.vmem_bytes(itemsize) / 2**20:.1f} MiB of VMEM are needed for an axis of {length} with "
                f"depths of {key_depth} and {value_depth} a head, and a core has {vmem_bytes / 2**20:.1f}"
            )
        num_queries = round_up(-(-length // (num_blocks + 1)), SUBLANES)
        if num_queries >= plan.num_queries:
            num_queries = plan.num_queries - SUBLANES
