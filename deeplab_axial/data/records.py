# SPDX-License-Identifier: Apache-2.0
"""TFRecord files: one image with its panoptic map a record, and `dataset.json` beside them.

The feature keys are DeepLab2's, so either project reads the other's files. Panoptic maps come in two encodings:
"png", which we write (24-bit RGB, panoptic id = R + 256 G + 65536 B), and "raw", which DeepLab2 writes (little-endian
int32, row by row). `image/segmentation/crowd_ids` is ours: official panoptic quality treats crowd by itself.

Every path may be anything that `tf.io.gfile` takes, as "gs://...".
"""

import dataclasses
import io
import json
import os
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image

from deeplab_axial.data.label_space import LabelSpace
from deeplab_axial.errors import InputError

ENCODED = "image/encoded"
FILENAME = "image/filename"
FORMAT = "image/format"
HEIGHT = "image/height"
WIDTH = "image/width"
CHANNELS = "image/channels"
SEGMENTATION = "image/segmentation/class/encoded"
SEGMENTATION_FORMAT = "image/segmentation/class/format"
CROWD_IDS = "image/segmentation/crowd_ids"

PNG = "png"
RAW = "raw"
MAX_PANOPTIC_ID = 2**24 - 1
DATASET_FILE = "dataset.json"
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_WEIGHTS = (1, 256, 65536)
# A record: length (uint64), checksum of the length (uint32), data, checksum of the data (uint32), all little-endian.
_HEADER = struct.Struct("<QI")
_FOOTER_BYTES = 4


