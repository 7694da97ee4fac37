# SPDX-License-Identifier: Apache-2.0
"""Segments images and videos.

  deeplab-axial predict --saved_model=FOLDER --input='photos/*.jpg' --output_dir=FOLDER

For each image the output folder gets the image beside its overlay with class names (NAME.png) and the panoptic map
(panoptic/NAME.png). The maps and predictions.json are predictions in COCO's panoptic format. With ground truth in that
format (--panoptic_json, --panoptic_dir) the picture is image | ground truth | prediction.

A video becomes a video of overlays, NAME.mp4; --video_frames writes the map of each frame, too. Videos need an extra:
pip install 'deeplab-axial[video]'.

An input that does not decode is named, the others go on, and the exit status is 1.
"""

import collections
import os
import sys

import numpy as np
import tqdm
from absl import flags

from deeplab_axial import api
from deeplab_axial.cli import folders
from deeplab_axial.data import exif
from deeplab_axial.errors import InputError
from deeplab_axial.predict import PanopticModel, images, video
from deeplab_axial.predict.ground_truth import GroundTruth
from deeplab_axial.predict.output import Output

FLAGS = flags.FLAGS

flags.DEFINE_string("saved_model", None, "An export of this library, a model folder or a checkpoint.", required=True)
flags.DEFINE_multi_string("input", None, "Images, videos: files, folders or globs. May be repeated.", required=True)
flags.DEFINE_string("output_dir", None, "Folder for pictures and predictions.", required=True)
flags.DEFINE_integer("limit", 0, "Most files to segment; 0 for all.", lower_bound=0)
flags.DEFINE_integer("batch_size", 1, "Images of one size that the network sees at once.", lower_bound=1)
flags.DEFINE_bool("upright", False, "Turn photographs as EXIF says; by default pixels count as stored.")
flags.DEFINE_bool("scores", False, "Write scores behind the names in pictures.")
flags.DEFINE_bool("video_frames", False, "Write the panoptic map of each frame of a video.")
flags.DEFINE_string("panoptic_json", None, "Ground truth in COCO's panoptic format.")
flags.DEFINE_string("panoptic_dir", None, "Folder of the ground truth's PNGs.")

# Images read ahead, in batches: among so many, those of one size are put together.
_BATCHES_AHEAD = 4


def main() -> None:
    """Predicts."""
    folders.refuse_remote(FLAGS.saved_model, "saved_model")
    paths = _find_inputs()
    model = api.load(FLAGS.saved_model)
    truth = None
    if FLAGS.panoptic_json:
        truth = GroundTruth(FLAGS.panoptic_json, FLAGS.panoptic_dir, model.label_space)
        for path in paths:
            truth.image_id(path)
    folders.make(FLAGS.output_dir, "output_dir")
    job = _Job(model, Output(FLAGS.output_dir, model.label_space, truth, FLAGS.scores))
    job.run(paths)
    job.output.finish()
    videos = f", {job.num_videos} videos" if job.num_videos else ""
    print(f"{job.num_images} images{videos}: {FLAGS.output_dir}")
    if job.turned:
        print(
            f"note: {len(job.turned)} images have an EXIF orientation, which is not applied: pixels count as stored, "
            f"as in training. The first: {job.turned[0]}. --upright turns them.",
            file=sys.stderr,
        )
    if job.failures:
        raise InputError(f"{len(job.failures)} of {len(paths)} inputs were not predicted:\n" + "\n".join(job.failures))


def _find_inputs() -> list[str]:
    """The files, checked before anything long is done."""
    if bool(FLAGS.panoptic_json) != bool(FLAGS.panoptic_dir):
        raise InputError("--panoptic_json and --panoptic_dir come together. Give both or neither.")
    if FLAGS.panoptic_json and FLAGS.upright:
        raise InputError("--upright turns images, but ground truth is of pixels as stored. Leave one of them out.")
    paths = images.find_inputs(FLAGS.input)
    paths = paths[: FLAGS.limit] if FLAGS.limit else paths
    repeated = sorted(name for name, count in collections.Counter(map(_name, paths)).items() if count > 1)
    if repeated:
        raise InputError(
            "--input: results are named after their images, so no two images may have the same name. "
            f"Received twice: {', '.join(repeated[:5])}. Predict them into different folders."
        )
    videos = [path for path in paths if images.is_video(path)]
    if videos:
        video.require()
        if FLAGS.panoptic_json:
            raise InputError(
                f"--panoptic_json is ground truth of images. Received: the video {videos[0]}. Leave it out."
            )
    return paths


def _name(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]


class _Job:
    """Predicts file by file; what fails is named and counted.

    Attributes:
      failures: messages, one for each input that was not predicted.
      turned: images whose EXIF orientation was not applied.
      num_images: predicted.
      num_videos: predicted.
    """

    def __init__(self, model: PanopticModel, output: Output):
        self.model = model
        self.output = output
        self.failures: list[str] = []
        self.turned: list[str] = []
        self.num_images = self.num_videos = 0

    def run(self, paths: list[str]) -> None:
        """Predicts images, as many of one size together as the flags say, and videos."""
        window: list[tuple[str, np.ndarray]] = []
        size = FLAGS.batch_size * (_BATCHES_AHEAD if FLAGS.batch_size > 1 else 1)
        with tqdm.tqdm(paths, desc="Predicting", unit="file") as bar:
            for path in bar:
                try:
                    if images.is_video(path):
                        reader = video.Reader(path)
                        self.output.add_video(_name(path), reader, self.model, FLAGS.batch_size, FLAGS.video_frames)
                        self.num_videos += 1
                        continue
                    window.append((path, self._read(path)))
                except InputError as error:
                    self._fail(error)
                if len(window) == size:
                    self._predict(window)
                    window = []
            self._predict(window)

    def _read(self, path: str) -> np.ndarray:
        decoded = images.decode_file(path)
        if decoded.orientation != exif.UPRIGHT and not FLAGS.upright:
            self.turned.append(path)
        pixels = decoded.turned() if FLAGS.upright else decoded.pixels
        self.model.check_size(path, *pixels.shape[:2])
        return pixels

    def _predict(self, window: list[tuple[str, np.ndarray]]) -> None:
        try:
            results = self.model.predict([pixels for _, pixels in window], batch_size=FLAGS.batch_size)
        except InputError as error:  # memory does not hold it
            if len(window) == 1:
                self._fail(InputError(f"{window[0][0]}: {error}"))
                return
            for one in window:
                self._predict([one])
            return
        truth = self.output.truth
        for (path, pixels), result in zip(window, results):
            try:
                expected = truth.read(path, pixels.shape[:2]) if truth else None
            except InputError as error:
                self._fail(error)
                continue
            self.output.add_image(path, _name(path), result, expected)
            self.num_images += 1

    def _fail(self, error: InputError) -> None:
        self.failures.append(str(error))
        tqdm.tqdm.write(f"not predicted: {error}", file=sys.stderr)
