# SPDX-License-Identifier: Apache-2.0
"""The folder that `deeplab-axial predict` leaves: pictures, panoptic maps and predictions.json."""

import contextlib
import itertools
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from deeplab_axial import files, json_files, locks, visualization
from deeplab_axial.data.label_space import LabelSpace
from deeplab_axial.errors import InputError
from deeplab_axial.json_files import FileText
from deeplab_axial.predict import video
from deeplab_axial.predict.ground_truth import GroundTruth
from deeplab_axial.predict.inputs import Input, is_video
from deeplab_axial.predict.model import PanopticModel
from deeplab_axial.predict.result import Result
from deeplab_axial.progress import Bar

PREDICTIONS_FILE = "predictions.json"
PANOPTIC_FOLDER = "panoptic"
# predictions.json is written again at most every so many seconds, and takes at most this share of the time.
_SAVE_SECONDS = 2.0
_SAVE_SHARE = 0.05
# Bytes of predictions.json; far more than a million images need.
_LARGEST = 2**32


class _Image(TypedDict):
    id: int | str
    file_name: str


class _Annotation(TypedDict):
    image_id: int | str
    file_name: str
    segments_info: list[dict[str, Any]]


class _NameOrReason(TypedDict, total=False):
    name: str
    failed: FileText


class _InputEntry(_NameOrReason):
    path: FileText


class _Info(TypedDict):
    settings: dict[str, FileText | bool | int | float | None]


class _Predictions(TypedDict):
    info: _Info
    inputs: list[_InputEntry]
    images: list[_Image]
    annotations: list[_Annotation]


def places(name: str, video: bool) -> tuple[str, str]:
    """What an input of this name becomes, relative to the folder: the picture or video, and the map or their folder."""
    if video:
        return f"{name}.mp4", os.path.join(PANOPTIC_FOLDER, name)
    return f"{name}.png", os.path.join(PANOPTIC_FOLDER, f"{name}.png")


