# SPDX-License-Identifier: Apache-2.0
"""What post-processing takes against the count of instances, and against the network before it.

  python benchmarks/postprocessing.py [--rounds=3]

Axial-DeepLab-S and post-processing as configs/cityscapes says, on one image of 1025 x 2049. Blocks of random classes
among them, peaks in the heatmap, and offsets that point to the nearest peak, as those of a trained network do, or
anywhere. Writes benchmarks/results/postprocessing-<device>.csv:

- seconds: post-processing, scores included, the fastest round;
- peak_gib: of post-processing, above what the process held with its inputs;
- upsampling_seconds, network_seconds: of what comes before; upsampling is that of the network's outputs;
- share_of_network: post-processing to network, the median over the rounds, each of which times both.
"""

import json
import pathlib
import resource

import measure
import numpy as np
import tensorflow as tf
from absl import app, flags

from deeplab_axial import builders, config, keys
from deeplab_axial.layers import normalization
from deeplab_axial.models.panoptic_deeplab import upsample
from deeplab_axial.postprocessing import instances
from deeplab_axial.postprocessing.panoptic_deeplab import PostProcessor

FLAGS = flags.FLAGS
flags.DEFINE_integer("rounds", 3, "Timed rounds of network and post-processing.", lower_bound=1)
flags.DEFINE_string("case", "", "One case, as JSON; for the script itself.")

CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "cityscapes" / "axial_deeplab_s.textproto"
SIZE = (1025, 2049)
# Standard deviation of the offsets' error, pixels.
ERRORS = {"trained": 3.0, "anywhere": 500.0}
CASES = (
    *({"instances": count, "offsets": "trained", "xla": False} for count in (0, 10, 50, 200, 400)),
    *({"instances": count, "offsets": "anywhere", "xla": False} for count in (200, 400)),
    {"instances": 200, "offsets": "trained", "xla": True},
)


def main(_) -> None:
    """Measures one case, or all, each in a process of its own."""
    if FLAGS.case:
        print(json.dumps(_measure(**json.loads(FLAGS.case))))
        return
    measure.run_cases(__file__, CASES, [f"--rounds={FLAGS.rounds}"], "postprocessing", _show)


def _show(row) -> str:
    return f"{1000 * row['seconds']:9.1f} ms {row['share_of_network']:7.2%} of the network {row['peak_gib']:6.2f} GiB"


def _measure(xla: bool, **case) -> dict[str, float]:
    options = config.load(CONFIG)
    postprocessor = builders.build_postprocessor(options, builders.load_label_space("cityscapes_panoptic"))
    outputs = _outputs(postprocessor, **case)
    postprocess = tf.function(lambda: postprocessor(outputs), autograph=False, jit_compile=xla)
    before = measure.resident()
    assert postprocess()[keys.NUM_CENTERS] == case["instances"]
    measure.seconds(postprocess)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before

    model = builders.build_model(options)
    normalization.fold_batch_norm(model)
    images = tf.random.uniform([1, *SIZE, 3], 0, 255)
    network = tf.function(lambda: model(images), autograph=False)
    raw = network()
    enlarge = tf.function(lambda: upsample(raw, SIZE), autograph=False)
    measure.seconds(enlarge)
    rounds = [[measure.seconds(part) for part in (network, enlarge, postprocess)] for _ in range(FLAGS.rounds)]
    of_network, of_upsampling, of_postprocessing = (min(times) for times in zip(*rounds))
    return {
        "seconds": of_postprocessing,
        "peak_gib": peak / measure.GIB,
        "upsampling_seconds": of_upsampling,
        "network_seconds": of_network,
        "share_of_network": float(np.median([times[2] / times[0] for times in rounds])),
    }


def _outputs(postprocessor: PostProcessor, **case) -> dict[str, tf.Tensor]:
    """Outputs at the size of the image, with as many peaks as the case has instances."""
    count, rng = case["instances"], np.random.default_rng(0)
    height, width = SIZE
    # Peaks stand in different cells of a grid, apart by more than the window of a peak.
    side = 64
    cells = rng.permutation((height // side) * (width // side))[:count]
    margin = postprocessor.nms_kernel // 2
    places = np.stack([cells // (width // side), cells % (width // side)], -1) * side
    places += rng.integers(margin, side - margin, places.shape)
    heatmap = rng.uniform(0, postprocessor.center_score_threshold / 2, SIZE).astype(np.float32)
    heatmap[tuple(places.T)] = rng.uniform(0.2, 1, count)
    centers, _, found = instances.find_centers(
        tf.constant(heatmap),
        postprocessor.center_score_threshold,
        postprocessor.nms_kernel,
        postprocessor.keep_k_centers,
    )
    nearest = instances.group_pixels(tf.zeros([*SIZE, 2]), tf.ones(SIZE, tf.bool), centers, found)
    grid = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), -1)
    offsets = centers.numpy()[np.maximum(nearest - 1, 0)] - grid + rng.normal(0, ERRORS[case["offsets"]], grid.shape)
    blocks = rng.normal(0, 3, (-(-height // 16), -(-width // 16), postprocessor.num_classes))
    # Last, and without a copy of them, which would show up in the peak.
    logits = tf.gather(tf.constant(blocks, tf.float32), tf.range(height) // 16)
    logits = tf.gather(logits, tf.range(width) // 16, axis=1)
    return {
        keys.SEMANTIC_LOGITS: logits[None],
        keys.CENTER_HEATMAP: tf.constant(heatmap[None, ..., None]),
        keys.OFFSET_MAP: tf.constant(offsets[None], tf.float32),
    }


if __name__ == "__main__":
    app.run(main)
