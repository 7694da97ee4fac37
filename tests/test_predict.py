# SPDX-License-Identifier: Apache-2.0
"""Every kind of input, and what a result says of it. A table of colours stands in for the network."""

import errno
import io
import os
import pathlib
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

import deeplab_axial
from deeplab_axial import export, keys
from deeplab_axial.data.label_space import LabelClass, LabelSpace
from deeplab_axial.errors import InputError
from deeplab_axial.predict import PanopticModel, find_inputs, images, read_image
from deeplab_axial.predict.output import Output
from deeplab_axial.predict.result import Result, find_segments

SPACE = LabelSpace(
    "four",
    (
        LabelClass(0, "sky", False, (70, 130, 180), 10),
        LabelClass(1, "road", False, (128, 64, 128), 11),
        LabelClass(2, "cat", True, (220, 20, 60), 17),
    ),
    num_classes=3,
    ignore_label=3,
    label_divisor=10,
)
VOID = 30


class Colors:
    """In place of a network: red // 64 is the class (3 is void), green // 64 + 1 the instance of a thing."""

    def __init__(self):
        self.batches = []

    def __call__(self, batch):
        self.batches.append(tuple(batch.shape))
        red, green = np.int32(batch.numpy()[..., 0]) // 64, np.int32(batch.numpy()[..., 1]) // 64
        panoptic = red * 10 + np.where(red == 2, green + 1, 0)
        count = len(panoptic)
        predictions = {
            keys.PANOPTIC_MAP: panoptic,
            keys.SEMANTIC_MAP: np.minimum(red, 2),
            keys.INSTANCE_SCORES: np.tile(np.float32([[0.1, 0.2, 0.3, 0.4, 0]]), [count, 1]),
            keys.INSTANCE_PANOPTIC_IDS: np.tile(np.int32([[21, 22, 23, 24, VOID]]), [count, 1]),
            keys.STUFF_SCORES: np.tile(np.float32([[0.9, 0.8, 0]]), [count, 1]),
        }
        return {key: tf.constant(value) for key, value in predictions.items()}


@pytest.fixture
def model():
    return PanopticModel(Colors(), SPACE, "a table")


def _pixels(height=24, width=32, seed=0):
    """Rectangles of all classes."""
    rng = np.random.default_rng(seed)
    pixels = np.zeros([height, width, 3], np.uint8)
    for _ in range(8):
        y, x = rng.integers(0, height), rng.integers(0, width)
        pixels[y : y + rng.integers(1, height), x : x + rng.integers(1, width)] = rng.integers(0, 256, 3)
    return pixels


def _encode(pixels, kind="PNG", **options):
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


