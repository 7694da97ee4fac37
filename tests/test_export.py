# SPDX-License-Identifier: Apache-2.0
"""Exports appear whole and checked, or not at all. (Those of real networks are tested in tests/cli/test_export.py.)"""

import contextlib
import dataclasses
import datetime
import json
import re
import resource

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from deeplab_axial import export, keys
from deeplab_axial.data.label_space import LabelClass, LabelSpace
from deeplab_axial.data.pipeline import ImageOptions
from deeplab_axial.errors import InputError
from deeplab_axial.export import check, metadata, signatures, writer
from deeplab_axial.inference import Predictor
from deeplab_axial.postprocessing.multi_scale import PLAIN, MultiScale
from deeplab_axial.postprocessing.panoptic_deeplab import PostProcessor

pytestmark = pytest.mark.unseeded

SPACE = LabelSpace("two", (LabelClass(1, "cat", True, (255, 0, 0), 17),), 2, 0, 256)
METADATA = export.Metadata(SPACE, 'experiment_name: "x"', step=7, version="1", metrics={"step": 7}, git_revision="ab")
MAPS = (keys.SEMANTIC_MAP, keys.INSTANCE_MAP, keys.PANOPTIC_MAP)
OUTPUTS = (keys.SEMANTIC_LOGITS, keys.CENTER_HEATMAP, keys.OFFSET_MAP)


class _Network(tf.Module):
    """A network that traces fast: colours decide, at stride 4."""

    def __init__(self):
        super().__init__()
        self.weights = [tf.Variable([[1.0, -2.0, 0.5], [0.5, 1.0, -1.0], [-1.0, 0.2, 1.5]])]

    def __call__(self, images, training, scale):
        x = images[:, ::4, ::4] / 255.0 * scale
        return {
            keys.SEMANTIC_LOGITS: tf.einsum("bhwc,cd->bhwd", x, self.weights[0]),
            keys.CENTER_HEATMAP: x[..., :1],
            keys.OFFSET_MAP: 4.0 * (x[..., 1:] - 0.5),
        }


def _predictor(multi_scale: MultiScale = PLAIN, **options) -> Predictor:
    postprocessor = PostProcessor(3, (1, 2), 256, 0, center_score_threshold=0.5, nms_kernel=7, keep_k_centers=20)
    return Predictor(_Network(), postprocessor, 16, ImageOptions(crop_size=(65, 81), **options), multi_scale)


def _images(height: int, width: int, batch: int = 1) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (batch, height, width, 3), np.uint8)


SAMPLES = [_images(40, 50)[0], _images(33, 33)[0]]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports") / "models" / "one"
    assert export.write(_predictor(), METADATA, str(folder), SAMPLES) == str(folder)
    return folder


@pytest.fixture(scope="module")
def module(exported):
    return export.load(str(exported))[0]


def test_writes_a_saved_model_with_its_description(exported):
    _, found = export.load(str(exported))
    assert found == dataclasses.replace(
        METADATA, padding="evaluation", tensorflow_version=tf.__version__, created=found.created
    )
    assert datetime.datetime.fromisoformat(found.created).utcoffset() == datetime.timedelta(0)
    assert [p.name for p in exported.parent.iterdir()] == ["one"]
    content = json.loads((exported / export.METADATA_FILE).read_text())
    assert content["label_space"]["classes"][0]["name"] == "cat"
    assert content["variant"] == {"format": "saved_model", "input_size": None, "xla": False, "quantization": "none"}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("size", [(1, 1), (1, 20), (31, 1), (16, 16), (33, 49), (47, 90)])
