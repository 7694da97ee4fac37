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
from deeplab_axial.files import check_regular
from deeplab_axial.json_files import Count

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
    records: Count
    bytes: Count


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


class Scan(NamedTuple):
    """What the headers of a TFRecord file tell.

    Attributes:
      records: sound headers from the start on; what lies behind them must not be read.
      bytes: size of the file; 0 if it cannot be read.
      problem: why it is not sound, an error message that names file and byte; None for a sound one.
    """

    records: int
    bytes: int
    problem: str | None


def scan(path: str | os.PathLike) -> Scan:
    """Counts the records of an uncompressed TFRecord file by hopping from header to header, without reading the data.

    Each header's own checksum is verified, and its length compared with the file: TensorFlow asks for as much memory as
    a header says, and crashes if there is not so much. So garbage and truncation are found here; damage inside the data
    is found by TensorFlow when the record is read.
    """
    path = os.fspath(path)
    try:
        check_regular(path)
        size = int(tf.io.gfile.stat(path).length)
        # GFile fills a large buffer after each seek and so reads most of the file; a plain local file reads 12 bytes.
        with tf.io.gfile.GFile(path, "rb") if "://" in path else open(path, "rb", buffering=0) as file:
            return _hop(path, file, size)
    except (tf.errors.OpError, OSError) as error:
        return Scan(0, 0, f"{path} cannot be read ({error}). Check the path and its permissions.")


def _hop(path: str, file, size: int) -> Scan:
    remedy = "Run `deeplab-axial convert` again, or copy the file again."
    offset, count = 0, 0
    while offset < size:
        file.seek(offset)
        header = file.read(_HEADER.size)
        if len(header) < _HEADER.size:
            problem = f"{path} is cut short in a record's header at byte {offset}, of {size}. {remedy}"
            return Scan(count, size, problem)
        length, crc = _HEADER.unpack(header)
        if _masked_crc32c(header[:8]) != crc:
            problem = f"{path} is no TFRecord file, or damaged: bad record header at byte {offset}. {remedy}"
            return Scan(count, size, problem)
        end = offset + _HEADER.size + length + _FOOTER_BYTES
        if end > size:
            problem = (
                f"{path} is cut short: the record at byte {offset} ends at byte {end}. Received: {size} bytes. {remedy}"
            )
            return Scan(count, size, problem)
        offset, count = end, count + 1
    return Scan(count, size, None)


def sound_records(path: str | os.PathLike) -> tf.data.Dataset:
    """The records, string [], of a file that may be damaged, as far as its headers are sound; see `scan`."""
    return tf.data.TFRecordDataset(os.fspath(path)).take(scan(path).records)


def check_shards(files: Sequence[str | os.PathLike]) -> list[int]:
    """Counts the records of uncompressed TFRecord files; see `scan`.

    Returns:
      The number of records of each file.

    Raises:
      InputError: a file is missing, truncated or not a TFRecord file; names the file and the byte.
    """
    counts = []
    for path in files:
        found = scan(path)
        if found.problem is not None:
            raise InputError(found.problem)
        counts.append(found.records)
    return counts
