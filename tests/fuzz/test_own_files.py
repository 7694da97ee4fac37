# SPDX-License-Identifier: Apache-2.0
"""Files that this program wrote and that were damaged: one error that names the file; and FIFOs in their place."""

import copy
import json
import os

import pytest
import tensorflow as tf

from deeplab_axial import files
from deeplab_axial.data import tfrecord_files
from deeplab_axial.errors import InputError
from deeplab_axial.importing import deeplab2
from deeplab_axial.report import details
from deeplab_axial.training import checkpoint_files, checkpoints, continuous, log
from tests.fuzz import targets

DAMAGE = {
    "empty": b"",
    "binary": bytes(range(255, 10, -1)),
    "zeros": bytes(100),
    "nested": b"[" * 20_000 + b"]" * 20_000 + b"\n",
    "another type": b"[3]\n",
    "not closed": b'{"step": 3, \n',
    "not finite": b'{"step": NaN, "metric": "a", "value": Infinity, "checkpoint": "a"}\n',
}
REFUSED = sorted(set(targets.OWN_FILES) - {".x.json"})
# Not damage: a last line that a kill cut short, one that does not end a JSON object, and a config of defaults.
SOUND = {
    *(("history.jsonl", kind) for kind in ("empty", "binary", "zeros")),
    *(("evaluations.jsonl", kind) for kind in DAMAGE if kind != "not finite"),
    ("config.textproto", "empty"),
}
CASES = [(name, kind) for name in REFUSED for kind in DAMAGE if (name, kind) not in SOUND]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "best").mkdir()
    (tmp_path / "assets.extra").mkdir()
    return tmp_path


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_damaged_file(folder, name, kind):
    (folder / name).write_bytes(DAMAGE[kind])
    with pytest.raises(InputError) as caught:
        targets.OWN_FILES[name][1](folder)
    message = str(caught.value)
    assert f"{folder / name}" in message
    assert "is damaged (" in message or "cannot be read" in message
    assert len(message) < 900


@pytest.mark.parametrize("name", [*REFUSED, details.DETAILS_FILE])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file(folder, name, make):
    make(folder / name)
    read = details.read if name == details.DETAILS_FILE else targets.OWN_FILES[name][1]
    with pytest.raises(InputError, match="where a file is expected") as caught:
        read(folder)
    assert f"{folder / name}" in str(caught.value)


def test_a_sidecar_that_is_damaged_vouches_for_nothing(folder):
    _, read = targets.OWN_FILES[".x.json"]
    for content in DAMAGE.values():
        (folder / ".x.json").write_bytes(content)
        assert read(folder) is None
    (folder / ".x.json").unlink()
    os.mkfifo(folder / ".x.json")
    assert read(folder) is None


def test_predictions_are_read_with_names_that_are_no_utf8(folder):
    (folder / "predictions.json").write_text(json.dumps(targets.PREDICTIONS))
    assert targets._read_predictions(folder).names == {"photos/caf\udce9.jpg": "caf\ufffd", "b.mp4": "b"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: p["info"].update(settings=[1]), "info.settings: must be an object with fields"),
        (lambda p: p["info"]["settings"].update(scores=[]), "info.settings.scores: must be text or true or false"),
        (lambda p: p["inputs"][0].update(path=3), "inputs[0].path: must be text. Received: 3"),
        (lambda p: p["inputs"][0].update(path="\ud800"), "inputs[0].path: must be text in Unicode"),
        (lambda p: p["inputs"][0].update(name=None), "inputs[0].name: must be text. Received: null"),
        (lambda p: p["inputs"][0].update(name="../x"), "inputs: names must lie in the folder. Received: '../x'"),
        (lambda p: p["inputs"][0].update(name="/x"), "inputs: names must lie in the folder. Received: '/x'"),
        (lambda p: p["images"][0].update(id=[]), "images[0].id: must be a whole number or text"),
        (lambda p: p["annotations"][1].update(file_name={}), "annotations[1].file_name: must be text"),
        (lambda p: p["annotations"][1].update(image_id=9), "annotations[1].image_id: must be the id of an image"),
    ],
)
def test_predictions_of_other_types(folder, change, said):
    predictions = copy.deepcopy(targets.PREDICTIONS)
    change(predictions)
    (folder / "predictions.json").write_text(json.dumps(predictions))
    with pytest.raises(InputError) as caught:
        targets._read_predictions(folder)
    message = str(caught.value)
    assert message.startswith(f"{folder}/predictions.json is damaged ({said}")
    assert message.endswith("Leave --resume out to predict all anew, or name another --output_dir.")


def test_a_line_in_the_middle_is_named(folder):
    (folder / "history.jsonl").write_bytes(targets.HISTORY + b'{"step"\n' + targets.HISTORY)
    with pytest.raises(InputError, match=r"history\.jsonl, line 4, is damaged .*Remove that line, or move the file"):
        log.read_history(str(folder))
    (folder / "history.jsonl").write_bytes(b'{"step": 3, "total_loss": "much"}\n')
    with pytest.raises(InputError, match=r"line 1, is damaged \('total_loss' must be a number\)"):
        log.read_history(str(folder))


@pytest.mark.parametrize("suffix", [".index", ".data-00000-of-00001"])
def test_a_checkpoint_with_a_fifo(folder, suffix):
    step = tf.Variable(3, dtype=tf.int64)
    prefix = checkpoints.Manager(str(folder), {}, step, 1).save()
    os.remove(prefix + suffix)
    os.mkfifo(prefix + suffix)
    with pytest.raises(InputError, match=r"is no readable checkpoint .*a FIFO, where a file is expected"):
        checkpoints.restore(prefix, {"step": step}, "--checkpoint")
    with pytest.raises(InputError, match=r"is no readable checkpoint .*a FIFO, where a file is expected"):
        deeplab2.read_shapes(prefix, "--checkpoint")
    with pytest.raises(InputError, match=r"holds no checkpoint that can be read: .*a FIFO, where a file is expected"):
        checkpoint_files.newest_readable(str(folder))


def test_a_list_of_checkpoints_that_is_a_fifo(folder):
    step = tf.Variable(3, dtype=tf.int64)
    prefix = checkpoints.Manager(str(folder), {}, step, 1).save()
    os.remove(folder / "checkpoint")
    os.mkfifo(folder / "checkpoint")
    with pytest.raises(InputError, match=r"the file `checkpoint` says there is one, but .* the file is damaged"):
        checkpoints.latest(str(folder))
    with pytest.raises(InputError, match=r"checkpoint is damaged\. The training writes it anew"):
        continuous._checkpoints(str(folder))
    assert checkpoint_files.newest_readable(str(folder)) == prefix  # and the list is written anew
    assert checkpoints.latest(str(folder)) == prefix


def test_records_that_are_a_fifo(folder):
    os.mkfifo(folder / "x.tfrecord")
    with pytest.raises(InputError, match=r"x\.tfrecord .*FIFO"):
        tfrecord_files.check_shards([folder / "x.tfrecord"])


def test_the_files_of_a_checkpoint_are_those_of_its_name(folder):
    os.mkfifo(folder / "ckpt-10.index")
    files.check_parts(str(folder / "ckpt-1"))
    with pytest.raises(OSError, match="a FIFO"):
        files.check_parts(str(folder / "ckpt-10"))
