# SPDX-License-Identifier: Apache-2.0
"""Segments images with a SavedModel.

  deeplab-axial predict --saved_model=FOLDER --input='photos/*.jpg' --output_dir=FOLDER

For each image the output folder gets an overlay with class names (NAME.png) and the panoptic map (panoptic/NAME.png).
The maps and predictions.json are predictions in COCO's panoptic format. With ground truth in that format
(--panoptic_json, --panoptic_dir) the picture is image | ground truth | prediction.
"""

import collections
import json
import os

import tensorflow as tf
import tqdm
from absl import flags

from deeplab_axial import export, files, keys, predict, visualization
from deeplab_axial.cli import folders
from deeplab_axial.errors import InputError

FLAGS = flags.FLAGS

flags.DEFINE_string("saved_model", None, "An export of this library.", required=True)
flags.DEFINE_multi_string("input", None, "Images: files, folders or globs. May be repeated.", required=True)
flags.DEFINE_string("output_dir", None, "Folder for pictures and predictions.", required=True)
flags.DEFINE_integer("limit", 0, "Most images to segment; 0 for all.", lower_bound=0)
flags.DEFINE_string("panoptic_json", None, "Ground truth in COCO's panoptic format.")
flags.DEFINE_string("panoptic_dir", None, "Folder of the ground truth's PNGs.")


def main() -> None:
    """Predicts."""
    if bool(FLAGS.panoptic_json) != bool(FLAGS.panoptic_dir):
        raise InputError("--panoptic_json and --panoptic_dir come together. Give both or neither.")
    paths = predict.find_images(FLAGS.input)
    paths = paths[: FLAGS.limit] if FLAGS.limit else paths
    names = [os.path.splitext(os.path.basename(path))[0] for path in paths]
    repeated = sorted(name for name, count in collections.Counter(names).items() if count > 1)
    if repeated:
        raise InputError(
            "--input: results are named after their images, so no two images may have the same name. "
            f"Received twice: {', '.join(repeated[:5])}. Predict them into different folders."
        )
    module, metadata = export.load(FLAGS.saved_model)
    space = metadata.label_space
    truth = None
    if FLAGS.panoptic_json:
        truth = predict.GroundTruth(FLAGS.panoptic_json, FLAGS.panoptic_dir, space)
    panoptic_folder = os.path.join(FLAGS.output_dir, "panoptic")
    folders.make(panoptic_folder, "output_dir")
    annotations = []
    for path, name in zip(tqdm.tqdm(paths, desc="Predicting", unit="image"), names):
        image = predict.read_image(path)
        panoptic = module.serve(tf.constant(image[None]))[keys.PANOPTIC_MAP][0].numpy()
        expected = truth.read(path, image.shape[:2]) if truth else None
        picture = visualization.triptych(image, expected, panoptic, space)
        visualization.save_png(os.path.join(FLAGS.output_dir, f"{name}.png"), picture)
        ids, segments = predict.coco_segments(panoptic, space)
        visualization.save_png(os.path.join(panoptic_folder, f"{name}.png"), ids)
        image_id = truth.image_id(path) if truth else name
        annotations.append({"image_id": image_id, "file_name": f"{name}.png", "segments_info": segments})
    files.write_atomically(os.path.join(FLAGS.output_dir, "predictions.json"), json.dumps({"annotations": annotations}))
    print(f"{len(paths)} images: {FLAGS.output_dir}")
