# SPDX-License-Identifier: Apache-2.0
"""Folders of records against their `dataset.json`, and several of them as one data set."""

import dataclasses
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence

from deeplab_axial.data.dataset_info import DATASET_FILE, DatasetInfo
from deeplab_axial.data.label_space import LabelSpace, differences, moved, tell
from deeplab_axial.data.tfrecord_files import Shard
from deeplab_axial.errors import InputError

AGAIN = "Copy the folder again, or run `deeplab-axial convert` again."
# Numbers of label spaces that must agree, since one pipeline reads all folders.
_NUMBERS = ("label_divisor", "ignore_label", "num_classes")


@dataclasses.dataclass(frozen=True)
class Folder:
    """The record files of one folder.

    Attributes:
      path: of the folder.
      shards: name of a file -> what was found in it; None for a damaged one.
      info: what `dataset.json` beside them says, else what the files and the config tell.
      has_info: whether there is a `dataset.json`.
    """

    path: str
    shards: Mapping[str, Shard | None]
    info: DatasetInfo
    has_info: bool

    @property
    def json(self) -> str:
        """Path of `dataset.json`."""
        return os.path.join(self.path, DATASET_FILE)

    @property
    def place(self) -> str:
        """What messages call it: `dataset.json`, or the folder if there is none."""
        return self.json if self.has_info else self.path


def contradictions(folder: Folder, existing: Sequence[str], allow_subset: bool = False) -> Iterator[str]:
    """What of `dataset.json` does not hold: files that are missing, of another size or listed nowhere.

    Args:
      folder: of which some files may be damaged; they are told elsewhere.
      existing: names of all files that are in the folder.
      allow_subset: whether files that are listed may be left out.

    Yields:
      A sentence each, with the remedy; nothing without `dataset.json`.
    """
    if not folder.has_info:
        return
    listed = {shard.file: shard for shard in folder.info.shards}
    for name, shard in listed.items():
        found = folder.shards.get(name)
        if found is not None and found.records != shard.records:
            yield f"it lists {name} with {shard.records} records. Received: {found.records}. {AGAIN}"
        elif found is not None and found.bytes != shard.bytes:
            yield f"it lists {name} with {shard.bytes} bytes. Received: {found.bytes}. {AGAIN}"
    for name in folder.shards:
        if name not in listed:
            yield (
                f"it does not list {name}, which file_pattern names: it is left over from another conversion. Remove "
                "the file, or name those that are listed."
            )
    missing = [shard for name, shard in listed.items() if name not in folder.shards]
    if missing and not allow_subset:
        yield _tell_missing(missing, listed, existing)


def _tell_missing(missing: Sequence[Shard], listed: Mapping[str, Shard], existing: Sequence[str]) -> str:
    images = sum(shard.records for shard in listed.values())
    left = images - sum(shard.records for shard in missing)
    parts = f"Received: {len(listed) - len(missing)} of {len(listed)} files, {left} of {images} images."
    subset = (
        "If a part is what you want, set allow_subset: true beside file_pattern: every result then says how many of "
        "the images it covers."
    )
    gone = [shard.file for shard in missing if shard.file not in existing]
    if gone:
        more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
        return f"it lists {gone[0]}{more}, which {'are' if more else 'is'} not there. {parts} {AGAIN} {subset}"
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    return f"it lists {missing[0].file}{more}, which file_pattern does not name. {parts} Name all files. {subset}"


def check_agreement(folders: Sequence[Folder], renames: bool = False) -> None:
    """Refuses folders that cannot be read as one data set.

    Args:
      folders: at least one.
      renames: whether the config names the classes, so that a class may have other names in other folders.

    Raises:
      InputError: tasks, numbers of the label space, the classes that ids stand for or value ranges differ; names both
        folders.
    """
    check_ranges("The folders of file_pattern", folders, folders)
    first, *others = folders
    for other in others:
        rule = "The folders of file_pattern must hold records of one label space."
        both = f"{first.place} and {other.place}"
        if first.info.task != other.info.task:
            raise InputError(
                f"{rule} Received: {both}, of the tasks {first.info.task!r} and {other.info.task!r}. Name one kind."
            )
        spaces = first.info.label_space, other.info.label_space
        found = moved(*spaces) if renames else differences(*spaces)
        if found:
            told = tell(found, "in the first", "in the second")
            raise InputError(f"{rule} Received: {both}, which differ: {told}. {one_label_space('both')}")
        for field in _NUMBERS:
            numbers = [getattr(space, field) for space in spaces]
            if numbers[0] != numbers[1] and not (renames and field == "num_classes"):
                raise InputError(
                    f"{rule} Received: {both}, of {field} {numbers[0]} and {numbers[1]}. {one_label_space('both')}"
                )


def check_ranges(name: str, folders: Sequence[Folder], others: Sequence[Folder]) -> None:
    """Refuses folders whose images of 16 bits became 8 in other ways, so that equal pixels differ.

    Args:
      name: of all of them, in the message.
      folders: some; those without a value range hold images of 8 bits, which go with any.
      others: that they are compared with.

    Raises:
      InputError: names two folders and their ranges.
    """
    with_range = [[one for one in some if one.info.value_range is not None] for some in (folders, others)]
    for one, other in itertools.product(*with_range):
        ranges = [":".join(map(str, folder.info.value_range)) for folder in (one, other)]
        if ranges[0] != ranges[1]:
            raise InputError(
                f"{name} must hold images of 16 bits that were scaled from one value_range. Received: {one.place} and "
                f"{other.place}, of {ranges[0]} and {ranges[1]}. Convert both with one --value_range."
            )


def one_label_space(what: str) -> str:
    """The remedy where `what` numbers classes differently."""
    return (
        f"Convert {what} with one --label_space; its category_id says which category of the annotation each class is."
    )


def merge(folders: Sequence[Folder]) -> DatasetInfo:
    """What `dataset.json` would say of all folders together; of one folder what it says.

    Args:
      folders: that agree, see `check_agreement`. Names of shards are paths if there are several.
    """
    if len(folders) == 1:
        return folders[0].info
    infos = [folder.info for folder in folders]
    shards = [s._replace(file=os.path.join(f.path, s.file)) for f in folders for s in f.info.shards]
    return dataclasses.replace(
        infos[0],
        num_images=sum(info.num_images for info in infos),
        shards=tuple(shards),
        max_height=max(info.max_height for info in infos),
        max_width=max(info.max_width for info in infos),
        class_pixels=_sums([info.class_pixels for info in infos]),
        has_labels=all(info.has_labels for info in infos),
        class_counts=_sums([info.class_counts for info in infos]),
        source_bytes=sum(info.source_bytes for info in infos),
        fingerprint="",
        value_range=next((info.value_range for info in infos if info.value_range is not None), None),
    )


def _sums(counts: Sequence[dict[int, int] | None]) -> dict[int, int] | None:
    """Sums of counts by id; None if one was not counted."""
    if any(count is None for count in counts):
        return None
    return {i: sum(count.get(i, 0) for count in counts) for i in sorted({i for count in counts for i in count})}


def bare_info(space: LabelSpace, shards: Sequence[Shard]) -> DatasetInfo:
    """What files without `dataset.json` tell, with the given classes."""
    return DatasetInfo(space, sum(shard.records for shard in shards), tuple(shards), max_height=0, max_width=0)
