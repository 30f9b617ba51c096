"""What a compiled program runs, counted in the text of its optimised HLO.

An instruction that is left after fusion is a kernel of a GPU, or a call of a library; tuples,
bitcasts and constants are none. The kernels of an update are those in the body of the loop over
updates; without a loop, those of the whole program.
"""

import collections
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

BYTES = {"pred": 1, "bf16": 2, "token": 0} | {
    f"{kind}{bits}": bits // 8 for kind in "fsu" for bits in (8, 16, 32, 64)
}
# move no data: names for parts of other values
VIEWS = ("bitcast", "get-tuple-element", "tuple", "optimization-barrier")
NO_KERNELS = (
    *VIEWS,
    "parameter",
    "constant",
    "after-all",
    "while",
    "call",
    "conditional",
)
# read as many elements of their first operand as they return
SLICES = ("slice", "dynamic-slice", "gather")
CACHE_BYTES = 40e6  # what an H100 keeps in its second-level cache, of 50 MB
LIBRARY_PRODUCT = re.compile(r'custom_call_target="__cublas|__triton_gemm')

NAME = re.compile(r"%([\w.\-]+)")
HEADER = re.compile(r"^(ENTRY )?%([\w.\-]+) \(.*\{$")
ASSIGNMENT = re.compile(r"^\s+(ROOT )?%([\w.\-]+) = (.*)$")


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    shape: str
    op: str
    operands: list[str]
    attributes: str
    is_root: bool


Computation = dict[str, Instruction]
"""Instructions by name, in the order in which they run."""


class Kernel(NamedTuple):
    """What one kernel does to memory."""

    name: str
    moved: float  # bytes read and written
    hbm: float  # those of them that the cache does not hold
    depth: int  # kernels in the longest chain that ends here
    product: bool  # of matrices


class Module(NamedTuple):
    """A program."""

    computations: dict[str, Computation]
    entry: str

    def called(self, instruction: Instruction, attribute: str) -> Computation:
        """The computation that an attribute names, such as the body of a loop."""
        found = re.search(rf"\b{attribute}=%([\w.\-]+)", instruction.attributes)
        return self.computations[found[1]] if found else {}

    def body(self) -> Computation:
        """The body of the program's longest loop; the program itself where it has none."""
        loops = [
            self.called(instruction, "body")
            for instruction in self.computations[self.entry].values()
            if instruction.op == "while"
        ]
        return max(loops, key=len, default=self.computations[self.entry])


def size(shape: str) -> int:
    """Bytes of an array or tuple, without the scratch memory of a library's call."""
    arrays = re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", shape)
    if len(arrays) > 1:
        arrays = [(kind, dims) for kind, dims in arrays if kind != "s8"]
    return sum(
        BYTES.get(kind, 4) * math.prod(int(dim) for dim in dims.split(",") if dim)
        for kind, dims in arrays
    )


def closing(text: str) -> int:
    """Where the bracket closes that opens at the start of the text."""
    depth = 0
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return i
    raise ValueError(f"no bracket closes in {text!r}")


def parse_instruction(name: str, text: str, is_root: bool) -> Instruction:
    """The instruction of a line, from what it has after the equals sign."""
    end = closing(text) + 1 if text.startswith("(") else text.index(" ")
    shape, rest = text[:end], text[end:].lstrip()
    op, start = rest[: rest.index("(")], rest.index("(")
    end = start + closing(rest[start:])
    operands = [] if op in ("constant", "parameter") else NAME.findall(rest[start:end])
    return Instruction(name, shape, op, operands, rest[start:], is_root)


def parse(text: str) -> Module:
    """The program that an HLO text holds."""
    computations: dict[str, Computation] = {}
    current, entry = "", ""
    for line in text.splitlines():
        if header := HEADER.match(line):
            current = header[2]
            entry = current if header[1] else entry
            computations[current] = {}
        elif current and (found := ASSIGNMENT.match(line)):
            instruction = parse_instruction(found[2], found[3], bool(found[1]))
            computations[current][instruction.name] = instruction
    return Module(computations, entry)


def is_kernel(instruction: Instruction) -> bool:
    """Whether the device runs something for it."""
    return instruction.op not in NO_KERNELS


def is_product(module: Module, instruction: Instruction) -> bool:
    """Whether it multiplies matrices: by itself, in a library, or inside a fusion."""
    inside = module.called(instruction, "calls").values()
    return (
        instruction.op == "dot"
        or any(part.op == "dot" for part in inside)
        or bool(LIBRARY_PRODUCT.search(instruction.attributes))
    )


def source(computation: Computation, name: str) -> str:
    """Follow bitcasts and tuples back to the value of a name; an element of the loop's state is
    its own source.
    """
    while (instruction := computation[name]).op in VIEWS:
        of = instruction.operands[0]
        if instruction.op == "get-tuple-element" and computation[of].op == "parameter":
            return name
        if instruction.op == "get-tuple-element" and computation[of].op == "tuple":
            index = re.search(r"index=(\d+)", instruction.attributes)
            assert index is not None
            of = computation[of].operands[int(index[1])]
        name = of
    return name


