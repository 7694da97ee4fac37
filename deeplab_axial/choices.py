# SPDX-License-Identifier: Apache-2.0
"""Values that options may have, where the command line and the code that heeds them meet. Imports nothing."""

# How a checkpoint's images are padded, see `inference.Predictor`.
EVALUATION, MINIMAL = "evaluation", "minimal"
PADDINGS = (EVALUATION, MINIMAL)

# What a conversion turns as EXIF says: nothing, as the annotation was made on pixels as stored; the image, as the
# annotation was made on what viewers show; or both.
UPRIGHT = ("none", "image", "both")

# Of an image: above those of today's cameras of 100 megapixels and the tiles of satellites (10980 x 10980).
MAX_PIXELS = 128_000_000

# --precision of an export -> trainer_options.precision.
PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16"}

# Where each lies in what the evaluation of a segmentation network returns, or in that of a classifier; the first is
# what decides by default which checkpoint is the best. More is better.
SEGMENTATION_METRICS = (
    "panoptic_quality/all/pq",
    "panoptic_quality/things/pq",
    "panoptic_quality/stuff/pq",
    "mean_iou/mean",
    "average_precision/ap",
    "average_precision/ap50",
)
CLASSIFICATION_METRICS = ("accuracy/top1", "accuracy/top5")
