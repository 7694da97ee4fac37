# SPDX-License-Identifier: Apache-2.0
"""TFRecord files: written complete or not at all, and counted without reading the data.

Every path may be anything that `tf.io.gfile` takes, as "gs://...".
"""

import contextlib
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import tensorflow as tf

from deeplab_axial.errors import InputError

# A record: length (uint64), checksum of the length (uint32), data, checksum of the data (uint32), all little-endian.
_HEADER = struct.Struct("<QI")
_FOOTER_BYTES = 4


class Shard(NamedTuple):
    """One TFRecord file.

    Attributes:
      file: name inside the data set's folder.
      records: how many images it holds.
      bytes: its size.
    """

    file: str
    records: int
    bytes: int


class WriteError(InputError):
    """A file cannot be written: the disk is full, or the folder is read-only or gone."""


@contextlib.contextmanager
def _complete_or_absent(path: str) -> Iterator[str]:
    """Yields the name to write under; the file gets its own name at the end, or leaves nothing behind."""
    partial = f"{path}.partial"  # in the same folder, since renaming is atomic inside one file system only
    try:
        yield partial
        with _writing(path):
            tf.io.gfile.rename(partial, path, overwrite=True)
    except BaseException:
        if tf.io.gfile.exists(partial):
            tf.io.gfile.remove(partial)
        raise


@contextlib.contextmanager
def _writing(path: str) -> Iterator[None]:
    try:
        yield
    except (tf.errors.OpError, OSError) as error:
        raise WriteError(f"{path} cannot be written ({error}). Make room, or name another folder.") from error


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text file that is complete or absent.

    Raises:
      WriteError: the file cannot be written.
    """
    path = os.fspath(path)
    with _complete_or_absent(path) as partial, _writing(path), tf.io.gfile.GFile(partial, "w") as file:
        file.write(text)


def write_shard(folder: str | os.PathLike, file: str, examples: Iterable[bytes]) -> Shard:
    """Writes a TFRecord file that is complete or absent.

    Args:
      folder: an existing folder.
      file: name of the file in it.
      examples: the records; taken one after the other, and an exception from them leaves no file behind.

    Returns:
      What was written.

    Raises:
      WriteError: the file cannot be written.
    """
    path = os.path.join(folder, file)
    count = 0
    with _complete_or_absent(path) as partial:
        with _writing(path):
            writer = tf.io.TFRecordWriter(partial)
        try:
            for example in examples:  # outside of `_writing`: what goes wrong in here is not the folder's fault
                with _writing(path):
                    writer.write(example)
                count += 1
        finally:
            with _writing(path):
                writer.close()
        size = tf.io.gfile.stat(partial).length
    return Shard(file, count, int(size))


def _crc32c_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)  # the Castagnoli polynomial, bits reversed
        table.append(value)
    return tuple(table)


_CRC32C_TABLE = _crc32c_table()


def _masked_crc32c(data: bytes) -> int:
    """The checksum of TFRecord files: crc32c, rotated right by 15 bits, plus a constant."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC32C_TABLE[(crc ^ byte) & 255]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _count_records(path: str) -> int:
    # GFile fills a large buffer after each seek and so reads most of the file; a plain local file reads 12 bytes.
    opened = tf.io.gfile.GFile(path, "rb") if "://" in path else open(path, "rb", buffering=0)  # noqa: SIM115
    with opened as file:
        size = tf.io.gfile.stat(path).length
        offset, count = 0, 0
        while offset < size:
            file.seek(offset)
            header = file.read(_HEADER.size)
            remedy = "Run `deeplab-axial convert` again, or copy the file again."
            if len(header) < _HEADER.size:
                raise InputError(f"{path} is cut short in a record's header at byte {offset}, of {size}. {remedy}")
            length, crc = _HEADER.unpack(header)
            if _masked_crc32c(header[:8]) != crc:
                raise InputError(
                    f"{path} is no TFRecord file, or damaged: bad record header at byte {offset}. {remedy}"
                )
            end = offset + _HEADER.size + length + _FOOTER_BYTES
            if end > size:
                raise InputError(
                    f"{path} is cut short: the record at byte {offset} ends at byte {end}. "
                    f"Received: {size} bytes. {remedy}"
                )
            offset, count = end, count + 1
    return count


def check_shards(files: Sequence[str | os.PathLike]) -> list[int]:
    """Counts the records of TFRecord files by hopping from header to header, without reading the data.

    Each header's own checksum is verified, so garbage and truncation are found; damage inside the data is found by
    TensorFlow when the record is read.

    Args:
      files: uncompressed TFRecord files.

    Returns:
      The number of records of each file.

    Raises:
      InputError: a file is missing, truncated or not a TFRecord file; names the file and the byte.
    """
    counts = []
    for path in map(os.fspath, files):
        try:
            counts.append(_count_records(path))
        except (tf.errors.OpError, OSError) as error:
            raise InputError(f"{path} cannot be read ({error}). Check the path and its permissions.") from error
    return counts
