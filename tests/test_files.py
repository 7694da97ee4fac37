# SPDX-License-Identifier: Apache-2.0
"""The same functions on files of this machine and in a store that TensorFlow alone knows."""

import errno
import os
import socket
import subprocess
import sys
import time

import pytest
import tensorflow as tf

from deeplab_axial import files, processes
from deeplab_axial.errors import InputError


@pytest.fixture(params=["local", "remote"])
def folder(request, tmp_path):
    return str(tmp_path / "run") if request.param == "local" else f"ram://{tmp_path.name}/run"


def test_a_file_from_its_making_to_its_end(folder):
    path = f"{folder}/deep/a.txt"
    assert not files.exists(path)
    assert files.names(folder) == []
    with pytest.raises(FileNotFoundError):
        files.read(path)
    files.write_atomically(path, "a long text ä")
    files.write_atomically(path, b"short\n")
    assert files.read(path) == b"short\n"
    files.append(path, "ä\n")
    assert files.read(path).decode() == "short\nä\n"
    assert files.exists(path)
    assert files.is_folder(f"{folder}/deep")
    assert not files.is_folder(path)
    assert files.names(f"{folder}/deep") == ["a.txt"]
    files.move(path, f"{folder}/deep/b.txt")
    for _ in range(2):
        files.copy(f"{folder}/deep/b.txt", f"{folder}/c/b.txt")
    assert files.read(f"{folder}/c/b.txt").decode() == "short\nä\n"
    files.remove(f"{folder}/deep/b.txt")
    files.remove(f"{folder}/deep/b.txt")  # gone already
    assert files.names(f"{folder}/deep") == []
    files.remove(folder)
    assert not files.exists(f"{folder}/c/b.txt")


def test_a_new_file_can_be_appended_to(folder):
    files.make_folder(folder)
    files.append(f"{folder}/a", "1\n")
    assert files.read(f"{folder}/a") == b"1\n"


def test_between_machine_and_store(tmp_path):
    (tmp_path / "a").write_bytes(b"\x00\xff")
    remote = f"ram://{tmp_path.name}/b/a"
    files.copy(tmp_path / "a", remote)
    files.copy(remote, tmp_path / "c" / "a")
    assert (tmp_path / "c" / "a").read_bytes() == b"\x00\xff"
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["a"]


def test_copying_what_is_not_there(folder):
    with pytest.raises(FileNotFoundError):
        files.copy(f"{folder}/none", f"{folder}/copy")
    assert files.names(folder) == []


def test_an_unknown_store():
    with pytest.raises(OSError, match="nowhere") as error:
        files.write_atomically("nowhere://bucket/a", "x")
    assert not isinstance(error.value, FileNotFoundError)


def test_a_write_that_fails_leaves_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_text("old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_atomically(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        tf.errors.ResourceExhaustedError(None, None, "{{function_node __x}} No space left on device [Op:Write] name: "),
    ],
)
def test_what_cannot_be_written_is_explained(error):
    with pytest.raises(InputError) as found, files.explained("runs/x"):
        raise error
    assert str(found.value).startswith("runs/x cannot be written (No space left on device). Free or change the place")


def test_other_errors_are_not_explained():
    with pytest.raises(ZeroDivisionError), files.explained("runs/x"):
        raise ZeroDivisionError


def test_a_config_of_a_store(tmp_path):
    from deeplab_axial import config

    folder = f"ram://{tmp_path.name}"
    files.write_atomically(f"{folder}/c.textproto", 'experiment_name: "a" model_options { backbone { nmae: "x" } }')
    with pytest.raises(InputError, match=r"ram://\S+/c\.textproto:1:49: .*nmae"):
        config.load(f"{folder}/c.textproto")
    with pytest.raises(InputError, match=r"ram://\S+/none\.textproto: must be a textproto that can be read"):
        config.load(f"{folder}/none.textproto")
    files.write_atomically(f"{folder}/c.textproto", 'base: "b.textproto"')
    with pytest.raises(InputError, match=r"must stand alone\. Received: b\.textproto"):
        config.load(f"{folder}/c.textproto")


def test_imports_no_tensorflow_for_files_of_this_machine(tmp_path):
    code = "import sys; from deeplab_axial import files; files.write_atomically(sys.argv[1], 'x'); "
    code += "assert files.read(sys.argv[1]) == b'x'; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], check=True)


def _fifo(path):
    os.mkfifo(path)
    return path


def _socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
    return path


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (_fifo, "a FIFO"),
        (_socket, "a socket"),
        (lambda path: "/dev/zero", "a device"),
        (lambda path: path.parent, "a folder"),
    ],
)
def test_what_is_no_file_is_refused_before_it_is_opened(tmp_path, make, kind):
    path = make(tmp_path / "x")
    with pytest.raises(OSError, match=kind):
        files.read(path)


def test_a_limit_is_the_largest_file_that_is_read(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"1234")
    assert files.read(path, largest=4) == b"1234"
    with pytest.raises(OSError, match="larger than 3 bytes") as caught:
        files.read(path, largest=3)
    assert caught.value.errno == errno.EFBIG


def _process_that_is_gone() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_killed_processes_left_is_removed_at_the_first_write(tmp_path):
    here, gone = processes.machine(), _process_that_is_gone()
    left = [f".a.png.{here}-{gone}.tmp", f".old.json.0123abcd-{gone}.tmp"]
    kept = [
        f".b.json.{here}-{os.getppid()}.tmp",  # its process lives
        ".c.json.0123abcd-7.tmp",  # of another machine, a moment old
        *(f".d.{gone}.tmp", f"a.{here}-{gone}.tmp", "e.tmp", ".f"),  # not ours
    ]
    for name in (*left, *kept):
        (tmp_path / name).write_text("x")
    hours_ago = time.time() - 2 * 3600
    os.utime(tmp_path / left[1], (hours_ago, hours_ago))
    files.write_atomically(tmp_path / "new", "x")
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, "new"])


def test_leftovers_in_a_store(tmp_path):
    folder = f"ram://{tmp_path.name}/left"
    left = f"{folder}/.a.{processes.machine()}-{_process_that_is_gone()}.tmp"
    files.append(f"{folder}/.b.0123abcd-7.tmp", "x")
    files.append(left, "x")
    files.write_atomically(f"{folder}/new", "x")
    assert files.names(folder) == [".b.0123abcd-7.tmp", "new"]


def test_a_real_path_is_one_spelling(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.symlink(tmp_path, tmp_path / "link")
    assert {files.real_path(path) for path in ("a", "./a", "link/a", tmp_path / "b" / ".." / "a")} == {
        os.path.realpath(tmp_path / "a")
    }
    assert files.real_path("gs://bucket/./a") == "gs://bucket/./a"
