"""Digests of Python source that comments, docstrings and layout do not change."""

import ast
import functools
import hashlib
from typing import Any


def repr_digest(value: Any) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of `repr(value)`."""
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


@functools.cache
def code_digest(content: bytes) -> str:
    """Digest a Python file by its syntax tree without docstrings.

    Digests `repr(content)` where the bytes are not Python.
    """
    try:
        return repr_digest(skeleton(ast.parse(content)))
    except (SyntaxError, ValueError):
        return repr_digest(content)


def skeleton(node: Any) -> Any:
    """Reduce a syntax tree to nested lists without docstrings and positions.

    The result is the same in Python 3.10 to 3.13.
    """
    match node:
        case ast.Expr(ast.Constant(str())):
            return None  # a docstring
        case ast.JoinedStr(values):  # Python 3.12 may append an empty constant
            parts = [part for part in values if getattr(part, "value", None) != ""]
            return "JoinedStr", [("values", skeleton(parts))]
        case list():
            return [part for part in map(skeleton, node) if part is not None]
        case ast.AST():
            return type(node).__name__, fields(node)
    return repr(node)


def fields(node: ast.AST) -> list[tuple[str, Any]]:
    """Return (name, skeleton) of each field of a node that is neither None nor []."""
    used = [field for field in ast.iter_fields(node) if field[1] not in (None, [])]
    return [(name, skeleton(value)) for name, value in used]
