# SPDX-License-Identifier: Apache-2.0
"""The rules for image files, each on a real file made with Pillow, and what TensorFlow makes of its pixels."""

import io
import os

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from deeplab_axial.data import exif
from deeplab_axial.data.converters import image_files
from deeplab_axial.errors import InputError

HEIGHT, WIDTH = 24, 36
_Y, _X = np.mgrid[:HEIGHT, :WIDTH]
# Smooth, so that the rounding of JPEG decoders is small.
PIXELS = np.stack([_Y * 9, _X * 6, (_X + _Y) * 4], -1).astype(np.uint8)
RGB = Image.fromarray(PIXELS)
ALPHA = Image.fromarray((_X * 7).astype(np.uint8))
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))


def _encode(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _with_orientation(orientation: int, kind: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return _encode(RGB, kind, exif=exif)


def _read(tmp_path, data: bytes, size=(HEIGHT, WIDTH), name="image"):
    path = tmp_path / name
    path.write_bytes(data)
    return image_files.read_image(str(path), size)


def _decode(data: bytes) -> np.ndarray:
    return tf.io.decode_image(data, channels=3, expand_animations=False).numpy().astype(int)


ACCEPTED = {
    "jpeg": _encode(RGB, "JPEG", quality=95, subsampling=0),
    "progressive jpeg": _encode(RGB, "JPEG", quality=95, subsampling=0, progressive=True),
    "grey jpeg": _encode(RGB.convert("L"), "JPEG", quality=95),
    "cmyk jpeg": _encode(RGB.convert("CMYK"), "JPEG", quality=95),
    "png": _encode(RGB, "PNG"),
    "grey png": _encode(RGB.convert("L"), "PNG"),
    "black and white png": _encode(RGB.convert("1"), "PNG"),
    "palette png": _encode(RGB.quantize(16), "PNG"),
    "palette png with transparency": _encode(RGB.quantize(16), "PNG", transparency=3),
}


@pytest.mark.parametrize("kind", ACCEPTED)
def test_accepted_kinds_decode_as_pillow_decodes_them(tmp_path, kind):
    data = ACCEPTED[kind]
    image = _read(tmp_path, data)
    assert image[:5] == (data, "jpeg" if "jpeg" in kind else "png", HEIGHT, WIDTH, ())
    assert (image.label_size, image.labels_turn, image.source_bytes) == ((HEIGHT, WIDTH), 1, len(data))
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert np.abs(_decode(data) - expected).max() <= (6 if "jpeg" in kind else 0)
    if "grey" in kind:
        assert np.ptp(_decode(data), axis=-1).max() == 0


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_dropped(tmp_path, mode):
    opaque = RGB.convert(mode[:-1])
    data = _encode(Image.merge(mode, [*opaque.split(), ALPHA]), "PNG")
    assert _read(tmp_path, data).format == "png"
    np.testing.assert_array_equal(_decode(data), np.asarray(opaque.convert("RGB")))  # not blended with a background


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_of_16_bits_the_upper_8_stay(tmp_path, channels):
    values = np.random.default_rng(1).integers(0, 2**16, (HEIGHT, WIDTH, channels), dtype=np.uint16)
    data = tf.io.encode_png(values).numpy()  # Pillow writes 16 bits for grey only
    assert _read(tmp_path, data).format == "png"
    expected = np.broadcast_to(values[..., : min(channels, 3)] >> 8, (HEIGHT, WIDTH, 3))
    np.testing.assert_array_equal(_decode(data), expected)


def test_pillow_writes_the_same_16_bit_grey(tmp_path):
    values = (_X * 1000 + _Y).astype(np.uint16)
    data = _encode(Image.fromarray(values), "PNG")
    assert _read(tmp_path, data).width == WIDTH
    np.testing.assert_array_equal(_decode(data)[..., 1], values >> 8)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_unused_bits_are_an_error_and_a_range_makes_8_bits(tmp_path, bits, channels):
    values = np.random.default_rng(1).integers(0, 2**bits, (HEIGHT, WIDTH, channels), dtype=np.uint16)
    values[0, 0] = 2**bits - 1
    path = tmp_path / "image.png"
    path.write_bytes(tf.io.encode_png(values).numpy())
    received = rf"image\.png is not converted: its largest value of 16 bits is {2**bits - 1}, of 65535"
    with pytest.raises(InputError, match=rf"{received}.*--value_range=0:{2**bits - 1} "):
        image_files.read_image(str(path))
    image = image_files.read_image(str(path), (HEIGHT, WIDTH), value_range=(0, 2**bits - 1))
    expected = np.broadcast_to(values[..., : min(channels, 3)] >> (bits - 8), (HEIGHT, WIDTH, 3))
    np.testing.assert_array_equal(_decode(image.data), expected)
    assert (image.format, image.remarks, image.source_bytes) == ("png", (), path.stat().st_size)
    narrow = image_files.read_image(str(path), value_range=(0, 2**bits - 2))
    assert "values above --value_range" in narrow.remarks[0].what
    assert _decode(narrow.data).max() == 255


@pytest.mark.parametrize("value_range", [None, (0, 4095)])
def test_16_bits_are_decoded_once(tmp_path, value_range, monkeypatch):
    path = tmp_path / "image.png"
    path.write_bytes(tf.io.encode_png(np.full((HEIGHT, WIDTH, 3), 40_000, np.uint16)).numpy())
    calls = []
    decode = image_files.image_bytes.decode_wide
    monkeypatch.setattr(image_files.image_bytes, "decode_wide", lambda data: calls.append(1) or decode(data))
    image = image_files.read_image(str(path), value_range=value_range)
    assert (len(calls), len(image.remarks)) == (1, value_range is not None)


def test_a_range_leaves_images_of_8_bits_alone(tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(ACCEPTED["png"])
    assert image_files.read_image(str(path), value_range=(0, 4095)).data == ACCEPTED["png"]


def test_an_image_of_too_many_pixels_is_refused_from_its_header(tmp_path):
    start, rest = ACCEPTED["png"][:16], ACCEPTED["png"][24:]
    huge = start + (12_000).to_bytes(4, "big") * 2 + rest
    with pytest.raises(
        InputError, match=r"bomb\.png is not converted: an image may have at most 128,000,000 pixels.*cut"
    ):
        _read(tmp_path, huge, name="bomb.png")


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "BMP", "TIFF"])
def test_other_formats_are_named(tmp_path, kind):
    with pytest.raises(InputError, match=rf"picture\.jpg must be a JPEG or PNG image\. Received: a {kind} image"):
        _read(tmp_path, _encode(RGB, kind), name="picture.jpg")


@pytest.mark.parametrize(
    "data",
    [
        _encode(NOISE, "JPEG")[:-2],
        _encode(NOISE, "JPEG")[:-50],
        _encode(NOISE, "JPEG")[:100],
        _encode(NOISE, "PNG")[:-20],
        _encode(NOISE, "PNG")[:300] + b"\0" + _encode(NOISE, "PNG")[301:],
        b"\xff\xd8\xff no image",
    ],
)
def test_damaged_files_are_refused(tmp_path, data):
    kind = "JPEG" if data.startswith(b"\xff\xd8") else "PNG"
    with pytest.raises(
        InputError,
        match=rf"image must be a JPEG or PNG image that decodes\. Received: {len(data)} bytes of a damaged {kind}",
    ):
        _read(tmp_path, data)


@pytest.mark.parametrize("data", [b"", b"text", b"\x89PNG"])
def test_files_that_are_no_images_are_refused(tmp_path, data):
    with pytest.raises(InputError, match=rf"Received: {len(data)} bytes of no known image format"):
        _read(tmp_path, data)


def test_a_fifo_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "image.jpg")
    with pytest.raises(InputError, match=r"image\.jpg cannot be read \(a FIFO, where a file is expected\)"):
        image_files.read_image(str(tmp_path / "image.jpg"))


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"gone\.jpg cannot be read"):
        image_files.read_image(str(tmp_path / "gone.jpg"))


