# SPDX-License-Identifier: Apache-2.0
"""The classes of records: DeepLab2's, which come without dataset.json, and what a config's label_space may change."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format

from deeplab_axial import builders, config, keys
from deeplab_axial.data import dataset_info, pipeline, records, targets, tfrecord_files
from deeplab_axial.data.label_space import LabelClass, distinct_color
from deeplab_axial.errors import InputError
from deeplab_axial.postprocessing.multi_scale import MultiScale
from deeplab_axial.protos import config_pb2, label_space_pb2
from deeplab_axial.training.evaluator import Evaluator

EXAMPLE = pathlib.Path(__file__).parents[1] / "configs" / "own_data" / "axial_deeplab_s.textproto"
# Class ids of the synthetic scenes and what is a thing.
SCENES = {1: True, 2: True, 3: True, 4: False, 5: False, 6: False, 7: False}


def _write(folder: pathlib.Path, maps: list[np.ndarray]) -> str:
    """Records as DeepLab2 writes them: raw int32 maps, no crowd ids, no dataset.json."""
    examples = []
    for i, panoptic in enumerate(maps):
        image = np.full([*panoptic.shape, 3], 40 * i, np.uint8)
        values = {
            records.ENCODED: tf.io.encode_png(image).numpy(),
            records.FILENAME: f"image{i}".encode(),
            records.FORMAT: b"png",
            records.SEGMENTATION: panoptic.astype("<i4").tobytes(),
            records.SEGMENTATION_FORMAT: b"raw",
        }
        features = {k: tf.train.Feature(bytes_list=tf.train.BytesList(value=[v])) for k, v in values.items()}
        for key, size in zip((records.HEIGHT, records.WIDTH, records.CHANNELS), image.shape):
            features[key] = tf.train.Feature(int64_list=tf.train.Int64List(value=[size]))
        examples.append(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    tfrecord_files.write_shard(folder, "train-00000-of-00001.tfrecord", examples)
    return str(folder / "*.tfrecord")


def _cityscapes_map() -> np.ndarray:
    panoptic = np.full([32, 48], 255000, np.int32)  # void
    panoptic[:20] = 0  # road
    panoptic[4:10, 4:10] = 13001
    panoptic[4:10, 20:26] = 13002
    panoptic[20:25, 30:40] = 11000  # a crowd of persons
    return panoptic


def _open(pattern: str, dataset: str = "", text: str = "") -> pipeline.Source:
    options = text_format.Parse(text, config_pb2.ExperimentOptions())
    options.train_dataset_options.file_pattern.append(pattern)
    options.train_dataset_options.dataset = dataset
    return builders.open_records(options, "train")


def test_records_of_deeplab2_train_and_evaluate_without_dataset_json(tmp_path):
    truth = _cityscapes_map()
    pattern = _write(tmp_path, [truth, truth[:, ::-1]])
    source = _open(pattern, "cityscapes_panoptic")
    assert (source.num_records, source.info.num_images) == (2, 2)
    assert source.info.label_space.name == "cityscapes_panoptic"
    images = pipeline.ImageOptions(crop_size=(33, 49))
    plain = pipeline.AugmentOptions(flip=False)
    (batch,) = pipeline.training_dataset(source, 2, images, plain, targets.TargetOptions(2)).take(1)
    order = [int(i) for i in batch[keys.IMAGE][:, 0, 0, 0].numpy() // 40]
    expected = np.stack([truth, truth[:, ::-1]])[order]
    np.testing.assert_array_equal(batch[keys.SEMANTIC_TARGET][:, :32, :48], expected // 1000)
    np.testing.assert_array_equal(batch[keys.OFFSET_WEIGHT][:, :32, :48], (expected // 1000 == 13))
    np.testing.assert_array_equal(batch[keys.CENTER_WEIGHT][:, :32, :48], np.isin(expected // 1000, (0, 13)))
    assert (batch[keys.CENTER_TARGET].numpy() == 1).sum() == 4

    class Perfect:
        """Predicts the ground truth, and a person on its crowd, which costs nothing."""

        multi_scale = MultiScale()

        def predict_padded(self, images, sizes):
            panoptic = np.where(truth == 11000, 11001, truth)
            padded = np.pad(panoptic, [(0, 1), (0, 1)])[None]
            return {keys.SEMANTIC_MAP: tf.constant(padded // 1000), keys.PANOPTIC_MAP: tf.constant(padded)}

    first = _open(_write(tmp_path, [truth]), "cityscapes_panoptic")
    dataset = pipeline.evaluation_dataset(first, 1, images)
    metrics = Evaluator(Perfect(), first.info.label_space, 1, use_tf_function=False).evaluate(dataset)
    assert metrics["panoptic_quality"]["all"]["pq"] == 1.0
    assert metrics["panoptic_quality"]["per_class"]["11"]["fp"] == 0


def test_void_may_be_class_0(tmp_path):
    truth = np.array([[0, 0, 81 * 256, 81 * 256], [257, 257, 258, 0]], np.int32)
    source = _open(_write(tmp_path, [truth]), "coco_panoptic")
    space = source.info.label_space
    made = targets.make_targets(tf.constant(truth), tf.zeros([0], tf.int32), space, targets.TargetOptions(1))
    np.testing.assert_array_equal(made[keys.SEMANTIC_TARGET], truth // 256)
    np.testing.assert_array_equal(made[keys.CENTER_WEIGHT], truth != 0)
    np.testing.assert_array_equal(made[keys.OFFSET_WEIGHT], truth // 256 == 1)


@pytest.mark.parametrize("dataset", ["", "city"])
def test_records_without_json_and_name_are_refused(tmp_path, dataset):
    pattern = _write(tmp_path, [_cityscapes_map()])
    with pytest.raises(InputError) as error:
        _open(pattern, dataset)
    assert str(error.value) == (
        f"{tmp_path}/dataset.json cannot be read (there is no such file), so nothing tells the classes. Run "
        "`deeplab-axial convert` to make the data set; for records that DeepLab2 has made, set the field dataset to a "
        f"known name, or add a label_space section to the config. Received: {dataset!r}. Known names: "
        f"{', '.join(builders.SHIPPED_NAMES)}."
    )


def test_the_config_counts_more_than_dataset_json_and_that_more_than_the_name(tmp_path, scene_records):
    bare = _write(tmp_path, [np.zeros([4, 4], np.int32)])
    assert _open(bare, "coco_panoptic").info.label_space.name == "coco_panoptic"
    assert _open(bare, "coco_panoptic", _scenes_section(name="own")).info.label_space.name == "own"
    assert _open(scene_records.val, "coco_panoptic").info.label_space.name == "scenes"
    renamed = _open(scene_records.val, "coco_panoptic", _scenes_section(name="renamed"))
    assert renamed.info.label_space.name == "renamed"
    assert renamed.info.num_images == scene_records.num_val


def _scenes_section(left_out: int | None = None, stuff: bool = False, **changes) -> str:
    """The section that says what the scenes' dataset.json says, with changes."""
    space = label_space_pb2.LabelSpaceOptions(**{"name": "scenes", "ignore_label": 0, "label_divisor": 256, **changes})
    for i, is_thing in SCENES.items():
        if i != left_out:
            space.label_class.add(id=i, name=f"class {i}", is_thing=is_thing and not stuff)
    return text_format.MessageToString(config_pb2.ExperimentOptions(label_space=space))


