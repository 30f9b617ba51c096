"""Shards of a dataset, concatenated once into arrays that are mapped into memory."""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from envs.arrays import ArrayFile, Arrays
from utils.errors import UserError
from utils.files import exclusive_folder
from utils.progress import Counter


class ArraysTarget(NamedTuple):
    """Where the arrays of shards are written."""

    flag: str
    """The flag that named the shards."""
    folder: Path | None
    """None: beside the shards."""

    def of(self, shards: list[Path], key: tuple) -> Path:
        """Return the folder for the arrays of these shards.

        key: what else the arrays depend on.
        """
        beside = shards[0].parent
        identity = [(path.name, *_size_and_time(path)) for path in shards]
        if self.folder and self.folder != beside:  # shared with shards of other folders
            key = (*key, str(beside.resolve()))
        digest = hashlib.sha256(repr([*identity, *key]).encode()).hexdigest()[:8]
        return (self.folder or beside) / f"arrays-{digest}"

    def fault(self, folder: Path, error: OSError) -> UserError:
        """Return the error for a folder of arrays that cannot be written."""
        remedy = (
            "another folder" if self.folder else "--arrays_dir=FOLDER for the arrays"
        )
        return UserError(
            f"{'--arrays_dir' if self.folder else self.flag}: cannot write {folder}"
            f" ({error.strerror or error}); give {remedy}, which take as much room as the data"
        )


def _size_and_time(path: Path) -> tuple[int, int]:
    """Return the size and the time of change by which a shard is recognised."""
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def arrays_folder(
    shards: list[Path],
    write: Callable[[Path], None],
    target: ArraysTarget,
    key: tuple = (),
) -> Path:
    """Return the folder of plain arrays of shards; create it the first time.

    Raises UserError if the folder cannot be written.

    Args:
        shards: the files.
        write: writes the arrays into the folder passed to it.
        target: where to create the folder; an existing one beside the shards is preferred.
        key: what the arrays depend on besides the shards.
    """
    beside = target._replace(folder=None).of(shards, key)
    folder = beside if beside.exists() else target.of(shards, key)
    try:
        with exclusive_folder(folder.parent):
            if not folder.exists():
                write_folder(folder, write)
    except OSError as error:
        raise target.fault(folder, error) from error
    return folder


def write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Create a folder with the content that `write` puts into it, atomically."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # left by a killed process
    try:
        temporary.mkdir()
        write(temporary)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_shards(
    shards: list[Path], rows: Iterator[Arrays], folder: Path, flag: str
) -> None:
    """Concatenate shards into one .npy file per array, with one shard in memory at a time.

    Raises UserError if the shards differ in their arrays or in the columns of one.

    Args:
        shards: the files, for messages.
        rows: the arrays of each shard.
        folder: where to write.
        flag: the flag that named the shards.
    """
    with contextlib.ExitStack() as stack:
        files: dict[str, ArrayFile] = {}
        bar = stack.enter_context(
            Counter("converting shards", len(shards), kept=False, unit=" files")
        )
        for path, arrays in zip(shards, rows, strict=True):
            if not files:
                for key, array in arrays.items():
                    files[key] = stack.enter_context(
                        ArrayFile(folder / f"{key}.npy", array)
                    )
            ours = {key: file.columns for key, file in files.items()}
            theirs = {key: array.shape[1:] for key, array in arrays.items()}
            for key, _ in ours.items() ^ theirs.items():
                raise UserError(
                    f"{flag}: {path} and {shards[0].name} differ in the columns of {key}"
                )
            for key, array in arrays.items():
                files[key].append(array)
            bar.update()


def mapped(folder: Path) -> Arrays:
    return {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}
