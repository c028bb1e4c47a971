"""Files appear completely or not at all, even if the writing process is killed."""

from concurrent.futures import ThreadPoolExecutor
import errno
import os
from pathlib import Path
import signal
import socket
import subprocess
import sys
import time

import pytest

from dipy_rnn._atomic import atomic_write

NAMES = ["a.txt", "with [b] ü.tar.gz", "no_suffix"]

# A script that prints a line inside the block, and then waits.
WRITER = """
import sys
from dipy_rnn._atomic import atomic_write

with atomic_write(sys.argv[1]) as partial:
    partial.write_text("theirs")
    (partial.parent / "arrays").mkdir()
    print("writing", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def old(tmp_path):
    """Return an existing file."""
    path = tmp_path / "a.txt"
    path.write_text("old")
    return path


@pytest.fixture
def begin():
    """Return a function that starts a process, which waits inside the block."""
    processes = []

    def start(path):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stdout.readline() == "writing\n"
        return process

    yield start
    for process in processes:
        with process:
            process.kill()


def names(path):
    return {entry.name for entry in path.iterdir()}


def leftover(path, host, process):
    """Make the folder that a killed process leaves."""
    folder = path.with_name(f".{path.name}.{host}.{process}.abc_123.partial")
    folder.mkdir()
    (folder / path.name).write_text("half")
    return folder.name


@pytest.mark.parametrize("name", NAMES)
def test_a_file_appears_when_it_is_complete(name, tmp_path):
    path = tmp_path / name
    with atomic_write(str(path)) as partial:
        partial.write_text("new")
        (partial.parent / "beside it").write_text("for a while")
        assert partial.name == name
        assert not path.exists()
    assert path.read_text() == "new"
    assert names(tmp_path) == {name}


def test_the_old_file_stays_until_the_new_one_is_complete(old):
    with atomic_write(old) as partial:
        partial.write_text("new")
        assert old.read_text() == "old"
    assert old.read_text() == "new"


@pytest.mark.parametrize("ends", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_or_interruption_leaves_nothing(ends, old):
    with pytest.raises(ends), atomic_write(old) as partial:
        partial.write_text("half")
        (partial.parent / "arrays").mkdir()
        (partial.parent / "arrays" / "positions").write_text("half")
        raise ends
    assert old.read_text() == "old"
    assert names(old.parent) == {"a.txt"}


def test_a_file_is_on_the_disk_before_it_is_moved(old, monkeypatch):
    calls, fsync, replace = [], os.fsync, os.replace

    def record(name, call):
        def wrapped(*arguments):
            calls.append((name, old.read_text()))
            return call(*arguments)

        return wrapped

    monkeypatch.setattr(os, "fsync", record("fsync", fsync))
    monkeypatch.setattr(os, "replace", record("replace", replace))
    with atomic_write(old) as partial:
        partial.write_text("new")
    assert calls == [("fsync", "old"), ("replace", "old")]


@pytest.mark.parametrize("name", NAMES)
def test_the_next_process_removes_what_a_killed_one_left(name, begin, tmp_path):
    path = tmp_path / name
    killed = begin(path)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert len(names(tmp_path)) == 1
    assert not path.exists()
    with atomic_write(path) as partial:
        assert names(tmp_path) == {partial.parent.name}
        partial.write_text("new")
    assert names(tmp_path) == {name}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="not Linux")
def test_a_zombie_process_has_ended(begin, tmp_path):
    path = tmp_path / "a.txt"
    killed = begin(path)
    killed.send_signal(signal.SIGKILL)
    state = Path(f"/proc/{killed.pid}/stat")
    while ") Z " not in state.read_text():
        time.sleep(0.01)
    with atomic_write(path) as partial:
        assert names(tmp_path) == {partial.parent.name}
        partial.write_text("new")


def test_a_file_that_another_process_is_writing_is_refused(begin, tmp_path):
    path = tmp_path / "a.txt"
    running = begin(path)
    (theirs,) = names(tmp_path)
    text = f"process {running.pid} is writing this file"
    with pytest.raises(OSError, match=text) as error, atomic_write(path):
        pass
    assert error.value.filename == str(path) and theirs in str(error.value)
    assert names(tmp_path) == {theirs}
    with atomic_write(tmp_path / "b.txt") as partial:
        partial.write_text("ours")
    running.communicate("\n")
    assert running.returncode == 0
    assert names(tmp_path) == {"a.txt", "b.txt"}
    assert path.read_text() == "theirs"


@pytest.mark.parametrize("exists", [True, False])
def test_a_symbolic_link_stays_and_its_file_is_written(exists, tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    if exists:
        (folder / "b.txt").write_text("old")
    path = tmp_path / "a.txt"
    path.symlink_to("elsewhere/b.txt")
    with atomic_write(path) as partial:
        partial.write_text("new")
    assert path.is_symlink() and (folder / "b.txt").read_text() == "new"
    assert names(tmp_path) == {"a.txt", "elsewhere"} and names(folder) == {"b.txt"}


def test_only_leftovers_of_this_file_and_this_host_are_removed(old):
    host = socket.gethostname()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    gone = leftover(old, host, ended.pid)
    stay = {
        "a.txt",
        leftover(old, "another-host", ended.pid),
        leftover(old, host, os.getpid()),
        leftover(old, host, 10**30),
        leftover(old, host, "no_process"),
        leftover(old.with_name("b.txt"), host, ended.pid),
        leftover(old.with_name(f"a.txt.{host}.{ended.pid}"), host, os.getpid()),
        leftover(old.with_name("aXtxt"), host, ended.pid),
    }
    assert gone in names(old.parent)
    with atomic_write(old) as partial:
        partial.write_text("new")
    assert names(old.parent) == stay


def test_threads_write_files_at_the_same_time(tmp_path):
    def write(i):
        path = tmp_path / f"{i % 8}.txt"
        with atomic_write(path) as partial:
            partial.write_text(path.name)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(64)))
    assert {path.read_text() for path in tmp_path.iterdir()} == names(tmp_path)
    assert len(names(tmp_path)) == 8


def test_a_full_disk_is_an_error_that_names_the_file(old):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        with pytest.raises(OSError) as caught, atomic_write(old) as partial:
            partial.write_bytes(bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.filename == str(old)
    assert caught.value.errno == errno.EFBIG
    assert old.read_text() == "old"
    assert names(old.parent) == {"a.txt"}


def test_errors_name_the_path_as_it_was_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for path, kind in (
        ("nowhere/a.txt", FileNotFoundError),
        ("folder", IsADirectoryError),
    ):
        with pytest.raises(kind) as caught, atomic_write(path) as partial:
            partial.write_text("never")
        assert caught.value.filename == path
        assert ".partial" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"'a\.txt'"), atomic_write("a.txt"):
        pass  # the block writes no file
    assert names(tmp_path) == {"folder"}


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "not there", "input.nii.gz"),
        ConnectionResetError(errno.ECONNRESET, "gone"),
        OSError("not a gzipped file"),
    ],
)
def test_other_errors_are_raised_unchanged(error, old):
    with pytest.raises(OSError) as caught, atomic_write(old):
        raise error
    assert caught.value is error
