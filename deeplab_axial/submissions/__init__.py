# SPDX-License-Identifier: Apache-2.0
"""Files for the evaluation servers of COCO and Cityscapes."""
