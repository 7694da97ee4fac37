# SPDX-License-Identifier: Apache-2.0
"""Every kind of input, in files, in memory and in batches."""

import io
import os
import re
import subprocess
import sys
import tempfile
import types
import warnings

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

import deeplab_axial
from deeplab_axial import export, keys
from deeplab_axial.data import image_bytes
from deeplab_axial.errors import InputError
from deeplab_axial.predict import PanopticModel, find_inputs, inputs, read_image
from deeplab_axial.predict.model import MAX_SIDE
from deeplab_axial.predict.output import places
from tests.colors import SPACE, Colors, encode, make_pixels


@pytest.fixture
def model():
    return PanopticModel(Colors(), SPACE, "a table")


class TestInputs:
    @pytest.mark.parametrize("extension", ["png", "bmp", "webp"])
    def test_a_file_its_bytes_and_its_pixels_are_one(self, model, tmp_path, extension):
        pixels = make_pixels()
        options = {"lossless": True} if extension == "webp" else {}
        data = encode(pixels, extension.upper(), **options)
        path = tmp_path / f"photo.{extension}"
        path.write_bytes(data)
        for image in (path, str(path), data, bytearray(data), Image.open(path), pixels, tf.constant(pixels)):
            result = model.predict(image)
            np.testing.assert_array_equal(result.image, pixels)
            np.testing.assert_array_equal(result.panoptic, model.predict(pixels).panoptic)

    def test_jpeg_is_decoded_as_in_training(self, model):
        data = encode(make_pixels(), "JPEG", quality=60)
        np.testing.assert_array_equal(model.predict(data).image, tf.io.decode_jpeg(data, 3).numpy())

    def test_grey_alpha_palette_and_bits(self, model, tmp_path):
        pixels = make_pixels()
        grey = pixels[..., 0]
        alpha = np.arange(grey.size, dtype=np.uint8).reshape(grey.shape)
        tripled = np.repeat(grey[..., None], 3, -1)
        palette = Image.fromarray(pixels).quantize(16)
        wide = (grey.astype(np.uint16) << 8) + 77
        cases = {
            "grey": (Image.fromarray(grey), tripled),
            "grey and alpha": (Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)]), tripled),
            "alpha": (Image.fromarray(np.dstack([pixels, alpha])), pixels),
            "palette": (palette, np.asarray(palette.convert("RGB"))),
            "16 bits": (Image.fromarray(wide), tripled),
            "1 bit": (Image.fromarray(grey > 99), np.repeat(np.where(grey > 99, 255, 0)[..., None], 3, -1)),
        }
        for name, (image, expected) in cases.items():
            path = tmp_path / f"{name}.png"
            image.save(path)
            for kind in (image, path, path.read_bytes(), Image.open(path)):
                np.testing.assert_array_equal(model.predict(kind).image, expected, err_msg=name)
        for array, expected in ((grey, tripled), (grey[..., None], tripled), (np.dstack([pixels, alpha]), pixels)):
            np.testing.assert_array_equal(model.predict(array).image, expected)
        np.testing.assert_array_equal(model.predict(wide).image, tripled)

    def test_cmyk_is_near_what_tensorflow_makes_of_it(self, model):
        x = np.linspace(0, 255, 32 * 24).reshape(24, 32)
        image = Image.fromarray(np.stack([x, x[::-1], x[:, ::-1], x / 2], -1).astype(np.uint8), "CMYK")
        data = encode(image, "JPEG", quality=95)
        decoded = model.predict(data).image
        np.testing.assert_array_equal(decoded, tf.io.decode_image(data, channels=3).numpy())
        opened = model.predict(Image.open(io.BytesIO(data))).image
        assert np.abs(opened.astype(int) - decoded).max() <= 8  # two JPEG decoders

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
    def test_orientation(self, model, tmp_path, kind, orientation):
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / "photo"
        y, x = np.mgrid[:24, :32]  # smooth: two JPEG decoders agree on it
        pixels = np.stack([5 * y, 4 * x, 2 * y + x], -1).astype(np.uint8)
        path.write_bytes(encode(pixels, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {})))
        stored, upright = read_image(path), np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
        if orientation == 1:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                result = model.predict(path)
        else:
            with pytest.warns(UserWarning, match=f"photo has EXIF orientation {orientation}, which is not applied"):
                result = model.predict(path)
        np.testing.assert_array_equal(result.image, stored)
        turned = model.predict(path, upright=True).image
        assert turned.shape == upright.shape
        assert np.abs(turned.astype(int) - upright).max() <= (4 if kind == "JPEG" else 0)

    @pytest.mark.parametrize("kind", [io.BytesIO, tempfile.SpooledTemporaryFile, "upload", "opened"])
    def test_file_objects(self, model, tmp_path, kind):
        pixels = make_pixels()
        path = tmp_path / "photo.png"
        path.write_bytes(encode(pixels))
        if kind == "opened":
            with open(path, "rb") as file:
                found = model.predict(file).image
        elif kind == "upload":  # as web frameworks have them: an object with `read` and little else
            found = model.predict(types.SimpleNamespace(read=path.read_bytes, filename="photo.png")).image
        else:
            file = kind()
            file.write(path.read_bytes())
            file.seek(0)
            found = model.predict([file, pixels])[0].image
        np.testing.assert_array_equal(found, pixels)

    @pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
    def test_floats_from_0_to_1(self, model, kind):
        pixels = make_pixels()
        np.testing.assert_array_equal(model.predict((pixels / 255).astype(kind)).image, pixels)
        np.testing.assert_array_equal(model.predict(tf.constant(pixels / 255)).image, pixels)
        grey = model.predict((pixels[..., 0] / 255).astype(kind)).image
        np.testing.assert_array_equal(grey, np.repeat(pixels[..., :1], 3, -1))

    @pytest.mark.parametrize("bits", [8, 10, 12])
    def test_16_bits_that_are_not_all_used(self, model, tmp_path, bits):
        pixels = make_pixels()
        pixels[0, 0] = 255
        wide = (pixels.astype(np.uint16) << (bits - 8)) + (3 if bits > 9 else 0)
        grey = wide[..., 0]
        value_range = (0, 2**bits - 1)
        png = tf.io.encode_png(wide).numpy()
        colours, greys = (pixels, np.repeat(pixels[..., :1], 3, -1))
        (tmp_path / "wide.png").write_bytes(png)
        cases = {
            "array": (wide, colours),
            "grey array": (grey, greys),
            "PNG": (png, colours),
            "a path": (tmp_path / "wide.png", colours),
            "grey TIFF": (encode(Image.fromarray(grey), "TIFF"), greys),
            "grey PIL image": (Image.fromarray(grey), greys),
        }
        for name, (image, expected) in cases.items():
            with pytest.raises(InputError, match=rf"not predicted: its largest value .*0:{2**bits - 1} .*value_range="):
                model.predict(image)
            np.testing.assert_array_equal(model.predict(image, value_range=value_range).image, expected, err_msg=name)
        trained = PanopticModel(Colors(), SPACE, "of such data", value_range=value_range)
        np.testing.assert_array_equal(trained.predict(wide).image, colours)
        np.testing.assert_array_equal(trained.predict(pixels).image, pixels)  # 8 bits stay what they are
        with pytest.raises(InputError, match="value_range must be two whole numbers"):
            model.predict(wide, value_range=(5, 5))

    def test_colours_of_which_pillow_reads_the_upper_bits(self, model):
        pixels = make_pixels()
        dark = tf.io.encode_png(pixels.astype(np.uint16) << 4).numpy()
        bright = tf.io.encode_png(pixels.astype(np.uint16) << 8).numpy()
        np.testing.assert_array_equal(model.predict(Image.open(io.BytesIO(bright))).image, pixels)
        for data, value_range in ((dark, None), (bright, (0, 4095))):
            with pytest.raises(InputError, match=r"colours of 16 bits, of which Pillow reads the upper 8 alone.*PNG"):
                model.predict(Image.open(io.BytesIO(data)), value_range=value_range)

    def test_broken_exif_is_no_orientation(self, model):
        data = encode(make_pixels(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff broken")
        assert model.predict(data).image.shape == (24, 32, 3)


class TestBadInputs:
    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
    def test_a_truncated_file(self, model, tmp_path, kind):
        data = encode(make_pixels(200, 300), kind)
        path = tmp_path / "photo.jpg"
        path.write_bytes(data[: len(data) // 2])
        with pytest.raises(InputError, match=r"photo\.jpg is no readable image \(.+\)\. Replace or remove it\."):
            model.predict(path)

    @pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff no image", b"text", b"\x89PNG\r\n\x1a\n"])
    def test_bytes_that_are_no_image(self, model, data):
        with pytest.raises(InputError, match=r"Image 1 of the list is no readable image \(.+\)\."):
            model.predict([make_pixels(), data])

    @pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
    def test_too_many_pixels(self, model, kind, monkeypatch):
        monkeypatch.setattr(image_bytes, "MAX_PIXELS", 24 * 32 - 1)
        data = encode(make_pixels(), kind)
        for image in (data, Image.open(io.BytesIO(data)), make_pixels()):
            with pytest.raises(InputError, match=r"an image may have at most .*and it has 24 x 32, height x width"):
                model.predict(image)

    def test_no_program_is_started_for_an_image(self, model, tmp_path):
        path = tmp_path / "photo.jpg"
        path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
        with pytest.raises(InputError, match=r"photo\.jpg is no readable image \(\d+ bytes of no known image format\)"):
            model.predict(path)

    def test_a_fifo_is_not_waited_for(self, model, tmp_path):
        os.mkfifo(tmp_path / "photo.jpg")
        with pytest.raises(InputError, match=r"photo\.jpg cannot be read \(a FIFO, where a file is expected\)"):
            model.predict(tmp_path / "photo.jpg")

    @pytest.mark.parametrize("values", [[0, 1.01], [-0.5, 1], [0, 255], [0, np.nan], [0, np.inf]])
    def test_floats_beyond_0_to_1(self, model, values):
        with pytest.raises(ValueError, match=r"The image: an array of floats must lie in \[0, 1\].*Received: .*uint8"):
            model.predict(np.float32([values, values]))

    def test_file_objects_that_give_no_bytes(self, model):
        with pytest.raises(ValueError, match=r"`read` of a file object must return bytes\. Received: str"):
            model.predict(io.StringIO("text"))

        class Upload:
            async def read(self):
                return b""

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(ValueError, match=r"must return bytes\. Received: coroutine.*await"):
                model.predict(Upload())
        file = io.BytesIO(encode(make_pixels()))
        file.read()
        with pytest.raises(InputError, match=r"nothing left to read.*seek\(0\)"):
            model.predict(file)

    def test_a_truncated_pil_image(self, model):
        data = encode(make_pixels(200, 300))
        with pytest.raises(InputError, match="is no readable image"):
            model.predict(Image.open(io.BytesIO(data[: len(data) // 2])))

    def test_a_missing_file_and_a_folder(self, model, tmp_path):
        with pytest.raises(InputError, match=r"none\.jpg cannot be read \(.+\)\. Correct the path\."):
            model.predict(tmp_path / "none.jpg")
        with pytest.raises(InputError, match=r"cannot be read"):
            model.predict(str(tmp_path))

    def test_an_animation(self, model):
        frames = [Image.fromarray(make_pixels(seed=i)) for i in range(3)]
        with pytest.raises(InputError, match=r"must be one image\. Received: GIF with 3 frames"):
            model.predict(encode(frames[0], "GIF", save_all=True, append_images=frames[1:]))

    def test_numbers_that_are_no_colours(self, model):
        with pytest.raises(InputError, match="Received: floating point"):
            model.predict(Image.fromarray(np.zeros([4, 4], np.float32)))
        with pytest.raises(InputError, match="Received: 0 to 70000"):
            model.predict(Image.fromarray(np.int32([[0, 70000]])))

    @pytest.mark.parametrize(
        "array",
        [
            np.zeros([4, 4, 3], np.int64),
            np.zeros([2, 4, 4, 3], np.uint8),
            np.zeros([4, 4, 2], np.uint8),
            np.zeros([0, 4, 3], np.uint8),
            np.zeros([4], np.uint8),
        ],
    )
    def test_another_array(self, model, array):
        received = re.escape(f"Received: {array.dtype} {array.shape}")
        with pytest.raises(ValueError, match=rf"The image must be a uint8 array \[H, W, 3\].*{received}"):
            model.predict(array)

    def test_something_else(self, model):
        with pytest.raises(ValueError, match=r"Image 0 of the list must be a path, .* Received: int"):
            model.predict([3])
        with pytest.raises(ValueError, match=r"`batch_size` must be at least 1\. Received: 0"):
            model.predict([], batch_size=0)

    def test_too_little_memory(self):
        def function(batch):
            raise tf.errors.ResourceExhaustedError(None, None, "OOM")

        with pytest.raises(InputError, match=r"prediction of 1 images of 24 x 32 pixels"):
            PanopticModel(function, SPACE, "x").predict(make_pixels())


class TestBatches:
    SIZES = ((24, 32), (32, 24), (24, 32), (5, 7), (24, 32), (32, 24))

    @pytest.mark.parametrize("batch_size", [1, 2, 8])
    def test_a_list_is_predicted_as_its_images(self, model, batch_size):
        arrays = [make_pixels(*size, seed=i) for i, size in enumerate(self.SIZES)]
        results = model.predict(arrays, batch_size=batch_size)
        batches = {
            1: [(1, *size) for size in sorted(self.SIZES, key=self.SIZES.index)],
            2: [(2, 24, 32), (1, 24, 32), (2, 32, 24), (1, 5, 7)],
            8: [(3, 24, 32), (2, 32, 24), (1, 5, 7)],
        }
        assert model.function.batches == [(*shape, 3) for shape in batches[batch_size]]
        for array, result in zip(arrays, results):
            alone = model.predict(array)
            np.testing.assert_array_equal(result.image, array)
            np.testing.assert_array_equal(result.panoptic, alone.panoptic)
            np.testing.assert_array_equal(result.semantic, alone.semantic)
            assert result.segments == alone.segments

    def test_no_images(self, model):
        assert model.predict([]) == []
        assert model.function.batches == []

    def test_an_export_for_one_size(self):
        model = PanopticModel(Colors(), SPACE, "an export", static_shape=(4, 24, 32))
        arrays = [make_pixels(seed=i) for i in range(6)]
        results = model.predict(arrays)
        assert model.function.batches == [(4, 24, 32, 3)] * 2
        for array, result in zip(arrays, results):
            np.testing.assert_array_equal(result.image, array)
            np.testing.assert_array_equal(result.panoptic // 10, array[..., 0] // 64)
        with pytest.raises(
            InputError, match=r"an export takes images of 24 x 32 pixels .* Received: an image of 5 x 7"
        ):
            model.predict([make_pixels(), make_pixels(5, 7)])

    def test_sizes_beyond_the_limits(self, model, tmp_path):
        for size in ((1, 1), (1, MAX_SIDE), (MAX_SIDE, 1), (4096, 8192)):
            model.check_size("an image", *size)
        line = tmp_path / "line.png"
        Image.fromarray(np.zeros((1, MAX_SIDE + 1, 3), np.uint8)).save(line)
        with pytest.raises(InputError, match=rf"1 to 32,768 pixels.*{line} of 1 x 32769.*Cut it into parts"):
            model.predict([make_pixels(), line])
        with pytest.raises(InputError, match=r"33,554,432 pixels.*large\.png of 4097 x 8192.*--max_pixels"):
            model.check_size("large.png", 4097, 8192)
        model.max_pixels = 24 * 32
        model.predict(make_pixels(24, 32))
        with pytest.raises(InputError, match=r"768 pixels.*an image of 24 x 33"):
            model.predict(make_pixels(24, 33))
        assert model.function.batches == [(1, 24, 32, 3)]


def test_inputs_are_found_in_files_folders_and_globs(tmp_path):
    for name in ("b.JPG", "a.png", "note.txt", "clip.mp4", "deep/er/c.webp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()

    def find(*patterns):
        return [os.path.relpath(path, tmp_path) for path in find_inputs([str(tmp_path / p) for p in patterns])]

    assert find(".") == ["a.png", "b.JPG", "clip.mp4", "deep/er/c.webp"]
    assert find("deep") == find("*/*/*") == ["deep/er/c.webp"]
    assert find("note.txt", "*.png") == ["note.txt", "a.png"]
    assert find("**/*.webp") == ["deep/er/c.webp"]
    for pattern in ("none.jpg", "*.tif", "folder.png", "folder.p*"):
        with pytest.raises(InputError, match=r"--input=.* leads to no image \(\.jpg, .*\)\. Correct the path\."):
            find(pattern)


def test_which_files_are_videos():
    assert inputs.is_video("a/clip.MP4")
    assert inputs.is_video("x.gif")
    assert not inputs.is_video("x.mp4.png")


def test_what_is_left_out_is_counted(tmp_path):
    for name in ("a.png", "sub/b.tif", "notes.txt", "more.TXT", "none", ".hidden.png", "out/a.png", "sub/out.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "sub" / "loop").symlink_to(tmp_path)
    (tmp_path / "sub" / "twice").symlink_to(tmp_path / "sub")
    os.mkfifo(tmp_path / "pipe.png")
    found = inputs.find([str(tmp_path)], str(tmp_path / "out"))
    assert [one.relative for one in found.inputs] == ["a.png", "sub/b.tif", "sub/out.png"]
    expected = "2 .txt, 1 below the folder of the results, 1 hidden, 1 no regular files, 1 without extension"
    assert found.describe_skipped() == expected
    found = inputs.find([str(tmp_path / "**" / "*.png"), str(tmp_path / "a.png")], str(tmp_path / "out"))
    assert [one.relative for one in found.inputs] == ["a.png", "sub/out.png"]


@pytest.mark.parametrize("pattern", ["in/*.png", "in", "in/**/*.png", "in/a.png"])
def test_a_folder_of_results_above_the_inputs_leaves_none_out(tmp_path, pattern):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"")
    found = inputs.find([str(tmp_path / pattern)], str(tmp_path))
    assert [one.path for one in found.inputs] == [str(tmp_path / "in" / "a.png")]
    assert not found.skipped


def test_names_of_results_do_not_collide():
    def give(*relatives):
        all_inputs = [inputs.Input(relative, relative) for relative in relatives]
        names = inputs.Names(all_inputs, ["predictions.json"], places)
        return [names.give(one) for one in all_inputs]

    assert give("a.jpg", "b.png", "sub/a.jpg") == ["a", "b", "sub/a"]
    assert give("a.jpg", "a.png", "A.jpg") == ["a.jpg", "a.png", "A.jpg-2"]
    assert give("a.jpg", "panoptic/a.jpg") == ["a", "panoptic/a.jpg"]  # where the map of the first is
    assert give("clip.mp4", "clip/000000.jpg") == ["clip", "clip-2/000000.jpg"]  # as a frame
    assert give("a.jpg", "a.png/b.jpg") == ["a", "a.png-2/b.jpg"]
    assert give("caf\udce9.png", "caf\udce8.png") == ["caf\ufffd.png", "caf\ufffd.png-2"]


def test_the_package_is_imported_without_tensorflow():
    code = "import sys, deeplab_axial; print(sorted({'tensorflow', 'tf_keras', 'numpy', 'PIL'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_there_is_nothing_to_load(tmp_path):
    with pytest.raises(InputError, match=r"is no export, model folder or checkpoint: there is no such folder"):
        deeplab_axial.load(tmp_path / "none")
    with pytest.raises(InputError, match=r"is no export of deeplab-axial .* and no model folder .* Make one with"):
        deeplab_axial.load(tmp_path)
    (tmp_path / "config.textproto").write_text("")
    with pytest.raises(InputError, match=r"holds no checkpoint\. Train first"):
        deeplab_axial.load(tmp_path)


def test_a_checkpoint_without_its_config(tmp_path):
    tf.train.Checkpoint(x=tf.Variable(0.0)).write(str(tmp_path / "ckpt-1"))
    with pytest.raises(InputError, match=r"ckpt-1' has no config\.textproto in its folder"):
        deeplab_axial.load(tmp_path / "ckpt-1")


def test_an_export_from_before_scores(tmp_path):
    spec = tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")
    module = tf.Module()
    module.serve = tf.function(lambda images: {keys.PANOPTIC_MAP: tf.cast(images[..., 0], tf.int32)}, [spec])
    tf.saved_model.save(module, str(tmp_path), signatures=module.serve)
    path = tmp_path / export.METADATA_FILE
    path.parent.mkdir()
    path.write_text(export.Metadata(SPACE, "", step=7, version="0.0").to_json())
    with pytest.raises(InputError, match=r"deeplab-axial 0\.0, whose exports have no semantic, stuff_scores\. Export"):
        deeplab_axial.load(tmp_path)
