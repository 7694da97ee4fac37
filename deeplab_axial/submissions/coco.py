# SPDX-License-Identifier: Apache-2.0
"""The zip file that COCO's panoptic evaluation server takes (https://cocodataset.org/#upload, #format-results)."""

import dataclasses
import json
import os
import re
import zipfile
from collections.abc import Iterable

from deeplab_axial import files
from deeplab_axial.data.converters import panoptic_json
from deeplab_axial.data.converters.panoptic_entries import integer, text
from deeplab_axial.data.label_space import LabelSpace
from deeplab_axial.errors import InputError
from deeplab_axial.submissions import panoptic_png
from deeplab_axial.submissions.predictions import Prediction

_LIST_NAME = re.compile(r"(?:panoptic_)?(?:image_info_)?(.+)\.json")
_NUMBER = re.compile("[0-9]{1,18}")
_EXTENSION = re.compile(r"\.(jpe?g|png)$", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class ImageEntry:
    """An image of the list: its id, and its (height, width) in pixels."""

    id: int | str
    size: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class ImageList:
    """The images that a submission must have.

    Attributes:
      path: the file.
      subset: what the file's name says, as "test-dev2017" of image_info_test-dev2017.json.
      entries: by file name without extension; records of DeepLab2 have none.
    """

    path: str
    subset: str
    entries: dict[str, ImageEntry]

    @classmethod
    def read(cls, path: str) -> "ImageList":
        """Reads COCO's image_info_*.json or panoptic_*.json.

        Raises:
          InputError: the file cannot be read, or is no such list.
        """
        remedy = "Name COCO's image_info_test-dev2017.json, or the JSON of the split."
        try:
            content = panoptic_json.parse(path)
            images = content.get("images") if isinstance(content, dict) else None
            if not isinstance(images, list):
                raise InputError(
                    f"{path} must be a JSON with a list `images` of id, file_name, height and width. Received: "
                    f"{type(content).__name__} without one. {remedy}"
                )
            panoptic_json.normalise({"images": images})
            entries = [_entry(image, f"{path}, images[{i}]") for i, image in enumerate(images)]
        except InputError as error:
            raise InputError(f"--image_list={error}") from error
        table = dict(entries)
        if not table or len(table) < len(entries) or len({entry.id for entry in table.values()}) < len(entries):
            raise InputError(
                f"--image_list={path} must name images, each once, with an id of its own. Received: {len(entries)} "
                f"entries with {len(table)} names. {remedy}"
            )
        match = _LIST_NAME.fullmatch(os.path.basename(path))
        if match is None:
            raise InputError(f"--image_list={path} must be named after its images and end in .json. {remedy}")
        return cls(path, match[1], table)

    def find(self, name: str) -> ImageEntry:
        """The entry of an image.

        Raises:
          InputError: the list lacks it.
        """
        entry = self.entries.get(_key(name))
        if entry is None:
            raise InputError(
                f"Image {name!r} of the records is not in --image_list={self.path}. Name the list of this split."
            )
        return entry

    def check_count(self, num_images: int) -> None:
        """Refuses records that are more or fewer than the list's images, before anything is predicted.

        Raises:
          InputError: says both numbers.
        """
        if num_images != len(self.entries):
            raise InputError(
                f"The records must hold exactly the images of --image_list={self.path}, {len(self.entries)}. Received: "
                f"{num_images}. Name the list of this split, or convert the split as a whole."
            )


def _entry(image: dict, where: str) -> tuple[str, ImageEntry]:
    """The key and entry of one of the list's images; raises InputError for a faulty one."""
    name = text(image, "file_name", where)
    is_text = isinstance(image.get("id"), str)
    image_id = text(image, "id", where) if is_text else integer(image, "id", where, 0)
    if is_text and _NUMBER.fullmatch(image_id):  # COCO's server knows numbers alone
        image_id = int(image_id)
    return _key(name), ImageEntry(image_id, (integer(image, "height", where, 1), integer(image, "width", where, 1)))


def _key(name: str) -> str:
    return _EXTENSION.sub("", name)


def write(path: str, predictions: Iterable[Prediction], images: ImageList, space: LabelSpace, algorithm: str) -> int:
    """Writes a submission: panoptic_SUBSET_ALGORITHM_results.json and the PNGs in the folder of the same name.

    The file appears when it is complete, was read again and agrees with the image list.

    Args:
      path: the zip file; it must not exist.
      predictions: of all images.
      images: the list.
      space: of the predictions; category ids are COCO's.
      algorithm: the name in the file names; letters, digits, dots and hyphens.

    Returns:
      The number of images.

    Raises:
      InputError: the file exists or cannot be written, or records and list differ in an image or its size.
    """
    check_output(path)
    title = f"panoptic_{images.subset}_{algorithm}_results"
    try:
        with files.replacing(path) as temporary:
            with zipfile.ZipFile(temporary, "w") as archive:  # stored: PNGs are compressed already
                annotations: dict[int | str, dict] = {}
                for prediction in predictions:
                    entry = _find(prediction, images)
                    if entry.id in annotations:
                        raise InputError(f"Image {prediction.name!r} is twice in the records. Convert the split again.")
                    png, segments = panoptic_png.encode(prediction.panoptic, space)
                    file_name = f"{_key(prediction.name)}.png"
                    archive.writestr(f"{title}/{file_name}", png)
                    annotations[entry.id] = {"image_id": entry.id, "file_name": file_name, "segments_info": segments}
                content = json.dumps({"annotations": list(annotations.values())})
                archive.writestr(f"{title}.json", content, compress_type=zipfile.ZIP_DEFLATED)
            _check(temporary, title, images)
    except OSError as error:
        raise InputError(f"--output={path} cannot be written ({error}). Free or change the place.") from error
    return len(annotations)


def check_output(path: str) -> None:
    """Refuses a place for the zip file where it cannot go.

    Raises:
      InputError: it exists, its name does not end in .zip, or its folder cannot be written to.
    """
    if not path.endswith(".zip"):
        raise InputError(f"--output must end in .zip. Received: {path}. Pass --output=submission.zip.")
    if os.path.exists(path):
        raise InputError(f"--output={path} exists. Name a new file, or remove this one first.")
    folder = os.path.dirname(path) or "."
    try:
        os.makedirs(folder, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError("no permission to write")
    except OSError as error:
        raise InputError(f"--output={path} cannot be written ({error}). Name another place.") from error


def _find(prediction: Prediction, images: ImageList) -> ImageEntry:
    """The entry of a predicted image; raises InputError where there is none or its size is another."""
    entry = images.find(prediction.name)
    height, width = prediction.panoptic.shape
    if (height, width) != entry.size:
        raise InputError(
            f"Image {prediction.name!r} must be as large as --image_list={images.path} says, {entry.size[0]} x "
            f"{entry.size[1]} (height x width). Received: {height} x {width}. Name the list of this split, or convert "
            "the original images."
        )
    return entry


def _check(path: str, title: str, images: ImageList) -> None:
    """Reads a submission again and compares it with the list.

    Raises:
      InputError: images are missing, or a PNG is not what the JSON says of it.
    """
    sizes = {entry.id: entry.size for entry in images.entries.values()}
    with zipfile.ZipFile(path) as archive:
        annotations = json.loads(archive.read(f"{title}.json"))["annotations"]
        missing = sorted(set(sizes) - {annotation["image_id"] for annotation in annotations}, key=str)
        if missing or len(annotations) != len(sizes):
            raise InputError(
                f"The records must hold every image of --image_list={images.path} once. Received: {len(annotations)} "
                f"of {len(sizes)}; missing are the ids {missing[:5]}. Convert the split as a whole."
            )
        for annotation in annotations:
            member = f"{title}/{annotation['file_name']}"
            wrong = panoptic_png.problem(
                archive.read(member), annotation["segments_info"], sizes[annotation["image_id"]]
            )
            if wrong is not None:
                raise InputError(f"{member} was not written as it should be: {wrong}. Check the disk and run again.")