def encode_panoptic_png(panoptic: np.ndarray) -> bytes:
    """A panoptic map as PNG file.

    Args:
      panoptic: integers [H, W], 0 to MAX_PANOPTIC_ID.

    Returns:
      The PNG's bytes.
    """
    if panoptic.ndim != 2 or panoptic.dtype.kind not in "iu":
        raise ValueError(f"panoptic must be integers [H, W]. Received: {panoptic.dtype} {panoptic.shape}")
    low, high = int(panoptic.min(initial=0)), int(panoptic.max(initial=0))
    if low < 0 or high > MAX_PANOPTIC_ID:
        raise ValueError(f"Panoptic ids must lie in [0, {MAX_PANOPTIC_ID}] to fit a PNG. Received: {low} to {high}")
    planes = np.stack([panoptic & 255, panoptic >> 8 & 255, panoptic >> 16], axis=-1)
    buffer = io.BytesIO()
    Image.fromarray(planes.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def detect_format(encoded: bytes) -> str:
    """PNG or RAW, told from the bytes: read as a raw id, a PNG's signature is above every id that fits a PNG."""
    return PNG if encoded.startswith(_PNG_SIGNATURE) else RAW


def decode_panoptic(encoded: bytes, encoding: str, height: int, width: int) -> np.ndarray:
    """Decodes a panoptic map on the host.

    Args:
      encoded: value of SEGMENTATION.
      encoding: PNG or RAW, the value of SEGMENTATION_FORMAT.
      height: height of the map, pixels.
      width: width of the map, pixels.

    Returns:
      int32 [height, width].

    Raises:
      InputError: the bytes are no such map.
    """
    if encoding not in (PNG, RAW):
        raise InputError(f"{SEGMENTATION_FORMAT} must be {PNG!r} or {RAW!r}. Received: {encoding!r}. Convert again.")
    if encoding == RAW:
        if len(encoded) != 4 * height * width:
            raise InputError(
                f"{SEGMENTATION} must hold {height} x {width} int32 = {4 * height * width} bytes. "
                f"Received: {len(encoded)} bytes. Convert the data set again."
            )
        return np.frombuffer(encoded, "<i4").reshape(height, width).astype(np.int32)
    try:
        image = Image.open(io.BytesIO(encoded))
        planes = np.asarray(image.convert("RGB"), np.int32)
    except (OSError, SyntaxError) as error:  # Pillow raises SyntaxError for some broken PNGs
        raise InputError(f"{SEGMENTATION} is not a readable PNG ({error}). Convert the data set again.") from error
    if planes.shape[:2] != (height, width):
        raise InputError(
            f"{SEGMENTATION} must be as large as the image, {height} x {width}. Received: {planes.shape[0]} x "
            f"{planes.shape[1]}. Convert the data set again."
        )
    return planes @ np.array(_PNG_WEIGHTS, np.int32)


def decode_panoptic_tf(encoded: tf.Tensor, encoding: tf.Tensor, height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
    """`decode_panoptic` inside tf.data.

    Args:
      encoded: string [], value of SEGMENTATION.
      encoding: string [], PNG or RAW.
      height: integer [], pixels.
      width: integer [], pixels.

    Returns:
      int32 [height, width]; static shape [None, None].
    """

    def from_png():
        planes = tf.cast(tf.io.decode_png(encoded, channels=3), tf.int32)  # [h, w, 3]
        return tf.reduce_sum(planes * tf.constant(_PNG_WEIGHTS, tf.int32), axis=-1)

    def from_raw():
        return tf.reshape(tf.io.decode_raw(encoded, tf.int32, little_endian=True), shape)

    shape = tf.stack([tf.cast(height, tf.int32), tf.cast(width, tf.int32)])
    is_known = tf.reduce_any(tf.equal(encoding, [PNG, RAW]))
    known = tf.debugging.assert_equal(is_known, True, f"{SEGMENTATION_FORMAT} must be {PNG!r} or {RAW!r}")
    with tf.control_dependencies([known]):
        panoptic = tf.cond(tf.equal(encoding, PNG), from_png, from_raw)
    same_size = tf.debugging.assert_equal(tf.shape(panoptic), shape, f"{SEGMENTATION} must be as large as the image")
    with tf.control_dependencies([same_size]):
        return tf.ensure_shape(panoptic, [None, None])


def encode_example(
    image_bytes: bytes,
    image_format: str,
    filename: str,
    height: int,
    width: int,
    panoptic: np.ndarray | None,
    crowd_ids: Sequence[int] = (),
) -> bytes:
    """One record.

    Args:
      image_bytes: the image file, unchanged.
      image_format: "jpeg" or "png".
      filename: the image's name in its data set.
      height: height of the image, pixels.
      width: width of the image, pixels.
      panoptic: panoptic ids, integers [height, width]; None for images without ground truth.
      crowd_ids: panoptic ids of the crowd segments, in the order of the annotation.

    Returns:
      A serialised tf.train.Example.
    """
    if image_format not in ("jpeg", "png"):
        raise ValueError(f"image_format must be 'jpeg' or 'png'. Received: {image_format!r}")
    if panoptic is not None and panoptic.shape != (height, width):
        raise ValueError(f"panoptic must be [height, width] = {(height, width)}. Received: {panoptic.shape}")
    features = {
        ENCODED: _bytes_feature(image_bytes),
        FILENAME: _bytes_feature(filename.encode()),
        FORMAT: _bytes_feature(image_format.encode()),
        HEIGHT: _int_feature([height]),
        WIDTH: _int_feature([width]),
        CHANNELS: _int_feature([3]),
    }
    if panoptic is not None:
        features[SEGMENTATION] = _bytes_feature(encode_panoptic_png(panoptic))
        features[SEGMENTATION_FORMAT] = _bytes_feature(PNG.encode())
        features[CROWD_IDS] = _int_feature(crowd_ids)
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString(deterministic=True)


def _bytes_feature(value: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def _int_feature(values: Sequence[int]) -> tf.train.Feature:
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def parse_example(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
    """Parses one record inside tf.data.

    Args:
      serialized: string [].

    Returns:
      The features under their keys. Strings []: ENCODED, FILENAME, SEGMENTATION and SEGMENTATION_FORMAT (the last two
      empty without ground truth). int64 []: HEIGHT, WIDTH (pixels). int64 [N]: CROWD_IDS, empty in DeepLab2's files.
    """
    return tf.io.parse_single_example(
        serialized,
        {
            ENCODED: tf.io.FixedLenFeature([], tf.string),
            FILENAME: tf.io.FixedLenFeature([], tf.string, ""),
            HEIGHT: tf.io.FixedLenFeature([], tf.int64),
            WIDTH: tf.io.FixedLenFeature([], tf.int64),
            SEGMENTATION: tf.io.FixedLenFeature([], tf.string, ""),
            SEGMENTATION_FORMAT: tf.io.FixedLenFeature([], tf.string, ""),
            CROWD_IDS: tf.io.FixedLenSequenceFeature([], tf.int64, allow_missing=True),
        },
    )


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


def write_shard(folder: str | os.PathLike, file: str, examples: Iterable[bytes]) -> Shard:
    """Writes a TFRecord file that is complete or absent.

    Args:
      folder: an existing folder.
      file: name of the file in it.
      examples: the records; taken one after the other, and an exception from them leaves no file behind.

    Returns:
      What was written.
    """
    path = os.path.join(folder, file)
    partial = f"{path}.partial"  # in the same folder, since renaming is atomic inside one file system only
    count = 0
    try:
        with tf.io.TFRecordWriter(partial) as writer:
            for example in examples:
                writer.write(example)
                count += 1
        size = tf.io.gfile.stat(partial).length
        tf.io.gfile.rename(partial, path, overwrite=True)
    except BaseException:
        if tf.io.gfile.exists(partial):
            tf.io.gfile.remove(partial)
        raise
    return Shard(file, count, int(size))


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """What `dataset.json` says about a converted data set.

    Attributes:
      label_space: its classes.
      num_images: images in all shards.
      shards: the files.
      max_height: height of the tallest image, pixels; 0 if not known.
      max_width: width of the widest image, pixels; 0 if not known.
      class_pixels: pixels of each class id over all images, void under the ignore label; None if not counted.
    """

    label_space: LabelSpace
    num_images: int
    shards: tuple[Shard, ...]
    max_height: int
    max_width: int
    class_pixels: dict[int, int] | None = None

    def write(self, folder: str | os.PathLike) -> None:
        """Writes `dataset.json` into the folder; the file is complete or absent."""
        content = {
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)},
            "label_space": self.label_space.to_dict(),
            "shards": [shard._asdict() for shard in self.shards],
        }
        path = os.path.join(folder, DATASET_FILE)
        with tf.io.gfile.GFile(f"{path}.partial", "w") as file:
            file.write(json.dumps(content, indent=1))
        tf.io.gfile.rename(f"{path}.partial", path, overwrite=True)

    @classmethod
    def read(cls, folder: str | os.PathLike) -> "DatasetInfo":
        """Reads `dataset.json` from the folder.

        Raises:
          InputError: the file is missing or not what `write` writes.
        """
        path = os.path.join(folder, DATASET_FILE)
        remedy = "Run `deeplab-axial convert` to make the data set."
        try:
            with tf.io.gfile.GFile(path) as file:
                content = json.loads(file.read())
            pixels = content["class_pixels"]
            info = cls(
                label_space=LabelSpace.from_dict(content["label_space"]),
                num_images=int(content["num_images"]),
                shards=tuple(Shard(s["file"], int(s["records"]), int(s["bytes"])) for s in content["shards"]),
                max_height=int(content["max_height"]),
                max_width=int(content["max_width"]),
                class_pixels=None if pixels is None else {int(k): int(v) for k, v in pixels.items()},
            )
        except (tf.errors.OpError, OSError) as error:
            raise InputError(f"{path} cannot be read ({error}). {remedy}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is damaged ({type(error).__name__}: {error}). {remedy}") from error
        if info.num_images != sum(shard.records for shard in info.shards):
            raise InputError(f"{path} is damaged: num_images is not the sum of its shards' records. {remedy}")
        return info


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
