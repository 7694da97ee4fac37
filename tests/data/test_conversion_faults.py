# SPDX-License-Identifier: Apache-2.0
"""The engine of the converters: resumed after kills and faults, verified, and honest about full disks."""

import json
import multiprocessing
import os
import pathlib
import resource
import signal
import time

import pytest
import tensorflow as tf

from deeplab_axial.data import records, tfrecord_files
from deeplab_axial.data.converters import conversion
from deeplab_axial.errors import InputError
from tests.data.conversion_job import NUM_ITEMS, NUM_SHARDS, SPACE, Job, convert_one


@pytest.fixture
def job(tmp_path):
    return Job(tmp_path / "ausgabe für [a]* 图")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The files of a conversion that nothing went wrong with."""
    job = Job(tmp_path_factory.mktemp("undisturbed"))
    job.run()
    return job.contents()


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


@pytest.mark.parametrize("file", ["dataset.json", "toy-00001-of-00007.tfrecord"])
def test_files_of_others_are_not_replaced(job, file):
    job.folder.mkdir()
    (job.folder / file).write_text("mine")
    with pytest.raises(
        InputError, match=rf"{file} would be replaced, but .*Name another --output_dir, or move it away"
    ):
        job.run()
    assert job.contents() == {file: b"mine"}
    assert job.converted == []


def test_records_of_deeplab2_are_not_replaced(job):
    job.folder.mkdir()
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"x"]))
    features = tf.train.Features(feature={records.SEGMENTATION: feature, records.CHANNELS: feature})
    example = tf.train.Example(features=features).SerializeToString()
    tfrecord_files.write_shard(job.folder, "toy-00000-of-00001.tfrecord", [example])
    before = job.contents()
    with pytest.raises(
        InputError, match=r"toy-00000-of-00001\.tfrecord would be replaced, but its records are none of"
    ):
        job.run()
    assert job.contents() == before


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


@pytest.mark.parametrize("lie", [{"class_pixels": {1: 5}}, {"example": convert_one(12).example}])
def test_records_must_hold_what_was_counted(job, lie):
    job.convert_item = lambda i: convert_one(i)._replace(**lie) if i == 3 else convert_one(i)
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
