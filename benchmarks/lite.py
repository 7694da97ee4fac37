# SPDX-License-Identifier: Apache-2.0
"""Which networks LiteRT (TFLite) runs: size, agreement with TensorFlow and seconds of the raw outputs.

  python benchmarks/lite.py [--only=coco]

Weights are random. "error" is the norm of what tells an output from TensorFlow's, as a share of the output's norm, the
largest of the three heads. Both run on two threads. Writes benchmarks/results/lite-<device>.csv.
"""

import json
import os
import pathlib
import tempfile
import time

import measure
import numpy as np
import tensorflow as tf
from absl import app, flags

from deeplab_axial import builders, config, export
from deeplab_axial.data.pipeline import ImageOptions
from deeplab_axial.export import lite, signatures
from deeplab_axial.inference import Predictor
from deeplab_axial.layers import normalization

FLAGS = flags.FLAGS
flags.DEFINE_integer("rounds", 3, "Timed runs of each measurement.", lower_bound=1)
flags.DEFINE_string("only", "", "Measure only the configs whose name has this in it.")
flags.DEFINE_string("case", "", "One case, as JSON; for the script itself.")

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
CASES = (
    ("coco/axial_deeplab_s", 129, 129, "none"),
    ("coco/axial_deeplab_s", 129, 129, "float16"),
    ("coco/axial_deeplab_s", 129, 129, "int8"),
    ("coco/axial_deeplab_s", 321, 321, "none"),
    ("coco/axial_deeplab_s", 641, 641, "none"),
    ("cityscapes/axial_deeplab_l_span17", 257, 513, "none"),
    ("cityscapes/local_attention", 129, 129, "none"),
    ("cityscapes/axial_swidernet_1_1_1", 129, 129, "none"),
    ("cityscapes/swidernet_sac_1_1_1", 129, 129, "none"),
    ("cityscapes/max_deeplab_s_backbone", 129, 129, "none"),
    ("coco/resnet50_stride16", 161, 161, "none"),
    ("coco/resnet50_beta_stride16", 129, 193, "none"),
)


def main(_) -> None:
    """Measures one case, or all, each in a process of its own."""
    if FLAGS.case:
        print(json.dumps(_measure(**json.loads(FLAGS.case))))
        return
    cases = [dict(zip(("name", "height", "width", "quantization"), case)) for case in CASES if FLAGS.only in case[0]]
    measure.run_cases(__file__, cases, [f"--rounds={FLAGS.rounds}"], "lite", _show)


def _show(row) -> str:
    return f"{row['megabytes']:6.1f} MB {row['seconds']:6.2f} s ({row['tensorflow_seconds']:.2f} s) {row['error']:.1e}"


def _measure(name: str, height: int, width: int, quantization: str) -> dict:
    module = _module(name, (height, width))
    small = np.random.default_rng(0).integers(0, 256, (1, 9, 9, 3)).astype(np.float32)
    images = tf.cast(tf.image.resize(small, (height, width)), tf.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "export", lite.MODEL_FILE)
        lite.save(module, str(path.parent), quantization)
        content = path.read_bytes()
    runner = tf.lite.Interpreter(model_content=content, num_threads=2).get_signature_runner("raw")
    found, expected = runner(images=images.numpy()), module.raw(images)
    seconds = []
    for _ in range(FLAGS.rounds):
        started = time.perf_counter()
        runner(images=images.numpy())
        seconds.append(time.perf_counter() - started)
    return {
        "megabytes": len(content) / 1e6,
        "seconds": min(seconds),
        "tensorflow_seconds": min(measure.seconds(lambda: module.raw(images)) for _ in range(FLAGS.rounds)),
        "error": max(float(tf.norm(found[key] - y) / tf.norm(y)) for key, y in expected.items()),
    }


def _module(name: str, size: tuple[int, int]) -> tf.Module:
    tf.config.threading.set_intra_op_parallelism_threads(2)
    os.environ.update(dict.fromkeys(("TRAIN_SET", "VAL_SET", "INIT_CHECKPOINT"), "none"))
    options = config.load(CONFIGS / f"{name}.textproto")
    options.model_options.backbone.attention_logits_at_once = 2**62
    builders.set_precision_and_seed(options.trainer_options)
    model = builders.build_model(options)
    normalization.fold_batch_norm(model)
    # Raw outputs alone, of the image as it is.
    predictor = Predictor(model, None, options.model_options.backbone.output_stride, ImageOptions(size))
    return signatures.build(predictor, export.Variant("tflite", size), batch=1)


if __name__ == "__main__":
    app.run(main)
