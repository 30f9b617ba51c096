"""Identifies behaviour-cloned bases: the code and settings that a base depends on."""

import ast
import dataclasses
import functools
import inspect
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from agents.base import Agent
from configs.agent_source import Source, read
from utils.code import repr_digest, skeleton
from utils.networks import VelocityField

NO_SETTINGS = ("parent", "name")  # fields of every Flax module
HOOKS = (
    *("velocity", "flow_loss", "flow_noise_shapes", "flat_actions"),
    *("cloning_loss", "draw_noise", "optimiser", "init_params"),
)
"""The methods of an agent that cloning depends on."""


def cloning_identity(source: Source, config: Any) -> dict[str, Any]:
    """Return what identifies an agent's base: a digest of code, and the settings it reads.

    The code is that of the velocity field and of the cloning methods that the agent overrides.
    Returns {} if agents/bc.py clones the same base.
    """
    kind = source.module.AGENT
    if clones_as_bc(kind, config):
        return {}
    base = kind.networks(config)["base"]
    code = definitions([type(base), *own_hooks(kind)], kind, source)
    names = [field.name for field in dataclasses.fields(base)]
    fields = {
        name: repr(getattr(base, name)) for name in names if name not in NO_SETTINGS
    }
    settings = {name: config[name] for name in sorted(attributes(code) & set(config))}
    digest = repr_digest(
        [sorted((name, skeleton(code[name])) for name in code), fields]
    )
    return {**settings, "cloning": digest}


def attributes(code: dict[str, Any]) -> set[str]:
    """Return the names of all attributes that code reads, such as `lr` in `config.lr`."""
    trees = [tree for tree in code.values() if isinstance(tree, ast.AST)]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    return {node.attr for node in nodes if isinstance(node, ast.Attribute)}


def clones_as_bc(kind: type[Agent], config: Any) -> bool:
    """Whether agents/bc.py clones the same base as an agent with these settings."""
    shared = VelocityField(
        config.actor_hidden_dims, config.get("actor_layer_norm", False)
    )
    return kind.networks(config)["base"] == shared and not own_hooks(kind)


def own_hooks(kind: type[Agent]) -> list[Any]:
    """Return the cloning methods that an agent overrides."""
    pairs = [
        (function_of(getattr(kind, name)), function_of(getattr(Agent, name)))
        for name in HOOKS
    ]
    return [own for own, shared in pairs if own is not shared]


def definitions(
    things: Iterable[Any], kind: type[Agent], source: Source
) -> dict[str, Any]:
    """Return the syntax trees of classes and functions by name, and of the code they use.

    Code is followed only inside the user's own files. For a constant it is the value.

    Args:
        things: classes, and methods of the agent.
        kind: the class of the agent.
        source: the source of the agent.
    """
    found: dict[str, Any] = {}
    waiting = [function_of(thing) for thing in things]
    while waiting:
        thing = waiting.pop()
        if thing.__qualname__ in found:
            continue
        node = found[thing.__qualname__] = definition(thing, source)
        for name, value in used_by(thing, node, kind, source).items():
            if inspect.isclass(value) or inspect.isfunction(value):
                waiting += [value] if is_own(value, source) else []
            elif (plain := constant(value)) is not None:
                if found.setdefault(name, plain) != plain:  # of another file
                    found[f"{thing.__qualname__}: {name}"] = plain
    return found


def used_by(
    thing: Any, node: ast.AST, kind: type[Agent], source: Source
) -> dict[str, Any]:
    """Return the values that a class or function refers to, by name; {} if it is no user's own.

    Args:
        thing: the class or function.
        node: its syntax tree.
        kind: the class of the agent, whose methods may use each other.
        source: the source of the agent.
    """
    if not is_own(thing, source):
        return {}
    used = named_in(node, vars(sys.modules[thing.__module__]))
    if inspect.isfunction(thing):
        for base in kind.__mro__:
            if is_own(base, source):
                used |= members_in(node, base)
    return {name: function_of(value) for name, value in used.items()}


def members_in(node: ast.AST, kind: type) -> dict[str, Any]:
    """Return what code refers to as `self.x`, `cls.x` or `super().x` and a class defines."""
    receivers = ("self", "cls", "super()")
    names = {
        n.attr
        for n in ast.walk(node)
        if isinstance(n, ast.Attribute) and ast.unparse(n.value) in receivers
    }
    found = {name: vars(kind)[name] for name in sorted(names & set(vars(kind)))}
    return {f"{kind.__qualname__}.{name}": value for name, value in found.items()}


def function_of(value: Any) -> Any:
    """Return the function in a property, a class method or a decorated function; another value
    unchanged.
    """
    if isinstance(value, property):
        value = value.fget
    if isinstance(value, functools.cached_property):
        value = value.func
    return inspect.unwrap(getattr(value, "__func__", value))


def constant(value: Any) -> Any:
    """Return a constant with the same `repr` in every process; None for other values."""
    match value:
        case int() | float() | str() | tuple():
            return value
        case list():
            return [constant(entry) for entry in value]
        case dict():
            return [(key, constant(entry)) for key, entry in value.items()]
        case set() | frozenset():
            return sorted(map(repr, value))
        case np.ndarray() | np.generic() | jax.Array() if hasattr(value, "tolist"):
            return value.tolist()  # the `repr` of a large array is abridged
    return None


def named_in(node: ast.AST, names: dict[str, Any]) -> dict[str, Any]:
    """Return the values that code refers to, by name: `helper`, and `module.helper`.

    names: the global names of the code's module.
    """
    found = {}
    for n in ast.walk(node):
        if isinstance(n, ast.Name) and n.id in names:
            found[n.id] = names[n.id]
    for n in ast.walk(node):
        if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name):
            module = names.get(n.value.id)
            if inspect.ismodule(module) and hasattr(module, n.attr):
                found[f"{n.value.id}.{n.attr}"] = getattr(module, n.attr)
    return found


def is_own(thing: Any, source: Source) -> bool:
    """Whether a class or function is defined in the agent file or one of its siblings."""
    own = source.module.__name__
    return thing.__module__ == own or thing.__module__.startswith(f"{own}.")


def definition(thing: Any, source: Source) -> ast.AST:
    """Return the syntax tree of a class or function, or of its file if it is not in it."""
    file = Path(str(sys.modules[thing.__module__].__file__))
    folder = source.file.parent
    name = file.relative_to(folder).as_posix() if file.is_relative_to(folder) else ""
    module: ast.AST = ast.parse(source.kept.get(name) or read(file))
    node = module
    for part in thing.__qualname__.split("."):
        body = getattr(node, "body", ())
        node = next(
            (child for child in body if getattr(child, "name", "") == part), module
        )
    return node
