# SPDX-License-Identifier: Apache-2.0
"""What can be typed behind a command: a module for each, with its help, its flags, and what can be checked at once.

`check`, where a module has one, takes the words of the command. Nothing here imports TensorFlow, which takes seconds:
help and errors come before it.
"""
