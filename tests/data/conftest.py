# SPDX-License-Identifier: Apache-2.0
"""Data sets that several files of tests share."""

import shutil

import pytest

from deeplab_axial.data import scenes
from tests.data.coco_source import Source


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """Synthetic scenes that no test changes."""
    folder = tmp_path_factory.mktemp("clean")
    scenes.write_scenes(str(folder), 40, 1, 48, 64, seed=3)
    return folder


@pytest.fixture
def source(clean, tmp_path):
    """A copy of them."""
    root = tmp_path / "scenes"
    shutil.copytree(clean, root)
    return Source(root / "train", root / "panoptic_train.json", root / "panoptic_train", tmp_path / "records")
