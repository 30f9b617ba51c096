"""Paths, locks, checksums, and files that are read with a size limit and written atomically."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from utils.errors import DamagedFile, UnreadableFile, UserError, machine_fault
from utils.messages import say, short_path, warn_once

JSON_BYTES = 1 << 24
"""Size limit for the JSON files that are read."""


def expanded(path: str | os.PathLike, flag: str = "") -> Path:
    """Replace a leading ~ by the home directory.

    Raises UserError where the user has no home directory; `flag` begins the message.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # HOME is unset, and the user has no entry in passwd
        named = f"{flag}={path}" if flag else path
        raise UserError(
            f"{named}: this user has no home directory; set HOME, or give a path without ~"
        ) from error


def user_folder(variable: str, default: str) -> Path | None:
    """Return the folder that an environment variable names, else `default` with ~ expanded.

    None where the variable is not set and the user has no home directory.
    """
    named = os.environ.get(variable)
    with contextlib.suppress(UserError):
        return Path(named) if named else expanded(default)
    return None


@contextlib.contextmanager
def exclusive_folder(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on a folder for the block; wait while another process holds it.

    A missing folder is created. What is locked is a file in it: NFS locks files for all
    machines, but folders for one. A folder that cannot be written is locked itself.
    """
    descriptor = _lock_folder(folder)
    try:
        yield
    finally:
        path = folder / ".lock"
        # not where the folder is read-only, nor the file of another process if the block has
        # removed the folder
        if _is_open_file(path, descriptor):
            path.unlink()
        os.close(descriptor)


def _lock_folder(folder: Path) -> int:
    """Return the descriptor of the locked file of a folder, after waiting for it."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / ".lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            path = folder
            descriptor = os.open(path, os.O_RDONLY)
        if not try_lock(descriptor, fcntl.LOCK_EX):
            say(f"waiting for another process in {short_path(folder)}")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if _is_open_file(path, descriptor):
            return descriptor
        os.close(descriptor)  # the process before has removed the file


def _is_open_file(path: Path, descriptor: int) -> bool:
    """Whether a path still leads to the file that a descriptor was opened for."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def lock_of(folder: Path) -> Path:
    """Return the file that a process locks while it writes a run folder."""
    return folder.with_name(f".{folder.name}.lock")


def try_lock(file: IO | int, kind: int) -> bool:
    """Lock an open file or its descriptor without waiting; return whether that succeeded.

    On a file system without locks nothing is locked, with a warning, and the result is True.
    """
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
            raise
        warn_once(
            "this file system has no locks (flock): never start two processes that write one"
            " run or download one file"
        )
    return True


def is_locked(folder: Path) -> bool:
    """Whether a process is writing a run folder. The check changes no file."""
    if not lock_of(folder).exists():
        return False
    with lock_of(folder).open() as file:
        return not try_lock(file, fcntl.LOCK_SH)


def digest(value: Any) -> str:
    """Return the first eight hexadecimal digits of the SHA-256 of a JSON value."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def read_file(path: Path, limit: int) -> bytes | None:
    """Read a regular file of at most `limit` bytes; None where it does not exist.

    Raises DamagedFile for a larger file and for anything that is not a regular file, so it
    never blocks on a pipe and never reads endlessly from a device such as /dev/zero.
    """
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise DamagedFile(path, "a link to nothing") from None
        return None
    except OSError as error:
        raise unreadable(path, error) from error
    if not stat.S_ISREG(status.st_mode):
        raise DamagedFile(path, "a folder" if path.is_dir() else "not a regular file")
    if status.st_size > limit:
        raise DamagedFile(path, f"larger than {limit >> 20} MiB")
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> DamagedFile:
    """Return the error for a file that the system does not read."""
    why = machine_fault(error)
    if why:
        return UnreadableFile(path, why)
    return DamagedFile(path, f"{error.strerror}")


def read_json(path: Path) -> dict[str, Any] | None:
    """Read the object in a JSON file; None where the file does not exist.

    Raises DamagedFile where the file holds anything but an object that can be written again.
    """
    content = read_file(path, JSON_BYTES)
    if content is None:
        return None
    try:
        value = json.loads(content.decode())
        if not isinstance(value, dict):
            raise ValueError("no object")
        # half of a surrogate pair and deep nesting can be read but not written
        json.dumps(value, ensure_ascii=False, indent=1).encode()
    except RecursionError as error:
        raise DamagedFile(path, "nested too deeply") from error
    except ValueError as error:
        raise DamagedFile(path, str(error)) from error
    return value


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(value, indent=1, default=str) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file atomically: after a crash it is the old or the new one, complete."""
    part = path.with_name(f".{path.name}.part")
    with part.open("w", newline="", encoding="utf-8") as file:
        file.write(text)
    put_in_place(part, path)


def put_in_place(part: Path, path: Path) -> None:
    """Rename a finished file, once it is on the disk: a power cut leaves no empty file."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(part, path)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