def test_another_size_is_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"annotation says, 24 x 35 \(height x width\). Received: 24 x 36. Correct the"
    ):
        _read(tmp_path, ACCEPTED["jpeg"], (HEIGHT, WIDTH - 1))
    assert _read(tmp_path, ACCEPTED["jpeg"], None)[2:4] == (HEIGHT, WIDTH)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_an_orientation_that_explains_the_size(tmp_path, kind):
    with pytest.raises(InputError, match=r"24 x 36. The annotation was made on the image turned by its EXIF.*\(6\)"):
        _read(tmp_path, _with_orientation(6, kind), (WIDTH, HEIGHT))
    with pytest.raises(InputError, match="Correct the file or the annotation"):  # this one keeps the size
        _read(tmp_path, _with_orientation(3, kind), (WIDTH, HEIGHT))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", [3, 6])
def test_an_orientation_is_not_applied_and_remarked(tmp_path, orientation, kind):
    data = _with_orientation(orientation, kind)
    (remark,) = _read(tmp_path, data).remarks
    assert "EXIF orientation, which is not applied" in remark.what
    assert (remark.count, remark.example) == (1, f"{tmp_path}/image with orientation {orientation}")
    assert np.abs(_decode(data) - PIXELS).max() <= 12  # pixels count as stored


