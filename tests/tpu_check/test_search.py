# SPDX-License-Identifier: Apache-2.0
"""The search for the largest batch, with a compiler whose memory is known."""

import pytest

from deeplab_axial.tpu_check import search

AVAILABLE = 16_000


def _search(needed, unit=1, most=4096, known=None):
    """The answer, and what was tried."""
    tried = []

    def try_batch(size):
        tried.append(size)
        return search.Trial(needed(size), needed(size) <= AVAILABLE)

    return search.largest_batch(try_batch, AVAILABLE, unit, most, known), tried


def _largest(needed, unit=1, most=4096):
    return max((size for size in range(0, most + 1, unit) if size == 0 or needed(size) <= AVAILABLE), default=0)


@pytest.mark.parametrize("constant", [0, 900, 15_000])
@pytest.mark.parametrize("slope", [7, 100, 999, 5_000, 14_000])
def test_finds_the_largest_of_a_line_with_few_compilations(constant, slope):
    def needed(size):
        return constant + slope * size

    found, tried = _search(needed)
    assert found == _largest(needed)
    assert len(set(tried) - {128}) <= 4
    assert len(set(tried)) == len(tried)


@pytest.mark.parametrize(
    "needed",
    [
        lambda size: 900 + 300 * size + 3 * size**2,
        lambda size: 900 + 300 * size + (700 if size % 8 else 0),
        lambda size: 900 + int(2000 * size**0.8),
    ],
    ids=["curved", "favours multiples of 8", "flattens"],
)
def test_the_answer_fits_and_is_near_the_largest_where_memory_is_no_line(needed):
    found, tried = _search(needed)
    assert needed(found) <= AVAILABLE
    assert found >= 0.9 * _largest(needed)
    assert len(tried) <= 10


def test_nothing_fits():
    assert _search(lambda size: 20_000 * size) == (0, [1])


def test_multiples_of_a_unit():
    found, tried = _search(lambda size: 1000 * size, unit=4)
    assert found == 16
    assert all(size % 4 == 0 for size in tried)


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.3])
def test_another_chip_tells_what_to_try_first(factor):
    def needed(size):
        return factor * (900 + 300 * size)

    known = {size: 900 + 300 * size for size in (1, 2, 90)}
    found, tried = _search(needed, known=known)
    assert found == _largest(needed)
    assert tried[0] == 50
    assert len(set(tried) - {128}) <= 3


def test_one_compilation_is_enough_where_another_chip_says_that_the_next_is_out_of_reach():
    assert _search(lambda size: 9_000 * size, known={1: 10_000, 2: 20_000}) == (1, [1])


def test_a_misleading_line_costs_compilations_but_not_the_answer():
    def needed(size):
        return 1000 * size

    assert _search(needed, known={1: 15_000, 2: 30_000})[0] == 16
    assert _search(needed, known={1: 10, 2: 20})[0] == 16


@pytest.mark.parametrize(("known", "expected"), [(None, False), ({1: 4_000, 2: 8_000}, False), ({1: 1, 2: 3}, True)])
def test_out_of_reach(known, expected):
    assert search.is_out_of_reach(2, {1: 8_000}, AVAILABLE, known) is expected


def _needs_less_from_128(size):
    return 90 * size if size >= 128 else 400 * size


def test_a_batch_of_128_may_need_less_than_half_of_it():
    found, tried = _search(_needs_less_from_128, unit=16)
    assert found == 176
    assert len(tried) <= 7
    assert _search(lambda size: 400 * size, unit=16)[0] == 32


def test_128_is_not_tried_where_it_is_out_of_reach_or_another_chip_says_so():
    assert 128 not in _search(lambda size: 1_001 * size)[1]
    assert 128 not in _search(_needs_less_from_128, unit=16, most=112)[1]
    found, tried = _search(_needs_less_from_128, unit=16, known={256: 34_000, 512: 68_000})
    assert (found, 128 in tried) == (32, False)


def test_ends_at_the_most():
    assert _search(lambda size: 10, most=64)[0] == 64


def test_a_plan_that_fits_less_than_the_line_says():
    # The compiler's own sense of what fits decides, not the number.
    def try_batch(size):
        return search.Trial(1000 * size, size <= 9)

    assert search.largest_batch(try_batch, AVAILABLE) == 9
