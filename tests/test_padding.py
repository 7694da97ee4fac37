# SPDX-License-Identifier: Apache-2.0
"""One function everywhere: evaluation, `predict` and exports see an image padded alike."""

import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf

import deeplab_axial
from deeplab_axial import builders, export, keys
from deeplab_axial.choices import EVALUATION, MINIMAL
from deeplab_axial.data import pipeline, records, tfrecord_files
from deeplab_axial.data.label_space import LabelClass, LabelSpace
from deeplab_axial.errors import InputError
from deeplab_axial.export import metadata, writer
from deeplab_axial.inference import Predictor
from deeplab_axial.postprocessing.multi_scale import PLAIN
from deeplab_axial.postprocessing.panoptic_deeplab import PostProcessor
from deeplab_axial.protos import config_pb2
from deeplab_axial.submissions import predictions
from deeplab_axial.training.evaluator import Evaluator

pytestmark = pytest.mark.unseeded

SPACE = LabelSpace(
    "pets",
    (
        LabelClass(0, "floor", False, (9, 9, 9), 3),
        LabelClass(1, "cat", True, (255, 0, 0), 17),
        LabelClass(2, "dog", True, (0, 255, 0), 18),
    ),
    3,
    255,
    6,
)
CROP = (65, 81)
MAPS = (keys.SEMANTIC_MAP, keys.INSTANCE_MAP, keys.PANOPTIC_MAP)
SIZES = [(33, 49), (40, 50), (16, 16), (65, 81), (1, 30)]
RESIZED = {"min_resize": 40, "max_resize": 64}


class _Network(tf.Module):
    """Colours decide at stride 4, and so does the mean of the whole input, as it would by attention and pooling."""

    def __init__(self):
        super().__init__()
        self.weights = [tf.Variable([[1.0, -2.0, 0.5], [0.5, 1.0, -1.0], [-1.0, 0.2, 1.5]])]

    def __call__(self, images, training, scale):
        del training, scale
        x = images[:, ::4, ::4] / 128.0
        # In steps, so that rounding decides nothing.
        mean = tf.round(tf.reduce_mean(images, [1, 2, 3]) / 4.0)[:, None, None, None] / 8.0
        return {
            keys.SEMANTIC_LOGITS: tf.einsum("bhwc,cd->bhwd", x, self.weights[0]) + mean * [0.0, 0.3, -0.2],
            keys.CENTER_HEATMAP: x[..., :1] + 0.02 * mean,
            keys.OFFSET_MAP: 4.0 * (x[..., 1:] - 0.5),
        }


def _options(**options) -> pipeline.ImageOptions:
    return pipeline.ImageOptions(CROP, border_stride=16, **options)


def _predictor(padding: str = EVALUATION, **options) -> Predictor:
    postprocessor = PostProcessor(3, (1, 2), 6, 255, center_score_threshold=0.6, nms_kernel=5, keep_k_centers=40)
    return Predictor(_Network(), postprocessor, 16, _options(**options), PLAIN, padding)


