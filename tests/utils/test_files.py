"""The lock on a folder, and files that cannot be read."""

import errno
import fcntl
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from utils.errors import DamagedFile
from utils.files import exclusive_folder, read_json
from utils.messages import warn_once


def test_whoever_waits_for_a_folder_says_so(tmp_path, printed):
    def enter():
        with exclusive_folder(tmp_path):
            return True

    lines = ""
    with ThreadPoolExecutor(1) as pool:
        with exclusive_folder(tmp_path):
            other = pool.submit(enter)
            for _ in range(100):
                lines += printed().out
                if lines:
                    break
                time.sleep(0.05)
            assert not other.done()
        assert other.result(timeout=10)
    assert lines == f"waiting for another process in {tmp_path}\n"


def test_a_file_in_the_folder_is_locked_because_nfs_locks_folders_for_one_machine(
    tmp_path,
):
    folder = tmp_path / "new"
    with exclusive_folder(folder), (folder / ".lock").open() as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    assert list(folder.iterdir()) == []


def test_nobody_enters_with_a_lock_file_that_has_been_removed(tmp_path, monkeypatch):
    """A second process may open the file just before the first removes it."""
    entered = []
    with exclusive_folder(tmp_path):
        (tmp_path / ".lock").replace(tmp_path / "old")
        monkeypatch.setattr(os, "open", opened := Opened(tmp_path / "old", os.open))
    with exclusive_folder(tmp_path):
        entered.append((tmp_path / ".lock").exists())
    assert opened.calls == 2 and entered == [True]


class Opened:
    """os.open, which opens another file the first time."""

    def __init__(self, first, real):
        self.first, self.real, self.calls = first, real, 0

    def __call__(self, path, *arguments, **keywords):
        self.calls += 1
        return self.real(
            self.first if self.calls == 1 else path, *arguments, **keywords
        )


def test_the_lock_of_the_next_process_stays_if_the_block_removes_the_folder(tmp_path):
    folder = tmp_path / "parts"
    with exclusive_folder(folder):
        shutil.rmtree(folder)
        folder.mkdir()
        (folder / ".lock").touch()  # by the next process
    assert (folder / ".lock").exists()


def test_a_folder_that_its_holder_removes_is_free_again(tmp_path):
    with exclusive_folder(tmp_path / "parts"):
        shutil.rmtree(tmp_path / "parts")
    with exclusive_folder(tmp_path / "parts"):
        pass


def test_a_folder_that_cannot_be_written_is_locked_itself(tmp_path, monkeypatch):
    real = os.open

    def read_only(path, flags, *mode):
        if flags & os.O_CREAT:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, flags, *mode)

    monkeypatch.setattr(os, "open", read_only)
    with exclusive_folder(tmp_path):
        other = real(tmp_path, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(other)


def test_a_file_system_without_locks_gives_a_warning(tmp_path, monkeypatch, printed):
    def refuse(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    warn_once.cache_clear()
    with exclusive_folder(tmp_path):
        assert "this file system has no locks" in printed().err


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    path.write_text("{}")

    def refuse(_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(type(path), "read_bytes", refuse)
    with pytest.raises(DamagedFile) as error:
        read_json(path)
    assert error.value.fault == f"{path} cannot be read (Permission denied)"
    assert "delete" not in str(error.value)
