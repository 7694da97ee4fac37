# SPDX-License-Identifier: Apache-2.0
"""Fixtures that several folders of tests share."""

import os
import pathlib
from typing import NamedTuple

import pytest

from deeplab_axial.cli import allocator

allocator.keep_memory()
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


class SceneRecords(NamedTuple):
    """Globs of the record files of two splits of synthetic scenes, 48 x 64 pixels each."""

    train: str
    val: str
    num_train: int
    num_val: int


@pytest.fixture(scope="session", autouse=True)
def _graphs_as_they_are() -> None:
    """Runs graphs without TensorFlow's optimisers, which take longer than most tests compute.

    Commands that tests start in processes of their own have them.
    """
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


@pytest.fixture(autouse=True)
def _same_weights_in_every_run(request) -> None:
    """Seeds Python, NumPy and TensorFlow, which draw the weights of networks, before each test.

    Not where a test is marked `unseeded`: TensorFlow would forget the kernels of every function and prepare those that
    several tests share again for each, which takes seconds for a network.
    """
    if request.node.get_closest_marker("unseeded"):
        return
    import tf_keras

    tf_keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def scene_records(tmp_path_factory) -> SceneRecords:
    """Seven training and five validation scenes, converted to records."""
    from deeplab_axial.data import scenes
    from deeplab_axial.data.converters import coco_panoptic

    root: pathlib.Path = tmp_path_factory.mktemp("scene_records")
    scenes.write_scenes(root / "scenes", num_train=7, num_val=5, height=48, width=64, seed=3)
    for split, shards in (("train", 3), ("val", 2)):
        folder = root / "scenes"
        coco_panoptic.convert(
            folder / split,
            folder / f"panoptic_{split}.json",
            folder / f"panoptic_{split}",
            root / split,
            num_shards=shards,
            name="scenes",
        )
    return SceneRecords(str(root / "train" / "*.tfrecord"), str(root / "val" / "*.tfrecord"), 7, 5)
