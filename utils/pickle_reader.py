"""Reads one pickle file in a separate process, for `utils.pickles`.

    python -I -S pickle_reader.py BYTES SECONDS < FILE    # limits of memory and processor time

It prints one line of JSON, then the bytes of the arrays. It imports only the standard library,
so that a pickle can call no function of NumPy or JAX, only the stand-ins below. It follows only
the pickle instructions that published files need.
"""

import io
import json
import pickle
import re
import resource
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

DEPTH = 100  # levels of nested containers
KEY_LENGTH = 8  # items of a tuple that is a key
KEY_LIMIT = 1 << 64  # absolute value of an integer that is a key
NODE_BYTES = 64  # added for every value to the bytes it holds
ROOM = 1 << 26  # bytes that any file may expand to,
ROOM_FACTOR = 8  # plus this many for each byte of the file

ALLOWED = (
    *("PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP"),
    *("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET"),
    *("NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2"),
    *("LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("EMPTY_LIST", "LIST", "APPEND", "APPENDS"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("EMPTY_DICT", "DICT", "SETITEM", "SETITEMS"),
    *("GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"),
)
"""The instructions that are followed: no sets, no classes, no persistent objects."""


class Refused(Exception):
    """Raised when a pickle asks for anything outside the allowed instructions and types."""


# ---------------------------------------------------------------- stand-ins


class StandIn:
    """A function that a pickle may name and call."""

    def __init__(self, call: Callable):
        self.call = call


class DType:
    """Stand-in for numpy.dtype, numeric types only."""

    def __init__(self, name: Any):
        if not (type(name) is str and re.fullmatch("b1|[iu][1248]|f[248]", name)):
            raise Refused(f"holds an array of dtype {abridged(name)}")
        self.kind = name
        self.order = "="

    @property
    def size(self) -> int:
        """The bytes of one number."""
        return int(self.kind[1:])

    def set_state(self, state: Any) -> None:
        """Set the byte order, which BUILD passes in `state`."""
        _, order, *fields = state
        if any(field is not None for field in fields[:3]):
            raise Refused("holds an array with fields")
        if order not in ("<", ">", "=", "|"):
            raise ValueError("byte order")
        self.order = order


class Array:
    """Stand-in for numpy.ndarray, which a pickle creates empty and then fills."""

    def __init__(self) -> None:
        self.shape: list[int] | None = None

    def fill(self, data: Any, dtype: Any, shape: Any, order: str) -> "Array":
        """Set the content; raise ValueError where the shape does not fit the bytes.

        Args:
            data: the bytes of all numbers.
            dtype: a DType.
            shape: an int or a sequence of ints.
            order: "C" or "F".
        """
        if not (isinstance(dtype, DType) and isinstance(data, bytes | bytearray)):
            raise Refused("holds an array of something else than numbers")
        dims = [shape] if type(shape) is int else list(shape)
        if any(type(dim) is not int or dim < 0 for dim in dims):
            raise ValueError("shape")
        size = dtype.size
        for dim in dims:
            size *= dim
        if size != len(data):
            raise ValueError("size")
        self.data = data
        self.dtype = dtype
        self.shape = dims
        self.order = order
        return self

    def set_state(self, state: Any) -> None:
        """Fill the array from the state that BUILD passes."""
        _, shape, dtype, fortran, data = state
        self.fill(data, dtype, shape, "F" if fortran else "C")


class Scalar(Array):
    """Stand-in for a NumPy scalar."""


def reconstruct(kind: Any, *_: Any) -> Array:
    """Stand-in for numpy.core.multiarray._reconstruct."""
    if kind is not NDARRAY:
        raise Refused("holds an array of an unknown kind")
    return Array()


def jax_array(function: Any, args: Any, state: Any, _: Any) -> Array:
    """Stand-in for jax._src.array._reconstruct_array."""
    if function is not RECONSTRUCT:
        raise Refused("holds a JAX array that is not made of a NumPy array")
    array = reconstruct(*args)
    array.set_state(state)
    return array


def frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> Array:
    """Stand-in for numpy.core.numeric._frombuffer."""
    return Array().fill(data, dtype, shape, "F" if order == "F" else "C")


def encode(text: Any, encoding: Any) -> bytes:
    """Stand-in for _codecs.encode, by which protocols before 3 write bytes."""
    if type(text) is not str or encoding != "latin1":
        raise Refused(f"asks for the encoding {abridged(encoding)}")
    return text.encode("latin1")


def same_dict(*arguments: Any) -> dict:
    """Stand-in for OrderedDict and FrozenDict: return the dict passed, or a new one."""
    (found,) = arguments or ({},)
    if type(found) is not dict:
        raise Refused("makes a dict of something else")
    return found


NDARRAY = object()  # named in every array, never called
RECONSTRUCT = StandIn(reconstruct)
ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): NDARRAY,
    ("numpy", "dtype"): StandIn(lambda name, *_: DType(name)),
    ("_codecs", "encode"): StandIn(encode),
    ("jax._src.array", "_reconstruct_array"): StandIn(jax_array),
    ("collections", "OrderedDict"): StandIn(same_dict),
    ("flax.core.frozen_dict", "FrozenDict"): StandIn(same_dict),
}
for _core in ("numpy.core", "numpy._core"):
    ADMITTED[f"{_core}.multiarray", "_reconstruct"] = RECONSTRUCT
    ADMITTED[f"{_core}.multiarray", "scalar"] = StandIn(
        lambda dtype, data: Scalar().fill(data, dtype, [], "C")
    )
    ADMITTED[f"{_core}.numeric", "_frombuffer"] = StandIn(frombuffer)


