# SPDX-License-Identifier: Apache-2.0
"""What is opened at all, and how large it may be."""

import io
import pathlib
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab_axial.data import image_bytes, records

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
FAULTS = pathlib.Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "faults"
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(pwned) print\n"


def _encode(kind, pixels=PIXELS):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def _load(data):
    with image_bytes.opened(data) as image:
        return np.asarray(image)


def _huge(kind, side=12_000):
    """A small file whose header says more pixels than are read."""
    data = bytearray(_encode(kind))
    if kind == "PNG":
        data[16:24] = side.to_bytes(4, "big") * 2
        data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    elif kind == "BMP":
        data[18:26] = side.to_bytes(4, "little") * 2
    elif kind == "GIF":
        data[6:10] = side.to_bytes(2, "little") * 2
    else:
        place = data.index(b"\xff\xc0") + 5
        data[place : place + 4] = side.to_bytes(2, "big") * 2
    return bytes(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF"])
def test_headers_tell_the_size(kind):
    assert image_bytes.stored_size(tf.constant(_encode(kind))).numpy().tolist() == [5, 7]
    assert image_bytes.stored_size(tf.constant(_huge(kind))).numpy().tolist() == [12_000, 12_000]
    for length in (0, 1, 2, 6, 9, 20):
        if kind != "JPEG" or length < 3:
            assert image_bytes.stored_size(tf.constant(_encode(kind)[:length])).shape == (2,)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF"])
def test_too_many_pixels_are_never_decoded(kind):
    data = _huge(kind)
    rule = "an image may have at most 128,000,000 pixels, and it has "
    with pytest.raises(image_bytes.UnreadableImage, match=rf"{rule}12000 x 12000.*make it smaller"):
        _load(data)
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"{rule}more"):
        image_bytes.decode_tf(tf.constant(data))
    if kind in ("JPEG", "PNG"):
        with pytest.raises(image_bytes.UnreadableImage, match=f"{rule}12000 x 12000"):
            image_bytes.decode(data)
    if kind == "PNG":  # as a map of a record that says another size
        with pytest.raises(tf.errors.InvalidArgumentError, match="must be as large as the image"):
            records.decode_panoptic_tf(tf.constant(data), "png", 5, 7)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_formats_whose_size_is_not_known_are_never_decoded(mode):
    # Newer versions of TensorFlow decode them, as an image and where a PNG is asked for.
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(buffer, "WEBP", lossless=True)
    data = tf.constant(buffer.getvalue())
    refused = "must be a JPEG, PNG, BMP or GIF file whose header tells its size: save it as JPEG or PNG"
    for function in (
        image_bytes.decode_tf,
        tf.function(image_bytes.decode_tf),
        lambda encoded: image_bytes.decode_scaled_tf(encoded, (0, 4095)),
        lambda encoded: records.decode_panoptic_tf(encoded, "png", 5, 7),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=refused):
            function(data)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"exif": b"Exif\0\0" + b"\xff\xc0" * 30_000}])
def test_the_header_of_a_jpeg_tells_its_size_before_anything_is_decoded(options):
    # TensorFlow's own look at the header of a progressive JPEG would decode all of it.
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "JPEG", **options)
    data = buffer.getvalue()
    frame = b"\xff\xc2" if "progressive" in options else b"\xff\xc0\x00\x11"
    place = data.rindex(frame) + 5
    huge = data[:place] + (20_000).to_bytes(2, "big") * 2 + data[place + 4 :]
    for file in (huge, huge[:2] + b"\0rubbish\xff\0\xff" + huge[2:]):
        with pytest.raises(image_bytes.TooLarge, match="it has 20000 x 20000"):
            image_bytes.decode(file)
    np.testing.assert_array_equal(image_bytes.decode(data), tf.io.decode_jpeg(data, channels=3))
    for length in range(len(data) - 100, len(data), 7):
        with pytest.raises(tf.errors.OpError):
            image_bytes.decode(data[: length // 2])


def test_pillows_own_limit_is_told_in_the_same_words():
    with pytest.raises(image_bytes.TooLarge, match=r"at most 128,000,000 pixels, and it has more"):
        _load(_huge("PNG", 40_000))


@pytest.mark.parametrize("kind", image_bytes.FORMATS)
def test_formats_are_opened(kind):
    with image_bytes.opened(_encode(kind)) as image:
        assert (image.format, image.size) == (kind, (7, 5))
        assert np.asarray(image.convert("RGB")).shape == (5, 7, 3)


@pytest.mark.parametrize("data", [EPS, b"%PDF-1.4\n", b"", b"no image"])
def test_other_formats_are_not_opened(data, monkeypatch):
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("a program was started"))
    with pytest.raises(image_bytes.UnreadableImage, match=f"{len(data)} bytes of no known image format"):
        _load(data)


@pytest.mark.filterwarnings("ignore")  # Pillow's, of tags that it skips
@pytest.mark.parametrize("kind", image_bytes.FORMATS)
def test_damaged_files_raise_one_kind_of_error(kind):
    rng = np.random.default_rng(3)
    whole = _encode(kind, rng.integers(0, 256, (40, 60, 3), dtype=np.uint8))
    damaged = 0
    for i in range(60):
        data = bytearray(whole[: len(whole) // (1 + i % 3)])
        for place in rng.integers(0, min(len(data), 400), i % 5):
            data[place] = rng.integers(256)
        try:
            _load(bytes(data))
        except image_bytes.UnreadableImage:
            damaged += 1
    assert damaged > 10


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP"])
def test_decoding_is_tensorflows(kind):
    data = _encode(kind)
    expected = tf.io.decode_image(data, channels=3)
    for function in (image_bytes.decode_tf, tf.function(image_bytes.decode_tf)):
        np.testing.assert_array_equal(function(tf.constant(data)), expected)
    np.testing.assert_array_equal(image_bytes.decode(data), expected)
    np.testing.assert_array_equal(image_bytes.decode_scaled_tf(tf.constant(data), (0, 4095)), expected)


def test_16_bits_in_a_graph():
    values = np.random.default_rng(0).integers(0, 4096, (5, 7, 3), dtype=np.uint16)
    data = tf.io.encode_png(values)
    scaled = tf.function(lambda encoded: image_bytes.decode_scaled_tf(encoded, (0, 4095)))
    np.testing.assert_array_equal(scaled(data), values >> 4)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"value range is not known.*--value_range"):
        image_bytes.decode_scaled_tf(data, None)


@pytest.mark.parametrize("name", ["bomb_12000x12000.png", "eps_renamed.jpg"])
def test_files_that_came_from_strangers(name):
    path = FAULTS / name
    if not path.exists():
        pytest.skip(f"there is no {name}")
    with pytest.raises(image_bytes.UnreadableImage):
        _load(path.read_bytes())
