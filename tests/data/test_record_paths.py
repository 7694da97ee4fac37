# SPDX-License-Identifier: Apache-2.0
import pytest

from deeplab_axial.data import record_paths


@pytest.mark.parametrize("folder", ["run", "run[1]", "a*b?", "back\\slash"])
def test_folders_that_exist_are_taken_literally(tmp_path, folder):
    (tmp_path / folder).mkdir()
    for name in ("a-0.tfrecord", "a-1.tfrecord", "b[1].tfrecord", "b1.tfrecord"):
        (tmp_path / folder / name).write_text("")

    def find(pattern):
        return [path.removeprefix(f"{tmp_path}/") for path in record_paths.matching(f"{tmp_path}/{pattern}")]

    assert find(f"{folder}/a-*.tfrecord") == [f"{folder}/a-0.tfrecord", f"{folder}/a-1.tfrecord"]
    assert find(f"{folder}/b[1].tfrecord") == [f"{folder}/b[1].tfrecord"]  # itself, and not b1
    assert find("*/b1.tfrecord") == [f"{folder}/b1.tfrecord"]
    assert find(f"{folder}/none*") == []
