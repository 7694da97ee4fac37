# SPDX-License-Identifier: Apache-2.0
"""Restoring from DeepLab2 checkpoints: values arrive, what is left is told, what does not fit is refused."""

import pathlib
import re

import numpy as np
import pytest
import tensorflow as tf

from deeplab_axial import builders, config, keys
from deeplab_axial.errors import InputError
from deeplab_axial.importing import deeplab2, deeplab2_names
from deeplab_axial.training import checkpoints
from deeplab_axial.training.optimizers import Lookahead, RAdam
from tests import golden
from tests.importing import dl2_checkpoints as dl2

TINY = pathlib.Path(__file__).parents[1] / "data" / "tiny.textproto"
BACKBONE = "model_options.backbone"
HEAD = "model_options.panoptic_deeplab.semantic_head"
PARTS = (
    *("backbone", "semantic_decoder", "semantic_head/conv", "semantic_head/last", "instance_decoder"),
    *("center_head/conv", "center_head/last", "offset_head/conv", "offset_head/last"),
)


def _model(*overrides, backbone="axial_deeplab_s"):
    flavor = "" if any("flavor" in o for o in overrides) else f"{BACKBONE}.flavor=deeplab2"
    options = config.load(TINY, [o for o in (f"{BACKBONE}.name={backbone}", flavor, *overrides) if o])
    return builders.build_model(options)


def _table(model):
    return {entry.key: entry for part in deeplab2_names.parts(model) for entry in part.entries}


def _is_restored(model, arrays, prefix="") -> bool:
    """Whether the variables under a prefix of keys hold these arrays: True if all do, False if none does."""
    same = {
        np.array_equal(entry.variable.numpy().ravel(), arrays[key].ravel())
        for key, entry in _table(model).items()
        if key.startswith(prefix)
    }
    assert len(same) == 1
    return same.pop()


@pytest.fixture(scope="module")
def arrays():
    return dl2.of_model(_model())


@pytest.fixture(scope="module")
def unchanged():
    """A network for tests that a checkpoint must not get into; `_refused` sees to that."""
    return _model()


@pytest.fixture(scope="module")
def saved(arrays, tmp_path_factory):
    """A checkpoint for `_model()`, with the optimizer's slots."""
    return dl2.write(str(tmp_path_factory.mktemp("deeplab2") / "ckpt"), arrays, with_optimizer=True)


def _refused(path, model, **options) -> str:
    before = [v.numpy() for v in model.variables]
    with pytest.raises(InputError) as error:
        deeplab2.restore(path, model, "--checkpoint", **options)
    message = str(error.value)
    assert message.startswith(f"--checkpoint: {path!r} ")
    assert "\n" not in message
    assert len(message) < 1500
    assert all(np.array_equal(v.numpy(), b) for v, b in zip(model.variables, before))  # all or nothing
    return message


def test_a_recorded_checkpoint(tmp_path):
    folder = golden.FOLDER / "checkpoint_panoptic_deeplab_tiny"
    arrays = golden.load("panoptic_deeplab_tiny")
    options = config.load(folder / "config.textproto", placeholders={})
    model = builders.build_model(options)
    report = deeplab2.restore(str(folder / "ckpt-1"), model, "--checkpoint", same_function=True)
    assert report.step == arrays["w:global_step"]
    assert sum(report.restored.values()) == len(model.variables) == 808
    assert (tuple(report.restored), report.absent, report.left) == (PARTS, {}, {"counters": 2})
    weights = golden.weights(arrays)
    assert all(
        np.array_equal(entry.variable.numpy().ravel(), weights[key].ravel()) for key, entry in _table(model).items()
    )
    for name, value in model(tf.constant(arrays["input"])).items():
        # See tests/models/test_panoptic_deeplab.py: random weights make the network chaotic.
        assert np.corrcoef(value.numpy().ravel(), arrays[f"raw:{name}"].ravel())[0, 1] > 0.4


def test_every_value_arrives_and_what_is_left_is_told(saved, arrays):
    model = _model()
    report = deeplab2.restore(saved, model, "--checkpoint")
    assert _is_restored(model, arrays)
    assert (report.step, tuple(report.restored), report.absent) == (7, PARTS, {})
    assert report.left == {"of the optimizer's state": 2 * len(arrays) + 5, "counters": 2}
    text = str(report)
    assert f"Read {len(arrays)} variables from {saved} (DeepLab2, step 7):" in text
    assert re.search(r"^  center_head/last +2$", text, re.MULTILINE)
    assert "of the optimizer's state, 2 counters" in text
    assert max(len(line) for line in text.splitlines()[1:]) < 120


