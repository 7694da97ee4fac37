# SPDX-License-Identifier: Apache-2.0
"""The command `predict`: what it does. Its flags are in `options`."""

import contextlib
import os
import sys
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
import tqdm
from absl import flags

from deeplab_axial import api, locks, progress
from deeplab_axial.cli import folders
from deeplab_axial.data import exif, value_range
from deeplab_axial.errors import InputError
from deeplab_axial.predict import PanopticModel, images, inputs, video
from deeplab_axial.predict import output as outputs
from deeplab_axial.predict.ground_truth import GroundTruth
from deeplab_axial.predict.inputs import Input
from deeplab_axial.progress import Bar

FLAGS = flags.FLAGS


# Images read ahead, in batches: among so many, those of one size are put together.
_BATCHES_AHEAD = 4
_MAX_LISTED = 20
# What one input may cause without ending the others; InputError and names that are no UTF-8 are ValueErrors.
_FAILURES = (OSError, ValueError, MemoryError, tf.errors.OpError)


def main() -> None:
    """Predicts."""
    folders.refuse_remote(FLAGS.saved_model, "saved_model")
    folders.refuse_remote(FLAGS.output_dir, "output_dir")
    found = _find_inputs()
    with progress.task("Loading the model"):
        model = api.load(FLAGS.saved_model, FLAGS.padding)
    model.max_pixels = FLAGS.max_pixels
    if FLAGS.value_range is not None:
        model.value_range = value_range.parse(FLAGS.value_range)
    truth = None
    if FLAGS.panoptic_json:
        truth = GroundTruth(FLAGS.panoptic_json, FLAGS.panoptic_dir, model.label_space)
        _check_some(truth, found)
    names = ("panoptic_json", "padding", "scores", "upright", "value_range", "video_frames")
    settings = {"model": model.description, **{name: FLAGS[name].value for name in names}}
    output = outputs.Output(FLAGS.output_dir, model.label_space, truth, FLAGS.scores, settings)
    folders.make(FLAGS.output_dir, "output_dir")
    with locks.in_folder(FLAGS.output_dir, "predict"):
        if FLAGS.resume:
            output.keep()
        job = _Job(model, output, found)
        places = [os.path.join(FLAGS.output_dir, place) for place in job.places()]
        folders.refuse_inputs([one.path for one in found], FLAGS.output_dir, places, "output_dir")
        folders.refuse_foreign(places, "output_dir")
        output.start(found)
        unsaved = _run(job)
    _tell(job, unsaved)


def _run(job: "_Job") -> InputError | None:
    """Predicts and saves, whatever ends it; returns why predictions.json could not be written in the end."""
    try:
        job.run()
    except BaseException:  # Ctrl-C included; what ended it is told, and not that saving failed, too
        with contextlib.suppress(InputError):
            job.output.save()
        raise
    try:
        job.output.save()
    except InputError as error:
        return error
    return None


def _check_some(truth: GroundTruth, found: list[Input]) -> None:
    """Refuses ground truth that no image has a part in, before anything long is done."""
    for i, one in enumerate(found):
        try:
            truth.image_id(one.path)
            return
        except InputError:
            if i == len(found) - 1:
                raise


def _find_inputs() -> list[Input]:
    """The files, checked before anything long is done."""
    if bool(FLAGS.panoptic_json) != bool(FLAGS.panoptic_dir):
        raise InputError("--panoptic_json and --panoptic_dir come together. Give both or neither.")
    if FLAGS.panoptic_json and FLAGS.upright:
        raise InputError("--upright turns images, but ground truth is of pixels as stored. Leave one of them out.")
    result = inputs.find(FLAGS.input, FLAGS.output_dir)
    if result.skipped:
        print(f"note: left out: {result.describe_skipped()}.", file=sys.stderr)
    found = result.inputs[: FLAGS.limit] if FLAGS.limit else result.inputs
    folders.refuse_inputs([one.path for one in found], FLAGS.output_dir, [], "output_dir")
    videos = [one.path for one in found if inputs.is_video(one.path)]
    if videos:
        video.require()
        if FLAGS.panoptic_json:
            raise InputError(
                f"--panoptic_json is ground truth of images. Received: the video {videos[0]}. Leave it out."
            )
    return found


