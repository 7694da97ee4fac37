# SPDX-License-Identifier: Apache-2.0
"""What inference takes for images from a long line to twelve megapixels, part by part.

  python benchmarks/image_sizes.py

The demo's network with random weights and folded normalisations, traced once for every size as in an export, and
post-processing with at most 400 centres; one image, one call after one at 65 x 65. Seconds are those of the
processor, all threads together, which other work on the machine hardly changes. Writes
benchmarks/results/image_sizes-<device>.csv:

- resizing_seconds: from uint8 to the padded input of the network;
- network_seconds, upsampling_seconds, postprocessing_seconds: what follows;
- centers_400_seconds: post-processing again, with 400 centres and offsets that point anywhere within 500 pixels, which
  is the worst case;
- microseconds_a_pixel, and of it for each position that a pixel attends to (height + width, at stride 4);
- peak_gib: what the process holds at most, above what it held with its image.
"""

import json
import pathlib
import time

import measure
import numpy as np
import tensorflow as tf
from absl import app, flags

from deeplab_axial import builders, config, keys
from deeplab_axial.layers import normalization
from deeplab_axial.models.panoptic_deeplab import upsample
from deeplab_axial.postprocessing.panoptic_deeplab import PostProcessor

FLAGS = flags.FLAGS
flags.DEFINE_string("case", "", "One case, as JSON; for the script itself.")

CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "demo" / "axial_deeplab_tiny.textproto"
SIZES = ((129, 161), (512, 512), (1000, 1000), (2000, 2000), (4000, 3000), (64, 4096), (1, 20000))
CASES = tuple({"height": height, "width": width} for height, width in SIZES)
CLASSES, CENTERS = 8, 400
_IMAGES = tf.TensorSpec([None, None, None, 3], tf.uint8)
_OUTPUTS = {
    keys.SEMANTIC_LOGITS: tf.TensorSpec([None, None, None, CLASSES]),
    keys.CENTER_HEATMAP: tf.TensorSpec([None, None, None, 1]),
    keys.OFFSET_MAP: tf.TensorSpec([None, None, None, 2]),
}
_SIZE = tf.TensorSpec([2], tf.int32)
_STATUS = pathlib.Path("/proc/self/status")


def main(_) -> None:
    """Measures one case, or all, each in a process of its own."""
    if FLAGS.case:
        print(json.dumps(_measure(**json.loads(FLAGS.case))))
        return
    measure.run_cases(__file__, CASES, [], "image_sizes", _show)


def _show(row) -> str:
    parts = ("resizing", "network", "upsampling", "postprocessing", "centers_400")
    return " ".join(f"{part} {row[f'{part}_seconds']:.2f} s" for part in parts) + f" {row['peak_gib']:.2f} GiB"


def _measure(height: int, width: int) -> dict[str, float]:
    parts = _parts()
    rng = np.random.default_rng(0)
    _run(parts, rng.integers(0, 256, (1, 65, 65, 3), np.uint8))
    image = rng.integers(0, 256, (1, height, width, 3), np.uint8)
    before = measure.resident()
    row = _run(parts, image)
    peak = next(int(line.split()[1]) for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    stride = 4
    row["microseconds_a_pixel"] = 1e6 * row["network_seconds"] / (height * width)
    row["nanoseconds_a_pixel_and_position"] = 1e3 * row["microseconds_a_pixel"] / ((height + width) / stride)
    return {**row, "peak_gib": (peak * 1024 - before) / measure.GIB}


def _parts() -> dict[str, tf.types.experimental.GenericFunction]:
    """The steps of inference, each traced for every size."""
    options = config.load(CONFIG)
    model = builders.build_model(options)
    normalization.fold_batch_norm(model)
    predictor = builders.build_predictor(options, model, builders.load_label_space("cityscapes_panoptic"))
    postprocessor = PostProcessor(CLASSES, (4, 5, 6, 7), 1000, 255, keep_k_centers=CENTERS)

    def traced(function, *signature):
        return tf.function(function, input_signature=signature, autograph=False)

    return {
        "resizing": traced(lambda x: predictor.prepare(x)[0], _IMAGES),
        "network": traced(lambda x: model(x), tf.TensorSpec([None, None, None, 3])),
        "upsampling": traced(upsample, _OUTPUTS, _SIZE),
        "postprocessing": traced(postprocessor, _OUTPUTS),
    }


def _run(parts, image: np.ndarray) -> dict[str, float]:
    """Seconds of each part, for one image [1, H, W, 3]."""
    seconds = {}

    def timed(name, function, *arguments):
        started = time.process_time()
        result = function(*arguments)
        tf.nest.map_structure(lambda x: x.shape, result)  # waits, on a CPU
        seconds[f"{name}_seconds"] = time.process_time() - started
        return result

    x = timed("resizing", parts["resizing"], tf.constant(image))
    raw = timed("network", parts["network"], x)
    outputs = timed("upsampling", parts["upsampling"], raw, tf.shape(x)[1:3])
    timed("postprocessing", parts["postprocessing"], outputs)
    outputs[keys.CENTER_HEATMAP] = tf.random.uniform(tf.shape(outputs[keys.CENTER_HEATMAP]))
    outputs[keys.OFFSET_MAP] = tf.random.normal(tf.shape(outputs[keys.OFFSET_MAP]), stddev=500.0)
    timed("centers_400", parts["postprocessing"], outputs)
    return seconds


if __name__ == "__main__":
    app.run(main)
