# SPDX-License-Identifier: Apache-2.0
"""How many training images a second one core prepares, and how large a record is.

  python benchmarks/input_pipeline.py [--rounds=3]

Synthetic scenes in the sizes and encodings of three data sets, converted to records, then decoded, scaled by 0.5 to 2,
cut, mirrored and turned into targets, by threads that share one core. Writes
benchmarks/results/input_pipeline-<device>.csv; times are milliseconds of this process on the core an image, so that
others who use the machine hardly matter:

- decode: image and panoptic map, whole;
- crop: from the record to the crop, so all of `decode` that is needed, scaling, cutting, padding and mirroring;
- crop_in_old_order: the same by scaling the whole image and map and then cutting;
- total: crop, targets and batches of one;
- record_bytes and record_to_files: a record's size, and its ratio to the files that it was made of.
"""

import functools
import itertools
import json
import os
import pathlib
import tempfile
import time

import measure
import tensorflow as tf
from absl import app, flags

from deeplab_axial.data import image_bytes, pipeline, records, sampling, scenes, targets, transforms
from deeplab_axial.data.converters import coco_panoptic
from deeplab_axial.data.record_stream import shuffled_records

FLAGS = flags.FLAGS
flags.DEFINE_integer("rounds", 3, "Timed passes over the images; the fastest counts.", lower_bound=1)
flags.DEFINE_string("case", "", "One case, as JSON; for the script itself.")

CASES = (
    {"like": "COCO", "encoding": "jpg", "height": 480, "width": 640, "crop": [1025, 1025], "images": 24},
    {"like": "Cityscapes", "encoding": "png", "height": 1024, "width": 2048, "crop": [1025, 2049], "images": 8},
    {"like": "Mapillary", "encoding": "jpg", "height": 3000, "width": 4000, "crop": [1025, 1025], "images": 4},
)
SCALES = {"min_scale": 0.5, "max_scale": 2.0, "scale_step": 0.1}
# An image gets as many random scales as this.
PASSES = 4


def main(_) -> None:
    """Measures one case, or all, each in a process of its own."""
    if FLAGS.case:
        print(json.dumps(_measure(**json.loads(FLAGS.case))))
        return
    measure.run_cases(__file__, CASES, [f"--rounds={FLAGS.rounds}"], "input_pipeline", _show)


def _show(row) -> str:
    return f"{row['images_per_second_a_core']:7.2f} images/s a core, record {row['record_to_files']:.2f} of the files"


def _measure(encoding: str, height: int, width: int, crop: list[int], images: int, **_) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        record_bytes, file_bytes = _make_records(pathlib.Path(folder), encoding, height, width, images)
        source = pipeline.Source.open([f"{folder}/records/*.tfrecord"])
        # All threads share this core.
        os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])
        options = pipeline.ImageOptions(crop_size=tuple(crop))
        augment = pipeline.AugmentOptions(shuffle_buffer=images, **SCALES)
        stream = shuffled_records(source, seed=0, shuffle_buffer=images, first=0).take(PASSES * images)
        stages = {
            "decode": stream.map(lambda _, record: pipeline.decode(record)[1:]),
            "crop": stream.map(functools.partial(_crop, options, augment)),
            "crop_in_old_order": stream.map(functools.partial(_crop_in_old_order, options, augment)),
            "total": pipeline.training_dataset(source, 1, options, augment, targets.TargetOptions()).take(
                PASSES * images
            ),
        }
        seconds = {name: _seconds_an_image(dataset, PASSES * images) for name, dataset in stages.items()}
    total = seconds["total"]
    return {
        "images_per_second_a_core": 1 / total,
        **{f"{name}_ms": 1000 * value for name, value in seconds.items()},
        "share_of_targets_and_batching": (total - seconds["crop"]) / total,
        "crop_to_old_order": seconds["crop"] / seconds["crop_in_old_order"],
        "record_bytes": round(record_bytes / images),
        "record_to_files": record_bytes / file_bytes,
    }


def _make_records(folder: pathlib.Path, encoding: str, height: int, width: int, images: int) -> tuple[int, int]:
    """Writes scenes and converts them; returns the bytes of the records and those of the files."""
    scenes.write_scenes(folder, num_train=images, num_val=1, height=height, width=width)
    index = folder / "panoptic_train.json"
    if encoding == "png":
        for path in (folder / "train").glob("*.jpg"):
            with image_bytes.opened(path.read_bytes()) as image:
                image.save(path.with_suffix(".png"))
            path.unlink()
        content = json.loads(index.read_text())
        for entry in content["images"]:
            entry["file_name"] = entry["file_name"].replace(".jpg", ".png")
        index.write_text(json.dumps(content))
    folders = [folder / "train", index, folder / "panoptic_train", folder / "records"]
    coco_panoptic.convert(*folders, num_shards=1, name="scenes")
    files = itertools.chain((folder / "train").iterdir(), (folder / "panoptic_train").iterdir())
    sizes = [sum(p.stat().st_size for p in paths) for paths in ((folder / "records").glob("*.tfrecord"), files)]
    return sizes[0], sizes[1]


def _seeds(number: tf.Tensor) -> tf.Tensor:
    return tf.random.experimental.stateless_split(tf.stack([tf.constant(0, tf.int64), number]), 4)


def _crop(options: pipeline.ImageOptions, augment: pipeline.AugmentOptions, number: tf.Tensor, record: tf.Tensor):
    crop = pipeline.random_crop(record, options, augment, void_id=0, seeds=_seeds(number))
    return crop.image, crop.panoptic


def _crop_in_old_order(
    options: pipeline.ImageOptions, augment: pipeline.AugmentOptions, number: tf.Tensor, record: tf.Tensor
):
    seeds = _seeds(number)
    features = records.parse_example(record)
    image = tf.cast(sampling.decode_image(features[records.ENCODED]), tf.float32)
    panoptic = pipeline.decode_panoptic(features)
    scaled = pipeline.resized_size(tf.shape(panoptic), options, augment, seeds[0])
    window = transforms.random_window(scaled, *options.crop_size, seeds[1])
    image = transforms.cut(transforms.resize(image, scaled), window)
    panoptic = transforms.cut(transforms.resize_nearest(panoptic, scaled), window)
    image = transforms.pad_to(image, *options.crop_size, transforms.PADDING_VALUE)
    return transforms.random_flip(image, transforms.pad_to(panoptic, *options.crop_size, 0), seeds[2])


def _seconds_an_image(dataset: tf.data.Dataset, images: int) -> float:
    times = []
    for _ in range(FLAGS.rounds + 1):  # the first one traces and warms up
        started = time.process_time()
        for _ in dataset:
            pass
        times.append(time.process_time() - started)
    return min(times[1:]) / images


if __name__ == "__main__":
    app.run(main)
