# SPDX-License-Identifier: Apache-2.0
"""Axial-DeepLab: panoptic segmentation with position-sensitive axial attention, in TensorFlow."""

__version__ = "0.1.0"