@pytest.mark.parametrize(
    "overrides",
    [
        ("name=resnet50", "use_squeeze_and_excite=true"),
        ("name=swidernet", "use_sac_beyond_stride=32", "drop_path_keep_prob=1"),
        pytest.param(("name=axial_swidernet",), marks=pytest.mark.slow),
        pytest.param(("name=max_deeplab_s_backbone", "backbone_layer_multiplier=0.4"), marks=pytest.mark.slow),
    ],
)
def test_other_backbones_with_a_pooling_decoder(overrides, tmp_path):
    wide = [f"{BACKBONE}.{override}" for override in overrides]
    decoder = ["model_options.decoder.aspp_use_only_1x1_proj_conv=false", "model_options.decoder.atrous_rates=3,6,9"]
    model = _model(*wide, *decoder)
    arrays = dl2.of_model(model, seed=3)
    path = dl2.write(str(tmp_path / "ckpt"), arrays)
    other = _model(*wide, *decoder)
    deeplab2.restore(path, other, "--checkpoint", same_function=True)
    assert _is_restored(other, arrays)
    image = tf.random.uniform([1, 49, 65, 3], maxval=255)
    deeplab2.restore(path, model, "--checkpoint")
    for name, value in other(image).items():
        assert np.isfinite(value).all()
        np.testing.assert_array_equal(value, model(image)[name])


def test_a_pretrained_backbone(arrays, tmp_path):
    encoder = {key: value for key, value in arrays.items() if key.startswith("encoder/")}
    garden = {key.replace("encoder/", "backbone/_encoder/"): value for key, value in encoder.items()}
    garden["head/_dense/kernel"] = np.zeros([3, 4], np.float32)
    for name, content in (("plain", encoder), ("garden", garden)):
        path = dl2.write(str(tmp_path / name), content, global_step=None)
        model = _model()
        fresh = {key: entry.variable.numpy() for key, entry in _table(model).items()}
        report = deeplab2.restore(path, model, "--checkpoint")
        assert _is_restored(model, arrays, "encoder/")
        assert _is_restored(model, fresh, "semantic_")
        assert (report.step, list(report.restored)) == (None, ["backbone"])
        assert report.absent == dict.fromkeys(PARTS[1:], "not in the checkpoint")
        assert "Not restored: semantic_decoder (not in the checkpoint); it keeps its initialisation." in str(report)
        assert len(report.taken) == sum(report.restored.values())
        assert len(report.left_over) == sum(report.left.values())
    assert report.left == {"counters": 1, "unknown, under head/": 1}


def test_what_the_config_has_not_is_left(saved, arrays, tmp_path):
    semantic = _model("model_options.panoptic_deeplab.instance.enable=false")
    left = deeplab2.restore(saved, semantic, "--checkpoint").left
    assert left["of instance parts, which the config has not"] == sum(key.startswith("instance_") for key in arrays)
    assert _is_restored(semantic, arrays)
    more = {
        "encoder/_stage5_extra/_block1/_conv1_bn_act/_conv/kernel": np.zeros([2], np.float32),
        "encoder/_stage4/_block1_transformer/_x/kernel": np.zeros([2], np.float32),
        "encoder/memory_feature": np.zeros([2], np.float32),
    }
    path = dl2.write(str(tmp_path / "max"), {**arrays, **more})
    assert deeplab2.restore(path, _model(), "--checkpoint").left["of MaX-DeepLab's own layers"] == 3


def test_last_layers_are_skipped_if_asked_for(saved, arrays):
    model = _model(f"{HEAD}.output_channels=4")
    assert "{}.output_channels: {}".format(HEAD, arrays["semantic_last_layer/bias"].size) in _refused(saved, model)
    fresh = {key: entry.variable.numpy() for key, entry in _table(model).items()}
    skip = {"semantic_head/last": "as the config says", "center_head/last": "as the config says"}
    report = deeplab2.restore(saved, model, "--checkpoint", skip=skip)
    assert _is_restored(model, fresh, "semantic_last_layer/kernel")
    assert _is_restored(model, fresh, "instance_center_head_last_layer/kernel")
    for prefix in ("encoder/", "semantic_head_without_last_layer/", "instance_regression_head_last_layer/"):
        assert _is_restored(model, arrays, prefix)
    assert report.absent == {"semantic_head/last": "as the config says", "center_head/last": "as the config says"}
    assert report.left["of last layers that the config does not restore"] == 4


