# SPDX-License-Identifier: Apache-2.0
"""The folders that Cityscapes' evaluation takes, as the scripts of cityscapesScripts read them.

  panoptic/cityscapes_panoptic_SPLIT.json     for evalPanopticSemanticLabeling; the PNGs NAME.png lie in
  panoptic/cityscapes_panoptic_SPLIT/
  instance/NAME.txt                           for evalInstanceLevelSemanticLabeling, with
  instance/masks/NAME_000.png
  pixel/NAME_labelIds.png                     for evalPixelLevelSemanticLabeling

NAME is CITY_xxxxxx_yyyyyy, and classes are label ids (24 is person).
"""

import json
import os
import re
from collections.abc import Iterable

import numpy as np

from deeplab_axial import files, locks
from deeplab_axial.data.label_space import LabelSpace
from deeplab_axial.errors import InputError
from deeplab_axial.submissions import panoptic_png
from deeplab_axial.submissions.predictions import Prediction

PANOPTIC, INSTANCE, PIXEL = "panoptic", "instance", "pixel"
# Our records have the file's name, those of DeepLab2 its start.
_NAME = re.compile(r"(?:.*/)?([^/]+_\d{6}_\d{6})(?:_leftImg8bit)?(?:\.png)?")
_UNLABELED = 0


def image_name(name: str) -> str:
    """CITY_xxxxxx_yyyyyy of a record's image name.

    Raises:
      InputError: it is no name of Cityscapes.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise InputError(
            f"Images of Cityscapes are named CITY_xxxxxx_yyyyyy_leftImg8bit.png. Received: {name!r}. Name records that "
            "`deeplab-axial convert cityscapes` or DeepLab2 made."
        )
    return match[1]


def check_label_space(space: LabelSpace, official: LabelSpace) -> None:
    """Refuses classes that the server would take for others.

    Args:
      space: of the predictions.
      official: the classes that Cityscapes evaluates, their label ids as category ids.

    Raises:
      InputError: a category id is none of the official ones, or is a thing here and stuff there.
    """
    known = {c.category_id: c.is_thing for c in official.classes}
    wrong = [f"{c.name} ({c.category_id})" for c in space.classes if known.get(c.category_id) != c.is_thing]
    if wrong:
        raise InputError(
            "The category_id of each class must be the label id of a class that Cityscapes evaluates (7 is road, 24 is "
            f"person), things being things. Received: {', '.join(wrong[:8])}{', ...' if len(wrong) > 8 else ''} of "
            f"{space.name!r}. Correct the config's section label_space, or the dataset.json of the records."
        )


def write(folder: str, predictions: Iterable[Prediction], space: LabelSpace, split: str) -> int:
    """Writes the three kinds of files; the folder appears when it is complete.

    Args:
      folder: must not exist or be empty.
      predictions: of all images.
      space: of the predictions, see `check_label_space`.
      split: in the name of the panoptic JSON, "test" or "val".

    Returns:
      The number of images.

    Raises:
      InputError: the folder is in use or cannot be written, or an image has another name or comes twice.
    """
    check_output(folder)
    folder = os.path.abspath(folder)
    try:
        with locks.partial_folder(folder, "submit") as partial:
            root = os.path.join(partial, "submission")  # the temporary folder itself is closed to other users
            title = f"cityscapes_panoptic_{split}"
            annotations: dict[str, dict] = {}
            for kind in (PANOPTIC, INSTANCE, PIXEL):
                os.makedirs(os.path.join(root, kind))
            for prediction in predictions:
                name = image_name(prediction.name)
                if name in annotations:
                    raise InputError(f"Image {prediction.name!r} is twice in the records. Convert the split again.")
                annotations[name] = _write_panoptic(os.path.join(root, PANOPTIC, title), name, prediction, space)
                _write_instances(os.path.join(root, INSTANCE), name, prediction, space)
                _write_pixels(os.path.join(root, PIXEL), name, prediction, space)
            content = json.dumps({"annotations": list(annotations.values())})
            files.write_atomically(os.path.join(root, PANOPTIC, f"{title}.json"), content)
            if os.path.isdir(folder):
                os.rmdir(folder)
            os.replace(root, folder)
    except OSError as error:
        raise InputError(f"--output_dir={folder} cannot be written ({error}). Free or change the place.") from error
    return len(annotations)


def check_output(folder: str) -> None:
    """Refuses a folder that is in use, and makes those above it.

    Raises:
      InputError: it is not empty, or cannot be made.
    """
    try:
        os.makedirs(os.path.dirname(os.path.abspath(folder)), exist_ok=True)
        in_use = os.path.exists(folder) and bool(os.listdir(folder))
    except OSError as error:
        raise InputError(f"--output_dir={folder} cannot be written ({error}). Name another folder.") from error
    if in_use:
        raise InputError(f"--output_dir={folder} is not empty. Name a new folder, or remove this one first.")


def _write_panoptic(folder: str, name: str, prediction: Prediction, space: LabelSpace) -> dict:
    png, segments = panoptic_png.encode(prediction.panoptic, space)
    files.write_atomically(os.path.join(folder, f"{name}.png"), png)
    return {"image_id": name, "file_name": f"{name}.png", "segments_info": segments}


def _write_instances(folder: str, name: str, prediction: Prediction, space: LabelSpace) -> None:
    """One line "masks/NAME_000.png labelID confidence" for each instance."""
    lines = []
    for i, (panoptic_id, score) in enumerate(zip(prediction.instance_ids.tolist(), prediction.instance_scores)):
        mask = f"masks/{name.replace(' ', '-')}_{i:03d}.png"  # the lines are split at spaces
        files.write_atomically(
            os.path.join(folder, mask), panoptic_png.to_png(np.uint8(255) * (prediction.panoptic == panoptic_id))
        )
        label_id = space.by_id[panoptic_id // space.label_divisor].category_id
        lines.append(f"{mask} {label_id} {score:.9g}\n")  # nine digits give the float32 back
    files.write_atomically(os.path.join(folder, f"{name}.txt"), "".join(lines))


def _write_pixels(folder: str, name: str, prediction: Prediction, space: LabelSpace) -> None:
    table = np.full(max(space.num_classes, space.ignore_label + 1), _UNLABELED, np.uint8)
    for label in space.classes:
        table[label.id] = label.category_id
    png = panoptic_png.to_png(table[prediction.semantic])
    files.write_atomically(os.path.join(folder, f"{name}_labelIds.png"), png)
