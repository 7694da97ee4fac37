# SPDX-License-Identifier: Apache-2.0
"""A broken record is named by file, number and image, wherever in the pipeline it shows."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_axial.data import diagnosis, pipeline, records, tfrecord_files
from deeplab_axial.data.targets import TargetOptions
from deeplab_axial.errors import InputError
from tests import cluster

OPTIONS = pipeline.ImageOptions((49, 65))


@pytest.fixture(scope="module")
def good(scene_records):
    return pipeline.Source.open([scene_records.val])


def _with_third_record(good, folder, change):
    """The records of a source in two new files; `change` takes the features of the third and changes them."""
    serialized = [s for path in good.files for s in tf.data.TFRecordDataset(path).as_numpy_iterator()]
    example = tf.train.Example.FromString(serialized[2])
    change(example.features.feature)
    serialized[2] = example.SerializeToString()
    for name, part in (("a", serialized[:2]), ("b", serialized[2:])):
        tfrecord_files.write_shard(folder, f"{name}.tfrecord", part)
    return pipeline.Source((str(folder / "a.tfrecord"), str(folder / "b.tfrecord")), len(serialized), good.info)


def _train(source):
    dataset = pipeline.training_dataset(source, 2, OPTIONS, pipeline.AugmentOptions(), TargetOptions())
    with diagnosis.explain_errors(source):
        list(dataset.take(4))


def _evaluate(source):
    with diagnosis.explain_errors(source, with_panoptic=False):
        list(pipeline.evaluation_dataset(source, 2, OPTIONS))


def _no_image(features):
    features[records.ENCODED].bytes_list.value[0] = b"\xff\xd8\xff nothing that decodes"


def _no_features(features):
    features.clear()


def _no_panoptic(features):
    features[records.SEGMENTATION].bytes_list.value[0] = b"\x89PNG\r\n\x1a\n nothing that decodes"


def _no_ground_truth(features):
    for key in (records.SEGMENTATION, records.SEGMENTATION_FORMAT):
        del features[key]


def _other_size(features):
    features[records.HEIGHT].int64_list.value[0] = 47


@pytest.mark.parametrize("read", [_train, _evaluate])
def test_good_records_pass(good, read):
    read(good)


@pytest.mark.parametrize(
    ("read", "change", "message"),
    [
        (_train, _no_image, r"record 1: image '00000\d\.jpg' does not decode \(.+\)\. Replace it\."),
        (_evaluate, _no_image, r"record 1: image '00000\d\.jpg' does not decode \(.+\)\. Replace it\."),
        (_train, _no_features, r"record 1: it is no image with features as 'image/encoded' \(.+\)\."),
        (_evaluate, _no_features, r"record 1: it is no image with features as 'image/encoded' \(.+\)\."),
        (_train, _no_panoptic, r"record 1: the panoptic map of image '00000\d\.jpg' does not decode \(.+\)\."),
        (_train, _no_ground_truth, r"record 1: the panoptic map of image .* must be 'png' or 'raw'"),
        (_train, _other_size, r"record 1: the panoptic map of image .* must be as large as the image"),
    ],
)
def test_broken_records_are_named(good, tmp_path, read, change, message):
    source = _with_third_record(good, tmp_path, change)
    with pytest.raises(InputError, match=message) as error:
        read(source)
    text = str(error.value)
    assert text.startswith(f"{source.files[1]}, record 1: ")
    assert text.endswith("Convert the data set again.")
    assert "{{" not in text
    assert "[Op:" not in text
    assert "\n" not in text


@pytest.mark.parametrize("read", [_train, _evaluate])
def test_damage_inside_a_record_is_found_by_its_checksum(good, tmp_path, read):
    source = _with_third_record(good, tmp_path, lambda features: None)
    path = tmp_path / "b.tfrecord"
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"b\.tfrecord, record 1: it is damaged \(.+\)\. Convert"):
        read(source)


def test_an_image_that_does_not_fit_is_named(good):
    small = pipeline.ImageOptions((33, 65))
    with pytest.raises(InputError) as error, diagnosis.explain_errors(good, with_panoptic=False):
        list(pipeline.evaluation_dataset(good, 2, small))
    message = str(error.value)
    assert message.startswith("Image ")
    assert "000001.jpg" in message
    assert "[48 64] pixels (height, width)" in message
    assert "eval_dataset_options.crop_size [33, 65]" in message
    assert message.endswith("set min_resize_value and max_resize_value.")


def test_errors_of_the_network_pass_through_and_no_record_is_read(good, monkeypatch):
    monkeypatch.setattr(diagnosis, "_find_broken_record", pytest.fail)
    with pytest.raises(tf.errors.InvalidArgumentError), diagnosis.explain_errors(good):
        tf.reshape(tf.zeros([4]), [3])
    with pytest.raises(ValueError, match="mine"), diagnosis.explain_errors(good):
        raise ValueError("mine")


def _read_with_strategy(source, devices):
    strategy = tf.distribute.MirroredStrategy(devices)
    options = (OPTIONS, pipeline.AugmentOptions(), TargetOptions())
    batches = strategy.distribute_datasets_from_function(lambda _: pipeline.training_dataset(source, 2, *options))

    @tf.function
    def read(iterator):
        for _ in tf.range(4):
            strategy.run(lambda batch: tf.reduce_sum(batch["image"]), (next(iterator),))

    with pytest.raises(InputError, match=r"record 1: image '.*' does not decode"), diagnosis.explain_errors(source):
        read(iter(batches))


def _read_on_two_devices(source):
    device = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(device, [tf.config.LogicalDeviceConfiguration()] * 2)
    _read_with_strategy(source, ["/cpu:0", "/cpu:1"])


def test_a_broken_record_is_named_where_a_strategy_reads_it(good, tmp_path):
    _read_with_strategy(_with_third_record(good, tmp_path, _no_image), ["/cpu:0"])


def test_a_broken_record_is_named_where_two_devices_read_it(good, tmp_path):
    source = _with_third_record(good, tmp_path, _no_image)
    result = cluster.Process(_read_on_two_devices, (source,), tmp_path, {"CUDA_VISIBLE_DEVICES": "-1"}).finish(120)
    assert result.status == 0, result.err[-3000:]


def test_checks_cost_nothing_without_an_error(monkeypatch, good):
    monkeypatch.setattr(diagnosis, "_find_broken_record", pytest.fail)
    with diagnosis.explain_errors(good):
        np.zeros(1)