def test_names_and_colours_may_change_and_things_become_stuff(scene_records):
    stored = _open(scene_records.val).info.label_space
    assert {c.id: c.is_thing for c in stored.classes} == SCENES
    space = _open(scene_records.val, text=_scenes_section(stuff=True)).info.label_space
    assert space.thing_ids == ()
    assert space.by_id[4] == LabelClass(4, "class 4", False, distinct_color(4), 4)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"label_divisor": 1000}, "label_space.label_divisor must be 256, as in the records. Received: 1000. "),
        ({"ignore_label": 255}, "label_space.ignore_label must be 0, as in the records. Received: 255. "),
        ({"left_out": 4}, "must have every class that has pixels in the records. Received: none with id 4 ("),
    ],
)
def test_a_config_that_contradicts_the_records_is_refused(scene_records, changes, said):
    with pytest.raises(InputError) as error:
        _open(scene_records.train, text=_scenes_section(**changes))
    assert said in str(error.value)
    assert str(error.value).endswith("what its records hold. Correct label_space, or convert again.")
    assert "The dataset.json of train_dataset_options" in str(error.value)


def test_stuff_cannot_become_a_thing(scene_records):
    text = _scenes_section().replace('name: "class 4"', 'name: "class 4" is_thing: true').replace("is_thing: false", "")
    with pytest.raises(
        InputError, match=r"may turn things into stuff only.*Received: is_thing: true for 4 \(class 4\)"
    ):
        _open(scene_records.val, text=text)


def test_classes_without_pixels_may_be_left_out(tmp_path):
    source = _open(_write(tmp_path, [np.zeros([4, 4], np.int32)]), text=_scenes_section())
    for pixels, refused in (({0: 9, 1: 4, 2: 0}, False), ({2: 1}, True), (None, True)):
        info = dataset_info.DatasetInfo(source.info.label_space, 1, source.info.shards, 4, 4, pixels)
        info.write(tmp_path)
        if refused:
            with pytest.raises(InputError, match=r"none with id 2 \(class 2\)\."):
                _open(source.files[0], text=_scenes_section(left_out=2))
        else:
            assert 2 not in _open(source.files[0], text=_scenes_section(left_out=2)).info.label_space.by_id


def test_the_example_for_own_data_needs_one_field(scene_records):
    filled = {"INIT_CHECKPOINT": "checkpoint"}
    options = config.load(EXAMPLE, mode="train_and_eval", placeholders=filled)
    assert not options.model_options.restore_semantic_last_layer_from_initial_checkpoint
    files = [f"train_dataset_options.file_pattern={scene_records.train}"]
    files.append(f"eval_dataset_options.file_pattern={scene_records.val}")
    head = "model_options.panoptic_deeplab.semantic_head.output_channels"
    for channels in (8, 9):
        options = config.load(EXAMPLE, [*files, f"{head}={channels}"], mode="train_and_eval", placeholders=filled)
        for split in ("train", "eval"):
            if channels == 8:
                assert builders.open_source(options, split).info.label_space.name == "scenes"
            else:
                with pytest.raises(InputError, match=r"Received: 9\. Set it to 8\.") as error:
                    builders.open_source(options, split)
                assert head in str(error.value)


def test_the_example_for_own_data_opens_with_its_commands():
    header = EXAMPLE.read_text().split("base:")[0]
    commands = [line.split()[2] for line in header.splitlines() if line.startswith("#   deeplab-axial ")]
    assert commands == ["convert", "convert", "check_data", "visualize_data", "train"]
    assert header.count(f"--config_file=configs/own_data/{EXAMPLE.name}") == 3
    # The commented example is a label space.
    example = EXAMPLE.read_text().split("# label_divisor stay as in dataset.json.\n#\n")[1].replace("# ", "")
    options = text_format.Parse(example, config_pb2.ExperimentOptions())
    assert len(builders.build_label_space(options.label_space).classes) == 2
