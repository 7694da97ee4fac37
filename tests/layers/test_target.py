# SPDX-License-Identifier: Apache-2.0
"""Tracing for a device that is not there."""

import pytest
import tensorflow as tf

from deeplab_axial.layers import axial_attention, target


def test_an_accelerator_can_be_assumed_for_a_while():
    if tf.config.list_logical_devices("GPU"):
        pytest.skip("this machine has an accelerator")
    assert not target.is_accelerator()
    assert axial_attention._logits_at_once() == axial_attention.LOGITS_AT_ONCE_ON_CPU
    with target.assume_accelerator():
        assert target.is_accelerator()
        assert axial_attention._logits_at_once() == axial_attention.LOGITS_AT_ONCE_ON_ACCELERATOR
    assert not target.is_accelerator()


def test_an_error_inside_ends_it():
    def fail():
        with target.assume_accelerator():
            raise KeyError

    before = target.is_accelerator()
    with pytest.raises(KeyError):
        fail()
    assert target.is_accelerator() == before
