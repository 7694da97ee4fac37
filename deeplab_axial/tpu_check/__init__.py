# SPDX-License-Identifier: Apache-2.0
"""Whether a training step fits a TPU, found out without one.

`step` turns the step of one core into an XLA program, on the CPU. `process` has a process of its own (`compiler`)
compile it with the compiler of Cloud TPU, `plan` reads which buffers it planned, `search` looks for the largest batch,
and `report` says it in words. `topologies` knows the chips.
"""
