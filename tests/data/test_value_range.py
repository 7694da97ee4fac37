# SPDX-License-Identifier: Apache-2.0
"""16 bits of which some are used become 8."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_axial.data import value_range as ranges
from deeplab_axial.errors import InputError

ALL = np.arange(2**16, dtype=np.uint16)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_of_n_bits_the_upper_8_stay(bits):
    values = ALL[: 2**bits]
    for value_range in ((0, 2**bits - 1), *([None] if bits == 16 else [])):
        expected = values >> (bits - 8)
        np.testing.assert_array_equal(ranges.to_8_bits(values, value_range), expected)
        np.testing.assert_array_equal(ranges.to_8_bits_tf(tf.constant(values), value_range), expected)


def test_a_range_that_does_not_begin_at_0_and_is_exceeded():
    values = np.uint16([0, 999, 1000, 1001, 1500, 1999, 2000, 65535])
    expected = [0 if v < 1000 else min((v - 1000) * 256 // 1001, 255) for v in values.tolist()]
    np.testing.assert_array_equal(ranges.to_8_bits(values, (1000, 2000)), expected)
    np.testing.assert_array_equal(ranges.to_8_bits_tf(tf.constant(values), (1000, 2000)), expected)
    assert expected[-2:] == [255, 255]


def test_narrow_ranges_reach_white():
    assert ranges.to_8_bits(np.uint16([0, 5, 7, 10, 11]), (0, 10)).tolist() == [0, 127, 178, 255, 255]
    assert ranges.to_8_bits_tf(tf.constant([8, 9, 10], tf.uint16), (9, 10)).numpy().tolist() == [0, 0, 255]


@pytest.mark.parametrize(("largest", "high"), [(1, 255), (255, 255), (256, 1023), (4095, 4095), (4096, 16383)])
def test_too_few_bits_are_refused_with_the_range_that_holds_them(largest, high):
    with pytest.raises(ranges.DarkImage, match=rf"is {largest}, of 65535.*--value_range=0:{high} .*or 0:65535"):
        ranges.to_8_bits(np.uint16([0, largest]), None)
    with pytest.raises(tf.errors.InvalidArgumentError, match="value range is not known"):
        ranges.to_8_bits_tf(tf.constant([0, largest], tf.uint16), None)


@pytest.mark.parametrize("values", [[0, 0], [0, 2**14]])
def test_black_and_bright_images_need_no_range(values):
    expected = np.array(values) >> 8
    np.testing.assert_array_equal(ranges.to_8_bits(np.uint16(values), None), expected)
    np.testing.assert_array_equal(ranges.to_8_bits_tf(tf.constant(values, tf.uint16), None), expected)


def test_ranges_are_read():
    assert ranges.parse("0:4095") == (0, 4095)
    assert ranges.parse(" 100:65535 ") == (100, 65535)
    assert ranges.checked(None, "x") is None
    assert ranges.checked([0, 1023.0], "x") == (0, 1023)  # as JSON has it


@pytest.mark.parametrize("text", ["", "4095", "0-4095", "a:b", "4095:0", "5:5", "0:65536", "0:99999999999", "-1:5"])
def test_other_texts_are_no_ranges(text):
    with pytest.raises(InputError, match=r"--value_range must be .*Received"):
        ranges.parse(text)


@pytest.mark.parametrize("value", [4095, (1,), (0, 0.5), (0, float("nan")), ("a", "b"), (0, 1, 2)])
def test_other_values_are_no_ranges(value):
    with pytest.raises(InputError, match="value_range must be two whole numbers"):
        ranges.checked(value, "value_range")
