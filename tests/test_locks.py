# SPDX-License-Identifier: Apache-2.0
"""Two processes in one folder: the second is refused, and a dead one stops nobody."""

import json
import multiprocessing
import os
import signal
import threading
import time

import pytest

from deeplab_axial import files, locks, processes
from deeplab_axial.errors import InputError

# Called on the import of this file by each process below: seconds would be long for tests.
locks.BEAT, locks.PATIENCE, locks._SETTLE = 0.1, 0.6, 0.05


def _hold(folder, how, ready):
    with getattr(locks, how)(folder, "train"):
        ready.set()
        time.sleep(60)


@pytest.fixture
def holder(request, tmp_path):
    """A process that holds the lock of `run` below a folder until it is killed."""
    context = multiprocessing.get_context("forkserver")
    started = []

    def start(how="in_folder"):
        ready = context.Event()
        process = context.Process(target=_hold, args=(str(tmp_path / "run"), how, ready))
        process.start()
        started.append(process)
        assert ready.wait(30)
        return process

    yield start
    for process in started:
        process.kill()
        process.join()


def _change(path, **values):
    """Makes a lock file that of another owner."""
    content = json.loads(path.read_text())
    content["owner"].update(values)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("how", ["in_folder", "beside"])
def test_the_second_is_refused_at_once(holder, tmp_path, how):
    process = holder(how)
    before = time.monotonic()
    with pytest.raises(InputError) as error, getattr(locks, how)(tmp_path / "run", "train"):
        raise AssertionError("both hold it")
    assert time.monotonic() - before < 0.5
    message = str(error.value)
    assert message.startswith(f"{tmp_path}/run is in use by `deeplab-axial train`, process {process.pid} on ")
    assert f"on {os.uname().nodename}, since 20" in message
    assert "Wait until it has ended, stop it, or name another place" in message


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_owner_stops_nobody(holder, tmp_path, number):
    process = holder()
    os.kill(process.pid, number)
    deadline = time.monotonic() + 10
    while processes.is_alive(process.pid):  # a zombie until it is joined
        assert time.monotonic() < deadline
    assert (tmp_path / "run" / ".train.lock").exists()
    with locks.in_folder(tmp_path / "run", "train"):
        owner = json.loads((tmp_path / "run" / ".train.lock").read_text())["owner"]
        assert owner["pid"] == os.getpid()
    assert os.listdir(tmp_path / "run") == []


def test_a_later_process_of_the_same_number_is_another(holder, tmp_path):
    holder()
    _change(tmp_path / "run" / ".train.lock", start="12345")
    with locks.in_folder(tmp_path / "run", "train"):
        pass


def test_an_owner_elsewhere_shows_that_it_lives(holder, tmp_path, caplog):
    process = holder()
    lock = tmp_path / "run" / ".train.lock"
    _change(lock, machine="another", host="gpu7")
    stop = threading.Event()

    def beat():
        while not stop.wait(0.1):
            os.utime(lock)

    beating = threading.Thread(target=beat)
    beating.start()
    try:
        with pytest.raises(InputError, match=rf"process {process.pid} on gpu7, since"):
            locks.in_folder(tmp_path / "run", "train").__enter__()
    finally:
        stop.set()
        beating.join()
    assert f"process {process.pid} on gpu7" in caplog.text


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"owner": {"pid": "7"}}', None])
def test_a_lock_without_a_sign_of_life_is_taken_over(tmp_path, content):
    lock = tmp_path / ".train.lock"
    owner = {**vars(locks.Owner.this("train")), "machine": "another"}
    lock.write_text(json.dumps({"owner": owner}) if content is None else content)
    before = time.monotonic()
    with locks.in_folder(tmp_path, "train"):
        assert time.monotonic() - before > locks.PATIENCE
        assert locks.Owner.parse(lock.read_bytes()).pid == os.getpid()
    assert os.listdir(tmp_path) == []


