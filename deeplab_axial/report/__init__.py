# SPDX-License-Identifier: Apache-2.0
"""The HTML report: what an evaluation keeps for it, and its pages on one run and on two side by side."""
