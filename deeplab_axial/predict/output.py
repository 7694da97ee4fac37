# SPDX-License-Identifier: Apache-2.0
"""The folder that `deeplab-axial predict` leaves: pictures, panoptic maps and predictions.json."""

import contextlib
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Iterator

import numpy as np
import tqdm

from deeplab_axial import files, visualization
from deeplab_axial.data.label_space import LabelSpace
from deeplab_axial.errors import InputError
from deeplab_axial.predict import video
from deeplab_axial.predict.ground_truth import GroundTruth
from deeplab_axial.predict.model import PanopticModel
from deeplab_axial.predict.result import Result

PREDICTIONS_FILE = "predictions.json"
PANOPTIC_FOLDER = "panoptic"


class Output:
    """Writes results; every file is complete or absent.

    Args:
      folder: exists. Its predictions.json, if any, is removed: it would describe maps that are replaced.
      label_space: of the results.
      truth: ground truth to show beside the predictions, or None.
      scores: writes scores behind the names in pictures.

    Raises:
      InputError: a file cannot be written.
    """

    def __init__(self, folder: str, label_space: LabelSpace, truth: GroundTruth | None = None, scores: bool = False):
        self.folder = folder
        self.label_space = label_space
        self.truth = truth
        self.scores = scores
        self._images: list[dict] = []
        self._annotations: list[dict] = []
        with _explain_errors(folder):
            os.makedirs(os.path.join(folder, PANOPTIC_FOLDER), exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                os.remove(os.path.join(folder, PREDICTIONS_FILE))

    def add_image(self, path: str, name: str, result: Result, expected: np.ndarray | None = None) -> None:
        """Writes NAME.png and panoptic/NAME.png.

        Args:
          path: the image.
          name: of its results.
          result: the prediction.
          expected: ground truth [H, W] to show beside it, or None.
        """
        scores = {segment.id: segment.score for segment in result.segments} if self.scores else None
        picture = visualization.triptych(result.image, expected, result.panoptic, self.label_space, scores)
        visualization.save_picture(os.path.join(self.folder, f"{name}.png"), picture)
        planes, segments = result.coco()
        visualization.save_picture(os.path.join(self.folder, PANOPTIC_FOLDER, f"{name}.png"), planes)
        image_id = self.truth.image_id(path) if self.truth else name
        self._describe(image_id, path, f"{name}.png", planes.shape, segments)

    def add_video(
        self, name: str, reader: video.Reader, model: PanopticModel, batch_size: int, keep_frames: bool
    ) -> None:
        """Writes NAME.mp4 and, if wanted, panoptic/NAME/000000.png and so on.

        Args:
          name: of its results.
          reader: the video.
          model: segments each frame by itself.
          batch_size: frames at once.
          keep_frames: whether the maps of the frames are written, too.

        Raises:
          InputError: the video is damaged or cut short; then nothing of it stays.
        """
        panoptic = os.path.join(self.folder, PANOPTIC_FOLDER)
        described: list[tuple] = []
        with _explain_errors(panoptic), tempfile.TemporaryDirectory(prefix=f".{name}.", dir=panoptic) as partial:
            with video.Writer(os.path.join(self.folder, f"{name}.mp4"), reader.fps) as writer:
                for number, result in enumerate(_predict_frames(reader, model, batch_size)):
                    writer.add(result.overlay(self.scores))
                    if keep_frames:
                        file = f"{number:06d}.png"
                        planes, segments = result.coco()
                        visualization.save_picture(os.path.join(partial, "frames", file), planes)
                        described.append(
                            (f"{name}/{number:06d}", reader.path, f"{name}/{file}", planes.shape, segments)
                        )
            if keep_frames:
                final = os.path.join(panoptic, name)
                shutil.rmtree(final, ignore_errors=True)
                os.replace(os.path.join(partial, "frames"), final)
        for entry in described:
            self._describe(*entry)

    def finish(self) -> None:
        """Writes predictions.json, unless there is nothing to tell."""
        if not self._annotations:
            return
        categories = [
            {"id": c.category_id, "name": c.name, "isthing": int(c.is_thing), "color": list(c.color)}
            for c in self.label_space.classes
        ]
        content = {"images": self._images, "annotations": self._annotations, "categories": categories}
        path = os.path.join(self.folder, PREDICTIONS_FILE)
        with _explain_errors(path):
            files.write_atomically(path, json.dumps(content))

    def _describe(self, image_id: int | str, path: str, file: str, shape: tuple, segments: list[dict]) -> None:
        image = {"id": image_id, "file_name": os.path.basename(path), "height": shape[0], "width": shape[1]}
        self._images.append(image)
        self._annotations.append({"image_id": image_id, "file_name": file, "segments_info": segments})


def _predict_frames(reader: video.Reader, model: PanopticModel, batch_size: int) -> Iterator[Result]:
    frames = iter(reader)
    bar = tqdm.tqdm(desc=os.path.basename(reader.path), unit="frame", total=reader.num_frames or None, leave=False)
    with bar:
        while batch := list(itertools.islice(frames, batch_size)):
            yield from model.predict(batch, batch_size=batch_size)
            bar.update(len(batch))


@contextlib.contextmanager
def _explain_errors(path: str) -> Iterator[None]:
    """Turns what a full disk or a missing permission raises inside into an InputError.

    Raises:
      InputError: names the file.
    """
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{error.filename or path} cannot be written ({error.strerror or error}). Make room or name another "
            "--output_dir, and run again: what was written is complete."
        ) from error