def _image(height: int, width: int) -> np.ndarray:
    """Dark: grey padding shows."""
    return np.random.default_rng(height).integers(0, 120, (height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    examples = []
    for height, width in SIZES:
        image = _image(height, width)
        truth = np.where(image[..., 0] > 60, 6 + 1 + (np.arange(width) > width // 2), 0)
        file = tf.io.encode_png(image).numpy()
        examples.append(records.encode_example(file, "png", f"{height}x{width}.png", height, width, truth))
    shard = tfrecord_files.write_shard(folder, "pets.tfrecord", examples)
    return pipeline.Source.open([str(folder / shard.file)], SPACE)


@pytest.fixture(
    scope="module",
    params=[pytest.param({}, id="as_they_are"), pytest.param(RESIZED, id="resized", marks=pytest.mark.slow)],
)
def setting(request, source, tmp_path_factory):
    """Options, the folder of an export, what evaluation predicts of each image, and its metrics."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "_check", lambda *_: None)
        folder = str(tmp_path_factory.mktemp("export") / "one")
        about = export.Metadata(SPACE, "", step=1, version="1")
        export.write(_predictor(**request.param), about, folder, [_image(40, 50)])
    metrics, maps = _evaluate(_predictor(**request.param), source, request.param)
    return request.param, folder, maps, metrics


def _evaluate(predictor, source, options: dict, use_tf_function: bool = True) -> tuple[dict, dict]:
    """Metrics, and predicted maps by size."""
    maps = {}
    dataset = pipeline.evaluation_dataset(source, 2, _options(**options))
    metrics = Evaluator(predictor, SPACE, len(SIZES), use_tf_function).evaluate(
        dataset, lambda result: maps.update({result.prediction.shape: result.prediction})
    )
    return metrics, maps


class _Exported:
    """A predictor that asks an export, which takes images without their padding."""

    multi_scale = PLAIN

    def __init__(self, module):
        self._module = module

    def predict_padded(self, images, sizes):
        found = [self._one(image, *size) for image, size in zip(images, sizes.numpy())]
        return {key: tf.stack([one[key] for one in found]) for key in found[0]}

    def _one(self, image, height, width):
        entries = self._module.serve(tf.cast(image[None, :height, :width], tf.uint8))
        padding = [[0, CROP[0] - height], [0, CROP[1] - width]]
        return {key: np.pad(value[0], padding) if key in MAPS else value[0] for key, value in entries.items()}


def test_evaluation_predict_submissions_and_exports_agree(setting, source):
    options, folder, maps, _ = setting
    assert max(len(np.unique(panoptic)) for panoptic in maps.values()) > 6
    model, checkpoint = deeplab_axial.load(folder), _predictor(**options)
    traced = tf.function(
        checkpoint.predict_images, input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)], autograph=False
    )
    dataset = pipeline.evaluation_dataset(source, 2, _options(**options))
    submitted = {p.name: p.panoptic for p in predictions.predict(checkpoint, dataset, SPACE, len(SIZES))}
    for (height, width), panoptic in maps.items():
        image = _image(height, width)
        for found in (
            model.predict(image).panoptic,
            traced(tf.constant(image[None]))[keys.PANOPTIC_MAP][0],
            submitted[f"{height}x{width}.png"],
        ):
            np.testing.assert_array_equal(found, panoptic)


def test_evaluation_through_the_export(setting, source):
    options, folder, maps, metrics = setting
    if options:
        pytest.skip("an export resizes by itself, and evaluation hands out images that are resized")
    found, found_maps = _evaluate(_Exported(export.load(folder)[0]), source, {}, use_tf_function=False)
    for size, panoptic in maps.items():
        np.testing.assert_array_equal(found_maps[size], panoptic)
    assert found == metrics


def test_the_config_says_how_borders_are_padded():
    options = config_pb2.ExperimentOptions()
    options.model_options.backbone.output_stride = 32
    options.eval_dataset_options.crop_size.extend(CROP)
    assert builders.build_evaluation_image_options(options) == pipeline.ImageOptions(CROP, border_stride=32)
    options.eval_dataset_options.pad_with_grey_alone = True
    assert builders.build_evaluation_image_options(options) == pipeline.ImageOptions(CROP, border_stride=1)


def test_a_dark_image_has_no_bright_line_at_its_border(source):
    """Of 16 x 16 pixels, 17 are those of the image or repeat them, in evaluation as in prediction."""
    (batch,) = pipeline.evaluation_dataset(source, 5, _options()).as_numpy_iterator()
    image = _image(16, 16)
    x, _ = _predictor().prepare(tf.constant(image[None]))
    np.testing.assert_array_equal(batch[keys.IMAGE][SIZES.index((16, 16))], x[0])
    np.testing.assert_array_equal(x[0, :17, :17], np.pad(image, [(0, 1), (0, 1), (0, 0)], "edge"))
    assert (x[0, 17:].numpy() == 127.5).all()
    assert (x[0, :, 17:].numpy() == 127.5).all()


def test_minimal_padding_computes_something_else(setting):
    options, _, maps, _ = setting
    found = _predictor(MINIMAL, **options).predict_images(tf.constant(_image(16, 16)[None]))
    assert (found[keys.PANOPTIC_MAP][0].numpy() != maps[16, 16]).any()


def test_an_export_knows_its_padding(setting):
    folder = setting[1]
    with pytest.raises(InputError, match=r"with padding evaluation\. Received: padding minimal\. Leave it out"):
        deeplab_axial.load(folder, padding=MINIMAL)
    content = json.loads((pathlib.Path(folder) / metadata.METADATA_FILE).read_text())
    assert content.pop("padding") == EVALUATION
    # Exports of before say nothing, and were padded to the stride.
    assert export.Metadata.from_json(json.dumps(content)).padding == MINIMAL


def test_surplus_instances_are_counted_everywhere(setting, source, caplog):
    """Divisor 6 holds five instances of a class; the images have more."""
    _, folder, maps, metrics = setting
    assert metrics["num_surplus"] > 0
    model = deeplab_axial.load(folder)
    results = {size: model.predict(_image(*size)) for size in SIZES}
    assert sum(result.num_surplus for result in results.values()) == metrics["num_surplus"]
    assert max(panoptic[panoptic != SPACE.void_id].max() for panoptic in maps.values()) < 18
    said = [record.getMessage() for record in caplog.records if "are void: panoptic ids hold 5" in record.getMessage()]
    assert len(said) == 1
