"""Paths, and folders that several processes may want to fill at once."""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from utils.errors import RunError, UserError


def expanded(path: str | os.PathLike, flag: str = "") -> Path:
    """The path with ~ as the user's home directory; raises UserError, which begins with the
    flag, where there is none.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # HOME is unset, and the user has no entry in passwd
        raise UserError(
            f"{flag}{flag and '='}{path}: this user has no home directory; set HOME, or give a"
            " path without ~"
        ) from error


def user_folder(variable: str, default: str) -> Path | None:
    """The folder that an environment variable names, or the default below the home directory;
    None where this user has none.
    """
    named = os.environ.get(variable)
    with contextlib.suppress(UserError):
        return Path(named) if named else expanded(default)
    return None


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait until no other process works in this folder, and keep it while the block runs."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def lock_of(folder: Path) -> Path:
    """The file that a process locks while it writes a run's folder."""
    return folder.with_name(f".{folder.name}.lock")


def try_lock(file: IO, kind: int) -> bool:
    """Lock an open file, if nobody holds it."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_locked(folder: Path) -> bool:
    """Whether a process is writing a run's folder; changes nothing."""
    if not lock_of(folder).exists():
        return False
    with lock_of(folder).open() as file:
        return not try_lock(file, fcntl.LOCK_SH)


def digest(value: Any) -> str:
    """Eight hexadecimal digits of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[
        :8
    ]


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is no such file, RunError where there is no
    object in it.
    """
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text())
        if not isinstance(value, dict):
            raise ValueError("no object")
    except ValueError as error:
        raise RunError(
            f"{path} is damaged ({error}); delete it, and the same command goes on with the run"
        ) from error
    return value


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    with part.open("w") as file:
        file.write(json.dumps(value, indent=1, default=str) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def sha256_of(path: Path) -> str:
    """The checksum of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