class TestInputs:
    @pytest.mark.parametrize("extension", ["png", "bmp", "webp"])
    def test_a_file_its_bytes_and_its_pixels_are_one(self, model, tmp_path, extension):
        pixels = _pixels()
        options = {"lossless": True} if extension == "webp" else {}
        data = _encode(pixels, extension.upper(), **options)
        path = tmp_path / f"photo.{extension}"
        path.write_bytes(data)
        for image in (path, str(path), data, bytearray(data), Image.open(path), pixels, tf.constant(pixels)):
            result = model.predict(image)
            np.testing.assert_array_equal(result.image, pixels)
            np.testing.assert_array_equal(result.panoptic, model.predict(pixels).panoptic)

    def test_jpeg_is_decoded_as_in_training(self, model):
        data = _encode(_pixels(), "JPEG", quality=60)
        np.testing.assert_array_equal(model.predict(data).image, tf.io.decode_jpeg(data, 3).numpy())

    def test_grey_alpha_palette_and_bits(self, model, tmp_path):
        pixels = _pixels()
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
        data = _encode(image, "JPEG", quality=95)
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
        path.write_bytes(_encode(pixels, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {})))
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

    def test_broken_exif_is_no_orientation(self, model):
        data = _encode(_pixels(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff broken")
        assert model.predict(data).image.shape == (24, 32, 3)


class TestBadInputs:
    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
    def test_a_truncated_file(self, model, tmp_path, kind):
        data = _encode(_pixels(200, 300), kind)
        path = tmp_path / "photo.jpg"
        path.write_bytes(data[: len(data) // 2])
        with pytest.raises(InputError, match=r"photo\.jpg is no readable image \(.+\)\. Replace or remove it\."):
            model.predict(path)

    @pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff no image", b"text", b"\x89PNG\r\n\x1a\n"])
    def test_bytes_that_are_no_image(self, model, data):
        with pytest.raises(InputError, match=r"Image 1 of the list is no readable image \(.+\)\."):
            model.predict([_pixels(), data])

    def test_a_missing_file_and_a_folder(self, model, tmp_path):
        with pytest.raises(InputError, match=r"none\.jpg cannot be read \(.+\)\. Correct the path\."):
            model.predict(tmp_path / "none.jpg")
        with pytest.raises(InputError, match=r"cannot be read"):
            model.predict(str(tmp_path))

    def test_an_animation(self, model):
        frames = [Image.fromarray(_pixels(seed=i)) for i in range(3)]
        with pytest.raises(InputError, match=r"must be one image\. Received: GIF with 3 frames"):
            model.predict(_encode(frames[0], "GIF", save_all=True, append_images=frames[1:]))

    def test_numbers_that_are_no_colours(self, model):
        with pytest.raises(InputError, match="Received: floating point"):
            model.predict(Image.fromarray(np.zeros([4, 4], np.float32)))
        with pytest.raises(InputError, match="Received: 0 to 70000"):
            model.predict(Image.fromarray(np.int32([[0, 70000]])))

    @pytest.mark.parametrize(
        "array",
        [
            np.zeros([4, 4, 3], np.float32),
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
            PanopticModel(function, SPACE, "x").predict(_pixels())


class TestBatches:
    SIZES = ((24, 32), (32, 24), (24, 32), (5, 7), (24, 32), (32, 24))

    @pytest.mark.parametrize("batch_size", [1, 2, 8])
    def test_a_list_is_predicted_as_its_images(self, model, batch_size):
        arrays = [_pixels(*size, seed=i) for i, size in enumerate(self.SIZES)]
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
        arrays = [_pixels(seed=i) for i in range(6)]
        results = model.predict(arrays)
        assert model.function.batches == [(4, 24, 32, 3)] * 2
        for array, result in zip(arrays, results):
            np.testing.assert_array_equal(result.image, array)
            np.testing.assert_array_equal(result.panoptic // 10, array[..., 0] // 64)
        with pytest.raises(
            InputError, match=r"an export takes images of 24 x 32 pixels .* Received: an image of 5 x 7"
        ):
            model.predict([_pixels(), _pixels(5, 7)])


class TestResult:
    @pytest.fixture
    def result(self, model) -> Result:
        pixels = np.zeros([40, 50, 3], np.uint8)  # sky
        pixels[20:, :, 0] = 64  # road
        pixels[10:30, 5:15] = (128, 0, 0)  # a cat
        pixels[25:28, 30:49] = (128, 64, 0)  # another
        pixels[0:2, 0:3, 0] = 192  # void
        return model.predict(pixels)

    def test_segments(self, result):
        found = [(s.id, s.class_id, s.class_name, s.is_thing, s.area, s.box) for s in result.segments]
        assert found == [
            (0, 0, "sky", False, 20 * 50 - 10 * 10 - 6, (0, 0, 20, 50)),
            (10, 1, "road", False, 20 * 50 - 10 * 10 - 3 * 19, (20, 0, 40, 50)),
            (21, 2, "cat", True, 200, (10, 5, 30, 15)),
            (22, 2, "cat", True, 57, (25, 30, 28, 49)),
        ]
        np.testing.assert_allclose([s.score for s in result.segments], [0.9, 0.8, 0.1, 0.2], rtol=1e-6)
        assert repr(result) == "Result(40 x 50 pixels, 4 segments: sky, road, 2 cat)"

    def test_masks_tile_the_image(self, result):
        masks = [result.mask(segment) for segment in result.segments]
        assert [mask.sum() for mask in masks] == [segment.area for segment in result.segments]
        np.testing.assert_array_equal(np.sum(masks, axis=0), result.panoptic != VOID)

    @pytest.mark.parametrize("seed", range(20))
    def test_areas_and_boxes_are_those_of_a_slow_count(self, model, seed):
        result = model.predict(_pixels(seed=seed))
        assert {s.id for s in result.segments} == set(result.panoptic.ravel().tolist()) - {VOID}
        for segment in result.segments:
            places = [(y, x) for y in range(24) for x in range(32) if result.panoptic[y, x] == segment.id]
            ys, xs = zip(*places)
            assert segment.area == len(places)
            assert segment.box == (min(ys), min(xs), max(ys) + 1, max(xs) + 1)

    def test_a_network_without_instances(self):
        panoptic = np.int32([[0, 30], [10, 10]])
        segments = find_segments(panoptic, {keys.STUFF_SCORES: np.float32([0.5, 0.25, 0])}, SPACE)
        assert [(s.class_name, s.score) for s in segments] == [("road", 0.25), ("sky", 0.5)]

    def test_coco(self, result):
        planes, info = result.coco()
        ids = planes.astype(int) @ [1, 256, 65536]
        np.testing.assert_array_equal(ids == 0, result.panoptic == VOID)
        assert [entry["category_id"] for entry in info] == [10, 11, 17, 17]
        for entry in info:
            ys, xs = np.nonzero(ids == entry["id"])
            assert entry["area"] == len(ys)
            assert entry["bbox"] == [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
            assert entry["iscrowd"] == 0
        assert info[-1]["score"] == 0.2

    @pytest.mark.parametrize("extension", ["png", "jpg", "JPEG", "webp", "bmp"])
    def test_save(self, result, tmp_path, extension):
        path = tmp_path / "new" / f"overlay.{extension}"
        result.save(path)
        assert os.listdir(path.parent) == [path.name]
        overlay = result.overlay()
        assert overlay.shape == (400, 500, 3)
        with Image.open(path) as picture:
            assert picture.format == {"JPG": "JPEG"}.get(extension.upper(), extension.upper())
            difference = np.abs(np.asarray(picture.convert("RGB")).astype(int) - overlay)
        assert difference.mean() < (3 if extension in ("jpg", "JPEG", "webp") else 1e-9)

    def test_scores_are_written_when_asked(self, result, tmp_path):
        assert (result.overlay() != result.overlay(scores=True)).any()
        result.save(tmp_path / "a.png", scores=True)
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), result.overlay(scores=True))

    def test_a_notebook_shows_the_overlay(self, result):
        with Image.open(io.BytesIO(result._repr_png_())) as picture:
            np.testing.assert_array_equal(np.asarray(picture), result.overlay())

    @pytest.mark.parametrize("name", ["overlay", "overlay.gif", "overlay.txt"])
    def test_another_extension(self, result, tmp_path, name):
        with pytest.raises(InputError, match=r"must end in \.png, \.jpg, .*Received: .*overlay"):
            result.save(tmp_path / name)
        assert not list(tmp_path.iterdir())

    def test_a_full_disk(self, result, tmp_path, monkeypatch):
        _fill_disk(monkeypatch)
        with pytest.raises(InputError, match=r"overlay\.png cannot be written \(.*No space left.*\)\. Name another"):
            result.save(tmp_path / "overlay.png")
        assert not list(tmp_path.iterdir())


def _fill_disk(monkeypatch):
    """Files end after their first bytes."""

    def write_bytes(path, content):
        with open(path, "wb") as file:
            file.write(content[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(pathlib.Path, "write_bytes", write_bytes)


class TestOutput:
    def test_a_full_disk_leaves_no_part_of_a_file(self, model, tmp_path, monkeypatch):
        output = Output(str(tmp_path), SPACE)
        output.add_image("a/x.jpg", "x", model.predict(_pixels()))
        _fill_disk(monkeypatch)
        with pytest.raises(InputError, match=r"y\.png cannot be written \(.*No space left"):
            output.add_image("a/y.jpg", "y", model.predict(_pixels()))
        with pytest.raises(InputError, match=r"cannot be written \(No space left on device\)\. Make room"):
            output.finish()
        files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
        assert files == ["panoptic", "panoptic/x.png", "x.png"]

    def test_older_predictions_do_not_stay(self, tmp_path):
        (tmp_path / "predictions.json").write_text("{}")
        Output(str(tmp_path), SPACE).finish()
        assert not (tmp_path / "predictions.json").exists()


def test_inputs_are_found_in_files_folders_and_globs(tmp_path):
    for name in ("b.JPG", "a.png", "note.txt", "clip.mp4", "deep/er/c.webp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()

    def find(*patterns):
        return [os.path.relpath(path, tmp_path) for path in find_inputs([str(tmp_path / p) for p in patterns])]

    assert find(".") == ["a.png", "b.JPG", "clip.mp4"]
    assert find("note.txt", "*.png") == ["note.txt", "a.png"]
    assert find("**/*.webp") == ["deep/er/c.webp"]
    for pattern in ("none.jpg", "deep", "*.tif", "folder.p*"):
        with pytest.raises(InputError, match=r"--input=.* leads to no image \(\.jpg, .*\)\. Correct the path\."):
            find(pattern)


def test_which_files_are_videos():
    assert images.is_video("a/clip.MP4")
    assert images.is_video("x.gif")
    assert not images.is_video("x.mp4.png")


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
