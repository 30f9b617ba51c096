"""Identifies behaviour-cloned bases: the code and settings that a base depends on."""

import ast
import contextlib
import dataclasses
import enum
import functools
import inspect
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.core import FrozenDict

from agents.base import Agent
from configs.agent_source import Source, read
from utils.code import repr_digest, skeleton
from utils.errors import UserError
from utils.networks import VelocityField

NO_SETTINGS = ("parent", "name")  # fields of every Flax module
HOOKS = (
    *("velocity", "flow_loss", "flow_noise_shapes", "flat_actions"),
    *("cloning_loss", "draw_noise", "optimiser", "init_params"),
)
"""The methods of an agent that cloning depends on."""
PLAIN = (
    *(int, float, complex, str, bytes, type(None)),
    *(enum.Enum, np.generic, np.dtype, np.ufunc),
)
"""Values with the same `repr` in every process."""
RECEIVERS = ("self", "cls", "super()")
"""What a method calls its agent; the agent's members are followed one by one."""


def cloning_identity(source: Source, config: Any) -> dict[str, Any]:
    """Return what identifies an agent's base: a digest of code, and the settings it reads.

    The code is that of the velocity field and of the cloning methods that the agent overrides.
    Returns {} if agents/bc.py clones the same base.
    """
    kind = source.module.AGENT
    if clones_as_bc(kind, config):
        return {}
    base = base_parts(kind.networks(config)["base"], source)
    start = {"base": base, "hooks": own_hooks(kind)}
    found = definitions(start, kind, source)
    named = words(tree for _, tree in found)
    settings = {name: config[name] for name in sorted(named & set(config))}
    code = {repr((name, skeleton(value))) for name, value in found}
    return {**settings, "cloning": repr_digest(sorted(code))}


def words(found: Iterable[Any]) -> set[str]:
    """Return the names of all attributes and all texts in syntax trees, such as `lr` in
    `config.lr` and in `config["lr"]`; other values have none.
    """
    names = set()
    for tree in found:
        for node in ast.walk(tree) if isinstance(tree, ast.AST) else ():
            match node:
                case ast.Attribute(attr=name) | ast.Constant(value=str(name)):
                    names.add(name)
    return names


def clones_as_bc(kind: type[Agent], config: Any) -> bool:
    """Whether agents/bc.py clones the same base as an agent with these settings.

    It does not if no setting says how wide the network is.
    """
    shared = VelocityField(
        config.get("actor_hidden_dims"), config.get("actor_layer_norm", False)
    )
    return kind.networks(config)["base"] == shared and not own_hooks(kind)


def own_hooks(kind: type[Agent]) -> list[Any]:
    """Return the cloning methods that an agent overrides."""
    pairs = [
        (function_of(getattr(kind, name)), function_of(getattr(Agent, name)))
        for name in HOOKS
    ]
    return [own for own, shared in pairs if own is not shared]


def base_parts(base: Any, source: Source) -> list[Any]:
    """Return the `parts` of the velocity field, with texts in place of unknown objects.

    Raises UserError for a field whose text is another one in every process.
    """
    found = []
    for part in parts(base):
        known = is_code(part) or isinstance(part, PLAIN)
        if not known and " at 0x" in repr(part):
            raise UserError(
                f"--agent={source.file}: the base has the field {part!r}, which differs in"
                " every process; give a function, a module or a dataclass"
            )
        found.append(part if known else repr(part))
    return found


def definitions(
    start: dict[str, Any], kind: type[Agent], source: Source
) -> list[tuple[str, Any]]:
    """Return the code that values use as syntax trees, and all plain values, with names.

    Code is followed only inside the user's own files. An entry may occur several times.

    Args:
        start: the values, by name.
        kind: the class of the agent.
        source: the source of the agent.
    """
    found: list[tuple[str, Any]] = []
    # by id, which no other object gets while this one is kept
    seen: dict[int, Any] = {}
    waiting = list(start.items())
    while waiting:
        name, value = waiting.pop()
        described = list(parts(value))
        found.append((name, [description(part, source) for part in described]))
        for part in described:
            if is_code(part) and id(part) not in seen:
                seen[id(part)] = part
                tree = definition(part, source)
                found.append((place(part)[1], tree))
                waiting += used_by(part, tree, kind, source)
    return found


def used_by(
    thing: Any, tree: ast.AST, kind: type[Agent], source: Source
) -> list[tuple[str, Any]]:
    """Return the values that a class or function uses, with names.

    Args:
        thing: the class or function.
        tree: its syntax tree.
        kind: the class of the agent, whose methods may use each other.
        source: the source of the agent.
    """
    module, user = place(thing)
    used = captured(thing)
    if inspect.isclass(thing):
        # a transformed class is Flax's, and inherits from the user's
        bases = [base for base in thing.__mro__[1:] if is_own(base, source)]
        used |= {f"base {base.__qualname__}": base for base in bases}
    if is_own(thing, source):
        used |= named_in(tree, vars(sys.modules[module]), source)
    if inspect.isfunction(thing):
        for base in kind.__mro__:
            used |= members_in(tree, base) if is_own(base, source) else {}
    return [(f"{user}: {name}", value) for name, value in used.items()]


def captured(thing: Any) -> dict[str, Any]:
    """Return what a function has from the place that made it: the variables of a closure, its
    defaults, and the function that it wraps.
    """
    found = {}
    if hasattr(thing, "__wrapped__"):
        found["wrapped"] = thing.__wrapped__
    if inspect.isfunction(thing):
        found["defaults"] = (thing.__defaults__, thing.__kwdefaults__)
        cells = zip(thing.__code__.co_freevars, thing.__closure__ or (), strict=True)
        for name, cell in cells:
            if name not in ("__class__", *RECEIVERS):
                with contextlib.suppress(ValueError):  # it has no value
                    found[f"variable {name}"] = cell.cell_contents
    return found


