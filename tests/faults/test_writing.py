"""A run stops where a file cannot be written, and its checkpoints stay intact."""

import contextlib
import errno
import os
import resource
import subprocess

import pytest

from tests.chain_runs import (
    CUTS,
    ROOT,
    before_updates,
    files_below,
    folder_of,
    in_a_process,
    newest,
    wait_for,
)


class Limit:
    """A limit on the size of files, which any user can set, in place of a full disk."""

    reason = os.strerror(errno.EFBIG)

    def __init__(self):
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(self, size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, self.before[1]))

    def free(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


class Disk:
    """A small file system that can be filled, for users who may mount one."""

    reason = os.strerror(errno.ENOSPC)

    def __init__(self, place):
        place.mkdir()
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", place], check=True
        )
        self.place = place

    def fill(self, size):
        with (
            contextlib.suppress(OSError),
            (self.place / "filler").open("wb", buffering=0) as file,
        ):
            while file.write(bytes(4096)):
                pass

    def free(self):
        (self.place / "filler").unlink()

    def unmount(self):
        subprocess.run(["umount", "--lazy", self.place], check=True)


def may_mount():
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    with contextlib.suppress(OSError):
        return (
            os.geteuid() == 0
            and subprocess.run(command, capture_output=True).returncode == 0
        )
    return False


@pytest.fixture(params=["limit", *["disk"] * may_mount()])
def disk(request, tmp_path):
    if request.param == "limit":
        limit = Limit()
        yield limit
        limit.free()
    else:
        disk = Disk(tmp_path / "disk")
        yield disk
        os.chdir(ROOT)
        disk.unmount()


@contextlib.contextmanager
def full(disk, call, size):
    """Fill the disk from a call of updates to the end of the block; `size()` is how large files
    may still be with `Limit`.
    """

    def fill(replay):
        disk.fill(size())
        return replay

    with before_updates(call, fill):
        yield
    disk.free()


@pytest.mark.ci
@pytest.mark.parametrize("phase", CUTS)
def test_a_checkpoint_that_does_not_fit_stops_the_run(
    phase, disk, enter_folder, assert_stops, assert_undisturbed
):
    enter_folder(phase, getattr(disk, "place", None))
    step, before = (
        newest().name,
        {path: path.read_bytes() for path in files_below(newest())},
    )
    with full(disk, 1, lambda: 4000):
        line = assert_stops(1)
    if "cannot write a checkpoint" in line:
        assert line.startswith(
            f"error: cannot write a checkpoint in {folder_of().absolute()}/checkpoints ("
        )
        assert line.endswith(
            f"); the last good checkpoint is that of step {step}: make room or mend it, and"
            " give the same command again"
        )
    else:  # on a full disk a log may be the first that does not fit
        assert isinstance(disk, Disk)
        assert line.endswith(f"(checkpoints in {folder_of()} are intact)")
    assert disk.reason in line
    assert {path: path.read_bytes() for path in before} == before
    assert_undisturbed()


@pytest.mark.ci
@pytest.mark.parametrize("name, call", {"train.csv": 8, "replay.bin": 10}.items())
def test_a_log_that_cannot_be_written_stops_the_run(
    name, call, enter_folder, assert_stops, assert_undisturbed
):
    """Step 18, which writes a line of train.csv, comes with call 8 of the updates; step 20,
    which saves a checkpoint, comes with call 10.
    """
    enter_folder()

    def size():
        wait_for(folder_of() / "checkpoints" / "16")  # it is written in the background
        return (folder_of() / name).stat().st_size

    with full(Limit(), call, size):
        line = assert_stops(1)
    place = f"(checkpoints in {folder_of()} are intact)"
    assert line == f"error: [Errno {errno.EFBIG}] {Limit.reason} {place}"
    assert newest().name == "16"
    assert_undisturbed()


@pytest.mark.ci
@pytest.mark.parametrize("from_the_start", [True, False])
def test_a_read_only_folder_is_refused_or_stops_the_run(
    from_the_start, enter_folder, assert_undisturbed
):
    """It is refused before anything is done. If it becomes read-only during the run, the next
    checkpoint stops the run.
    """
    enter_folder("online")
    checkpoints, before = (
        folder_of() / "checkpoints",
        {path: path.read_bytes() for path in files_below(folder_of())},
    )
    newest_before = {path: path.read_bytes() for path in files_below(newest())}
    if from_the_start:
        subprocess.run(["chmod", "-R", "a-w", folder_of()], check=True)
        code, lines = in_a_process("train()")
        assert (code, lines) == (
            2,
            [
                f"error: --save_dir=exp: cannot write to {folder_of()}; give another folder"
            ],
        )
        assert {path: path.read_bytes() for path in files_below(folder_of())} == before
    else:
        code, (line,) = in_a_process(
            f"at_update(1, lambda: os.chmod({str(checkpoints)!r}, 0o555))"
        )
        assert code == 1
        assert line.startswith(
            f"error: cannot write a checkpoint in {checkpoints.absolute()} (PermissionError: "
        )
        assert "; the last good checkpoint is that of step 20: " in line
        assert {
            path: path.read_bytes() for path in files_below(newest())
        } == newest_before
    subprocess.run(["chmod", "-R", "u+w", folder_of()], check=True)
    assert_undisturbed()