def test_every_signature_predicts_what_the_predictor_does(module, batch, size):
    images = _images(*size, batch=batch)
    files = tf.constant([tf.io.encode_png(image).numpy() for image in images])
    expected = _predictor().predict_images(tf.constant(images))
    for found in (
        module.serve(images),
        module.signatures["serving_default"](images=tf.constant(images)),
        module.encoded(files),
        module.signatures["encoded"](image_bytes=files),
    ):
        # As a graph, sums round differently: a pixel between two classes may fall either way.
        assert not check.problems(_numpy(expected), _numpy(found), 256, 0.005)
    x, _ = _predictor().prepare(tf.constant(images))
    raw = module.signatures["raw"](images=tf.constant(images))
    assert set(raw) == set(OUTPUTS)
    for key, value in _Network()(x, training=False, scale=1.0).items():
        np.testing.assert_allclose(raw[key], value, rtol=1e-6, atol=1e-6)
    padded = (17, 25 if size[1] > 81 else 21)  # the crop of 65 x 81 at stride 4, or the next 16 k + 1
    assert raw[keys.OFFSET_MAP].shape == (batch, *padded, 2)


def test_jpeg_files_are_decoded_as_everywhere(module):
    file = tf.io.encode_jpeg(SAMPLES[0]).numpy()
    image = tf.io.decode_image(file, channels=3, expand_animations=False)
    np.testing.assert_array_equal(module.encoded([file])[keys.PANOPTIC_MAP], module.serve(image[None])["panoptic"])


@pytest.mark.parametrize("value_range", [(0, 4095), None])
def test_files_of_16_bits_are_scaled_as_the_training_data_were(value_range):
    found = export.Metadata.from_json(dataclasses.replace(METADATA, value_range=value_range).to_json())
    assert found.value_range == value_range
    values = SAMPLES[0].astype(np.uint16) << 4
    module = signatures.build(_predictor(), export.Variant(), value_range=value_range)
    files = [tf.io.encode_png(values).numpy()]
    if value_range is None:
        with pytest.raises(tf.errors.InvalidArgumentError, match="value range is not known"):
            module.encoded(files)
        return
    expected = module.serve(SAMPLES[:1])
    for key, entry in module.encoded(files).items():
        np.testing.assert_array_equal(entry, expected[key])


def test_files_that_do_not_go_together(module):
    encoded = module.encoded
    one, other = (tf.io.encode_png(image).numpy() for image in SAMPLES)
    with pytest.raises(tf.errors.InvalidArgumentError, match="images of one batch must be of the same size"):
        encoded([one, one, other])
    with pytest.raises(tf.errors.InvalidArgumentError, match="must hold one image or more"):
        encoded(tf.zeros([0], tf.string))
    with pytest.raises(tf.errors.InvalidArgumentError):
        encoded([one[:-40]])


def _nodes(folder):
    message = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    for meta_graph in message.meta_graphs:
        yield from meta_graph.graph_def.node
        for function in meta_graph.graph_def.library.function:
            # Variables are read from files by the CPU, in every SavedModel.
            if not function.signature.name.startswith(("__inference__traced_save", "__inference__traced_restore")):
                yield from function.node_def


def test_the_graph_needs_no_python_and_no_device(exported):
    nodes = list(_nodes(exported))
    assert len(nodes) > 100
    assert {node.op for node in nodes if node.device} <= {"Const"}  # names of files, at the outermost level
    # Of TensorFlow itself, not of a library that a server would have to load.
    assert not {node.op for node in nodes} - set(dir(tf.raw_ops))
    assert not [node.op for node in nodes if "PyFunc" in node.op]


