# SPDX-License-Identifier: Apache-2.0
"""`deeplab-axial predict` and `deeplab_axial.load` with a trained network."""

import json
import shutil

import numpy as np
import pytest
import tf_keras
from PIL import Image

import deeplab_axial
from deeplab_axial import visualization
from deeplab_axial.errors import InputError
from deeplab_axial.predict import PanopticModel
from tests.cli import commands

pytestmark = pytest.mark.unseeded


@pytest.fixture(scope="module")
def model(chain) -> PanopticModel:
    return deeplab_axial.load(chain.root / "export")


@pytest.fixture
def photos(chain, tmp_path):
    """Three images of two sizes."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("000001", "000002"):
        shutil.copy(chain.root / "data" / "val" / f"{name}.jpg", folder)
    with Image.open(chain.root / "data" / "val" / "000003.jpg") as image:
        image.crop((0, 0, 40, 48)).save(folder / "small.png")
    return folder


def _predict(chain, photos, output, *flags):
    inputs = f"--input={photos}"
    return commands.run("predict", f"--saved_model={chain.root}/export", inputs, f"--output_dir={output}", *flags)


def _turn(path):
    """Gives an image the EXIF orientation of a camera that was held upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(path) as image:
        image.save(path, exif=exif, quality=95)


def _predictions(folder):
    return json.loads((folder / "predictions.json").read_text())


class TestLoad:
    def test_says_what_it_is(self, chain, model):
        assert repr(model) == f"PanopticModel({chain.root}/export, step 30, 7 classes of 'scenes')"

    def test_a_folder_of_versions(self, chain, tmp_path, photos, model):
        for version in ("9", "10", "11", "tmp"):
            (tmp_path / "versions" / version).mkdir(parents=True)
        for version in ("9", "10"):
            shutil.copytree(chain.root / "export", tmp_path / "versions" / version, dirs_exist_ok=True)
        found = deeplab_axial.load(tmp_path / "versions")
        assert f"{tmp_path}/versions/10, step 30" in repr(found)
        photo = photos / "000001.jpg"
        np.testing.assert_array_equal(found.predict(photo).panoptic, model.predict(photo).panoptic)

    @pytest.mark.parametrize("name", ["model", "model/ckpt-30", "model/best"])
    def test_a_checkpoint_predicts_what_its_export_does(self, chain, photos, model, name):
        policy = tf_keras.mixed_precision.global_policy()
        found = deeplab_axial.load(chain.root / name)
        assert tf_keras.mixed_precision.global_policy().name == policy.name
        step = 30 if name != "model/best" else json.loads((chain.root / name / "best.json").read_text())["step"]
        folder = chain.root / name if name == "model/best" else chain.root / "model"
        # The classes are those of the training records, which were converted without a --name.
        assert repr(found) == f"PanopticModel({folder}/ckpt-{step}, step {step}, 7 classes of 'coco_panoptic')"
        if step != 30:
            return
        for photo in photos.iterdir():
            # Batch normalisation is folded in the export: a pixel on the border of two classes may fall either way.
            assert np.mean(found.predict(photo).panoptic == model.predict(photo).panoptic) > 0.999

    def test_classes_that_nothing_tells(self, chain, tmp_path):
        folder = tmp_path / "model"
        folder.mkdir()
        for path in (chain.root / "model").glob("ckpt-30*"):
            shutil.copy(path, folder)
        text = (chain.root / "model" / "config.textproto").read_text()
        (folder / "config.textproto").write_text(text.replace(str(chain.root), "/nowhere"))
        with pytest.raises(InputError, match=r"ckpt-30': nothing tells its classes\. .* or load an export"):
            deeplab_axial.load(folder / "ckpt-30")


def test_three_lines(chain, photos, model, tmp_path):
    result = model.predict(str(photos / "000001.jpg"))
    result.save(tmp_path / "overlay.png")
    assert Image.open(tmp_path / "overlay.png").size == (64 * 8, 48 * 8)
    assert result.segments
    for segment in result.segments:
        assert result.mask(segment).sum() == segment.area
        assert 0 < segment.score < 2
        assert segment.class_name == result.label_space.by_id[segment.class_id].name
    assert result.semantic.shape == result.panoptic.shape == (48, 64)


def test_files_hold_what_the_model_predicts(chain, photos, model, tmp_path):
    outcome = _predict(chain, photos, tmp_path / "out")
    assert outcome.status == 0, outcome.err
    assert outcome.out == f"3 images: {tmp_path}/out\n"
    content = _predictions(tmp_path / "out")
    assert [image["file_name"] for image in content["images"]] == ["000001.jpg", "000002.jpg", "small.png"]
    assert content["images"][2] == {"id": "small", "file_name": "small.png", "height": 48, "width": 40}
    assert {c["name"] for c in content["categories"]} == {c.name for c in model.label_space.classes}
    for image, annotation in zip(content["images"], content["annotations"]):
        planes, segments = model.predict(photos / image["file_name"]).coco()
        np.testing.assert_array_equal(
            np.asarray(Image.open(tmp_path / "out/panoptic" / annotation["file_name"])), planes
        )
        assert annotation["image_id"] == image["id"]
        assert [s["area"] for s in annotation["segments_info"]] == [s["area"] for s in segments]
        np.testing.assert_allclose(
            [s["score"] for s in annotation["segments_info"]], [s["score"] for s in segments], atol=1e-4
        )


