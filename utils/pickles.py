"""Reads the pickle files of published programs (weights, curves) without running their code.

A pickle may name any function and have it called. Only the names that arrays and dicts need are
found here, as the manual of `pickle` describes ("Restricting Globals").
"""

import io
import os
import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from utils.errors import UserError

ARRAY_FUNCTIONS = {
    ("_codecs", "encode"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
}
"""What a file may name and call: protocols before 3 write bytes by `_codecs.encode`."""
PLAIN = np.dtype("f4").__reduce__()[2][2:]
"""What follows the byte order in the state of a numeric dtype: no parts, no objects."""
NUMERIC = {"b1", *"i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8".split()}


class Refused(pickle.UnpicklingError):
    """Raised for a file that needs anything but containers, arrays, numbers and text."""


def numeric_dtype(name: Any, *_: Any) -> np.dtype:
    """Stand-in for numpy.dtype that knows no objects; raise Refused for other types.

    It returns a copy, because what follows in the file sets its byte order.
    """
    if type(name) is not str:  # the text of nested tuples may be endless
        raise Refused(f"holds an array of dtype {type(name).__name__}")
    if name not in NUMERIC:
        raise Refused(f"holds an array of dtype {name!r:.40}")
    return np.dtype(name, copy=True)


def new_array(kind: Any, *_: Any) -> np.ndarray:
    """Stand-in for NumPy's _reconstruct: return an array for `__setstate__` to fill.

    kind: None stands for numpy.ndarray; raise Refused for other classes.
    """
    if kind is not None:
        raise Refused("holds an array of another class")
    return np.empty(0, np.int8)


def jax_array(make: Any, args: tuple, state: tuple, _: Any) -> np.ndarray:
    """Stand-in for jax._src.array._reconstruct_array: return the NumPy array inside."""
    if make is not new_array:
        raise Refused("holds an array of another class")
    array = make(*args)
    array.__setstate__(state)
    return array


STAND_INS = {
    ("numpy", "dtype"): numeric_dtype,
    ("numpy", "ndarray"): None,  # an argument alone, never called
    ("numpy._core.multiarray", "_reconstruct"): new_array,
    ("__builtin__", "bytes"): lambda *_: b"",  # by protocols before 3
    ("jax._src.array", "_reconstruct_array"): jax_array,
    ("collections", "OrderedDict"): dict,
    ("flax.core.frozen_dict", "FrozenDict"): dict,
}


class ArrayUnpickler(pickle._Unpickler):
    """Raises Refused for a file that names anything else.

    It is the unpickler in Python: the one in C gives a dtype any state, such as one that is
    larger than the array's bytes.
    """

    dispatch: ClassVar[dict] = dict(pickle._Unpickler.dispatch)

    def load_build(self) -> None:
        """Set the state of an array, or the byte order of a dtype."""
        *_, made, state = self.stack  # type: ignore[attr-defined]
        if not isinstance(made, (np.dtype, np.ndarray)):
            raise Refused(f"sets the state of a {type(made).__name__}")
        if isinstance(made, np.dtype) and state[2:] != PLAIN:
            raise Refused("holds an array of a dtype of its own")
        super().load_build()  # type: ignore[misc]

    dispatch[pickle.BUILD[0]] = load_build

    def find_class(self, module: str, name: str, /) -> Any:
        """Return a function that makes arrays or dicts; `name` is compared whole."""
        module = module.replace("numpy.core", "numpy._core")  # the name in NumPy 1
        if (module, name) in STAND_INS:
            return STAND_INS[module, name]
        if (module, name) not in ARRAY_FUNCTIONS:
            raise Refused(f"asks for {f'{module}.{name}'!r:.80}")
        return super().find_class(module, name)


def safe_unpickle(path: str | os.PathLike, where: str | None = None) -> Any:
    """Read a pickle of dicts, lists, tuples, text, numbers and numeric arrays.

    Arrays of NumPy and JAX are returned as NumPy arrays. No code that the file names is
    executed. Raises UserError for a file that names anything else or is damaged; `where`
    (default: the path) begins the message.
    """
    where = where or str(path)
    try:
        if Path(path).exists() and not Path(path).is_file():
            raise UserError(f"{where}: it is not a file")
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(
            f"{where}: the file cannot be read ({error.strerror})"
        ) from error
    try:
        return ArrayUnpickler(io.BytesIO(content)).load()
    except Refused as error:
        raise UserError(
            f"{where}: refused, because the file {error}; only containers and arrays of"
            " numbers are read, and nothing in it was executed"
        ) from error
    except Exception as error:  # damaged bytes can lead anywhere
        raise UserError(
            f"{where}: not a pickle file, or a damaged one; nothing in it was executed"
        ) from error
