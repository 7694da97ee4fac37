# SPDX-License-Identifier: Apache-2.0
"""What an evaluation keeps for the report: one file in the model's folder."""

import dataclasses
import io
import json
import os
import zipfile
from typing import Any, TypedDict

import numpy as np
from PIL import Image

from deeplab_axial import files, json_files
from deeplab_axial.data import image_bytes, records
from deeplab_axial.data.label_space import LabelSpace
from deeplab_axial.errors import InputError
from deeplab_axial.report import stored

DETAILS_FILE = "report_data.zip"
# A prediction matches above this IoU: Kirillov et al., "Panoptic Segmentation", 2019.
MATCH_IOU = 0.5
_FORMAT = 1
_MAIN = "details.json"
_JPEG_QUALITY = 88
_LARGEST = 2**30  # bytes of the archive
_LONGEST_SIDE = 8192  # pixels; `recorder` keeps smaller ones


class _Form(TypedDict, total=False):
    """What tells whether this release knows the rest."""

    format: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Picture:
    """An image that was kept, shrunk to h x w.

    Attributes:
      name: of the image.
      kinds: why it was kept: "worst", "best" and "sample", one or more.
      image: uint8 [h, w, 3], RGB.
      truth: int32 [h, w], panoptic ids.
      prediction: int32 [h, w], panoptic ids.
      heatmap: uint8 [h, w], scores of centres times 255; None if the network has no instance heads.
      offsets: uint8 [h, w, 3], offsets of predicted things as `contact_sheet.offset_colors` draws them; None likewise.
      longest_offset: length of the strongest colour, pixels of the network's input; None likewise.
    """

    name: str
    kinds: tuple[str, ...]
    image: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray
    heatmap: np.ndarray | None = None
    offsets: np.ndarray | None = None
    longest_offset: float | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Details:
    """One evaluation, as far as the report tells it.

    Attributes:
      metrics: of the evaluation, with "step"; see `training.evaluation_metrics`.
      facts: what to know about the run, in order.
      config: the experiment, in text format.
      label_space: the classes.
      images: {"name", "pq", "sq", "rq", "tp", "fp", "fn", "miou"} of each image, in order.
      confusion: [N, N + 1] int64, pixels by class of ground truth and of prediction, both in the order of the label
        space's classes; the last column is void. Void pixels of the ground truth are left out.
      instance_classes: [I] int, class ids of the things in the ground truth, crowd left out.
      instance_areas: [I] int, their pixels, at the size on disk.
      instance_ious: [I] float, IoU with their best prediction of the same class, 0 without any.
      pictures: the worst, the best, and a sample that depends on nothing but the images' names.
    """

    metrics: dict
    facts: dict[str, str]
    config: str
    label_space: LabelSpace
    images: list[dict]
    confusion: np.ndarray
    instance_classes: np.ndarray
    instance_areas: np.ndarray
    instance_ious: np.ndarray
    pictures: list[Picture]


