# SPDX-License-Identifier: Apache-2.0
"""Segments images and videos.

  deeplab-axial predict --saved_model=FOLDER --input='photos/*.jpg' --output_dir=FOLDER

For each image the output folder gets the image beside its overlay with class names (NAME.png) and the panoptic map
(panoptic/NAME.png). The maps and predictions.json are predictions in COCO's panoptic format. With ground truth in that
format (--panoptic_json, --panoptic_dir) the picture is image | ground truth | prediction. Folders are searched at any
depth, and results lie in folders of the same names.

A video becomes a video of overlays, NAME.mp4; --video_frames writes the map of each frame, too. Videos need an extra:
pip install 'deeplab-axial[video]'.

An input that fails is named, the others go on, and the exit status is 1. The same command with --resume does what is
missing, also after it was stopped.
"""

from absl import flags

from deeplab_axial.choices import MAX_PIXELS, PADDINGS

flags.DEFINE_string("saved_model", None, "An export of this library, a model folder or a checkpoint.", required=True)
flags.DEFINE_multi_string("input", None, "Images, videos: files, folders or globs. May be repeated.", required=True)
flags.DEFINE_string("output_dir", None, "Folder for pictures and predictions.", required=True)
flags.DEFINE_integer("limit", 0, "Most files to segment; 0 for all.", lower_bound=0)
flags.DEFINE_integer("batch_size", 1, "Images of one size that the network sees at once.", lower_bound=1)
flags.DEFINE_integer("max_pixels", MAX_PIXELS, "Most pixels of an image, for memory's sake.", lower_bound=1)
flags.DEFINE_bool("upright", False, "Turn photographs as EXIF says; by default pixels count as stored.")
flags.DEFINE_enum(
    "padding", None, PADDINGS, "Of a checkpoint's images; as in evaluation by default. An export has its own."
)
flags.DEFINE_string(
    "value_range",
    None,
    "LOW:HIGH of images of 16 bits: what is black and white, as 0:4095 for 12 bits. Default: as in the training data.",
)
flags.DEFINE_bool("scores", False, "Write scores behind the names in pictures.")
flags.DEFINE_bool("video_frames", False, "Write the panoptic map of each frame of a video.")
flags.DEFINE_bool("resume", False, "Keep the results that are there, and predict the inputs that have none.")
flags.DEFINE_bool("fail_fast", False, "Stop at the first input that fails.")
flags.DEFINE_string("panoptic_json", None, "Ground truth in COCO's panoptic format.")
flags.DEFINE_string("panoptic_dir", None, "Folder of the ground truth's PNGs.")
