# SPDX-License-Identifier: Apache-2.0
"""Photographs and videos in; panoptic maps, overlays and COCO panoptic predictions out."""

from deeplab_axial.predict.images import read_image
from deeplab_axial.predict.inputs import find_inputs
from deeplab_axial.predict.model import PanopticModel
from deeplab_axial.predict.result import Result, Segment

__all__ = ["PanopticModel", "Result", "Segment", "find_inputs", "read_image"]
