# SPDX-License-Identifier: Apache-2.0
"""The command `export`: what it does. Its flags are in `options`."""

import os

import numpy as np
from absl import flags

from deeplab_axial import __version__, builders, config, export, keys, locks
from deeplab_axial.choices import MINIMAL, PRECISIONS
from deeplab_axial.cli import config_differences, experiment, folders
from deeplab_axial.cli.options.experiment import load_segmentation_config
from deeplab_axial.cli.options.export import input_size
from deeplab_axial.data import diagnosis
from deeplab_axial.inference import Predictor
from deeplab_axial.protos import config_pb2

FLAGS = flags.FLAGS
NUM_SAMPLES = 4


def main() -> None:
    """Exports."""
    folders.refuse_remote(FLAGS.output_dir, "output_dir")
    variant = export.Variant(FLAGS.format, input_size(), FLAGS.xla, FLAGS.quantization)
    target = FLAGS.output_dir if FLAGS.version is None else os.path.join(FLAGS.output_dir, str(FLAGS.version))
    with locks.beside(target, "export"):
        _export(variant)


def _export(variant: export.Variant) -> None:
    options = load_segmentation_config("export", "eval")
    source = builders.open_source(options, "eval")
    experiment.check_classes(FLAGS.model_dir, source, FLAGS.checkpoint)
    space = source.info.label_space
    differs = config_differences.since_run(options, FLAGS.model_dir, FLAGS.checkpoint)
    config_differences.tell(differs, FLAGS.model_dir)
    evaluation, step = _restored(options, space)
    exported = config_pb2.ExperimentOptions()
    exported.CopyFrom(options)
    exported.trainer_options.precision = PRECISIONS.get(FLAGS.precision, options.trainer_options.precision)
    if variant.format == "tflite":
        # In loops over rows, attention would need more than LiteRT's built-in operations.
        exported.model_options.backbone.attention_logits_at_once = 2**62
    predictor = evaluation if exported == options else _restored(exported, space)[0]
    metadata = export.Metadata(
        label_space=space,
        config=config.to_text(exported),
        step=step,
        version=__version__,
        metrics=experiment.read_metrics(FLAGS.model_dir, step, differs),
        git_revision=export.git_revision(),
        precision=exported.trainer_options.precision,
        value_range=source.info.value_range,
    )
    with diagnosis.explain_errors(source, with_panoptic=False):
        samples = _samples(options, source)
    folder = export.write(predictor, metadata, FLAGS.output_dir, samples, variant, evaluation, FLAGS.version)
    shown = folder if FLAGS.version is not None else FLAGS.output_dir
    print(_what_it_computes(predictor, variant))
    print(f"Exported step {step}, reloaded and compared on {len(samples)} images: {shown}")


def _restored(options, space) -> tuple:
    """The predictor of the checkpoint, and its step."""
    builders.set_precision_and_seed(options.trainer_options)
    model = builders.build_model(builders.portable(options))
    step = experiment.restore_for_inference(model, FLAGS.model_dir, FLAGS.checkpoint)
    return builders.build_predictor(options, model, space, FLAGS.padding), step


def _what_it_computes(predictor: Predictor, variant: export.Variant) -> str:
    """One line on the size at which the network sees images."""

    def shown(size):
        return f"{size[0]} x {size[1]}"

    crop, smallest = predictor.image_options.crop_size, f"{predictor.output_stride} * k + 1"
    if variant.input_size is not None:
        resized = predictor.resized_size(variant.input_size)
        computed = predictor.padded_size(resized)
        line = f"Images of {shown(variant.input_size)} (height x width) are computed at {shown(computed)}"
        if any(side > limit for side, limit in zip(resized, crop)):
            return f"{line}; evaluation refuses them, as its crop_size is {shown(crop)}."
        if predictor.padding == MINIMAL:
            return f"{line}, not at {shown(crop)} as in evaluation: predictions differ (--padding=evaluation)."
        return f"{line}, as in evaluation (--padding=minimal computes at a size of their own)."
    if predictor.padding == MINIMAL:
        return f"Images are padded to {smallest}, not to {shown(crop)} as in evaluation: predictions differ."
    return f"Images are padded to {shown(crop)} (height x width), as in evaluation; larger ones to {smallest}."


def _samples(options, source) -> list[np.ndarray]:
    """The first images of the evaluation data, [H, W, 3] uint8."""
    samples: list[np.ndarray] = []
    # Not unbatch(): TensorFlow 2.21 crashes there on entries of size 0, which crowd ids are in most batches.
    for batch in builders.build_evaluation_dataset(options, source).take(NUM_SAMPLES).as_numpy_iterator():
        real = batch[keys.IS_REAL]
        for image, (height, width) in zip(batch[keys.IMAGE][real], batch[keys.RESIZED_SIZE][real]):
            samples.append(np.clip(image[:height, :width], 0, 255).astype(np.uint8))
    return samples[:NUM_SAMPLES]