def test_batches_and_scores(chain, photos, model, tmp_path):
    outcome = _predict(chain, photos, tmp_path, "--batch_size=2", "--scores")
    assert outcome.status == 0, outcome.err
    names = [image["file_name"] for image in _predictions(tmp_path)["images"]]
    assert names == ["000001.jpg", "000002.jpg", "small.png"]
    for name in names:
        alone = model.predict(photos / name)
        found = np.asarray(Image.open((tmp_path / "panoptic" / name).with_suffix(".png")))
        assert np.mean(found == alone.coco()[0]) > 0.999  # sums round differently
    scores = {segment.id: segment.score for segment in alone.segments}
    expected = visualization.triptych(alone.image, None, alone.panoptic, model.label_space, scores)
    assert np.mean(np.asarray(Image.open(tmp_path / "small.png")) == expected) > 0.99


def test_one_bad_file_does_not_stop_the_rest(chain, photos, tmp_path):
    truncated = photos / "000000.jpg"
    truncated.write_bytes((photos / "000001.jpg").read_bytes()[:700])
    (photos / "text.png").write_text("text")
    _turn(photos / "000001.jpg")
    outcome = _predict(chain, photos, tmp_path / "out", "--batch_size=4")
    message = commands.one_message(outcome)
    lines = message.splitlines()
    assert lines[0] == "2 of 5 inputs were not predicted:"
    assert lines[1].startswith(f"{truncated} is no readable image (")
    assert lines[2].startswith(f"{photos}/text.png is no readable image (")
    assert outcome.err.count(f"not predicted: {truncated} is no readable image (") == 1
    assert outcome.out == f"3 images: {tmp_path}/out\n"
    written = sorted(path.name for path in (tmp_path / "out").rglob("*.*"))
    results = ["000001.png", "000002.png", "small.png"]
    assert written == sorted([*results, *results, "predictions.json"])
    assert [image["height"] for image in _predictions(tmp_path / "out")["images"]] == [48, 48, 48]
    assert "note: 1 images have an EXIF orientation, which is not applied: pixels count as stored" in outcome.err
    assert f"The first: {photos}/000001.jpg. --upright turns them." in outcome.err


def test_predictions_without_an_image(chain, tmp_path):
    (tmp_path / "text.png").write_text("text")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "predictions.json").write_text("of a run before, written by deeplab-axial")
    message = commands.one_message(_predict(chain, tmp_path / "text.png", tmp_path / "out"))
    assert message.startswith("1 of 1 inputs were not predicted:\n")
    content = _predictions(tmp_path / "out")
    assert (content["images"], content["annotations"]) == ([], [])
    assert content["inputs"] == [{"path": f"{tmp_path}/text.png", "failed": message.splitlines()[1]}]


def test_upright(chain, photos, model, tmp_path):
    _turn(photos / "000001.jpg")
    outcome = _predict(chain, photos / "000001.jpg", tmp_path, "--upright")
    assert outcome.status == 0, outcome.err
    assert "EXIF" not in outcome.err
    assert _predictions(tmp_path)["images"][0]["height"] == 64
    found = np.asarray(Image.open(tmp_path / "panoptic" / "000001.png"))
    np.testing.assert_array_equal(found, model.predict(photos / "000001.jpg", upright=True).coco()[0])


def test_images_and_a_video(chain, photos, tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    frames = [Image.open(photos / f"00000{i}.jpg") for i in (1, 2, 1, 2)]
    frames[0].save(photos / "clip.gif", save_all=True, append_images=frames[1:], duration=100)
    (photos / "broken.mp4").write_bytes(b"no video")
    outcome = _predict(chain, photos, tmp_path / "out", "--video_frames", "--batch_size=3")
    message = commands.one_message(outcome)
    assert message.startswith(f"1 of 5 inputs were not predicted:\n{photos}/broken.mp4 is no readable video (")
    assert outcome.out == f"3 images, 1 videos: {tmp_path}/out\n"
    assert (tmp_path / "out" / "clip.mp4").stat().st_size > 1000
    assert not (tmp_path / "out" / "broken.mp4").exists()
    annotations = {a["image_id"]: a for a in _predictions(tmp_path / "out")["annotations"]}
    assert set(annotations) == {"000001", "000002", "small", *(f"clip/00000{i}" for i in range(4))}
    maps = sorted((tmp_path / "out" / "panoptic" / "clip").iterdir())
    assert [f"clip/{path.name}" for path in maps] == [annotations[f"clip/00000{i}"]["file_name"] for i in range(4)]


def test_ground_truth_is_never_upright(chain, photos, tmp_path):
    outcome = _predict(chain, photos, tmp_path / "out", "--upright", "--panoptic_json=x", "--panoptic_dir=y")
    assert "--upright turns images, but ground truth is of pixels as stored" in commands.one_message(outcome)
    assert not (tmp_path / "out").exists()
