# SPDX-License-Identifier: Apache-2.0
"""Records: round trips, and clear errors for what cannot be encoded or decoded."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from deeplab_axial.data import records
from deeplab_axial.errors import InputError


def _map(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**24, (height, width), dtype=np.int32)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 1000))
def test_panoptic_png_round_trip(height, width, seed):
    panoptic = _map(height, width, seed)
    panoptic.flat[0] = records.MAX_PANOPTIC_ID
    encoded = records.encode_panoptic_png(panoptic)
    assert records.detect_format(encoded) == records.PNG
    decoded = records.decode_panoptic(encoded, records.PNG, height, width)
    assert decoded.dtype == np.int32
    np.testing.assert_array_equal(decoded, panoptic)


@pytest.mark.parametrize("bad", [np.array([[-1]]), np.array([[2**24]]), np.zeros([2]), np.zeros([2, 2], np.float32)])
def test_panoptic_png_refuses_what_it_cannot_hold(bad):
    with pytest.raises(ValueError, match="Received"):
        records.encode_panoptic_png(bad)


def test_raw_is_little_endian_int32_row_by_row():
    encoded = bytes([1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0])
    assert records.detect_format(encoded) == records.RAW
    np.testing.assert_array_equal(records.decode_panoptic(encoded, records.RAW, 1, 3), [[1, 256, 65536]])


def test_tf_decodes_both_formats_like_numpy_in_one_pipeline():
    panoptic = _map(5, 7)
    encoded = [records.encode_panoptic_png(panoptic), panoptic.astype("<i4").tobytes()]
    dataset = tf.data.Dataset.from_tensor_slices((encoded, [records.PNG, records.RAW]))
    dataset = dataset.map(lambda data, name: records.decode_panoptic_tf(data, name, tf.constant(5, tf.int64), 7))
    assert dataset.element_spec == tf.TensorSpec([None, None], tf.int32)
    decoded = list(dataset.as_numpy_iterator())
    assert len(decoded) == 2
    for one in decoded:
        np.testing.assert_array_equal(one, panoptic)
    np.testing.assert_array_equal(records.decode_panoptic_tf(encoded[0], records.PNG, 5, 7), panoptic)


@pytest.mark.parametrize("encoding", [records.PNG, records.RAW, "bmp"])
def test_decoding_refuses_wrong_sizes_and_formats(encoding):
    panoptic = _map(5, 7)
    encoded = panoptic.tobytes() if encoding == records.RAW else records.encode_panoptic_png(panoptic)
    height, width = (5, 8) if encoding == records.RAW else (7, 5)  # a PNG of as many pixels is wrong all the same
    with pytest.raises(InputError, match="Received"):
        records.decode_panoptic(encoded, encoding, height, width)
    with pytest.raises(tf.errors.InvalidArgumentError):
        records.decode_panoptic_tf(encoded, encoding, height, width)
    dataset = tf.data.Dataset.from_tensors(encoded).map(
        lambda x: records.decode_panoptic_tf(x, encoding, height, width)
    )
    with pytest.raises(tf.errors.InvalidArgumentError):
        next(iter(dataset))


def test_decoding_refuses_a_broken_png():
    with pytest.raises(InputError, match="not a readable PNG"):
        records.decode_panoptic(records.encode_panoptic_png(_map(50, 70))[:200], records.PNG, 50, 70)


def test_example_round_trip_and_keys():
    panoptic = _map(4, 6)
    serialized = records.encode_example(b"image", "jpeg", "é.jpg", 4, 6, panoptic, [300, 7], [300, 9, 7], [12, -1, 3])
    keys = set(tf.train.Example.FromString(serialized).features.feature)
    assert keys == {
        "image/encoded",
        "image/filename",
        "image/format",
        "image/height",
        "image/width",
        "image/channels",
        "image/segmentation/class/encoded",
        "image/segmentation/class/format",
        "image/segmentation/crowd_ids",
        "image/segmentation/segment_ids",
        "image/segmentation/segment_areas",
    }
    parsed = records.parse_example(tf.constant(serialized))
    assert parsed[records.ENCODED].numpy() == b"image"
    assert parsed[records.FILENAME].numpy().decode() == "é.jpg"
    assert (parsed[records.HEIGHT], parsed[records.WIDTH]) == (4, 6)
    assert parsed[records.CROWD_IDS].numpy().tolist() == [300, 7]
    assert parsed[records.SEGMENT_IDS].numpy().tolist() == [300, 9, 7]
    assert parsed[records.SEGMENT_AREAS].numpy().tolist() == [12, -1, 3]
    assert parsed[records.CLASS_LABEL] == -1
    encoding = parsed[records.SEGMENTATION_FORMAT].numpy().decode()
    decoded = records.decode_panoptic(parsed[records.SEGMENTATION].numpy(), encoding, 4, 6)
    np.testing.assert_array_equal(decoded, panoptic)


def test_example_without_ground_truth():
    parsed = records.parse_example(tf.constant(records.encode_example(b"i", "png", "a", 2, 3, None)))
    assert parsed[records.SEGMENTATION].numpy() == b""
    assert parsed[records.CROWD_IDS].shape == parsed[records.SEGMENT_IDS].shape == [0]


def test_example_with_a_class():
    serialized = records.encode_example(b"i", "png", "a", 2, 3, None, class_label=7, class_text="Ente, grün")
    features = tf.train.Example.FromString(serialized).features.feature
    assert features["image/class/label"].int64_list.value[:] == [7]
    assert features["image/class/text"].bytes_list.value[0].decode() == "Ente, grün"
    assert records.parse_example(tf.constant(serialized))[records.CLASS_LABEL] == 7


def test_a_record_of_deeplab2_is_read():
    panoptic = _map(3, 2)
    feature = {
        "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"i"])),
        "image/height": tf.train.Feature(int64_list=tf.train.Int64List(value=[3])),
        "image/width": tf.train.Feature(int64_list=tf.train.Int64List(value=[2])),
        "image/segmentation/class/encoded": tf.train.Feature(
            bytes_list=tf.train.BytesList(value=[panoptic.astype("<i4").tobytes()])
        ),
        "image/segmentation/class/format": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"raw"])),
    }
    parsed = records.parse_example(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    decoded = records.decode_panoptic_tf(
        parsed[records.SEGMENTATION],
        parsed[records.SEGMENTATION_FORMAT],
        parsed[records.HEIGHT],
        parsed[records.WIDTH],
    )
    np.testing.assert_array_equal(decoded, panoptic)


def test_example_refuses_disagreeing_arguments():
    with pytest.raises(ValueError, match=r"panoptic must be \[height, width\]"):
        records.encode_example(b"", "jpeg", "a", 4, 5, _map(5, 4))
    with pytest.raises(ValueError, match="image_format"):
        records.encode_example(b"", "gif", "a", 4, 5, None)
    with pytest.raises(ValueError, match="segment_areas must be one for each segment"):
        records.encode_example(b"", "jpeg", "a", 4, 5, _map(4, 5), segment_ids=[1])


def test_decoding_refuses_png_headers_of_all_kinds():
    """Pillow answers broken headers with a ValueError, SyntaxError, OSError or a class of its own."""
    encoded = bytearray(records.encode_panoptic_png(_map(5, 7)))
    too_large = b"\x00\x00\xff\xff\x00\x00\xff\xff"  # height and width
    for broken in (encoded[:11] + b"\x05" + encoded[12:], encoded[:16] + too_large + encoded[24:], encoded[:20]):
        with pytest.raises(InputError, match="not a readable PNG"):
            records.decode_panoptic(bytes(broken), records.PNG, 5, 7)