def abridged(value: Any) -> str:
    """Return a text abridged, and only the type of any other value, whose repr may be huge."""
    return f"{value[:60]!r:.40}" if type(value) is str else type(value).__name__


# ---------------------------------------------------------------- reading


_Unpickler: Any = pickle._Unpickler  # type checkers do not know its methods


class Reader(_Unpickler):
    """The standard library's pure-Python unpickler, limited to the allowed instructions."""

    def __init__(self, content: bytes):
        super().__init__(io.BytesIO(content))
        self.size = len(content)

    def find_class(self, module: str, name: str, /) -> Any:
        """Return the stand-in of exactly this name, without importing anything."""
        if (module, name) not in ADMITTED:
            raise Refused(f"asks for {f'{module}.{name}'!r:.80}")
        return ADMITTED[module, name]

    def call(self) -> None:
        """REDUCE: call a stand-in; raise Refused for anything else."""
        args = self.stack.pop()
        if not (isinstance(self.stack[-1], StandIn) and type(args) is tuple):
            raise Refused("calls something that is no function")
        self.stack[-1] = self.stack[-1].call(*args)

    def set_state(self) -> None:
        """BUILD: set the state of an array or a dtype; raise Refused for anything else."""
        state = self.stack.pop()
        if not isinstance(self.stack[-1], Array | DType):
            raise Refused("changes something else than an array")
        self.stack[-1].set_state(state)

    def set_item(self) -> None:
        """SETITEM."""
        value = self.stack.pop()
        key = self.stack.pop()
        self.set_pairs([key, value])

    def set_items(self) -> None:
        """SETITEMS."""
        self.set_pairs(self.pop_mark())

    def make_dict(self) -> None:
        """DICT."""
        items = self.pop_mark()
        self.append({})
        self.set_pairs(items)

    def set_pairs(self, items: list) -> None:
        """Fill the dict on top of the stack, checking each key before it is hashed."""
        target = self.stack[-1]
        if type(target) is not dict:
            raise Refused("fills something that is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not is_key(key):
                raise Refused(
                    "has keys other than text, numbers and short tuples of the two"
                )
            target[key] = value

    def append_one(self) -> None:
        """APPEND."""
        value = self.stack.pop()
        self.extend_list([value])

    def append_all(self) -> None:
        """APPENDS."""
        self.extend_list(self.pop_mark())

    def extend_list(self, items: list) -> None:
        """Extend the list on top of the stack."""
        if type(self.stack[-1]) is not list:
            raise Refused("fills something that is no list")
        self.stack[-1].extend(items)

    def load_bytearray8(self) -> None:
        """BYTEARRAY8: refuse a size beyond the file's, before it is allocated."""
        size = int.from_bytes(self.read(8), "little")
        if size > self.size:
            raise EOFError
        self.append(bytearray(self.read(size)))


def is_key(key: Any) -> bool:
    """Whether a value may be a key: hashing or comparing other values may take forever."""
    if type(key) is tuple:
        return len(key) <= KEY_LENGTH and all(map(is_plain_key, key))
    return is_plain_key(key)


def is_plain_key(key: Any) -> bool:
    """Whether a value is text or a number of at most 64 bits."""
    return type(key) in (str, bool, float) or (
        type(key) is int and abs(key) < KEY_LIMIT
    )


def _refusal(name: str) -> Callable[[Reader], None]:
    def refuse(reader: Reader) -> None:
        raise Refused(f"uses the instruction {name}")

    return refuse


_OWN = {
    "REDUCE": Reader.call,
    "BUILD": Reader.set_state,
    "SETITEM": Reader.set_item,
    "SETITEMS": Reader.set_items,
    "DICT": Reader.make_dict,
    "APPEND": Reader.append_one,
    "APPENDS": Reader.append_all,
    "BYTEARRAY8": Reader.load_bytearray8,
}
_NAMES = {
    code[0]: name
    for name, code in vars(pickle).items()
    if name.isupper() and isinstance(code, bytes) and len(code) == 1
}
del _NAMES[
    pickle.PERSID[0]
]  # "P", the first byte of zip files: those are reported as damaged
Reader.dispatch = {
    code: _OWN.get(name, _Unpickler.dispatch[code])
    if name in ALLOWED
    else _refusal(name)
    for code, name in _NAMES.items()
}


# ---------------------------------------------------------------- answering


class Writer:
    """Converts the content of a pickle to JSON, and collects the bytes of its arrays.

    A value that a file refers to twice is written twice, and counts twice in the size limit.
    """

    def __init__(self, room: int):
        self.room = room
        self.blobs: list[bytes | bytearray] = []
        self.places: dict[int, int] = {}  # index in blobs, by id

    def node(self, value: Any, depth: int = 0) -> Any:
        """Return numbers, text and None unchanged, everything else as {kind: content}."""
        self.count(len(value) if isinstance(value, str | bytes | bytearray) else 0)
        if depth > DEPTH:
            raise Refused(f"holds containers in each other, more than {DEPTH} deep")
        if value is None or type(value) in (str, bool, int, float):
            return value
        if type(value) in (list, tuple):
            items = [self.node(item, depth + 1) for item in value]
            return {type(value).__name__: items}
        if type(value) is dict:
            return {"dict": [self.node(pair, depth + 1) for pair in value.items()]}
        return self.leaf(value)

    def leaf(self, value: Any) -> dict[str, Any]:
        """Return bytes, an array or a NumPy scalar as {kind: content}."""
        if isinstance(value, bytes | bytearray):
            return {"bytes": self.blob(value)}
        if not isinstance(value, Array):
            raise Refused(
                "holds something else than containers, arrays, numbers and text"
            )
        if value.shape is None:
            raise ValueError("an array that was never filled")
        self.count(len(value.data))
        kind = "scalar" if isinstance(value, Scalar) else "array"
        dtype = value.dtype.order + value.dtype.kind
        return {kind: [self.blob(value.data), dtype, value.shape, value.order]}

    def blob(self, data: bytes | bytearray) -> int:
        """Return the index of `data` in `blobs`, adding it the first time."""
        if id(data) not in self.places:
            self.places[id(data)] = len(self.blobs)
            self.blobs.append(data)
        return self.places[id(data)]

    def count(self, size: int) -> None:
        """Count a value of `size` bytes; raise Refused beyond the size limit."""
        self.room -= NODE_BYTES + size
        if self.room < 0:
            raise Refused("makes more than its size explains")


def answer(content: bytes) -> tuple[dict[str, Any], list[bytes | bytearray]]:
    """Return {"tree", "sizes"} and the blobs, or {"refused": reason} or {"damaged": True}."""
    try:
        writer = Writer(ROOM + ROOM_FACTOR * len(content))
        tree = writer.node(Reader(content).load())
        return {
            "tree": tree,
            "sizes": [len(blob) for blob in writer.blobs],
        }, writer.blobs
    except Refused as error:
        return {"refused": str(error)}, []
    except MemoryError:
        return {"refused": "takes more memory than its size explains"}, []
    except Exception:  # damaged bytes can lead anywhere
        return {"damaged": True}, []


def main(file: BinaryIO, out: BinaryIO) -> None:
    """Read a pickle from `file` and write the answer to `out`."""
    head, blobs = answer(file.read())
    out.write(json.dumps(head).encode() + b"\n")
    out.writelines(blobs)


if __name__ == "__main__":
    memory, seconds = map(int, sys.argv[1:])
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    if sys.platform == "linux":  # elsewhere the address space cannot be limited
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    main(sys.stdin.buffer, sys.stdout.buffer)
