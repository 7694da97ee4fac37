# SPDX-License-Identifier: Apache-2.0
"""`export`: what its flags make of a trained model, and whether TensorFlow's own tools run it."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from deeplab_axial import builders, config, export, keys
from deeplab_axial.export import check
from deeplab_axial.training import checkpoints
from tests.cli import commands

SIZE = (49, 65)


def _export(chain, folder, *flags) -> commands.Result:
    return commands.run("export", *chain.flags, f"--model_dir={chain.root}/model", f"--output_dir={folder}", *flags)


def _differing(chain, module, tolerance: float) -> list[str]:
    """What tells the predictions of a module from those of the chain's export, on an image of SIZE."""
    path = sorted((chain.root / "data" / "val").glob("*.jpg"))[0]
    image = tf.io.decode_image(tf.io.read_file(str(path)), channels=3, expand_animations=False)
    image = tf.cast(tf.image.resize(image, SIZE), tf.uint8)[None]
    reference, _ = export.load(str(chain.root / "export"))
    expected, found = ({k: v.numpy() for k, v in m.serve(image).items()} for m in (reference, module))
    return check.problems(expected, found, 256, tolerance)


class TestSavedModelCli:
    """TensorFlow's own tool, which loads a SavedModel without knowing the library."""

    @staticmethod
    def _run(*arguments) -> str:
        tool = pathlib.Path(sys.executable).with_name("saved_model_cli")
        if not tool.exists():
            pytest.skip("TensorFlow came without saved_model_cli")
        result = subprocess.run([str(tool), *map(str, arguments)], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr[-3000:]
        return result.stdout

    def test_shows_the_signatures(self, chain):
        shown = self._run("show", "--dir", chain.root / "export", "--all")
        for name in ("serving_default", "encoded", "raw"):
            assert f"signature_def['{name}']" in shown
        assert "dtype: DT_UINT8\n        shape: (-1, -1, -1, 3)" in shown
        assert "dtype: DT_STRING\n        shape: (-1)" in shown

    def test_runs_one(self, chain, tmp_path):
        images = np.random.default_rng(0).integers(0, 256, (2, 33, 50, 3), np.uint8)
        np.save(tmp_path / "images.npy", images)
        self._run(
            *("run", "--dir", chain.root / "export", "--tag_set", "serve", "--signature_def", "serving_default"),
            *("--inputs", f"images={tmp_path}/images.npy", "--outdir", tmp_path),
        )
        module, _ = export.load(str(chain.root / "export"))
        expected = module.serve(images)
        assert {p.stem for p in tmp_path.glob("*.npy")} == {"images", *expected}
        panoptic = np.load(tmp_path / "panoptic.npy")
        assert np.mean(panoptic == expected[keys.PANOPTIC_MAP].numpy()) > 0.999


def test_a_checkpoint_without_some_weights(chain, tmp_path):
    options = config.load(commands.TINY)
    parts = ("backbone", "semantic_decoder", "semantic_head", "instance_decoder", "center_head")
    model = checkpoints.parts_of(builders.build_model(options), parts)
    path = tf.train.Checkpoint(model=model, step=tf.Variable(3, dtype=tf.int64)).write(str(tmp_path / "ckpt-3"))
    result = _export(chain, tmp_path / "export", f"--checkpoint={path}")
    message = commands.one_message(result)
    assert message.startswith(f"--checkpoint: checkpoint '{path}' does not fit this config: it lacks variables, as ")
    assert "offset_head" in message
    assert not list(tmp_path.glob("*export*"))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--input_size=65"], "--input_size must be HEIGHT,WIDTH in pixels. Received: 65"),
        (["--input_size=0,65"], "--input_size must be HEIGHT,WIDTH in pixels. Received: 0,65"),
        (["--xla"], "--xla compiles for one size. Add --input_size=HEIGHT,WIDTH."),
        (["--format=tflite"], "--format=tflite compiles for one size. Add --input_size"),
        (["--quantization=int8"], "--quantization does not go with --format=saved_model."),
        (["--format=tflite", "--input_size=65x65", "--xla"], "--xla does not go with --format=tflite."),
        (["--format=tflite", "--input_size=65x65", "--precision=bfloat16"], "--precision=bfloat16: LiteRT does not"),
    ],
)
def test_flags_that_do_not_go_together(flags, said):
    required = ("--config_file=x", "--model_dir=x", "--output_dir=x")
    assert commands.one_message(commands.run("export", *required, *flags)).startswith(said)


@pytest.mark.slow
def test_one_size_compiled_and_versioned(chain, tmp_path):
    size = f"--input_size={SIZE[0]}x{SIZE[1]}"
    result = _export(chain, tmp_path / "served", size, "--xla", "--version=7")
    assert result.status == 0, result.err
    assert result.out.rstrip().endswith(f"{tmp_path}/served/7")
    line = "Images of 49 x 65 (height x width) are computed at 49 x 65, as in evaluation (--padding=minimal computes at"
    assert line in result.out
    module, metadata = export.load(str(tmp_path / "served" / "7"))
    assert metadata.variant == export.Variant(input_size=SIZE, xla=True)
    assert metadata.step == 30
    assert _differing(chain, module, 0.01) == []


@pytest.mark.slow
def test_minimal_padding(chain, tmp_path):
    result = _export(chain, tmp_path / "export", "--padding=minimal")
    assert result.status == 0, result.err
    assert "Images are padded to 16 * k + 1, not to 49 x 65 as in evaluation: predictions differ." in result.out
    module, metadata = export.load(str(tmp_path / "export"))
    assert metadata.padding == "minimal"
    for size, shape in (((30, 40), (5, 7)), ((49, 65), (7, 9))):
        assert module.raw(np.zeros([1, *size, 3], np.uint8))[keys.OFFSET_MAP].shape == (1, *shape, 2)


@pytest.mark.slow
def test_bfloat16(chain, tmp_path):
    result = _export(chain, tmp_path / "export", "--precision=bfloat16")
    assert result.status == 0, result.err
    module, metadata = export.load(str(tmp_path / "export"))
    assert metadata.precision == "mixed_bfloat16"
    assert _differing(chain, module, 0.05) == []
    assert {v.dtype for v in module.weights} == {tf.float32}
    again = tmp_path / "again.textproto"
    again.write_text(metadata.config)
    assert config.load(again).trainer_options.precision == "mixed_bfloat16"


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["none", "float16", "int8"])
def test_lite(chain, tmp_path, quantization):
    size = f"--input_size={SIZE[0]},{SIZE[1]}"
    result = _export(chain, tmp_path / "lite", "--format=tflite", size, f"--quantization={quantization}")
    assert result.status == 0, result.err
    interpreter = tf.lite.Interpreter(model_path=str(tmp_path / "lite" / "model.tflite"))
    outputs = interpreter.get_signature_runner("raw").get_output_details()
    assert {name: tuple(details["shape"].tolist()) for name, details in outputs.items()} == {
        keys.SEMANTIC_LOGITS: (1, 7, 9, 8),
        keys.CENTER_HEATMAP: (1, 7, 9, 1),
        keys.OFFSET_MAP: (1, 7, 9, 2),
    }
    content = json.loads((tmp_path / "lite" / export.METADATA_FILE).read_text())
    assert content["variant"]["quantization"] == quantization
    assert content["label_space"]["classes"]
