# SPDX-License-Identifier: Apache-2.0
"""Writes a checkpoint as SavedModel.

  deeplab-axial export --config_file=CONFIG --model_dir=FOLDER --output_dir=SAVED_MODEL

The SavedModel takes uint8 RGB images [B, H, W, 3] of any size and returns the panoptic, semantic and instance maps
[B, H, W] and the centres [B, K, 2] (y, x) with scores. It is reloaded in a fresh process and compared with the model,
pixel for pixel, on images of the evaluation data before its folder appears.
"""

import numpy as np
from absl import flags

from deeplab_axial import __version__, builders, config, export, keys
from deeplab_axial.cli import experiment
from deeplab_axial.data import diagnosis

FLAGS = flags.FLAGS
NUM_SAMPLES = 4

flags.DEFINE_string("model_dir", None, "Folder of the checkpoints.", required=True)
flags.DEFINE_string("checkpoint", None, "A checkpoint's prefix; the newest of --model_dir by default.")
flags.DEFINE_string("output_dir", None, "Folder for the SavedModel; must be empty or absent.", required=True)
flags.declare_key_flag("config_file")
flags.declare_key_flag("set")
flags.declare_key_flag("placeholder")


def main() -> None:
    """Exports."""
    options = experiment.load_config("eval")
    source = builders.open_source(options, "eval")
    space = source.info.label_space
    builders.set_precision_and_seed(options.trainer_options)
    model = builders.build_model(options)
    step = experiment.restore_for_inference(model, FLAGS.model_dir, FLAGS.checkpoint)
    metadata = export.Metadata(
        label_space=space,
        config=config.to_text(options),
        step=step,
        version=__version__,
        metrics=experiment.read_metrics(FLAGS.model_dir, step),
    )
    with diagnosis.explain_errors(source, with_panoptic=False):
        samples = _samples(options, source)
    export.write(builders.build_predictor(options, model, space), metadata, FLAGS.output_dir, samples)
    print(f"Exported step {step}, reloaded and compared on {len(samples)} images: {FLAGS.output_dir}")


def _samples(options, source) -> list[np.ndarray]:
    """The first images of the evaluation data, [H, W, 3] uint8."""
    samples: list[np.ndarray] = []
    # Not unbatch(): TensorFlow 2.21 crashes there on entries of size 0, which crowd ids are in most batches.
    for batch in builders.build_evaluation_dataset(options, source).take(NUM_SAMPLES).as_numpy_iterator():
        real = batch[keys.IS_REAL]
        for image, (height, width) in zip(batch[keys.IMAGE][real], batch[keys.RESIZED_SIZE][real]):
            samples.append(np.clip(image[:height, :width], 0, 255).astype(np.uint8))
    return samples[:NUM_SAMPLES]
