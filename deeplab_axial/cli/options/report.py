# SPDX-License-Identifier: Apache-2.0
"""Writes a report on a run that was evaluated, or on two runs side by side, as one HTML file.

  deeplab-axial report --model_dir=runs/a --output=report.html
  deeplab-axial report --model_dir=runs/a --compare=runs/b --output=report.html

It tells the last evaluation of each run: metrics by class and by image, the worst and the best pictures, confusions,
recall by size of instance, heatmaps and offsets, training. The page needs no other file and no network.
"""

from absl import flags

flags.DEFINE_string("model_dir", None, "Folder of the run, which was evaluated.", required=True)
flags.DEFINE_string("compare", None, "Folder of a second run; differences are second minus first.")
flags.DEFINE_string("output", "report.html", "The HTML file.")
