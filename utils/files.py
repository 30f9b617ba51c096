"""Paths, files that are read and written whole, and folders that several processes may want to
fill at once.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from utils.errors import DamagedFile, UserError

JSON_BYTES, CSV_BYTES = 1 << 24, 1 << 29
"""The largest files that are read."""
JSON_LEVELS = 20
"""How deep objects and lists may be nested: ours are 4 deep, and Python recurses to 1000."""


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


def read_file(path: Path, most: int) -> bytes | None:
    """The content of a file of at most `most` bytes; None where there is none.

    Raises DamagedFile for anything else under that name. It neither waits, as for a pipe, nor
    reads on without end, as from /dev/zero.
    """
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise DamagedFile(path, "a link to nothing") from None
        return None
    except OSError as error:
        raise DamagedFile(path, f"{error.strerror}") from error
    if not stat.S_ISREG(found.st_mode):
        raise DamagedFile(path, "a folder" if path.is_dir() else "not a regular file")
    if found.st_size > most:
        raise DamagedFile(path, f"larger than {most >> 20} MiB")
    try:
        return path.read_bytes()
    except OSError as error:
        raise DamagedFile(path, f"{error.strerror}") from error


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is no such file.

    Raises DamagedFile where it holds anything else, or text that no file can be written with.
    """
    content = read_file(path, JSON_BYTES)
    if content is None:
        return None
    try:
        value = json.loads(content.decode())
        check_object(value)
    except RecursionError as error:
        raise DamagedFile(path, "nested too deeply") from error
    except ValueError as error:
        raise DamagedFile(path, str(error)) from error
    return value


def check_object(value: Any) -> None:
    """Raise ValueError for a JSON value that is no object, or that cannot be written again."""
    if not isinstance(value, dict):
        raise ValueError("no object")
    if is_deeper(value, JSON_LEVELS):
        raise ValueError("nested too deeply")
    json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair has no encoding


def is_deeper(value: Any, levels: int) -> bool:
    """Whether objects and lists are nested more than `levels` deep."""
    if not isinstance(value, dict | list):
        return False
    inside = value.values() if isinstance(value, dict) else value
    return not levels or any(is_deeper(inner, levels - 1) for inner in inside)


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
