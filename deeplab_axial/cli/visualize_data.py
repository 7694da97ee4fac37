# SPDX-License-Identifier: Apache-2.0
"""The command `visualize_data`: what it does. Its flags are in `options`."""

import itertools
import os
from collections.abc import Iterator

import numpy as np
from absl import flags

from deeplab_axial import builders, contact_sheet, keys, locks, visualization
from deeplab_axial.cli import folders
from deeplab_axial.cli.options.experiment import load_config
from deeplab_axial.data import dataset_info, diagnosis, records
from deeplab_axial.data.label_space import LabelSpace
from deeplab_axial.data.source import Source
from deeplab_axial.errors import InputError
from deeplab_axial.protos import config_pb2

FLAGS = flags.FLAGS
_ROWS = 4


def main() -> None:
    """Draws."""
    options = load_config(FLAGS.split)
    source = builders.open_records(options, FLAGS.split)
    is_classifier = options.model_options.HasField("classification")
    task = dataset_info.CLASSIFICATION if is_classifier else dataset_info.PANOPTIC
    if source.info.task != task:
        raise InputError(
            f"visualize_data draws {task} data for this model. Received: {source.files[0]}, which holds "
            f"{source.info.task} data. Name other records in {FLAGS.split}_dataset_options.file_pattern."
        )
    builders.check_classes(options, FLAGS.split, source)
    is_training = FLAGS.split == "train"
    if is_training and not source.info.has_labels:
        raise InputError(f"{source.files[0]} has no labels, so there are no targets. Draw it with --split=eval.")
    sheets = [f"sheet-{number:03}.png" for number in range(-(-FLAGS.num_images // _ROWS))]
    folders.refuse_foreign((os.path.join(FLAGS.output_dir, name) for name in sheets), "output_dir")
    folders.make(FLAGS.output_dir, "output_dir")
    dataset = options.train_dataset_options
    weight = dataset.small_instance_weight if dataset.increase_small_instance_weights else 1.0
    with_panoptic = source.info.has_labels and not is_classifier
    with locks.in_folder(FLAGS.output_dir, "visualize_data"), diagnosis.explain_errors(source, with_panoptic):
        if is_classifier:
            crops = list(itertools.islice(_crops(options, source, is_training), FLAGS.num_images))
            rows = map(contact_sheet.classification_row, _in_rows(crops))
        else:
            rows = _training_rows(options, source) if is_training else _evaluation_rows(options, source)
            rows = itertools.islice(rows, FLAGS.num_images)
        drawn = 0
        for number in itertools.count():
            part = list(itertools.islice(rows, _ROWS))
            if not part:
                break
            path = os.path.join(FLAGS.output_dir, f"sheet-{number:03}.png")
            with_legend = is_training and not is_classifier
            _save(path, contact_sheet.sheet(part, with_legend, small_weight=weight))
            drawn += len(part)
    print(f"{len(crops) if is_classifier else drawn} images: {FLAGS.output_dir}")


def _crops(
    options: config_pb2.ExperimentOptions, source: Source, is_training: bool
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields each input of a classifier with its title."""
    if is_training:
        batches = builders.build_training_dataset(options.train_dataset_options, source, FLAGS.first_step)
    else:
        batches = builders.build_evaluation_dataset(options, source)
    names = {c.id: c.name for c in source.info.label_space.classes}
    for batch in batches.as_numpy_iterator():
        is_real = batch.get(keys.IS_REAL, np.ones(len(batch[keys.IMAGE]), bool))
        for i in np.flatnonzero(is_real).tolist():
            yield names.get(int(batch[keys.CLASS_TARGET][i]), "no class"), batch[keys.IMAGE][i]


def _in_rows(crops: list) -> Iterator[list]:
    """Crops in lists of _ROWS, the last one filled up with grey."""
    for start in range(0, len(crops), _ROWS):
        row = crops[start : start + _ROWS]
        yield row + [("", np.full_like(row[0][1], 127))] * (_ROWS - len(row))


def _training_rows(options: config_pb2.ExperimentOptions, source: Source) -> Iterator[np.ndarray]:
    batches = builders.build_training_dataset(options.train_dataset_options, source, FLAGS.first_step)
    for step, batch in enumerate(batches.as_numpy_iterator(), start=FLAGS.first_step):
        for i, image in enumerate(batch[keys.IMAGE]):
            targets = {key: value[i] for key, value in batch.items()}
            title = f"Step {step}, image {i + 1}"
            yield contact_sheet.training_row(image, targets, source.info.label_space, title)


def _evaluation_rows(options: config_pb2.ExperimentOptions, source: Source) -> Iterator[np.ndarray]:
    space = source.info.label_space
    for batch in builders.build_evaluation_dataset(options, source).as_numpy_iterator():
        for i in np.flatnonzero(batch[keys.IS_REAL]).tolist():
            name = batch[keys.IMAGE_NAME][i].decode(errors="replace")
            truth = _ground_truth(batch, i, space)
            yield contact_sheet.evaluation_row(batch[keys.IMAGE][i], truth, space, name)


def _ground_truth(batch: dict[str, np.ndarray], i: int, space: LabelSpace) -> np.ndarray | None:
    """The panoptic map as large as the input, void where the image is padded."""
    encoded = batch[keys.RAW_PANOPTIC][i]
    if not encoded:
        return None
    panoptic = records.decode_panoptic(encoded, records.detect_format(encoded), *batch[keys.RAW_SIZE][i].tolist())
    height, width = batch[keys.RESIZED_SIZE][i].tolist()
    # Corners onto corners, as the image is resized.
    ys, xs = (np.rint(np.linspace(0, old - 1, new)).astype(int) for old, new in zip(panoptic.shape, (height, width)))
    padded = np.full(batch[keys.IMAGE].shape[1:3], space.void_id, panoptic.dtype)
    padded[:height, :width] = panoptic[ys[:, None], xs]
    return padded


def _save(path: str, picture: np.ndarray) -> None:
    try:
        visualization.save_png(path, picture)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error}). Name another --output_dir.") from error
