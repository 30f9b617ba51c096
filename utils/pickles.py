"""Weights and curves that the published programs saved: pickle files, read without ever running
what a pickle asks to run.

A file is read in a process of its own, with limits of memory and time; see
`utils/pickle_reader.py` for what it may ask for there.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from utils.errors import UserError

READER = Path(__file__).with_name("pickle_reader.py")
MEMORY = 1 << 28  # bytes that the reading process may take for any file
MEMORY_FACTOR = 8  # and for each byte of the file
SECONDS = 30  # of processor time that it may take


def safe_unpickle(path: str | os.PathLike, where: str | None = None) -> Any:
    """What a pickle file holds: dicts, lists, tuples, text, numbers, and arrays of numbers
    (NumPy's, read-only).

    JAX arrays come as NumPy arrays. Raises UserError, which begins with `where` (default: the
    path), for a file that asks for anything else, that makes more than its size explains or
    takes too long, and for one that is damaged. No code of the file's choosing runs, whatever
    it asks for.
    """
    where = where or str(path)
    try:
        if Path(path).exists() and not Path(path).is_file():
            raise UserError(f"{where}: it is not a file")
        with Path(path).open("rb") as file:
            head, blobs = ask_reader(file)
    except OSError as error:
        raise UserError(f"{where}: the file cannot be read ({error.strerror})") from error
    if "tree" in head:
        return tree_of(head["tree"], blobs)
    if reason := head.get("refused"):
        raise UserError(
            f"{where}: refused, because the file {reason}; only containers and arrays of"
            " numbers are read, and nothing in it was executed"
        )
    raise UserError(f"{where}: not a pickle file, or a damaged one; nothing in it was executed")


def ask_reader(file: BinaryIO) -> tuple[dict[str, Any], list[bytes]]:
    """The answer of the reading process to an open file; a signal ends the two at once."""
    memory = MEMORY + MEMORY_FACTOR * os.fstat(file.fileno()).st_size
    command = [sys.executable, "-I", "-S", str(READER), str(memory), str(SECONDS)]
    done = subprocess.run(command, stdin=file, capture_output=True)
    if done.returncode == -signal.SIGXCPU:
        return {"refused": f"takes more than {SECONDS} s to read"}, []
    if done.returncode:  # it could not even say that its memory is used up
        return {"refused": "takes more memory than its size explains"}, []
    line, _, rest = done.stdout.partition(b"\n")
    head = json.loads(line)
    blobs, start = [], 0
    for size in head.get("sizes", ()):
        blobs.append(rest[start : start + size])
        start += size
    return head, blobs


def tree_of(node: Any, blobs: list[bytes]) -> Any:
    """A tree as the reading process writes it, with its containers and arrays."""
    if not isinstance(node, dict):
        return node
    ((kind, content),) = node.items()
    if kind in ("list", "tuple"):
        items = [tree_of(item, blobs) for item in content]
        return items if kind == "list" else tuple(items)
    if kind == "dict":
        return dict(tree_of(pair, blobs) for pair in content)
    if kind == "bytes":
        return blobs[content]
    place, dtype, shape, order = content
    array = np.frombuffer(blobs[place], np.dtype(dtype)).reshape(shape, order=order)
    return array[()] if kind == "scalar" else array