def _labelled(tmp_path, orientation, size, **options):
    path = tmp_path / "image.png"
    path.write_bytes(_with_orientation(orientation, "PNG"))
    return image_files.read_image(str(path), size, has_labels=True, **options)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_labels_of_an_image_with_an_orientation(tmp_path, orientation):
    stored = (HEIGHT, WIDTH)
    turned = stored if orientation < 5 else stored[::-1]
    with Image.open(io.BytesIO(_with_orientation(orientation, "PNG"))) as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    if orientation < 5:  # the size does not tell
        with pytest.raises(
            InputError, match=rf"EXIF orientation {orientation}.*does not tell.*--upright=image.*=both.*=none"
        ):
            _labelled(tmp_path, orientation, stored)
    else:
        assert _labelled(tmp_path, orientation, stored).data == _with_orientation(orientation, "PNG")
        with pytest.raises(
            InputError, match=rf"turned by its EXIF orientation \({orientation}\).*Pass --upright=image"
        ):
            _labelled(tmp_path, orientation, turned)
        with pytest.raises(InputError, match=r"made on pixels as stored.*pass --upright=both or --upright=none"):
            _labelled(tmp_path, orientation, stored, upright="image")
    kept = _labelled(tmp_path, orientation, stored, upright="none")
    assert (kept.data, kept.labels_turn, len(kept.remarks)) == (_with_orientation(orientation, "PNG"), 1, 1)
    for option, size in (("image", turned), ("both", stored)):
        image = _labelled(tmp_path, orientation, size, upright=option)
        np.testing.assert_array_equal(_decode(image.data), upright)
        assert image.label_size == size
        assert image.labels_turn == (orientation if option == "both" else 1)
        assert (image.format, image.remarks) == ("png", ())
        assert exif.orientation_of_file(image.data) == 1


def test_a_square_image_turned_sideways_does_not_tell_either(tmp_path):
    path = tmp_path / "image.png"
    tag = Image.Exif()
    tag[0x0112] = 6
    path.write_bytes(_encode(RGB.resize((9, 9)), "PNG", exif=tag))
    with pytest.raises(InputError, match=r"EXIF orientation 6, and its size, 9 x 9 .* does not tell"):
        image_files.read_image(str(path), (9, 9), has_labels=True)


@pytest.mark.parametrize("orientation", [0, 1, 9])
def test_upright_images_are_not_remarked(tmp_path, orientation):
    assert _read(tmp_path, _with_orientation(orientation)).remarks == ()


def test_broken_exif_data_is_not_used(tmp_path):
    data = _with_orientation(6)
    start = data.index(b"Exif\0\0") + 6
    assert _read(tmp_path, data[:start] + b"\xee" * 8 + data[start + 8 :]).remarks == ()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_one_pixel(tmp_path, kind):
    data = _encode(Image.new("RGB", (1, 1), (9, 8, 7)), kind)
    assert _read(tmp_path, data, (1, 1))[2:4] == (1, 1)
    assert _decode(data).shape == (1, 1, 3)


NAMES = ["bück ü 图像.jpg", " a b ", "100%[1]*?.png", "a'\"$(x).jpg"]


@pytest.mark.parametrize("name", NAMES)
def test_unicode_spaces_and_wildcards_in_names(tmp_path, name):
    assert _read(tmp_path, ACCEPTED["png"], name=name).format == "png"
    image_files.check_files([str(tmp_path / name)], str(tmp_path), "--image_dir")


def test_missing_files_are_counted(tmp_path):
    (tmp_path / "sub").mkdir()
    names = ["a.jpg", "sub/a.jpg", "sub/b.jpg", "gone/c.jpg"]
    for name in names[:2]:
        (tmp_path / name).write_bytes(b"")
    (tmp_path / b"\xff.jpg".decode("latin-1")).write_bytes(b"")
    paths = [str(tmp_path / name) for name in names]
    image_files.check_files(paths[:2], str(tmp_path), "--image_dir")
    with pytest.raises(InputError, match=r"sub/b.jpg does not exist.*2 of 4 files are missing.*Correct --image_dir"):
        image_files.check_files(paths, str(tmp_path), "--image_dir")
    with pytest.raises(InputError, match=r"--root must be a folder.*a\.jpg"):
        image_files.check_files(paths, paths[0], "--root")


def test_a_name_that_is_no_unicode_does_not_spoil_its_folder(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    try:
        open(bytes(tmp_path) + b"/\xff\xfe.jpg", "wb").close()
    except OSError:
        pytest.skip("this file system takes Unicode names only")
    image_files.check_files([str(tmp_path / "a.jpg")], str(tmp_path), "--image_dir")
