# SPDX-License-Identifier: Apache-2.0
"""Records: one image with its panoptic map, as a tf.train.Example.

The feature keys are DeepLab2's, whose files are read, too. Panoptic maps come in two encodings:
"png", which we write (24-bit RGB, panoptic id = R + 256 G + 65536 B), and "raw", which DeepLab2 writes (little-endian
int32, row by row). `image/segmentation/crowd_ids` is ours: official panoptic quality treats crowd by itself. So are
`segment_ids` and `segment_areas`, which keep what the annotation says of its segments for the check of a data set.
"""

import io
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from PIL import Image

from deeplab_axial.data import image_bytes
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
SEGMENT_IDS = "image/segmentation/segment_ids"
SEGMENT_AREAS = "image/segmentation/segment_areas"
CLASS_LABEL = "image/class/label"
CLASS_TEXT = "image/class/text"

PNG = "png"
RAW = "raw"
MAX_PANOPTIC_ID = 2**24 - 1
_PNG_WEIGHTS = (1, 256, 65536)


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
    return encode_png(planes.astype(np.uint8))


def encode_png(pixels: np.ndarray) -> bytes:
    """The PNG of uint8 [H, W, 3]."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def detect_format(encoded: bytes) -> str:
    """PNG or RAW, told from the bytes: read as a raw id, a PNG's signature is above every id that fits a PNG."""
    return PNG if encoded.startswith(image_bytes.PNG_SIGNATURE) else RAW


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
        with image_bytes.opened(encoded) as image:
            found = image.height, image.width
            planes = np.asarray(image.convert("RGB"), np.int32) if found == (height, width) else None
    except image_bytes.UnreadableImage as error:
        raise InputError(f"{SEGMENTATION} is not a readable PNG ({error}). Convert the data set again.") from error
    if planes is None:
        raise InputError(
            f"{SEGMENTATION} must be as large as the image, {height} x {width}. Received: {found[0]} x {found[1]}. "
            "Convert the data set again."
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
        needed = tf.reduce_prod(tf.cast(shape, tf.int64))
        with tf.control_dependencies(image_bytes.size_checks(encoded, needed, wrong_size)):
            png = tf.identity(encoded)
        # Red, green, blue and alpha are the bytes of a little-endian int32 as they lie there: nothing is copied.
        planes = tf.io.decode_png(png, channels=4)  # [h, w, 4]
        return tf.bitwise.bitwise_and(tf.bitcast(planes, tf.int32), MAX_PANOPTIC_ID)

    def from_raw():
        return tf.reshape(tf.io.decode_raw(encoded, tf.int32, little_endian=True), shape)

    wrong_size = f"{SEGMENTATION} must be as large as the image"
    shape = tf.stack([tf.cast(height, tf.int32), tf.cast(width, tf.int32)])
    is_known = tf.reduce_any(tf.equal(encoding, [PNG, RAW]))
    known = tf.debugging.assert_equal(is_known, True, f"{SEGMENTATION_FORMAT} must be {PNG!r} or {RAW!r}")
    with tf.control_dependencies([known]):
        panoptic = tf.cond(tf.equal(encoding, PNG), from_png, from_raw)
    same_size = tf.debugging.assert_equal(tf.shape(panoptic), shape, wrong_size)
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
    segment_ids: Sequence[int] = (),
    segment_areas: Sequence[int] = (),
    class_label: int | None = None,
    class_text: str = "",
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
      segment_ids: panoptic ids of all segments, in the order of the annotation.
      segment_areas: their areas as the annotation says, pixels; -1 where it does not.
      class_label: class id of the whole image; None where there is none.
      class_text: the name of this class.

    Returns:
      A serialised tf.train.Example.
    """
    if image_format not in ("jpeg", "png"):
        raise ValueError(f"image_format must be 'jpeg' or 'png'. Received: {image_format!r}")
    if panoptic is not None and panoptic.shape != (height, width):
        raise ValueError(f"panoptic must be [height, width] = {(height, width)}. Received: {panoptic.shape}")
    if len(segment_areas) != len(segment_ids):
        raise ValueError(f"segment_areas must be one for each segment. Received: {len(segment_areas)}")
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
        features[SEGMENT_IDS] = _int_feature(segment_ids)
        features[SEGMENT_AREAS] = _int_feature(segment_areas)
    if class_label is not None:
        features[CLASS_LABEL] = _int_feature([class_label])
        features[CLASS_TEXT] = _bytes_feature(class_text.encode())
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
      empty without ground truth). int64 []: HEIGHT, WIDTH (pixels). int64 [N]: CROWD_IDS; int64 [M]: SEGMENT_IDS and
      SEGMENT_AREAS (pixels, -1 if not known); all empty in DeepLab2's files. int64 []: CLASS_LABEL, -1 without one.
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
            SEGMENT_IDS: tf.io.FixedLenSequenceFeature([], tf.int64, allow_missing=True),
            SEGMENT_AREAS: tf.io.FixedLenSequenceFeature([], tf.int64, allow_missing=True),
            CLASS_LABEL: tf.io.FixedLenFeature([], tf.int64, -1),
        },
    )
