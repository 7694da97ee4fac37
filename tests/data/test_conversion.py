# SPDX-License-Identifier: Apache-2.0
"""The engine of the converters: parallel, resumed after kills and faults, verified, and honest about full disks."""

import json
import multiprocessing
import os
import pathlib
import resource
import signal
import time
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf

from deeplab_axial.data import dataset_info, records, tfrecord_files
from deeplab_axial.data.converters import conversion, shard_files
from deeplab_axial.data.converters.image_files import Remark
from deeplab_axial.data.label_space import LabelClass, LabelSpace
from deeplab_axial.errors import InputError

SPACE = LabelSpace(
    "toy", (LabelClass(1, "ball", True, (1, 2, 3), 17), LabelClass(2, "sky", False, (4, 5, 6), 3)), 3, 0, 9
)
NUM_ITEMS = 14
NUM_SHARDS = 4


def _panoptic(i: int) -> np.ndarray:
    return np.random.default_rng(i).choice([0, 10, 11, 18], (3 + i, 5))


def _record(i: int) -> conversion.Converted:
    """Image i: a map with void, two balls and sky, and an image file of i kilobytes."""
    panoptic = _panoptic(i)
    data = np.random.default_rng(i).bytes(1000 * i)
    example = records.encode_example(data, "png", f"{i}.png", *panoptic.shape, panoptic)
    pixels = Counter((panoptic // 9).ravel().tolist())
    return conversion.Converted(example, *panoptic.shape, pixels, {1: 2, 2: 1}, 1000 * i)


class Job:
    """A conversion that notes which items it converted, and may be told of faults."""

    def __init__(self, folder):
        self.folder, self.converted, self.faults = folder, [], {}

    def convert_item(self, i):
        self.converted.append(i)
        if i in self.faults:
            raise self.faults[i]
        return _record(i)

    def run(self, **changes):
        arguments = {
            "label_space": SPACE,
            "task": dataset_info.PANOPTIC,
            "has_labels": True,
            "output_dir": self.folder,
            "name": "toy",
            "num_shards": NUM_SHARDS,
            "num_workers": 2,
            "fingerprint": "same",
            **changes,
        }
        self.converted.clear()
        return conversion.convert_items(range(NUM_ITEMS), self.convert_item, **arguments)

    def contents(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.folder.iterdir()}

    def shards(self) -> dict[str, os.stat_result]:
        return {path.name: path.stat() for path in self.folder.glob("*.tfrecord")}


@pytest.fixture
def job(tmp_path):
    return Job(tmp_path / "ausgabe für [a]* 图")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The files of a conversion that nothing went wrong with."""
    job = Job(tmp_path_factory.mktemp("undisturbed"))
    job.run()
    return job.contents()


@pytest.fixture
def warnings(monkeypatch):
    found = []
    monkeypatch.setattr(conversion.logging, "warning", lambda text, *values: found.append(text % values))
    return found


def test_what_is_written(job):
    info = job.run()
    files = [f"toy-{k:05d}-of-00004.tfrecord" for k in range(NUM_SHARDS)]
    assert sorted(job.contents()) == ["dataset.json", *files]
    assert dataset_info.DatasetInfo.read(job.folder) == info
    for k, shard in enumerate(info.shards):
        path = job.folder / shard.file
        assert shard == (files[k], len(range(k, NUM_ITEMS, NUM_SHARDS)), path.stat().st_size)
        found = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
        assert found == [_record(i).example for i in range(k, NUM_ITEMS, NUM_SHARDS)]
    maps = [_panoptic(i) for i in range(NUM_ITEMS)]
    assert info.class_pixels == {c: sum(int((m // 9 == c).sum()) for m in maps) for c in range(3)}
    assert info.class_counts == {1: 2 * NUM_ITEMS, 2: NUM_ITEMS}
    assert (info.num_images, info.max_height, info.max_width) == (NUM_ITEMS, 3 + NUM_ITEMS - 1, 5)
    assert info.source_bytes == 1000 * sum(range(NUM_ITEMS))
    assert (info.task, info.has_labels, info.label_space) == ("panoptic", True, SPACE)


@pytest.mark.parametrize("num_workers", [1, 3, 50])
def test_the_number_of_workers_changes_nothing(job, undisturbed, num_workers):
    job.run(num_workers=num_workers)
    assert job.contents() == undisturbed


def test_a_complete_folder_is_not_touched(job, warnings):
    info = job.run()
    before = job.shards()
    assert job.run() == info
    assert job.converted == []
    assert job.shards() == before
    assert warnings == [f"{job.folder} is complete already. To convert again, remove its dataset.json."]
    (job.folder / "dataset.json").unlink()
    job.run()
    assert sorted(job.converted) == list(range(NUM_ITEMS))


@pytest.mark.parametrize(
    "change", [{"fingerprint": "other"}, {"num_shards": 3}, {"label_space": LabelSpace("new", SPACE.classes, 3, 0, 9)}]
)
def test_other_arguments_convert_again_and_leave_nothing_old(job, change):
    job.run()
    info = job.run(**change)
    assert sorted(job.converted) == list(range(NUM_ITEMS))
    assert sorted(job.shards()) == [shard.file for shard in info.shards]
    job.run()
    assert sorted(job.converted) == list(range(NUM_ITEMS))


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-1])])
def test_a_complete_folder_whose_shard_is_gone_is_converted_again(job, undisturbed, damage):
    job.run()
    damage(job.folder / "toy-00002-of-00004.tfrecord")
    job.run()
    assert job.contents() == undisturbed


def test_a_folder_may_hold_two_names(job):
    job.run(name="a")
    first = set(job.contents())
    job.run(name="a-b")
    assert first < set(job.contents())


def test_faults_are_told_together_and_cost_their_shards_only(job, undisturbed):
    job.faults = {i: InputError(f"{i}.png is bad,\nvery bad.") for i in (2, 6, 10, 9)}  # of shards 2 and 1
    with pytest.raises(InputError) as error:
        job.run()
    *faults, summary = str(error.value).splitlines()
    assert faults == [f"{i}.png is bad, very bad." for i in (2, 6, 9, 10)]
    assert summary.startswith("4 faults. 2 of 4 files are finished and stay. Mend the data and run the same command")
    assert sorted(job.converted) == list(range(NUM_ITEMS))  # a fault hides no other
    kept = job.shards()
    assert sorted(kept) == ["toy-00000-of-00004.tfrecord", "toy-00003-of-00004.tfrecord"]
    assert not [name for name in job.contents() if name.endswith(".partial") or name == "dataset.json"]

    del job.faults[9]
    with pytest.raises(InputError, match=r"3 faults\. 3 of 4 files"):
        job.run()
    assert sorted(job.converted) == [1, 2, 5, 6, 9, 10, 13]
    job.faults = {}
    job.run()
    assert sorted(job.converted) == [2, 6, 10]
    assert job.contents() == undisturbed
    after = job.shards()
    assert all(after[name] == stat for name, stat in kept.items())


def test_many_faults_stop_the_conversion_early(job):
    items = range(1000)

    def convert_item(i):
        job.converted.append(i)
        raise InputError(f"{i} is bad.")

    with pytest.raises(InputError, match=r"faults, then stopped: there may be more\. 0 of 4 files") as error:
        conversion.convert_items(
            items,
            convert_item,
            label_space=SPACE,
            task="panoptic",
            has_labels=True,
            output_dir=job.folder,
            name="toy",
            num_shards=4,
            num_workers=2,
            fingerprint="",
        )
    assert 20 <= len(str(error.value).splitlines()) - 1 == len(job.converted) <= 22


def test_ctrl_c_keeps_finished_shards(job, undisturbed):
    job.faults = {7: KeyboardInterrupt()}  # of shard 3
    with pytest.raises(KeyboardInterrupt):
        job.run(num_workers=1)
    assert len(job.shards()) == 3
    assert not list(job.folder.glob("*.partial"))
    job.faults = {}
    job.run()
    assert sorted(job.converted) == [3, 7, 11]
    assert job.contents() == undisturbed


def test_errors_of_programs_are_not_hidden(job):
    job.faults = {7: ZeroDivisionError("of the converter")}
    with pytest.raises(ZeroDivisionError, match="of the converter"):
        job.run()
    assert not list(job.folder.glob("*.partial"))


def _in_a_process(target, *arguments):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tensorflow"])
    process = context.Process(target=target, args=arguments)
    process.start()
    return process


def _convert_slowly(folder):
    job = Job(folder)
    convert_item = job.convert_item
    job.convert_item = lambda i: (time.sleep(0.1), convert_item(i))[1]
    job.run()


def test_a_killed_conversion_goes_on_where_it_was(tmp_path, undisturbed):
    job = Job(tmp_path)
    process = _in_a_process(_convert_slowly, tmp_path)
    while len(list(tmp_path.glob(".toy-*.json"))) < 2:  # sidecars of finished shards
        assert process.is_alive()
        time.sleep(0.01)
    time.sleep(0.15)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert list(tmp_path.glob("*.partial"))  # it was at work
    finished = {path.name[1:-5]: (tmp_path / path.name[1:-5]).stat() for path in tmp_path.glob(".toy-*.json")}
    assert 2 <= len(finished) < NUM_SHARDS
    job.run()
    assert len(job.converted) == sum(len(range(k, NUM_ITEMS, NUM_SHARDS)) for k in range(NUM_SHARDS)) - sum(
        len(range(int(name[4:9]), NUM_ITEMS, NUM_SHARDS)) for name in finished
    )
    after = job.shards()
    assert all(after[name] == stat for name, stat in finished.items())  # inode and time of change included
    assert job.contents() == undisturbed


def _convert_with_little_space(folder, limit, message_path):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        Job(folder).run(num_workers=1)
    except InputError as error:
        pathlib.Path(message_path).write_text(str(error))


def test_a_disk_that_fills_up(tmp_path, undisturbed):
    job = Job(tmp_path / "records")
    sizes = {name: len(data) for name, data in undisturbed.items() if name.endswith(".tfrecord")}
    names = sorted(sizes, key=sizes.get)
    process = _in_a_process(_convert_with_little_space, job.folder, sizes[names[-1]] - 10, tmp_path / "message")
    process.join()
    message = (tmp_path / "message").read_text()
    assert message.startswith(f"{job.folder}/{names[-1]} cannot be written (")
    assert "files (" in message
    assert "MiB) are finished and stay. All files together need about 0.1 MiB. Free: " in message
    assert message.endswith("The same command makes the rest.")
    kept = job.shards()
    assert kept
    assert names[-1] not in kept
    assert not list(job.folder.glob("*.partial"))
    job.run()
    assert job.contents() == undisturbed
    after = job.shards()
    assert all(after[name] == stat for name, stat in kept.items())


@pytest.mark.parametrize("file", ["dataset.json", ".toy-00002-of-00004.tfrecord.json"])
def test_no_space_for_the_small_files(job, undisturbed, monkeypatch, file):
    write_text = tfrecord_files.write_text

    def full(path, text):
        if os.path.basename(path) == file:
            raise tfrecord_files.WriteError(f"{path} cannot be written (full).")
        write_text(path, text)

    monkeypatch.setattr(tfrecord_files, "write_text", full)
    with pytest.raises(InputError, match="cannot be written"):
        job.run()
    monkeypatch.undo()
    job.run()
    assert 2 not in job.converted or file != "dataset.json"
    assert job.contents() == undisturbed


def test_an_output_folder_that_cannot_be_written(job, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--output_dir must be a folder that can be written.*Name another"):
        job.run(output_dir=tmp_path / "file" / "below")
    assert job.converted == []


def test_shards_are_read_back(job, monkeypatch):
    write_shard = tfrecord_files.write_shard

    def bad_disk(folder, file, examples):
        shard = write_shard(folder, file, examples)
        data = bytearray((job.folder / file).read_bytes())
        data[-30] ^= 1
        (job.folder / file).write_bytes(bytes(data))
        return shard

    monkeypatch.setattr(tfrecord_files, "write_shard", bad_disk)
    with pytest.raises(InputError, match=r"tfrecord cannot be read back \(.*corrupted.*Check the disk"):
        job.run()
    assert job.shards() == {}


@pytest.mark.parametrize("lie", [{"class_pixels": {1: 5}}, {"example": _record(12).example}])
def test_records_must_hold_what_was_counted(job, lie):
    job.convert_item = lambda i: _record(i)._replace(**lie) if i == 3 else _record(i)
    with pytest.raises(InputError, match=r"00003-of-00004.tfrecord must hold what was written. Received: \(records, h"):
        job.run()
    assert "toy-00003-of-00004.tfrecord" not in job.shards()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"fingerprint": 3}', "other version"])
def test_a_sidecar_that_vouches_for_nothing(job, undisturbed, text):
    job.faults = {3: InputError("bad")}
    with pytest.raises(InputError):
        job.run()
    path = job.folder / ".toy-00001-of-00004.tfrecord.json"
    if text == "other version":
        text = json.dumps({**json.loads(path.read_text()), "unknown": 1})
    path.write_text(text)
    job.faults = {}
    job.run()
    assert sorted(job.converted) == [1, 3, 5, 7, 9, 11, 13]
    assert job.contents() == undisturbed


def test_remarks_become_one_warning_a_kind_however_often_it_was_stopped(job, warnings):
    remarks = {i: (Remark("images are odd", i, f"image {i}"),) for i in (2, 5, 6)}
    remarks[6] += (Remark("images are even", 1, "image 6"),)

    def convert_item(i):
        if i == 3 and not job.converted:
            raise InputError("bad")
        return _record(i)._replace(remarks=remarks.get(i, ()))

    job.convert_item = convert_item
    with pytest.raises(InputError, match="bad"):
        job.run()
    job.convert_item = lambda i: _record(i)  # only shard 3 is left, which has none
    job.run()
    assert sorted(warnings) == ["1 images are even. First: image 6.", "13 images are odd. First: image 5."]


def test_images_without_labels(job):
    def convert_item(i):
        example = records.encode_example(b"x", "png", f"{i}", 4, 5, None)
        return conversion.Converted(example, 4, 5, {}, {}, 1)

    job.convert_item = convert_item
    info = job.run(has_labels=False)
    assert (info.has_labels, info.class_pixels, info.class_counts, info.num_images) == (False, None, None, NUM_ITEMS)


def test_classification(job):
    def convert_item(i):
        label = 1 + i % 2
        example = records.encode_example(b"x", "png", f"{i}", 4, 5, None, class_label=label, class_text="c")
        return conversion.Converted(example, 4, 5, {}, {label if i != 12 or not lie else 3 - label: 1}, 1)

    job.convert_item, lie = convert_item, False
    info = job.run(task=dataset_info.CLASSIFICATION)
    assert (info.task, info.class_pixels, info.class_counts) == ("classification", None, {1: 7, 2: 7})
    lie = True
    with pytest.raises(InputError, match=r"00000-of-00004.tfrecord must hold what was written"):
        job.run(task=dataset_info.CLASSIFICATION, fingerprint="other")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_shards": 0}, "--num_shards must lie in"),
        ({"num_shards": 100_000}, "--num_shards must lie in"),
        ({"num_workers": 0}, "--num_workers must be at least 1"),
        ({"name": "a/b"}, "--name must be part of a file name"),
        ({"name": ""}, "--name must be part of a file name"),
    ],
)
def test_bad_arguments(job, change, message):
    with pytest.raises(InputError, match=message):
        job.run(**change)
    assert not job.folder.exists()


def test_never_more_shards_than_images_and_never_none(job):
    assert len(job.run(num_shards=100).shards) == NUM_ITEMS
    with pytest.raises(InputError, match="at least one image"):
        conversion.convert_items(
            [],
            job.convert_item,
            label_space=SPACE,
            task="panoptic",
            has_labels=True,
            output_dir=job.folder,
            name="toy",
            num_shards=1,
            num_workers=1,
            fingerprint="",
        )
    with pytest.raises(ValueError, match="task must be"):
        job.run(task="poetry")


def test_fingerprints():
    assert conversion.fingerprint("a", ("b", 1)) == conversion.fingerprint("a", ("b", 1))
    different = [("a", "b"), ("ab",), ("a", ("b",)), (), ("a",)]
    assert len({conversion.fingerprint(*parts) for parts in different}) == len(different)


def test_listing_tells_files_apart(tmp_path):
    names = ("toy-00000-of-00001.tfrecord", ".toy-00000-of-00001.tfrecord.json", "toy-00000-of-00001.tfrecord.partial")
    others = (
        "toy.x-00000-of-00001.tfrecord",
        "toy-0-of-1.tfrecord",
        "toy-00000-of-00001.tfrecord.json",
        "dataset.json",
    )
    for name in (*names, *others):
        (tmp_path / name).write_text("")
    found = shard_files.list_files(str(tmp_path), "toy")
    assert found == {"shard": [names[0]], "sidecar": [names[1]], "partial": [names[2]]}