class Output:
    """Writes results; every file is complete or absent, predictions.json included.

    predictions.json is written at the start, from time to time and by `save`. Besides COCO's entries it holds, under
    `inputs`, the path of each input and either the `name` of its results or why it `failed`; under `info`, settings.

    Args:
      folder: exists.
      label_space: of the results.
      truth: ground truth to show beside the predictions, or None.
      scores: writes scores behind the names in pictures.
      settings: what results depend on, for `info`.

    Attributes:
      names: path of each input that has results -> their name.

    Raises:
      InputError: a file cannot be written.
    """

    def __init__(
        self,
        folder: str,
        label_space: LabelSpace,
        truth: GroundTruth | None = None,
        scores: bool = False,
        settings: Mapping[str, str | bool | int | float | None] | None = None,
    ):
        self.folder = folder
        self.label_space = label_space
        self.truth = truth
        self.scores = scores
        self.settings = dict(settings or {})
        self.names: dict[str, str] = {}
        self._failures: dict[str, str] = {}
        # Path of the input -> its entries for `images` and `annotations`.
        self._entries: dict[str, list[tuple[dict, dict]]] = {}
        self._ids: set[int | str] = set()
        self._position: dict[str, int] = {}
        self._saved = self._save_took = 0.0

    def keep(self) -> None:
        """Takes over the results that predictions.json lists, as far as their files are there; before `start`.

        Raises:
          InputError: predictions.json is damaged or is of other settings.
        """
        path = os.path.join(self.folder, PREDICTIONS_FILE)
        remedy = "Leave --resume out to predict all anew, or name another --output_dir."
        content = json_files.read(path, _Predictions, remedy, _LARGEST)
        if content is None:
            return
        settings = content["info"]["settings"]
        images = {image["id"]: image for image in content["images"]}
        entries: dict[str, list[tuple[dict, dict]]] = {}
        for i, annotation in enumerate(content["annotations"]):
            file, image = annotation["file_name"], images.get(annotation["image_id"])
            if image is None:
                raise InputError(f"{path} is damaged (annotations[{i}].image_id: must be the id of an image). {remedy}")
            entries.setdefault(file, []).append((image, annotation))
            entries.setdefault(os.path.dirname(file), []).append((image, annotation))
        done = {one["path"]: one["name"] for one in content["inputs"] if "name" in one}
        outside = [name for name in done.values() if os.path.isabs(name) or ".." in name.split(os.sep)]
        if outside:
            raise InputError(
                f"{path} is damaged (inputs: names must lie in the folder. Received: {outside[0]!a}). {remedy}"
            )
        if settings != self.settings:
            differing = sorted(k for k in {*settings, *self.settings} if settings.get(k) != self.settings.get(k))
            said = "; ".join(f"{k}: {settings.get(k)!r}, now {self.settings.get(k)!r}" for k in differing)
            raise InputError(f"--resume goes on with the settings of before. {path} has others: {said}. {remedy}")
        for source, name in done.items():
            found = entries.get(name if is_video(source) else f"{name}.png", [])
            expected = [os.path.join(PANOPTIC_FOLDER, annotation["file_name"]) for _, annotation in found]
            expected.append(places(name, is_video(source))[0])
            if all(os.path.isfile(os.path.join(self.folder, place)) for place in expected):
                self.names[source], self._entries[source] = name, found
                self._ids.update(image["id"] for image, _ in found)

    def start(self, inputs: Sequence[Input] = ()) -> None:
        """Prepares the folder, and writes predictions.json.

        Args:
          inputs: in the order that predictions.json shall have; kept results of others come first.
        """
        self._position = {one.path: i for i, one in enumerate(inputs)}
        with _explain_errors(self.folder):
            os.makedirs(os.path.join(self.folder, PANOPTIC_FOLDER), exist_ok=True)
        self.save()

    def add_image(self, one: Input, name: str, result: Result, expected: np.ndarray | None = None) -> None:
        """Writes NAME.png and panoptic/NAME.png.

        Args:
          one: the image.
          name: of its results.
          result: the prediction.
          expected: ground truth [H, W] to show beside it, or None.

        Raises:
          InputError: they cannot be written, then neither is there; or the ground truth's id was given already.
        """
        image_id = self.truth.image_id(one.path) if self.truth else name
        if image_id in self._ids:
            raise InputError(f"{one.path}: another image has the ground truth's id {image_id} already. Rename one.")
        scores = {segment.id: segment.score for segment in result.segments} if self.scores else None
        picture = visualization.triptych(result.image, expected, result.panoptic, self.label_space, scores)
        planes, segments = result.coco()
        paths = [os.path.join(self.folder, place) for place in places(name, video=False)]
        try:
            for path, array in zip(paths, (picture, planes)):
                visualization.save_picture(path, array)
        except InputError:
            for path in paths:
                files.remove(path)
            raise
        self._add(one.path, name, [self._describe(image_id, one, f"{name}.png", planes.shape, segments)])

    def add_video(
        self, one: Input, name: str, reader: video.Reader, model: PanopticModel, batch_size: int, keep_frames: bool
    ) -> None:
        """Writes NAME.mp4 and, if wanted, panoptic/NAME/000000.png and so on.

        Args:
          one: the video.
          name: of its results.
          reader: of the video.
          model: segments each frame by itself.
          batch_size: frames at once.
          keep_frames: whether the maps of the frames are written, too.

        Raises:
          InputError: the video is damaged or cut short; then nothing of it stays, nor of a run before.
        """
        path, final = (os.path.join(self.folder, place) for place in places(name, video=True))
        entries: list[tuple[dict, dict]] = []
        with contextlib.ExitStack() as stack:
            stack.enter_context(_explain_errors(path))
            partial = stack.enter_context(locks.partial_folder(final, "predict")) if keep_frames else ""
            frames = os.path.join(partial, "frames")
            try:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with video.Writer(path, reader.fps) as writer:
                    for number, result in enumerate(_predict_frames(reader, model, batch_size)):
                        writer.add(result.overlay(self.scores))
                        if keep_frames:
                            planes, segments = result.coco()
                            visualization.save_picture(os.path.join(frames, f"{number:06d}.png"), planes)
                            frame = f"{name}/{number:06d}"
                            entries.append(self._describe(frame, one, f"{frame}.png", planes.shape, segments))
                if keep_frames:
                    files.remove(final)
                    os.replace(frames, final)
            except Exception:
                with contextlib.suppress(OSError):
                    if files.is_marked(path):
                        files.remove(path)
                    if keep_frames:
                        files.remove(final)
                raise
        self._add(one.path, name, entries)

    def add_failure(self, path: str, reason: str) -> None:
        """Notes that an input has no results, and why."""
        self._failures[path] = reason
        self._save_sometimes()

    def save(self) -> None:
        """Writes predictions.json; readers see it as it was or as it is.

        Raises:
          InputError: it cannot be written.
        """
        paths = sorted([*self.names, *self._failures], key=lambda path: self._position.get(path, -1))
        entries = [entry for path in paths for entry in self._entries.get(path, ())]
        content = {
            "info": {"description": files.MARK, "settings": self.settings},
            "inputs": [
                {
                    "path": path,
                    **({"name": self.names[path]} if path in self.names else {"failed": self._failures[path]}),
                }
                for path in paths
            ],
            "images": [image for image, _ in entries],
            "annotations": [annotation for _, annotation in entries],
            "categories": [
                {"id": c.category_id, "name": c.name, "isthing": int(c.is_thing), "color": list(c.color)}
                for c in self.label_space.classes
            ],
        }
        path = os.path.join(self.folder, PREDICTIONS_FILE)
        begun = time.monotonic()
        try:
            with _explain_errors(path):
                files.write_atomically(path, json.dumps(content))
        finally:
            self._saved = time.monotonic()
            self._save_took = self._saved - begun

    def _add(self, path: str, name: str, entries: list[tuple[dict, dict]]) -> None:
        self._failures.pop(path, None)
        self.names[path] = name
        self._entries[path] = entries
        self._ids.update(image["id"] for image, _ in entries)
        self._save_sometimes()

    def _save_sometimes(self) -> None:
        if time.monotonic() - self._saved < max(_SAVE_SECONDS, self._save_took / _SAVE_SHARE):
            return
        with contextlib.suppress(InputError):  # what was written before stays, and the last `save` tells
            self.save()

    def _describe(self, image_id: int | str, one: Input, file: str, shape: tuple, segments: list[dict]):
        """The entries of an image or frame for `images` and `annotations`."""
        name = os.fsencode(one.relative).decode(errors="replace")
        image = {"id": image_id, "file_name": name, "height": shape[0], "width": shape[1]}
        return image, {"image_id": image_id, "file_name": file, "segments_info": segments}


def _predict_frames(reader: video.Reader, model: PanopticModel, batch_size: int) -> Iterator[Result]:
    frames = iter(reader)
    bar = Bar(desc=os.path.basename(reader.path), unit="frame", total=reader.num_frames or None, leave=False)
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
            "--output_dir, and run again with --resume: what was written is complete."
        ) from error
