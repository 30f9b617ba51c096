"""Weights that the published programs saved: pickle files, read without ever running what a
pickle asks to run.

A file gets none of NumPy's or JAX's own functions, only the stand-ins below, which build arrays
of numbers from bytes.
"""

import os
import pickle
import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from utils.errors import UserError


class _Refused(pickle.UnpicklingError):
    """What a file asked for and does not get."""


class _StandIn:
    """A callable that a file may name and call, and cannot change."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable):
        self._call = call

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setstate__(self, state: Any) -> None:
        raise _Refused("changes the reader")


class _DType:
    """numpy.dtype, of numbers alone."""

    __slots__ = ("value",)

    def __init__(self, name: Any):
        if not (isinstance(name, str) and re.fullmatch("[biuf][1248]", name)):
            raise _Refused(f"holds an array of dtype {name!r:.40}")
        self.value = np.dtype(name)

    def __setstate__(self, state: Any) -> None:
        _, byte_order, *fields = state
        if any(field is not None for field in fields[:3]):
            raise _Refused("holds an array with fields")
        self.value = self.value.newbyteorder(byte_order)


class _Array:
    """numpy.ndarray while its file is read: NumPy makes it empty, then sets its state."""

    __slots__ = ("value",)
    __hash__ = None  # type: ignore[assignment]  # as an array's

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        self.value = _from_bytes(data, dtype, shape, "F" if fortran else "C")


def _from_bytes(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if not (isinstance(dtype, _DType) and isinstance(data, bytes | bytearray)):
        raise _Refused("holds an array of something else than numbers")
    return np.frombuffer(data, dtype.value).reshape(shape, order=order)


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    array = _Array()
    array.value = _from_bytes(data, dtype, shape, order)
    return array


def _jax_array(function: Any, args: Any, state: Any, _: Any) -> _Array:
    if function is not _RECONSTRUCT:
        raise _Refused("holds a JAX array that is not made of a NumPy array")
    array = function(*args)
    array.__setstate__(state)
    return array


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise _Refused(f"asks for the encoding {encoding!r:.40}")
    return text.encode("latin1")


_NDARRAY = "numpy.ndarray"  # named in every array, never called


def _reconstruct(kind: Any, *_: Any) -> _Array:
    if kind != _NDARRAY:
        raise _Refused("holds an array of an unknown kind")
    return _Array()


_RECONSTRUCT = _StandIn(_reconstruct)
_CONTAINERS = (dict, list, tuple, set, frozenset)
_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _StandIn(lambda name, *_: _DType(name)),
    ("_codecs", "encode"): _StandIn(_encode),  # how bytes are written before protocol 3
    ("jax._src.array", "_reconstruct_array"): _StandIn(_jax_array),
    ("collections", "OrderedDict"): dict,
    # it is pickled as the dict around which it stands
    ("flax.core.frozen_dict", "FrozenDict"): dict,
}
for _core in ("numpy.core", "numpy._core"):
    _ADMITTED[f"{_core}.multiarray", "_reconstruct"] = _RECONSTRUCT
    _ADMITTED[f"{_core}.multiarray", "scalar"] = _StandIn(
        lambda dtype, data: _from_bytes(data, dtype, 1, "C")[0]
    )
    _ADMITTED[f"{_core}.numeric", "_frombuffer"] = _StandIn(_frombuffer)
for _builtins in ("builtins", "__builtin__"):
    _ADMITTED |= {(_builtins, kind.__name__): kind for kind in _CONTAINERS}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str, /) -> Any:
        """A stand-in by its exact name; nothing is imported and no attribute is looked up."""
        if (module, name) not in _ADMITTED:
            raise _Refused(f"asks for {f'{module}.{name}'!r:.80}")
        return _ADMITTED[module, name]


def _check_memo(file: BinaryIO) -> None:
    """Refuse places in the reader's table of what it has seen that no file of this size needs:
    it would make the table.
    """
    size = os.fstat(file.fileno()).st_size
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and (argument or 0) > size:
            raise _Refused("asks for more memory than it can use")
    file.seek(0)


def _plain(node: Any, done: dict[int, Any]) -> Any:
    """The same tree with arrays in place of stand-ins; `done` holds what was seen, by id."""
    if id(node) not in done:
        if isinstance(node, _Array):
            done[id(node)] = node.value
        elif isinstance(node, dict):
            done[id(node)] = {
                _plain(key, done): _plain(value, done) for key, value in node.items()
            }
        elif isinstance(node, _CONTAINERS):
            done[id(node)] = type(node)(_plain(item, done) for item in node)
        elif isinstance(
            node, str | bytes | bytearray | int | float | complex | np.generic | None
        ):
            done[id(node)] = node
        else:
            raise _Refused("holds something else than containers, arrays, numbers and text")
    return done[id(node)]


def safe_unpickle(path: str | os.PathLike, where: str | None = None) -> Any:
    """What a pickle file holds: builtin containers, text, numbers, and arrays of numbers
    (NumPy's, read-only).

    JAX arrays come as NumPy arrays. Raises UserError, which begins with `where` (default: the
    path), for a file that asks for anything else, and for one that is damaged. No code of the
    file's choosing runs, whatever it asks for.
    """
    where = where or str(path)
    try:
        with Path(path).open("rb") as file:
            _check_memo(file)
            return _plain(_Unpickler(file).load(), {})
    except OSError as error:
        raise UserError(f"{where}: the file cannot be read ({error.strerror})") from error
    except _Refused as error:
        raise UserError(
            f"{where}: refused, because the file {error}; only containers and arrays of numbers"
            " are read, and nothing in it was executed"
        ) from error
    except Exception as error:  # damaged bytes can lead anywhere
        raise UserError(
            f"{where}: not a pickle file, or a damaged one; nothing in it was executed"
        ) from error
