# SPDX-License-Identifier: Apache-2.0
"""The classes of a model, beside its checkpoints: a checkpoint itself knows no more than their number."""

import json
import os

from deeplab_axial import files, json_files
from deeplab_axial.data.label_space import LabelSpace

FILE_NAME = "label_space.json"


def write(folder: str, space: LabelSpace) -> None:
    """Writes FILE_NAME into a model's folder.

    Raises:
      OSError: it cannot be written.
    """
    files.write_atomically(os.path.join(folder, FILE_NAME), json.dumps(space.to_dict(), indent=1))


def read(folder: str) -> LabelSpace | None:
    """The classes that a model's folder tells; None from older folders, which have no FILE_NAME.

    Raises:
      InputError: the file is damaged.
    """
    remedy = "So nothing tells the classes of the model: copy the folder again, or remove the file to go without."
    return json_files.read(os.path.join(folder, FILE_NAME), LabelSpace, remedy)


def read_beside(checkpoint: str) -> LabelSpace | None:
    """Likewise, of the folder that a checkpoint's prefix lies in, or of the folder itself."""
    return read(checkpoint if files.is_folder(checkpoint) else os.path.dirname(checkpoint))
