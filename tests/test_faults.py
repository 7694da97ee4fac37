# SPDX-License-Identifier: Apache-2.0
"""The files of ../shared/data/faults that brought programs down: each gets one error, or its answer."""

import pathlib
import shutil

import pytest

from deeplab_axial import builders, config
from deeplab_axial.data import image_bytes, tfrecord_files, transforms
from deeplab_axial.errors import InputError

FOLDER = pathlib.Path(__file__).parents[2] / "shared" / "data" / "faults"

pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="needs the folder ../shared/data/faults beside the checkout"
)


@pytest.mark.parametrize("name", ["base_symlink_loop", "basenul", "nest1000"])
def test_a_config(name, tmp_path):
    path = tmp_path / f"{name}.textproto"
    shutil.copyfile(FOLDER / path.name, path)
    (tmp_path / "loop2.textproto").symlink_to("loop2.textproto")  # what one of them names
    with pytest.raises(InputError) as error:
        config.load(path)
    assert str(path) in str(error.value)
    assert len(str(error.value)) < 600


def test_a_record_longer_than_its_file():
    path = FOLDER / "segv_huge_length.tfrecord"
    with pytest.raises(InputError, match=r"is cut short: the record at byte 0 ends at byte \d+. Received: 112 bytes"):
        tfrecord_files.check_shards([path])
    assert list(tfrecord_files.sound_records(path)) == []


def test_an_image_of_three_rows():
    image = image_bytes.decode((FOLDER / "3x700.png").read_bytes())
    assert image.shape == (3, 700, 3)
    assert transforms.resized_size(image.shape[:2], None, 161).numpy().tolist() == [1, 161]


def test_a_pooled_branch_with_one_image_at_a_time():
    # aspp_batch_of_one.py shows what would come of it.
    tiny = pathlib.Path(__file__).parents[1] / "configs" / "demo" / "axial_deeplab_tiny.textproto"
    decoder = "model_options.decoder"
    pooled = (f"{decoder}.aspp_use_only_1x1_proj_conv=false", f"{decoder}.atrous_rates=1,2,3")
    options = config.load(tiny, (*pooled, "train_dataset_options.batch_size=1"))
    with pytest.raises(InputError, match="aspp"):
        builders.check_batch_statistics(options, 1)
