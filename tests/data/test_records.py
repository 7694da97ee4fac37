# SPDX-License-Identifier: Apache-2.0
"""TFRecords and dataset.json: round trips, and clear errors for damaged files."""

import json

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from deeplab_axial.data import dataset_info, records, tfrecord_files
from deeplab_axial.data.label_space import LabelClass, LabelSpace
from deeplab_axial.errors import InputError


def _map(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**24, (height, width), dtype=np.int32)


def _shard(tmp_path, sizes, name="a.tfrecord"):
    tfrecord_files.write_shard(tmp_path, name, [bytes(n) for n in sizes])
    return tmp_path / name


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
    serialized = records.encode_example(b"image", "jpeg", "é.jpg", 4, 6, panoptic, [300, 7])
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
    }
    parsed = records.parse_example(tf.constant(serialized))
    assert parsed[records.ENCODED].numpy() == b"image"
    assert parsed[records.FILENAME].numpy().decode() == "é.jpg"
    assert (parsed[records.HEIGHT], parsed[records.WIDTH]) == (4, 6)
    assert parsed[records.CROWD_IDS].numpy().tolist() == [300, 7]
    encoding = parsed[records.SEGMENTATION_FORMAT].numpy().decode()
    decoded = records.decode_panoptic(parsed[records.SEGMENTATION].numpy(), encoding, 4, 6)
    np.testing.assert_array_equal(decoded, panoptic)


def test_example_without_ground_truth():
    parsed = records.parse_example(tf.constant(records.encode_example(b"i", "png", "a", 2, 3, None)))
    assert parsed[records.SEGMENTATION].numpy() == b""
    assert parsed[records.CROWD_IDS].shape == [0]


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


def test_check_shards_counts_what_tensorflow_reads(tmp_path):
    files = [_shard(tmp_path, sizes, f"{i}.tfrecord") for i, sizes in enumerate([[3, 0, 100_000], [], [1] * 40])]
    assert tfrecord_files.check_shards(files) == [3, 0, 40]
    assert [sum(1 for _ in tf.data.TFRecordDataset(str(f))) for f in files] == [3, 0, 40]
    assert tfrecord_files.check_shards([f"file://{files[0]}"]) == [3]


@pytest.mark.parametrize("keep", [1, 11, 12, 15, 18, 30, 46])
def test_check_shards_names_file_and_byte_of_a_truncation(tmp_path, keep):
    path = _shard(tmp_path, [3, 12])  # records of 19 and 28 bytes
    assert path.stat().st_size == 47
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=rf"a\.tfrecord is cut short.* byte {0 if keep < 19 else 19}[ ,]"):
        tfrecord_files.check_shards([path])


def test_check_shards_refuses_garbage_and_missing_files(tmp_path):
    path = _shard(tmp_path, [3, 12])
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match="bad record header at byte 19"):
        tfrecord_files.check_shards([path])
    path.write_bytes(b"this is no TFRecord file")
    with pytest.raises(InputError, match="bad record header at byte 0"):
        tfrecord_files.check_shards([path])
    with pytest.raises(InputError, match=r"gone\.tfrecord cannot be read"):
        tfrecord_files.check_shards([tmp_path / "gone.tfrecord"])


def test_a_shard_is_complete_or_absent(tmp_path):
    def broken():
        yield b"one"
        assert not (tmp_path / "a.tfrecord").exists()
        raise InputError("stop")

    with pytest.raises(InputError, match="stop"):
        tfrecord_files.write_shard(tmp_path, "a.tfrecord", broken())
    assert list(tmp_path.iterdir()) == []
    shard = tfrecord_files.write_shard(tmp_path, "a.tfrecord", [b"one", b"two"])
    assert shard == ("a.tfrecord", 2, (tmp_path / "a.tfrecord").stat().st_size)
    assert [f.name for f in tmp_path.iterdir()] == ["a.tfrecord"]


@pytest.fixture
def info():
    space = LabelSpace("toy", (LabelClass(1, "ball", True, (1, 2, 3), 17),), 2, 0, 256)
    return dataset_info.DatasetInfo(
        space, 5, (tfrecord_files.Shard("a", 3, 90), tfrecord_files.Shard("b", 2, 60)), 48, 64, {0: 7, 1: 9}
    )


def test_dataset_info_round_trip(tmp_path, info):
    info.write(tmp_path)
    assert dataset_info.DatasetInfo.read(tmp_path) == info
    assert [f.name for f in tmp_path.iterdir()] == ["dataset.json"]


@pytest.mark.parametrize("damage", ["{", "[]", "{}", "shards", "num_images"])
def test_a_damaged_dataset_info_names_the_remedy(tmp_path, info, damage):
    info.write(tmp_path)
    path = tmp_path / "dataset.json"
    content = json.loads(path.read_text())
    if damage in content:
        content[damage] = 6
        damage = json.dumps(content)
    path.write_text(damage)
    with pytest.raises(InputError, match=r"dataset\.json is damaged.*deeplab-axial convert"):
        dataset_info.DatasetInfo.read(tmp_path)


def test_a_missing_dataset_info_names_the_remedy(tmp_path):
    with pytest.raises(InputError, match=r"dataset\.json cannot be read.*deeplab-axial convert"):
        dataset_info.DatasetInfo.read(tmp_path)
