# SPDX-License-Identifier: Apache-2.0
"""TFRecord files: complete or absent, and counted; clear errors for damaged ones and for full disks."""

import os
import struct

import pytest
import tensorflow as tf

from deeplab_axial.data import tfrecord_files
from deeplab_axial.errors import InputError


def _shard(tmp_path, sizes, name="a.tfrecord"):
    tfrecord_files.write_shard(tmp_path, name, [bytes(n) for n in sizes])
    return tmp_path / name


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


@pytest.mark.parametrize("length", [2**40, 2**62, 2**64 - 1])
def test_a_length_beyond_the_file_never_reaches_tensorflow(tmp_path, length):
    path = _shard(tmp_path, [3])
    header = struct.pack("<Q", length)
    crc = struct.pack("<I", tfrecord_files._masked_crc32c(header))
    path.write_bytes(path.read_bytes() + header + crc + bytes(50))
    for name in (str(path), f"file://{path}"):
        found = tfrecord_files.scan(name)
        assert (found.records, found.bytes) == (1, path.stat().st_size)
        assert f"the record at byte 19 ends at byte {19 + 16 + length}. Received: {found.bytes} bytes." in found.problem
        assert [len(record) for record in tfrecord_files.sound_records(name).as_numpy_iterator()] == [3]
        with pytest.raises(InputError, match="is cut short: the record at byte 19"):
            tfrecord_files.check_shards([name])


def test_what_is_no_regular_file_is_never_opened(tmp_path):
    os.mkfifo(tmp_path / "fifo.tfrecord")
    for path in (tmp_path / "fifo.tfrecord", tmp_path, "/dev/zero"):
        with pytest.raises(InputError, match=r"cannot be read \(.*a (FIFO|folder|device), where a file is expected"):
            tfrecord_files.check_shards([path])


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


class _FullDisk:
    """A writer whose disk takes one record."""

    fails_at = "write"

    def __init__(self, path):
        self.count = 0
        open(path, "wb").close()

    def write(self, record):
        self.count += 1
        if self.fails_at == "write" and self.count > 1:
            raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    def close(self):
        if self.fails_at == "close":
            raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")


@pytest.mark.parametrize("fails_at", ["write", "close"])
def test_a_full_disk_leaves_no_half_shard(tmp_path, monkeypatch, fails_at):
    monkeypatch.setattr(tf.io, "TFRecordWriter", _FullDisk)
    monkeypatch.setattr(_FullDisk, "fails_at", fails_at)
    with pytest.raises(tfrecord_files.WriteError, match=r"a\.tfrecord cannot be written \(No space left.*Make room"):
        tfrecord_files.write_shard(tmp_path, "a.tfrecord", [b"one", b"two"])
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_examples_is_not_taken_for_one_of_the_disk(tmp_path):
    def broken():
        yield b"one"
        raise OSError("of the reader")

    with pytest.raises(OSError, match="of the reader") as error:
        tfrecord_files.write_shard(tmp_path, "a.tfrecord", broken())
    assert not isinstance(error.value, InputError)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(tfrecord_files.WriteError, match=r"gone.a\.tfrecord cannot be written"):
        tfrecord_files.write_shard(tmp_path / "gone", "a.tfrecord", [b"one"])
    with pytest.raises(tfrecord_files.WriteError, match=r"gone.a\.json cannot be written"):
        tfrecord_files.write_text(tmp_path / "gone" / "a.json", "text")


def test_text_is_replaced_as_a_whole(tmp_path):
    for text in ("first", "zweitens: ü"):
        tfrecord_files.write_text(tmp_path / "a.json", text)
        assert (tmp_path / "a.json").read_text(encoding="utf-8") == text
    assert [f.name for f in tmp_path.iterdir()] == ["a.json"]