class _Job:
    """Predicts file by file; what fails is named and counted.

    Attributes:
      model: segments.
      output: takes the results.
      todo: inputs that have no results yet, with the names that these will have.
      num_kept: inputs that have results from before.
      failures: messages, one for each input that was not predicted.
      turned: images whose EXIF orientation was not applied.
      num_images: predicted.
      num_videos: predicted.
    """

    def __init__(self, model: PanopticModel, output: outputs.Output, found: list[Input]):
        self.model = model
        self.output = output
        names = inputs.Names(found, [outputs.PREDICTIONS_FILE], outputs.places)
        for path, name in output.names.items():
            names.take(name, inputs.is_video(path))
        self.todo = {one: names.give(one) for one in found if one.path not in output.names}
        self.num_kept = len(found) - len(self.todo)
        self.failures: list[str] = []
        self.turned: list[str] = []
        self.num_images = self.num_videos = 0

    def places(self) -> Iterator[str]:
        """The files and folders that will be replaced, relative to the folder of results."""
        yield outputs.PREDICTIONS_FILE
        for one, name in self.todo.items():
            shown, maps = outputs.places(name, inputs.is_video(one.path))
            yield shown
            if FLAGS.video_frames or not inputs.is_video(one.path):
                yield maps

    def run(self) -> None:
        """Predicts images, as many of one size together as the flags say, and videos."""
        window: list[tuple[Input, np.ndarray]] = []
        size = FLAGS.batch_size * (_BATCHES_AHEAD if FLAGS.batch_size > 1 else 1)
        with Bar(self.todo, desc="Predicting", unit="file") as bar:
            for one in bar:
                try:
                    if inputs.is_video(one.path):
                        self._predict_video(one)
                        continue
                    window.append((one, self._read(one.path)))
                except _FAILURES as error:
                    self._fail(one, error)
                if len(window) == size:
                    self._predict(window)
                    window = []
            self._predict(window)

    def _predict_video(self, one: Input) -> None:
        reader = video.Reader(one.path)
        self.output.add_video(one, self.todo[one], reader, self.model, FLAGS.batch_size, FLAGS.video_frames)
        self.num_videos += 1

    def _read(self, path: str) -> np.ndarray:
        decoded = images.decode_file(path, self.model.value_range)
        if decoded.orientation != exif.UPRIGHT and not FLAGS.upright:
            self.turned.append(path)
        pixels = decoded.turned() if FLAGS.upright else decoded.pixels
        self.model.check_size(path, *pixels.shape[:2])
        return pixels

    def _predict(self, window: list[tuple[Input, np.ndarray]]) -> None:
        try:
            results = self.model.predict([pixels for _, pixels in window], batch_size=FLAGS.batch_size)
        except _FAILURES as error:  # memory does not hold it
            if len(window) == 1:
                self._fail(window[0][0], error)
                return
            for one in window:
                self._predict([one])
            return
        truth = self.output.truth
        for (one, pixels), result in zip(window, results):
            try:
                expected = truth.read(one.path, pixels.shape[:2]) if truth else None
                self.output.add_image(one, self.todo[one], result, expected)
                self.num_images += 1
            except _FAILURES as error:
                self._fail(one, error)

    def _fail(self, one: Input, error: Exception) -> None:
        reason = " ".join(str(error).split()) or type(error).__name__
        message = reason if one.path in reason else f"{one.path}: {reason}"
        self.failures.append(message)
        self.output.add_failure(one.path, message)
        tqdm.tqdm.write(f"not predicted: {message}", file=sys.stderr)
        if FLAGS.fail_fast:
            raise InputError(f"{message}\nStopped, as --fail_fast says; what was predicted stays.")


def _tell(job: _Job, unsaved: InputError | None) -> None:
    """Prints what became of the inputs.

    Raises:
      InputError: some failed, or predictions.json could not be written, as `unsaved` says.
    """
    videos = f", {job.num_videos} videos" if job.num_videos else ""
    kept = f", {job.num_kept} inputs of before" if job.num_kept else ""
    print(f"{job.num_images} images{videos}{kept}: {FLAGS.output_dir}")
    if job.turned:
        print(
            f"note: {len(job.turned)} images have an EXIF orientation, which is not applied: pixels count as stored, "
            f"as in training. The first: {job.turned[0]}. --upright turns them.",
            file=sys.stderr,
        )
    lines = [str(unsaved)] if unsaved else []
    if job.failures:
        lines += [f"{len(job.failures)} of {len(job.todo)} inputs were not predicted:", *job.failures[:_MAX_LISTED]]
        more = len(job.failures) - _MAX_LISTED
        if more > 0:
            lines.append(f"and {more} more, see `inputs` in {outputs.PREDICTIONS_FILE}")
        lines.append("To try them again, add --resume to the command.")
    if lines:
        raise InputError("\n".join(lines)) from unsaved