def test_a_span_is_refused_by_the_import_and_noted_for_training(saved, arrays):
    model = _model(f"{BACKBONE}.attention_span=5")
    message = _refused(saved, model, same_function=True)
    assert "attention_span: 0" in message
    assert "model_options.initial_checkpoint" in message
    report = deeplab2.restore(saved, model, "--checkpoint")
    key = "encoder/_stage3/_block1/_attention/_width_axis/_value_rpe/embeddings"
    np.testing.assert_array_equal(_table(model)[key].variable, arrays[key])
    assert len(report.notes) == 1
    assert "sees 5 positions" in report.notes[0]
    assert "Note: " in str(report)


def test_a_span_computes_the_same_where_the_axis_is_short(saved):
    spanned, whole = _model(f"{BACKBONE}.attention_span=65"), _model()
    for model in (spanned, whole):
        deeplab2.restore(saved, model, "--checkpoint")
    image = tf.random.uniform([1, 33, 49, 3], maxval=255)
    for name, value in spanned(image).items():
        np.testing.assert_allclose(value, whole(image)[name], rtol=1e-4, atol=1e-4)


def test_the_flavor_of_the_paper_is_refused(saved):
    for backbone in ("axial_deeplab_s", "resnet50"):
        message = _refused(saved, _model(f"{BACKBONE}.flavor=paper", backbone=backbone))
        assert 'its flavor is "paper"' in message
        assert 'model_options.backbone.flavor: "deeplab2"' in message
    assert "square windows" in _refused(saved, _local_attention())


def _local_attention():
    model = _model(f"{BACKBONE}.flavor=paper", backbone="local_resnet_s")
    # Paper's flavor alone has it, so the flavor's own message would hide this one.
    model.backbone.stem_layer.max_pool, model.backbone.striding = False, "subsample"
    return model


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            [f"{BACKBONE}.backbone_width_multiplier=0.125"],
            [r"have another shape, as \S+ needs \(\d.*\) and encoder/\S+ has \(\d", "backbone_width_multiplier"],
        ),
        ([f"{BACKBONE}.stem_width_multiplier=0.125"], ["encoder/_stem/_conv1_bn_act", "stem_width_multiplier"]),
        (
            [f"{BACKBONE}.backbone_layer_multiplier=0.5"],
            ["it lacks 126 of", "_stage3/_block2", "backbone_layer_multiplier"],
        ),
        ([f"{BACKBONE}.use_squeeze_and_excite=true"], ["it lacks", "_se_conv/kernel", "use_squeeze_and_excite"]),
        ([f"{BACKBONE}.attention_key_position=false"], ["it has .* that the model has not", "_key_rpe", "attention_"]),
        (
            [f"{BACKBONE}.attention_batch_norm=false"],
            ["it has .* that the model has not", "_batch_norm_", "attention_"],
        ),
        ([f"{BACKBONE}.name=resnet50_beta"], ["it lacks", "_conv2_bn_act", "that the model has not", "backbone.name"]),
        (["model_options.decoder.decoder_channels=16"], ["semantic_decoder/_fusion_conv", "decoder.decoder_channels"]),
        (
            [
                "model_options.decoder.aspp_use_only_1x1_proj_conv=false",
                "model_options.decoder.atrous_rates=3,6,9",
            ],
            ["semantic_decoder/_aspp/", "decoder.aspp_use_only_1x1_proj_conv"],
        ),
        ([f"{HEAD}.head_channels=4"], ["semantic_head_without_last_layer", "head_channels"]),
        (
            [f"{HEAD}.output_channels=5"],
            ["the config 5: set", "restore_semantic_last_layer_from_initial_checkpoint: false"],
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit(saved, overrides, said):
    message = _refused(saved, _model(*overrides))
    assert "is a checkpoint of DeepLab2 and does not fit this config" in message
    for pattern in said:
        assert re.search(pattern, message), pattern


def test_the_width_is_told(saved):
    message = _refused(saved, _model(f"{BACKBONE}.backbone_width_multiplier=0.125"))
    assert "Its backbone is 2 times as wide as the config's." in message


def test_half_a_part_is_an_error(arrays, unchanged, tmp_path):
    lost = "semantic_decoder/_aspp/_proj_conv_bn_act/_batch_norm/gamma"
    path = dl2.write(str(tmp_path / "ckpt"), {key: value for key, value in arrays.items() if key != lost})
    message = _refused(path, unchanged)
    variable = f"semantic_decoder/aspp/projection/batch_norm/gamma (key {lost}, shape (8,))"
    assert f"it lacks 1 of the model's variables, as {variable}. " in message


def _tensorflow_1(folder) -> str:
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.get_variable("resnet/conv1/weights", [3])
        session.run(tf.compat.v1.global_variables_initializer())
        return tf.compat.v1.train.Saver().save(session, str(folder / "model"))


def _hdf5(folder) -> str:
    path = folder / "weights.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    return str(path)


def _unknown(folder) -> str:
    return tf.train.Checkpoint(net=tf.train.Checkpoint(v=tf.Variable(1.0))).save(str(folder / "ckpt"))


def _ours(folder) -> str:
    return checkpoints.Manager(str(folder), {"model": _model()}, tf.Variable(1, dtype=tf.int64), 1).save()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (_tensorflow_1, "is a checkpoint of TensorFlow 1: it names variables, as 'resnet/conv1/weights'"),
        (_hdf5, "is an HDF5 file of Keras weights"),
        (_unknown, "is no checkpoint of DeepLab2, whose keys start with encoder/"),
        (_ours, "Checkpoints of this library need no import"),
        (lambda folder: str(folder / "nothing"), "is no readable checkpoint"),
    ],
)
def test_other_files(make, said, unchanged, tmp_path):
    assert said in _refused(make(tmp_path), unchanged)


