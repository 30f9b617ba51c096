"""Reads the pickle files of published programs (weights, curves) without running their code.

Each file is read in a separate process with limits of memory and time;
`utils/pickle_reader.py` says what a file may contain.
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
MEMORY = 1 << 28  # bytes of memory for the reading process,
MEMORY_FACTOR = 8  # plus this many for each byte of the file
SECONDS = 30  # its limit of processor time


def safe_unpickle(path: str | os.PathLike, where: str | None = None) -> Any:
    """Read a pickle of dicts, lists, tuples, text, numbers and numeric arrays.

    Arrays of NumPy and JAX are returned as read-only NumPy arrays. No code that the file names
    is executed. Raises UserError for a file that holds anything else, is damaged, expands
    beyond the size limit or takes too long; `where` (default: the path) begins the message.
    """
    where = where or str(path)
    try:
        if Path(path).exists() and not Path(path).is_file():
            raise UserError(f"{where}: it is not a file")
        with Path(path).open("rb") as file:
            head, blobs = ask_reader(file)
    except OSError as error:
        raise UserError(
            f"{where}: the file cannot be read ({error.strerror})"
        ) from error
    if "tree" in head:
        return tree_of(head["tree"], blobs)
    if reason := head.get("refused"):
        raise UserError(
            f"{where}: refused, because the file {reason}; only containers and arrays of"
            " numbers are read, and nothing in it was executed"
        )
    raise UserError(
        f"{where}: not a pickle file, or a damaged one; nothing in it was executed"
    )


def ask_reader(file: BinaryIO) -> tuple[dict[str, Any], list[bytes]]:
    """Run the reading process on an open file; return its answer and the blobs."""
    memory = MEMORY + MEMORY_FACTOR * os.fstat(file.fileno()).st_size
    command = [sys.executable, "-I", "-S", str(READER), str(memory), str(SECONDS)]
    done = subprocess.run(command, stdin=file, capture_output=True)
    if done.returncode == -signal.SIGXCPU:
        return {"refused": f"takes more than {SECONDS} s to read"}, []
    if done.returncode:  # out of memory before it could print an answer
        return {"refused": "takes more memory than its size explains"}, []
    line, _, rest = done.stdout.partition(b"\n")
    head = json.loads(line)
    blobs = []
    start = 0
    for size in head.get("sizes", ()):
        blobs.append(rest[start : start + size])
        start += size
    return head, blobs


def tree_of(node: Any, blobs: list[bytes]) -> Any:
    """Rebuild containers and arrays from what `pickle_reader.Writer.node` returned."""
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
