# SPDX-License-Identifier: Apache-2.0
"""Fused kernels of axial attention for TPUs, in Pallas. They need JAX (extra "tpu") where a graph is traced."""