def read_share(fused: Computation) -> dict[int, float]:
    """Bytes that a fusion reads of each of its parameters, by number.

    Values are followed from the result back: a slice reads as much as it returns, other
    instructions all of an operand, or as many elements as are wanted of their result.
    """
    wanted: dict[str, float] = collections.defaultdict(float)
    found = {}
    for name in reversed(fused):
        instruction = fused[name]
        full = size(instruction.shape)
        wanted[name] = full if instruction.is_root else min(wanted[name], full)
        if instruction.op == "parameter":
            number = re.match(r"\((\d+)\)", instruction.attributes)
            assert number is not None
            found[int(number[1])] = wanted[name]
        for position, operand in enumerate(instruction.operands):
            if operand in fused:
                wanted[operand] += need(
                    instruction, wanted[name], position, fused[operand]
                )
    return found


def need(
    reader: Instruction, wanted: float, position: int, operand: Instruction
) -> float:
    """Bytes of an operand that a reader needs for so many bytes of its own result."""
    full, result = size(operand.shape), max(size(reader.shape), 1)
    if reader.op in SLICES:
        return min(full, wanted if position == 0 else full)
    if reader.op in ("broadcast", "tuple"):
        return full
    # of a reduction, a transpose or an elementwise operation in proportion
    return full * min(1.0, wanted / result)


class Cache:
    """Whole values in the order of their last use, as many as fit."""

    def __init__(self) -> None:
        self.sizes: collections.OrderedDict[str, float] = collections.OrderedDict()
        self.written: set[str] = set()

    def read(self, name: str, bytes_read: float) -> float:
        """Bytes that come from memory."""
        missed = 0.0 if name in self.sizes else bytes_read
        return missed + self._keep(name, bytes_read)

    def write(self, name: str, bytes_written: float) -> float:
        """Bytes that go to memory, of older values that make room."""
        self.written.add(name)
        return self._keep(name, bytes_written)

    def _keep(self, name: str, bytes_used: float) -> float:
        self.sizes[name] = max(bytes_used, self.sizes.pop(name, 0.0))
        moved = 0.0
        while sum(self.sizes.values()) > CACHE_BYTES and len(self.sizes) > 1:
            old, old_bytes = self.sizes.popitem(last=False)
            moved += old_bytes if old in self.written else 0.0
            self.written.discard(old)
        return moved


def kernels(module: Module) -> Iterator[Kernel]:
    """The kernels of an update, in the order in which they run."""
    body, cache = module.body(), Cache()
    depths: dict[str, int] = {}
    for instruction in filter(is_kernel, body.values()):
        sources = [source(body, operand) for operand in instruction.operands]
        shares = read_share(module.called(instruction, "calls"))
        moved = hbm = 0.0
        for number, operand in enumerate(instruction.operands):
            read = shares.get(number, size(body[operand].shape))
            moved += read
            hbm += cache.read(sources[number], read)
        written = size(instruction.shape)
        hbm += cache.write(instruction.name, written)
        depth = 1 + max((depths.get(name, 0) for name in sources), default=0)
        depths[instruction.name] = depth
        yield Kernel(
            instruction.name,
            moved + written,
            hbm,
            depth,
            is_product(module, instruction),
        )


def copied_bytes(module: Module) -> int:
    """Bytes that copies of values in the loop and around it write, of those above 1 kB."""
    bodies = (module.body(), module.computations[module.entry])
    sizes = {
        instruction.name: size(instruction.shape)
        for body in bodies
        for instruction in body.values()
        if instruction.op in ("copy", "copy-start")
    }
    return sum(count for count in sizes.values() if count > 1000)


def count(text: str) -> dict[str, float]:
    """The figures of a program's optimised HLO, of one round of its loop."""
    module = parse(text)
    found = list(kernels(module))
    return {
        "kernels": len(found),
        "products": sum(kernel.product for kernel in found),
        "chain": max((kernel.depth for kernel in found), default=0),
        "moved_gb": sum(kernel.moved for kernel in found) / 1e9,
        "hbm_gb": sum(kernel.hbm for kernel in found) / 1e9,
        "copied_mb": copied_bytes(module) / 1e6,
    }


def graphs(thunks: str) -> dict[str, int]:
    """CUDA graphs of the loop's body, and its kernels outside them, from the text of XLA's
    thunks after its passes over them.
    """
    inside = re.search(r"^  body:\n((?:(?: {4,}.*)?\n)*)", thunks + "\n", re.M)
    lines = inside[1].splitlines() if inside else thunks.splitlines()
    indent = min((len(line) - len(line.lstrip()) for line in lines if line), default=0)
    top = re.compile(rf"^ {{{indent}}}\d+: k(\w+)")
    kinds = [found[1] for line in lines if (found := top.match(line))]
    buffers = kinds.count("CommandBuffer")
    return {"graphs": buffers, "outside_graphs": len(kinds) - buffers}
