# SPDX-License-Identifier: Apache-2.0
"""The contract: every entry of a batch, of the targets and of the predictions.

B images, H x W pixels of the crop, h x w positions at the decoder's stride, C classes, K centre slots. Coordinates and
offsets are in pixels and in (y, x) order everywhere.
"""

from typing import NamedTuple


class Entry(NamedTuple):
    """What stands under one key."""

    shape: str
    dtype: str
    meaning: str


# Batch: what the input pipeline yields.
IMAGE = "image"
IMAGE_NAME = "image_name"
RAW_SIZE = "raw_size"
RESIZED_SIZE = "resized_size"
RAW_PANOPTIC = "raw_panoptic"
RAW_CROWD_IDS = "raw_crowd_ids"
IS_REAL = "is_real"

# Targets: made from the panoptic map of the crop.
SEMANTIC_TARGET = "semantic_target"
SEMANTIC_WEIGHT = "semantic_weight"
CENTER_TARGET = "center_target"
CENTER_WEIGHT = "center_weight"
OFFSET_TARGET = "offset_target"
OFFSET_WEIGHT = "offset_weight"
# Target of classification.
CLASS_TARGET = "class_target"

# Raw outputs of the network.
SEMANTIC_LOGITS = "semantic_logits"
SEMANTIC_PROBS = "semantic_probs"
CENTER_HEATMAP = "center_heatmap"
OFFSET_MAP = "offset_map"
CLASS_LOGITS = "class_logits"

# Predictions: after post-processing.
SEMANTIC_MAP = "semantic"
INSTANCE_MAP = "instance"
PANOPTIC_MAP = "panoptic"
CENTERS = "centers"
CENTER_SCORES = "center_scores"
NUM_CENTERS = "num_centers"
INSTANCE_SCORES = "instance_scores"
INSTANCE_CLASSES = "instance_classes"
INSTANCE_PANOPTIC_IDS = "instance_panoptic_ids"
NUM_SURPLUS = "num_surplus"
STUFF_SCORES = "stuff_scores"

# Loss terms, weighted; TOTAL_LOSS is their sum.
SEMANTIC_LOSS = "semantic_loss"
CENTER_LOSS = "center_loss"
OFFSET_LOSS = "offset_loss"
CLASSIFICATION_LOSS = "classification_loss"
TOTAL_LOSS = "total_loss"

TABLE: dict[str, Entry] = {
    IMAGE: Entry("[B, H, W, 3]", "float32", "RGB, 0 to 255, padded below and to the right, see data.transforms"),
    IMAGE_NAME: Entry("[B]", "string", "name of the image in its data set; empty for padding of the last batch"),
    RAW_SIZE: Entry("[B, 2]", "int32", "(height, width) of the image on disk, pixels"),
    RESIZED_SIZE: Entry("[B, 2]", "int32", "(height, width) of the image inside IMAGE, before padding, pixels"),
    RAW_PANOPTIC: Entry("[B]", "string", "ground truth of the image on disk, as encoded in its record"),
    RAW_CROWD_IDS: Entry("[B, N]", "int32", "panoptic ids of the crowd segments; filled up with -1"),
    IS_REAL: Entry("[B]", "bool", "False for the images that fill up the last evaluation batch"),
    SEMANTIC_TARGET: Entry("[B, H, W]", "int32", "class id or ignore label"),
    SEMANTIC_WEIGHT: Entry("[B, H, W]", "float32", "1, or more on small instances"),
    CENTER_TARGET: Entry("[B, H, W]", "float32", "Gaussian of height 1 at each instance's mass centre"),
    CENTER_WEIGHT: Entry("[B, H, W]", "float32", "0 on crowd and ignored pixels, else 1"),
    OFFSET_TARGET: Entry(
        "[B, H, W, 2]", "float32", "(y, x) from a pixel to its instance's centre, pixels; 0 elsewhere"
    ),
    OFFSET_WEIGHT: Entry("[B, H, W]", "float32", "1 on pixels of thing instances that are not crowd, else 0"),
    CLASS_TARGET: Entry("[B]", "int32", "class id of the whole image; -1 where the records hold none"),
    SEMANTIC_LOGITS: Entry("[B, H, W, C] or [B, h, w, C]", "float32", "class scores, not normalised"),
    SEMANTIC_PROBS: Entry("[B, H, W, C]", "float32", "mean class probabilities of multi-scale inference"),
    CENTER_HEATMAP: Entry("[B, H, W, 1] or [B, h, w, 1]", "float32", "score of a centre at each pixel"),
    OFFSET_MAP: Entry("[B, H, W, 2] or [B, h, w, 2]", "float32", "(y, x) to the centre, in pixels of the map itself"),
    CLASS_LOGITS: Entry("[B, C]", "float32", "class scores of whole images, not normalised"),
    SEMANTIC_MAP: Entry("[B, H, W]", "int32", "class of each pixel"),
    INSTANCE_MAP: Entry("[B, H, W]", "int32", "index of the pixel's centre + 1 on things, 0 elsewhere"),
    PANOPTIC_MAP: Entry(
        "[B, H, W]", "int32", "class * label_divisor + instance id; void is ignore_label * label_divisor"
    ),
    CENTERS: Entry("[B, K, 2]", "int32", "(y, x) of the centres in row-major order; 0 in unused slots"),
    CENTER_SCORES: Entry("[B, K]", "float32", "heatmap value at each centre; 0 in unused slots"),
    NUM_CENTERS: Entry("[B]", "int32", "slots in use"),
    INSTANCE_SCORES: Entry(
        "[B, K]", "float32", "score of the centre x mean probability of the instance's class; 0 without pixels"
    ),
    INSTANCE_CLASSES: Entry("[B, K]", "int32", "class of most pixels of the centre's instance; -1 without pixels"),
    INSTANCE_PANOPTIC_IDS: Entry("[B, K]", "int32", "of the instance in PANOPTIC_MAP; void where it is not there"),
    NUM_SURPLUS: Entry("[B]", "int32", "instances that are void because label_divisor holds no more of their class"),
    STUFF_SCORES: Entry("[B, C]", "float32", "mean probability of each stuff segment; 0 for things and without pixels"),
    SEMANTIC_LOSS: Entry("[B]", "float32", "per image, weighted"),
    CENTER_LOSS: Entry("[B]", "float32", "per image, weighted"),
    OFFSET_LOSS: Entry("[B]", "float32", "per image, weighted"),
    CLASSIFICATION_LOSS: Entry("[B]", "float32", "per image"),
    TOTAL_LOSS: Entry("[B]", "float32", "sum of the terms above"),
}