def write(details: Details, model_dir: str | os.PathLike) -> None:
    """Writes DETAILS_FILE, which readers see complete or not at all; it holds JSON, JPEG and PNG files."""
    content = {
        "format": _FORMAT,
        **{name: getattr(details, name) for name in ("metrics", "facts", "config", "images")},
        "label_space": details.label_space.to_dict(),
        "confusion": details.confusion.tolist(),
        "instances": {
            "class_id": details.instance_classes.tolist(),
            "area": details.instance_areas.tolist(),
            "iou": [round(float(iou), 5) for iou in details.instance_ious],
        },
        "pictures": [
            {"name": p.name, "kinds": list(p.kinds), "longest_offset": p.longest_offset} for p in details.pictures
        ],
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(_MAIN, json.dumps(content, indent=1 if len(details.images) < 100 else None))
        for number, picture in enumerate(details.pictures):
            for name, encoded in _encoded(picture).items():
                archive.writestr(f"pictures/{number:02}/{name}", encoded)
    files.write_atomically(os.path.join(model_dir, DETAILS_FILE), buffer.getvalue())


def read(model_dir: str | os.PathLike) -> Details:
    """Reads DETAILS_FILE of a model's folder.

    Raises:
      InputError: the folder or the file is not there, or it is damaged or of another release.
    """
    path = os.path.join(model_dir, DETAILS_FILE)
    remedy = "Evaluate the checkpoint: deeplab-axial train --mode=eval --config_file=CONFIG --model_dir=" + str(
        model_dir
    )
    if not files.is_folder(model_dir):
        raise InputError(f"There is no folder {str(model_dir)!r}. Name the model_dir of a run that was evaluated.")
    if not files.exists(path):
        raise InputError(f"{str(model_dir)!r} holds no {DETAILS_FILE}, which evaluations write. {remedy}")
    try:
        with zipfile.ZipFile(io.BytesIO(json_files.read_bytes(path, remedy, _LARGEST))) as archive:
            main, name = _member(archive, _MAIN), f"{path}, {_MAIN},"
            form = json_files.parse(main, _Form, name, remedy).get("format")
            if form != _FORMAT:
                raise InputError(f"{path!r} must be of format {_FORMAT}. Received: {form!r:.40}. {remedy}")
            return _decode(json_files.parse(main, stored.Evaluation, name, remedy), archive)
    except InputError:
        raise
    except Exception as error:  # zipfile, its decompressors and Pillow raise many kinds
        raise InputError(f"{path!r} is damaged ({type(error).__name__}: {error}). {remedy}") from error


def _decode(content: stored.Evaluation, archive: zipfile.ZipFile) -> Details:
    return Details(
        metrics=content.metrics,
        facts=content.facts,
        config=content.config,
        label_space=content.label_space,
        images=content.images,
        confusion=np.array(content.confusion, np.int64),
        instance_classes=np.array(content.instances["class_id"], np.int64),
        instance_areas=np.array(content.instances["area"], np.int64),
        instance_ious=np.array(content.instances["iou"], np.float64),
        pictures=[
            _picture(entry, number, archive, content.label_space) for number, entry in enumerate(content.pictures)
        ],
    )


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """The content of a file in the archive; a ValueError if it would be huge."""
    size = archive.getinfo(name).file_size
    if size > json_files.LARGEST:
        raise ValueError(f"{name} must have at most {json_files.LARGEST:,} bytes. Received: {size:,}")
    return archive.read(name)


def _encoded(picture: Picture) -> dict[str, bytes]:
    """File names and contents."""
    encoded = {
        "image.jpg": encode(picture.image, "JPEG", quality=_JPEG_QUALITY),
        "truth.png": records.encode_panoptic_png(picture.truth),
        "prediction.png": records.encode_panoptic_png(picture.prediction),
    }
    if picture.heatmap is not None:
        encoded["heatmap.png"] = encode(picture.heatmap, "PNG")
        encoded["offsets.jpg"] = encode(picture.offsets, "JPEG", quality=_JPEG_QUALITY)
    return encoded


def _picture(entry: stored.Picture, number: int, archive: zipfile.ZipFile, space: LabelSpace) -> Picture:
    def load(name):
        return _member(archive, f"pictures/{number:02}/{name}")

    image = decode(load("image.jpg"))
    maps = {}
    for name in ("truth", "prediction"):
        try:
            maps[name] = records.decode_panoptic(load(f"{name}.png"), records.PNG, *image.shape[:2])
        except InputError as error:  # which names no file of ours
            raise ValueError(f"{name}.png of picture {number}: {error}") from error
    if entry.longest_offset is not None:
        maps["heatmap"], maps["offsets"] = decode(load("heatmap.png")), decode(load("offsets.jpg"))
    for name, values in {"image": image, **maps}.items():
        expected = image.shape[:2] if name in ("truth", "prediction", "heatmap") else (*image.shape[:2], 3)
        if values.shape != expected:
            raise ValueError(f"{name} of picture {number} must have shape {expected}. Received: {values.shape}")
    for name in ("truth", "prediction"):
        unknown = set(np.unique(maps[name] // space.label_divisor).tolist()) - {*space.by_id, space.ignore_label}
        if unknown:
            raise ValueError(f"{name} of picture {number} must be of known classes. Received: {min(unknown)}")
    return Picture(entry.name, entry.kinds, image, longest_offset=entry.longest_offset, **maps)


def encode(image: np.ndarray, form: str, **options) -> bytes:
    """uint8 [H, W, 3] or [H, W] as a file of a format that Pillow knows."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format=form, **options)
    return buffer.getvalue()


def decode(content: bytes) -> np.ndarray:
    """The inverse of `encode`, up to what the format loses."""
    with image_bytes.opened(content) as image:
        if max(image.size) > _LONGEST_SIDE:
            raise ValueError(f"A picture must have at most {_LONGEST_SIDE} pixels a side. Received: {image.size}")
        return np.asarray(image)
