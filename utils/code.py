"""Digests of Python source that comments, docstrings and layout do not change."""

import ast
import functools
import hashlib
from typing import Any


def repr_digest(value: Any) -> str:
    """Sixteen hexadecimal digits of what `repr` says of a value."""
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


@functools.cache
def code_digest(content: bytes) -> str:
    """The digest of a file's syntax tree without docstrings; of its bytes where it has none."""
    try:
        return repr_digest(skeleton(ast.parse(content)))
    except (SyntaxError, ValueError):
        return repr_digest(content)


def skeleton(node: Any) -> Any:
    """A syntax tree without docstrings and positions; the same in Python 3.10 to 3.13."""
    match node:
        case ast.Expr(ast.Constant(str())):
            return None  # a docstring
        case ast.JoinedStr(values):  # Python 3.12 ends some with an empty constant
            parts = [part for part in values if getattr(part, "value", None) != ""]
            return "JoinedStr", [("values", skeleton(parts))]
        case list():
            return [part for part in map(skeleton, node) if part is not None]
        case ast.AST():
            return type(node).__name__, fields(node)
    return repr(node)


def fields(node: ast.AST) -> list[tuple[str, Any]]:
    """The fields of a node that are not empty, as skeletons."""
    known = [field for field in ast.iter_fields(node) if field[1] not in (None, [])]
    return [(name, skeleton(value)) for name, value in known]
