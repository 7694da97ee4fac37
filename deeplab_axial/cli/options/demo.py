# SPDX-License-Identifier: Apache-2.0
"""Does the whole job once, small: data, convert, train, evaluate, export, predict, report.

  deeplab-axial demo --output_dir=demo

Every step is a command of its own and is shown as you would type it. The last line is the path of the report.
"""

from absl import flags

flags.DEFINE_string("output_dir", "demo", "Folder for everything that the demo makes.")
flags.DEFINE_string("config_file", "configs/demo/axial_deeplab_tiny.textproto", "The experiment, a textproto.")
flags.DEFINE_multi_string("set", [], "Changes a field of the config. May be repeated.")