def test_one_of_many_takes_over(tmp_path):
    """The lock of a dead process is there, and ten threads, each of which counts as a process, want it."""
    (tmp_path / "stale").mkdir()
    owner = {**vars(locks.Owner.this("train")), "start": "1"}
    (tmp_path / ".train.lock").write_text(json.dumps({"owner": owner}))
    holding, most, refused = [], [], []
    start = threading.Barrier(10)

    def work():
        start.wait()
        try:
            with locks.in_folder(tmp_path, "train"):
                holding.append(1)
                most.append(len(holding))
                time.sleep(0.3)
                holding.pop()
        except InputError:
            refused.append(1)

    threads = [threading.Thread(target=work) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert len(refused) == 9
    assert sorted(os.listdir(tmp_path)) == ["stale"]


def test_inside_of_itself_it_does_nothing(tmp_path):
    with locks.in_folder(tmp_path / "a", "convert"):
        with locks.in_folder(tmp_path / "a", "convert"):
            pass
        assert (tmp_path / "a" / ".convert.lock").exists()
    assert os.listdir(tmp_path) == []


def test_other_locks_of_a_folder_do_not_mind(tmp_path):
    with locks.in_folder(tmp_path, "train --mode=train", "train"), locks.in_folder(tmp_path, "train", "evaluation"):
        assert sorted(os.listdir(tmp_path)) == [".evaluation.lock", ".train.lock"]


def test_an_owner_that_was_taken_for_dead_leaves_the_lock_of_the_other(tmp_path):
    with locks.in_folder(tmp_path, "train"):
        _change(tmp_path / ".train.lock", token="of another")
        time.sleep(3 * locks.BEAT)
    assert (tmp_path / ".train.lock").exists()


@pytest.mark.parametrize("made", [True, False])
def test_a_folder_that_was_made_for_nothing_is_removed(tmp_path, made):
    with locks.in_folder(tmp_path / "a" / "b", "train"):
        if made:
            (tmp_path / "a" / "b" / "file").write_text("x")
    assert (tmp_path / "a").exists() == made


def test_where_nothing_can_be_written_nothing_is_locked(tmp_path):
    (tmp_path / "file").write_text("x")
    with locks.in_folder(tmp_path / "file" / "run", "train"), locks.beside(tmp_path / "file" / "run", "export"):
        assert os.listdir(tmp_path) == ["file"]


def test_in_a_store(tmp_path):
    folder = f"ram://{tmp_path.name}/run"
    with locks.in_folder(folder, "train"):
        time.sleep(3 * locks.BEAT)
        content = json.loads(files.read(f"{folder}/.train.lock"))
        assert content["owner"]["pid"] == os.getpid()
        assert content["beats"] >= 1
        refused = []

        def enter():
            try:
                locks.in_folder(folder, "train").__enter__()
            except InputError as error:
                refused.append(str(error))

        other = threading.Thread(target=enter)
        other.start()
        other.join()
        assert f"process {os.getpid()} on " in refused[0]
    assert files.names(folder) == []
    owner = {**vars(locks.Owner.this("train")), "start": "1"}
    files.append(f"{folder}/.train.lock", json.dumps({"owner": owner}))
    with locks.in_folder(folder, "train"):
        pass


def test_a_partial_folder(tmp_path):
    left = tmp_path / ".e.abcd.partial"
    left.mkdir()
    (left / "half").write_text("x")
    others = [".e.d", ".e.int8.abcd.partial", ".other.abcd.partial", "e.partial"]
    for other in others:
        (tmp_path / other).mkdir()

    def stop():
        with locks.partial_folder(tmp_path / "e", "export") as partial:
            assert not left.exists()
            assert os.path.dirname(partial) == str(tmp_path)
            (tmp_path / partial / "file").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert sorted(os.listdir(tmp_path)) == others
    with locks.partial_folder(tmp_path / "e", "export") as partial:
        os.replace(partial, tmp_path / "e")
    assert (tmp_path / "e").is_dir()


@pytest.mark.parametrize("how", ["in_folder", "beside"])
def test_folders_that_were_made_for_nothing_are_removed(tmp_path, how):
    def refuse():
        with getattr(locks, how)(tmp_path / "a" / "b", "export"):
            assert (tmp_path / "a").is_dir()
            raise InputError("no")

    with pytest.raises(InputError, match="no"):
        refuse()
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_lock_that_cannot_be_read_is_told(tmp_path, caplog):
    (tmp_path / ".train.lock").write_text("{}")
    (tmp_path / ".train.lock").chmod(0)
    with locks.in_folder(tmp_path, "train"):
        pass
    assert "cannot be locked" in caplog.text
