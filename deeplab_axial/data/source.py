# SPDX-License-Identifier: Apache-2.0
"""The record files of a split, found and checked."""

import dataclasses
import os
from collections.abc import Sequence

import tensorflow as tf

from deeplab_axial.data import dataset_info, tfrecord_files
from deeplab_axial.data.label_space import SHIPPED_NAMES, LabelSpace
from deeplab_axial.errors import InputError


@dataclasses.dataclass(frozen=True)
class Source:
    """The record files of a split, checked.

    Attributes:
      files: TFRecord files, sorted.
      num_records: records in all of them.
      info: what `dataset.json` beside them says; without one, the classes that `open` was given.
    """

    files: tuple[str, ...]
    num_records: int
    info: dataset_info.DatasetInfo

    @classmethod
    def open(
        cls,
        patterns: Sequence[str],
        label_space: LabelSpace | None = None,
        dataset: str = "",
        allow_damage: bool = False,
    ) -> "Source":
        """Finds and checks the files.

        Args:
          patterns: file names or globs.
          label_space: the classes of records that come without `dataset.json`.
          dataset: what the config calls the data set, for the error where nothing tells the classes.
          allow_damage: takes damaged files, too, and counts no records in them; for what looks for the damage.

        Raises:
          InputError: nothing matches, a file is truncated or no TFRecord file, or nothing tells the classes.
        """
        files: list[str] = []
        for pattern in patterns:
            found = sorted(tf.io.gfile.glob(pattern))
            if not found:
                raise InputError(
                    f"file_pattern {pattern!r} matches no file (working directory {os.getcwd()}). Correct the pattern, "
                    "or make the files with `deeplab-axial convert`."
                )
            files.extend(found)
        counts = _counts_of_sound_files(files) if allow_damage else tfrecord_files.check_shards(files)
        if not sum(counts) and not allow_damage:
            raise InputError(f"The files of {list(patterns)} hold no records. Run `deeplab-axial convert` again.")
        return cls(tuple(files), sum(counts), _dataset_info(label_space, dataset, files, counts))


def _counts_of_sound_files(files: Sequence[str]) -> list[int]:
    """The number of records of each file, 0 for damaged ones."""
    counts = []
    for path in files:
        try:
            counts += tfrecord_files.check_shards([path])
        except InputError:
            counts.append(0)
    return counts


def _dataset_info(
    label_space: LabelSpace | None, dataset: str, files: Sequence[str], counts: Sequence[int]
) -> dataset_info.DatasetInfo:
    """What `dataset.json` says; without one, what the files tell, with the given classes."""
    folder = os.path.dirname(files[0])
    path = os.path.join(folder, dataset_info.DATASET_FILE)
    if tf.io.gfile.exists(path):
        return dataset_info.DatasetInfo.read(folder)
    if label_space is None:
        raise InputError(
            f"{path} cannot be read (there is no such file), so nothing tells the classes. Run `deeplab-axial convert` "
            "to make the data set; for records that DeepLab2 has made, set the field dataset to a known name, or add a "
            f"label_space section to the config. Received: {dataset!r}. Known names: {', '.join(SHIPPED_NAMES)}."
        )
    sizes = [int(tf.io.gfile.stat(file).length) for file in files]
    shards = tuple(tfrecord_files.Shard(os.path.basename(file), *rest) for file, *rest in zip(files, counts, sizes))
    return dataset_info.DatasetInfo(label_space, sum(counts), shards, max_height=0, max_width=0)
