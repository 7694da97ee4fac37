# SPDX-License-Identifier: Apache-2.0
"""The command `submit`: what it does. Its flags are in `options`."""

import re

from absl import flags

from deeplab_axial import builders, locks
from deeplab_axial.cli import config_differences, experiment, folders
from deeplab_axial.cli.options.experiment import load_segmentation_config
from deeplab_axial.data import diagnosis
from deeplab_axial.data.source import Source
from deeplab_axial.errors import InputError
from deeplab_axial.protos import config_pb2
from deeplab_axial.submissions import cityscapes, coco, predictions

FLAGS = flags.FLAGS


def main() -> None:
    """Predicts and writes."""
    folders.refuse_remote(FLAGS.output or FLAGS.output_dir, "output" if FLAGS.output else "output_dir")
    with locks.beside(FLAGS.output or FLAGS.output_dir, "submit"):
        _submit()


def _submit() -> None:
    options = load_segmentation_config("submit", "eval")
    _check_options(options)
    source = builders.open_source(options, "eval", with_labels=False)
    experiment.check_classes(FLAGS.model_dir, source, FLAGS.checkpoint)
    if FLAGS.format == "coco":
        coco.check_output(FLAGS.output)
        images = coco.ImageList.read(FLAGS.image_list)
        images.check_count(source.num_records)
        algorithm = _algorithm(options)
    else:
        cityscapes.check_output(FLAGS.output_dir)
        cityscapes.check_label_space(source.info.label_space, builders.load_label_space("cityscapes_panoptic"))
    differs = config_differences.since_run(options, FLAGS.model_dir, FLAGS.checkpoint)
    config_differences.tell(differs, FLAGS.model_dir)
    builders.set_precision_and_seed(options.trainer_options)
    model = builders.build_model(options)
    step = experiment.restore_for_inference(model, FLAGS.model_dir, FLAGS.checkpoint)
    space = source.info.label_space
    with diagnosis.explain_errors(source, with_panoptic=False):
        found = _predict(options, model, source)
        if FLAGS.format == "coco":
            count = coco.write(FLAGS.output, found, images, space, algorithm)
        else:
            count = cityscapes.write(FLAGS.output_dir, found, space, FLAGS.split or "test")
    print(f"Step {step}, {count} images: {FLAGS.output or FLAGS.output_dir}")


def _check_options(options: config_pb2.ExperimentOptions) -> None:
    """Refuses a config whose predictions would be no submission."""
    if options.evaluator_options.eval_steps >= 0:
        raise InputError(
            "evaluator_options.eval_steps must be -1: a submission has all images. "
            f"Received: {options.evaluator_options.eval_steps}. Add --set=evaluator_options.eval_steps=-1."
        )
    if options.eval_dataset_options.allow_subset:
        raise InputError(
            "eval_dataset_options.allow_subset must be false: a submission has all images. Received: true. Remove it."
        )
    if not options.model_options.panoptic_deeplab.instance.enable:
        raise InputError(
            "model_options.panoptic_deeplab.instance.enable must be true: a submission has instances. Received: false. "
            "Name the config and checkpoint of a network with instance heads."
        )


def _algorithm(options: config_pb2.ExperimentOptions) -> str:
    """The name of the method in COCO's file names."""
    if not FLAGS.algorithm:
        return re.sub(r"[^A-Za-z0-9.]+", "-", options.experiment_name).strip("-") or "deeplab-axial"
    if not re.fullmatch(r"[A-Za-z0-9.-]+", FLAGS.algorithm):
        raise InputError(
            "--algorithm must consist of letters, digits, dots and hyphens, as it is part of file names. "
            f"Received: {FLAGS.algorithm}. Shorten it."
        )
    return FLAGS.algorithm


def _predict(options: config_pb2.ExperimentOptions, model, source: Source):
    space = source.info.label_space
    predictor = builders.build_predictor(options, model, space)
    dataset = builders.build_evaluation_dataset(options, source)
    return predictions.predict(predictor, dataset, space, source.num_records, options.evaluator_options.use_tf_function)