def test_the_network_is_traced_once():
    network = _Network()
    calls = []
    predictor = _predictor()
    predictor.model = lambda images, **kwargs: calls.append(1) or network(images, **kwargs)
    predictor.model.weights = network.weights
    module = signatures.build(predictor, export.Variant())
    for function in (module.serve, module.encoded, module.raw):
        function.get_concrete_function()
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("multi_scale", "options", "size"),
    [
        (PLAIN, {}, (47, 65)),
        # Resized by ratios that XLA gets wrong in TensorFlow 2.21's own operation.
        pytest.param(PLAIN, {"min_resize": 81, "max_resize": 385}, (27, 129), marks=pytest.mark.slow),
        pytest.param(MultiScale((0.8, 1.0, 1.3), True), {}, (50, 66), marks=pytest.mark.slow),
    ],
)
def test_one_size_compiled_by_xla(tmp_path, multi_scale, options, size):
    variant = export.Variant(input_size=size, xla=True)
    folder = tmp_path / "xla"
    export.write(_predictor(multi_scale, **options), METADATA, str(folder), SAMPLES, variant)
    module, found = export.load(str(folder))
    assert found.variant == variant
    images = _images(*size, batch=2)
    expected = _predictor(multi_scale, **options).predict_images(tf.constant(images))
    assert not check.problems(_numpy(expected), _numpy(module.serve(images)), 256, 0.005)
    assert any(node.attr["_XlaMustCompile"].b for node in _nodes(folder))
    other = tf.io.encode_png(images[0, 1:]).numpy()
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"takes images of {size[0]} x {size[1]} pixels"):
        module.encoded([other])


def _numpy(entries):
    return {key: value.numpy() for key, value in entries.items()}


def test_versions_stand_side_by_side(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "_check", lambda *_: None)
    for version in (3, 12):
        folder = export.write(_predictor(), METADATA, str(tmp_path / "served"), SAMPLES, version=version)
        assert folder == str(tmp_path / "served" / str(version))
    assert sorted(p.name for p in (tmp_path / "served").iterdir()) == ["12", "3"]
    with pytest.raises(InputError, match=r"served/3 is not empty\. Name a new folder"):
        export.write(_predictor(), METADATA, str(tmp_path / "served"), SAMPLES, version=3)


def test_a_lite_model(tmp_path):
    variant = export.Variant("tflite", (33, 49))
    export.write(_predictor(), METADATA, str(tmp_path / "lite"), SAMPLES, variant)
    assert sorted(p.name for p in (tmp_path / "lite").iterdir()) == ["assets.extra", "model.tflite"]
    with pytest.raises(InputError, match=r"is no export of deeplab-axial \(it is a LiteRT model"):
        export.load(str(tmp_path / "lite"))


def test_nothing_stays_when_the_reloaded_export_differs(tmp_path, monkeypatch):
    save = writer._save

    def save_other_weights(module, variant, folder):
        module.weights[0].assign(-module.weights[0])
        save(module, variant, folder)

    monkeypatch.setattr(writer, "_save", save_other_weights)
    with pytest.raises(RuntimeError, match=r"what the model does:\n[\s\S]*0\.encoded\.npz: panoptic differs by \d"):
        export.write(_predictor(), METADATA, str(tmp_path / "one"), SAMPLES)
    assert not list(tmp_path.iterdir())


def test_nothing_stays_when_evaluation_says_something_else(tmp_path):
    evaluation = _predictor()
    evaluation.model.weights[0].assign(-evaluation.model.weights[0])
    with pytest.raises(RuntimeError, match=r"not predict what evaluation does, on image 0: semantic differs by"):
        export.write(_predictor(), METADATA, str(tmp_path / "one"), SAMPLES, evaluation=evaluation)
    assert not list(tmp_path.iterdir())


@contextlib.contextmanager
def _files_of_at_most(size: int):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [100, 30_000])
def test_nothing_stays_when_the_disk_is_full(tmp_path, size):
    with _files_of_at_most(size), pytest.raises(InputError, match=r"one cannot be written \(.*\)\. Free space there"):
        export.write(_predictor(), METADATA, str(tmp_path / "one"), SAMPLES)
    assert not list(tmp_path.iterdir())


def test_an_empty_folder_is_taken_and_a_full_one_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "_check", lambda *_: None)
    folder = tmp_path / "one"
    folder.mkdir()
    export.write(_predictor(), METADATA, str(folder), SAMPLES)
    assert (folder / "saved_model.pb").exists()
    with pytest.raises(InputError, match=r"one is not empty\. Name a new folder"):
        export.write(_predictor(), METADATA, str(folder), SAMPLES)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--output_dir=.*file/one cannot be written \(.*\)\. Free space there, or"):
        export.write(_predictor(), METADATA, str(tmp_path / "file" / "one"), SAMPLES)