def members_in(tree: ast.AST, kind: type) -> dict[str, Any]:
    """Return what code refers to as `self.x`, `cls.x` or `super().x` and a class defines."""
    names = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in RECEIVERS
    }
    found = {name: vars(kind)[name] for name in sorted(names & set(vars(kind)))}
    return {f"{kind.__qualname__}.{name}": value for name, value in found.items()}


def named_in(tree: ast.AST, names: dict[str, Any], source: Source) -> dict[str, Any]:
    """Return the values that code refers to, by name: `helper`, and `module.helper`.

    The functions of a module that is not the user's own are left out: the tree names them.

    Args:
        tree: the syntax tree of the code.
        names: the global names of the code's module.
        source: the source of the agent.
    """
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in names:
            found[node.id] = names[node.id]
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = names.get(node.value.id)
            if inspect.ismodule(module) and hasattr(module, node.attr):
                value = getattr(module, node.attr)
                if is_own_module(module.__name__, source) or not is_code(value):
                    found[f"{node.value.id}.{node.attr}"] = value
    return found


# ---------------------------------------------------------------- values


def parts(value: Any) -> Iterator[Any]:
    """Yield the plain values, classes and functions that a value consists of, in order; an
    unknown object as it is.
    """
    inner = contents(value)
    if inner is None:
        yield function_of(value)
        return
    yield len(inner)
    for entry in inner:
        yield from parts(entry)


def contents(value: Any) -> Sequence[Any] | None:
    """Return what a container, an array, a partial or a dataclass (such as a Flax module)
    holds; None for other values.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [type(value), *fields_of(value)]
    match value:
        case dict() | FrozenDict():
            return list(value.items())
        case tuple() | list():
            return value
        case set() | frozenset():
            return sorted(value, key=repr)
        case np.ndarray() | jax.Array() if hasattr(value, "tolist"):
            return [value.tolist()]  # the `repr` of a large array is abridged
        case functools.partial():
            return [value.func, value.args, value.keywords]
    return None


def fields_of(value: Any) -> list[tuple[str, Any]]:
    """Return the settings of a dataclass by name."""
    names = [field.name for field in dataclasses.fields(value)]
    return [
        (name, getattr(value, name, None)) for name in names if name not in NO_SETTINGS
    ]


def function_of(value: Any) -> Any:
    """Return the function in a property or method; another value unchanged."""
    if isinstance(value, property):
        return value.fget
    if isinstance(value, functools.cached_property):
        return value.func
    return getattr(value, "__func__", value)


def description(part: Any, source: Source) -> str:
    """Return a text for one of `parts` that is the same in every process; "" for an unknown
    object.
    """
    if is_code(part):
        module, name = place(part)
        package = module.partition(".")[0]
        return name if is_own(part, source) else f"{package}.{name}"
    return repr(part) if isinstance(part, PLAIN) else ""


# ---------------------------------------------------------------- code


def is_code(value: Any) -> bool:
    """Whether a value is a class or a function, which may be compiled or otherwise wrapped."""
    return (
        inspect.isclass(value)
        or inspect.isroutine(value)
        or hasattr(value, "__wrapped__")
    )


def place(thing: Any) -> tuple[str, str]:
    """Return the module of a class or function, and its qualified name there.

    Those of a function are of its code: a wrapper has the names of what it wraps.
    """
    if inspect.isfunction(thing):
        return thing.__globals__.get("__name__", ""), thing.__code__.co_qualname
    name = getattr(thing, "__qualname__", type(thing).__qualname__)
    return str(getattr(thing, "__module__", "")), name


def is_own(thing: Any, source: Source) -> bool:
    """Whether a class or function is defined in the agent file or one of its siblings."""
    return is_own_module(place(thing)[0], source)


def is_own_module(name: str, source: Source) -> bool:
    """Whether a module is the agent file or one of its siblings."""
    own = source.module.__name__
    return name == own or name.startswith(f"{own}.")


def definition(thing: Any, source: Source) -> ast.AST:
    """Return the syntax tree of a class or function of the user's own or of agents/, or of what
    holds it: the function around it, or its file. Other code has an empty tree.
    """
    module, name = place(thing)
    if not (is_own_module(module, source) or module.startswith("agents.")):
        return ast.Module(body=[], type_ignores=[])
    tree: ast.AST = file_tree(module, source)
    if name.endswith("<lambda>"):
        return lambdas_of(tree, inspect.unwrap(thing).__code__.co_firstlineno)
    for part in name.split("."):
        body = getattr(tree, "body", ())
        tree = next((node for node in body if getattr(node, "name", "") == part), tree)
    return tree


def lambdas_of(tree: ast.AST, line: int) -> ast.Tuple:
    """Return the lambdas that start in a line."""
    lambdas = [node for node in ast.walk(tree) if isinstance(node, ast.Lambda)]
    return ast.Tuple([node for node in lambdas if node.lineno == line], ast.Load())


def file_tree(module: str, source: Source) -> ast.Module:
    """Return the syntax tree of a module, of the user's own as it was executed."""
    file = Path(str(sys.modules[module].__file__))
    folder = source.file.parent
    kept = file.relative_to(folder).as_posix() if file.is_relative_to(folder) else ""
    return ast.parse(source.kept.get(kept) or read(file))