@pytest.mark.parametrize("suffix", [".index", ".data-00000-of-00001"])
def test_a_checkpoint_that_is_cut_short(arrays, unchanged, tmp_path, suffix):
    path = dl2.write(str(tmp_path / "ckpt"), arrays)
    file = pathlib.Path(path + suffix)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert "is no readable checkpoint" in _refused(path, unchanged)


def test_assign_wants_the_same_keys_and_shapes(arrays):
    model = _model()
    entries = list(_table(model).values())
    with pytest.raises(ValueError, match="only one has more"):
        deeplab2.assign(entries, {**arrays, "more": np.zeros(1)})
    first = entries[0]
    with pytest.raises(ValueError, match=f"{first.key} must have shape"):
        deeplab2.assign(entries, {**arrays, first.key: np.zeros([1, 2])})


@pytest.mark.parametrize("semantic", [True, False])
@pytest.mark.parametrize("instance", [True, False])
def test_as_initial_checkpoint(saved, arrays, semantic, instance):
    model = _model()
    fresh = {key: entry.variable.numpy() for key, entry in _table(model).items()}
    report = checkpoints.restore_initial(str(pathlib.Path(saved).parent), model, semantic, instance)
    roots = {"semantic_last_layer/kernel": semantic, "encoder/": True, "instance_decoder/": True}
    roots |= {f"instance_{name}_head_last_layer/kernel": instance for name in ("center", "regression")}
    for root, restored in roots.items():
        assert _is_restored(model, arrays if restored else fresh, root)
    skipped = ["semantic_head/last"] * (not semantic) + ["center_head/last", "offset_head/last"] * (not instance)
    assert list(report.absent) == skipped


def test_as_initial_checkpoint_of_a_classifier(saved, arrays, tmp_path):
    options = config.load(TINY, [f"{BACKBONE}.flavor=deeplab2"])
    options.model_options.classification.num_classes = 4
    classifier = builders.build_model(options)
    report = checkpoints.restore_initial(saved, classifier)
    assert list(report.restored) == ["backbone"]
    assert report.left["of decoders and heads, which the config has not"] > 50
    assert _is_restored(classifier, arrays, "encoder/")


def test_an_initial_checkpoint_that_does_not_fit_names_its_field(saved):
    with pytest.raises(InputError, match=r"model_options\.initial_checkpoint: .*does not fit this config"):
        checkpoints.restore_initial(saved, _model(f"{BACKBONE}.use_squeeze_and_excite=true"))


def test_slow_weights_start_from_the_restored_ones(saved):
    model = _model()
    optimizer = Lookahead(RAdam(0.01), sync_period=1, slow_step_size=0.5)
    optimizer.build(model.trainable_variables)  # before the checkpoint is restored
    checkpoints.restore_initial(saved, model)
    before = [v.numpy() for v in model.trainable_variables]
    optimizer.apply_gradients([(tf.ones_like(v), v) for v in model.trainable_variables])
    # The first step of RAdam is one of momentum SGD by the learning rate; Lookahead keeps half of it.
    for variable, value in zip(model.trainable_variables, before):
        np.testing.assert_allclose(variable, value - 0.005, atol=1e-5)


def test_outputs_depend_on_every_part(saved):
    model = _model()
    image = tf.random.uniform([1, 49, 65, 3], maxval=255)
    before = model(image)
    deeplab2.restore(saved, model, "--checkpoint")
    after = model(image)
    for name in (keys.SEMANTIC_LOGITS, keys.CENTER_HEATMAP, keys.OFFSET_MAP):
        assert np.isfinite(after[name]).all()
        assert not np.allclose(after[name], before[name])