def test_nothing_is_exported_unchecked(tmp_path):
    with pytest.raises(ValueError, match="samples must hold one image or more"):
        export.write(_predictor(), METADATA, str(tmp_path / "one"), [])


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", '{"label_space": {"name": 3}}'])
def test_another_folder_is_no_export(tmp_path, content):
    path = tmp_path / export.METADATA_FILE
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(InputError, match=r"is no export of deeplab-axial \(.*\)\. Make one with"):
        export.load(str(tmp_path))


def test_descriptions_of_older_exports_are_read():
    content = json.loads(METADATA.to_json())
    for name in ("git_revision", "precision", "variant", "padding", "tensorflow_version", "created"):
        del content[name]
    assert METADATA.padding == "minimal"
    assert export.Metadata.from_json(json.dumps(content)) == dataclasses.replace(METADATA, git_revision=None)


@pytest.mark.parametrize(
    "arguments",
    [
        {"format": "onnx"},
        {"quantization": "int4"},
        {"xla": True},
        {"format": "tflite"},
        {"quantization": "int8"},
        {"format": "tflite", "xla": True, "input_size": (5, 5)},
    ],
)
def test_variants_that_do_not_exist(arguments):
    with pytest.raises(ValueError, match="Received: "):
        export.Variant(**arguments)


def test_the_revision_of_the_checkout(monkeypatch, tmp_path):
    found = export.git_revision()
    assert found is None or re.fullmatch(r"[0-9a-f]{40}(\+dirty)?", found)
    monkeypatch.setattr(metadata, "__file__", str(tmp_path / "export" / "metadata.py"))
    assert export.git_revision() is None


EXPECTED = {
    keys.SEMANTIC_MAP: np.array([[1, 1, 2, 2]], np.int32),
    keys.PANOPTIC_MAP: np.array([[257, 258, 513, 513]], np.int32),
    keys.CENTER_SCORES: np.array([0.5, 0.25], np.float32),
}


class TestProblems:
    """What `check` calls different."""

    def _problems(self, **changes):
        found = {**EXPECTED, **{key: np.asarray(value) for key, value in changes.items()}}
        return check.problems(EXPECTED, found, 256)

    def test_nothing(self):
        assert self._problems() == []

    def test_other_numbers_of_instances(self):
        assert self._problems(panoptic=np.array([[258, 257, 513, 513]], np.int32)) == []

    @pytest.mark.parametrize("panoptic", [[257, 257, 513, 513], [257, 258, 513, 514], [257, 258, 257, 257]])
    def test_other_segments(self, panoptic):
        (line,) = self._problems(panoptic=np.array([panoptic], np.int32))
        assert re.fullmatch(r"panoptic differs by (25|50)\.00%; allowed: 0\.10%", line)

    def test_other_classes(self):
        assert "semantic differs by 25.00%" in self._problems(semantic=np.array([[1, 1, 2, 1]], np.int32))[0]

    def test_other_scores(self):
        assert "center_scores" in self._problems(center_scores=np.float32([0.5, 0.3]))[0]
        assert "center_scores" in self._problems(center_scores=np.float32([0.5, np.nan]))[0]

    def test_other_entries_shapes_and_types(self):
        assert "has the entries center_scores, more, panoptic" in self._problems(more=0)[0]
        assert "is int32 [4]; expected: int32 [1, 4]" in self._problems(semantic=np.zeros([4], np.int32))[0]
        assert "is int64 [1, 4]" in self._problems(semantic=EXPECTED["semantic"].astype(np.int64))[0]

    @pytest.mark.parametrize(("factor", "number"), [(1.0005, 0), (1.01, 1), (np.nan, 1)])
    def test_outputs_of_heads(self, factor, number):
        expected = {keys.OFFSET_MAP: np.ones([1, 2, 2, 2], np.float32)}
        found = {keys.OFFSET_MAP: np.float32(expected[keys.OFFSET_MAP] * factor)}
        assert len(check.problems(expected, found, 256)) == number
