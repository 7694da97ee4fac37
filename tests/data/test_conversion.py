# SPDX-License-Identifier: Apache-2.0
"""The engine of the converters: what it writes, whatever the number of workers."""

import pytest
import tensorflow as tf

from deeplab_axial.data import dataset_info, records
from deeplab_axial.data.converters import conversion, shard_files
from deeplab_axial.data.converters.image_files import Remark
from deeplab_axial.data.label_space import LabelSpace
from deeplab_axial.errors import InputError
from tests.data.conversion_job import NUM_ITEMS, NUM_SHARDS, SPACE, Job, convert_one, panoptic_of


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
        assert found == [convert_one(i).example for i in range(k, NUM_ITEMS, NUM_SHARDS)]
    maps = [panoptic_of(i) for i in range(NUM_ITEMS)]
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


def test_remarks_become_one_warning_a_kind_however_often_it_was_stopped(job, warnings):
    remarks = {i: (Remark("images are odd", i, f"image {i}"),) for i in (2, 5, 6)}
    remarks[6] += (Remark("images are even", 1, "image 6"),)

    def convert_item(i):
        if i == 3 and not job.converted:
            raise InputError("bad")
        return convert_one(i)._replace(remarks=remarks.get(i, ()))

    job.convert_item = convert_item
    with pytest.raises(InputError, match="bad"):
        job.run()
    job.convert_item = lambda i: convert_one(i)  # only shard 3 is left, which has none
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


@pytest.mark.parametrize("name", ["other", "toy-b"])
def test_records_of_another_name_are_neither_joined_nor_removed(job, name):
    job.run()
    before = job.contents()
    with pytest.raises(InputError) as error:
        job.run(name=name)
    assert str(error.value) == (
        f"--output_dir must be a folder of this split alone. Received: {job.folder}, which holds records of another "
        f"conversion than {name!r}: toy-00000-of-00004.tfrecord and 3 more. Name another folder, give the same --name "
        "as before, or remove the old files."
    )
    assert job.contents() == before
    assert job.converted == []


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
    assert shard_files.list_others(str(tmp_path), "toy") == ["toy-0-of-1.tfrecord", "toy.x-00000-of-00001.tfrecord"]
