# SPDX-License-Identifier: Apache-2.0
"""What the padding of images does to a trained network: panoptic quality, differing pixels, seconds an image.

  python benchmarks/padding.py --model_dir=demo/model [--crops=129x161,257x257] [--limit=64]

For each crop size the images of eval_dataset_options are predicted in three ways: as evaluation does it ("evaluation"),
with --padding=minimal ("minimal"), and as evaluation, but padded with grey alone ("grey": pad_with_grey_alone).
"differing" is the share of an image's pixels of another class or segment than evaluation says, mean and largest.
"slivers" are instances of at most 3 pixels' height or width at the bottom or right border, where padding begins. Writes
benchmarks/results/padding-<device>.csv.
"""

import json
import os
import time

import measure
import numpy as np
import tensorflow as tf
from absl import app, flags

from deeplab_axial import builders, config, keys
from deeplab_axial.choices import EVALUATION, MINIMAL
from deeplab_axial.data import pipeline, records
from deeplab_axial.export import check
from deeplab_axial.metrics.panoptic_quality import PanopticQuality
from deeplab_axial.training import averaging, checkpoints

FLAGS = flags.FLAGS
flags.DEFINE_string("model_dir", None, "Folder of checkpoints, with their config.", required=True)
flags.DEFINE_string("crops", "129x161,161x193,257x257", "Crop sizes, HEIGHTxWIDTH.")
flags.DEFINE_integer("limit", 0, "Most images; 0 for all.", lower_bound=0)
flags.DEFINE_string("case", "", "One case, as JSON; for the script itself.")
WAYS = ("evaluation", "minimal", "grey")
_SLIVER = 3


def main(_) -> None:
    """Measures one case, or all, each in a process of its own."""
    if FLAGS.case:
        print(json.dumps(_measure(**json.loads(FLAGS.case))))
        return
    cases = [{"crop": crop} for crop in FLAGS.crops.split(",")]
    measure.run_cases(__file__, cases, [f"--model_dir={FLAGS.model_dir}", f"--limit={FLAGS.limit}"], "padding", _show)


def _show(row) -> str:
    """One line for each way of padding."""
    lines = [f"{row['images']} images, {row['slivers_true']} slivers in the ground truth"]
    for way in WAYS:
        lines.append(
            f"  {way:10} PQ {row[f'pq_{way}']:.1%}, things {row[f'pq_things_{way}']:.1%}; differing "
            f"{row[f'differing_{way}']:.2%}, at most {row[f'most_differing_{way}']:.2%}; {row[f'slivers_{way}']} "
            f"slivers; {row[f'seconds_{way}']:.3f} s"
        )
    return "\n".join(lines)


def _measure(crop: str) -> dict:
    changes = [f"eval_dataset_options.crop_size={crop.replace('x', ',')}"]
    options = config.load(os.path.join(FLAGS.model_dir, config.FILE_NAME), changes)
    source = builders.open_records(options, "eval")
    space = source.info.label_space
    model = builders.build_model(options)
    averaging.restore_for_inference(checkpoints.latest(FLAGS.model_dir), model, "padding")
    images = list(_images(source))
    row = {"images": len(images), "slivers_true": sum(_count_slivers(truth, space) for _, _, truth, _ in images)}
    expected = None
    for way in WAYS:
        options.eval_dataset_options.pad_with_grey_alone = way == "grey"
        function = _function(options, model, space, MINIMAL if way == "minimal" else EVALUATION)
        _predict(function, images[0][1])
        found = [_predict(function, image) for _, image, _, _ in images]
        maps = [panoptic for panoptic, _ in found]
        expected = expected or maps
        quality = PanopticQuality({c.id: c.is_thing for c in space.classes})
        for (name, _, truth, crowd_ids), panoptic in zip(images, maps):
            quality.update_from_panoptic_ids(truth, panoptic, space.label_divisor, space.void_id, crowd_ids, name)
        result = quality.result().to_dict()
        shares = [check.differing_pixels("panoptic", *pair, space.label_divisor) for pair in zip(expected, maps)]
        row |= {
            f"pq_{way}": result["all"]["pq"],
            f"pq_things_{way}": result["things"]["pq"],
            f"differing_{way}": float(np.mean(shares)),
            f"most_differing_{way}": max(shares),
            f"slivers_{way}": sum(_count_slivers(panoptic, space) for panoptic in maps),
            f"seconds_{way}": float(np.median([seconds for _, seconds in found])),
        }
    return row


def _function(options, model, space, padding: str):
    predictor = builders.build_predictor(options, model, space, padding)
    spec = tf.TensorSpec([1, None, None, 3], tf.uint8)
    return tf.function(predictor.predict_images, input_signature=[spec], autograph=False)


def _predict(function, image: np.ndarray) -> tuple[np.ndarray, float]:
    """Panoptic map and seconds."""
    started = time.perf_counter()
    panoptic = function(tf.constant(image[None]))[keys.PANOPTIC_MAP].numpy()[0]
    return panoptic, time.perf_counter() - started


def _images(source: pipeline.Source):
    """Yields name, image, ground truth and crowd ids."""
    for serialized in tf.data.TFRecordDataset(list(source.files)).take(FLAGS.limit or -1):
        features, image, truth = pipeline.decode(serialized)
        name = features[records.FILENAME].numpy().decode()
        yield name, np.uint8(image), truth.numpy(), features[records.CROWD_IDS].numpy().astype(np.int32)


def _count_slivers(panoptic: np.ndarray, space) -> int:
    ends = (panoptic[:-_SLIVER], panoptic[:, :-_SLIVER])
    ids = np.unique(panoptic)
    ids = ids[np.isin(ids // space.label_divisor, space.thing_ids)]
    return int(sum(any((part != i).all() for part in ends) for i in ids))


if __name__ == "__main__":
    app.run(main)
