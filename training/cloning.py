"""What a behaviour-cloned base depends on, for an agent with a flow of its own."""

import ast
import dataclasses
import inspect
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from agents.base import Agent
from configs.agent_source import Source, read
from utils.code import repr_digest, skeleton
from utils.networks import VelocityField

HOOKS = ("velocity", "flow_loss", "flow_noise_shapes", "flat_actions")
"""The methods of an agent on which cloning depends."""


def cloning_identity(source: Source, config: Any) -> dict[str, Any]:
    """What identifies the base that an agent clones: the code of its velocity field and of the
    hooks of cloning that it overrides, and the settings that these read.

    Returns {} where agents/bc.py clones the same base.
    """
    kind = source.module.AGENT
    if clones_as_bc(kind, config):
        return {}
    base = kind.networks(config)["base"]
    code = definitions([type(base), *own_hooks(kind)], source)
    fields = {
        field.name: repr(getattr(base, field.name))
        for field in dataclasses.fields(base)
        if field.name not in ("parent", "name")
    }
    attributes = {
        node.attr
        for definition in code.values()
        if isinstance(definition, ast.AST)
        for node in ast.walk(definition)
        if isinstance(node, ast.Attribute)
    }
    settings = {name: config[name] for name in sorted(attributes & set(config))}
    digest = repr_digest([sorted((name, skeleton(code[name])) for name in code), fields])
    return {**settings, "cloning": digest}


def clones_as_bc(kind: type[Agent], config: Any) -> bool:
    """Whether agents/bc.py clones the same base as an agent."""
    shared = VelocityField(config.actor_hidden_dims, config.actor_layer_norm)
    return kind.networks(config)["base"] == shared and not own_hooks(kind)


def own_hooks(kind: type[Agent]) -> list[Any]:
    """The methods of cloning that an agent overrides."""
    pairs = [(getattr(kind, name), getattr(Agent, name)) for name in HOOKS]
    return [own for own, shared in pairs if own is not shared]


def definitions(things: Iterable[Any], source: Source) -> dict[str, Any]:
    """The syntax of classes and functions by name, with that of everything in the user's own
    files that they name; of constants, the value.
    """
    found: dict[str, Any] = {}
    waiting = list(things)
    while waiting:
        thing = waiting.pop()
        if thing.__qualname__ in found:
            continue
        node = found[thing.__qualname__] = definition(thing, source)
        if not is_own(thing, source):
            continue
        for name, value in named_in(node, vars(sys.modules[thing.__module__])).items():
            if inspect.isclass(value) or inspect.isfunction(value):
                waiting += [value] if is_own(value, source) else []
            elif isinstance(value, int | float | str | tuple):
                found[name] = value
    return found


def named_in(node: ast.AST, names: dict[str, Any]) -> dict[str, Any]:
    """What a piece of code names of its module's names, and of the modules among them."""
    found = {
        n.id: names[n.id] for n in ast.walk(node) if isinstance(n, ast.Name) and n.id in names
    }
    for n in ast.walk(node):
        if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name):
            module = names.get(n.value.id)
            if inspect.ismodule(module) and hasattr(module, n.attr):
                found[f"{n.value.id}.{n.attr}"] = getattr(module, n.attr)
    return found


def is_own(thing: Any, source: Source) -> bool:
    """Whether a class or function is defined in the agent file or a sibling of it."""
    own = source.module.__name__
    return thing.__module__ == own or thing.__module__.startswith(f"{own}.")


def definition(thing: Any, source: Source) -> ast.AST:
    """The syntax of a class or function as it was read; of its whole file where it is not found
    there by its name.
    """
    file = Path(str(sys.modules[thing.__module__].__file__))
    folder = source.file.parent
    name = file.relative_to(folder).as_posix() if file.is_relative_to(folder) else ""
    whole: ast.AST = ast.parse(source.kept.get(name) or read(file))
    node = whole
    for part in thing.__qualname__.split("."):
        parts = (
            child for child in getattr(node, "body", ()) if getattr(child, "name", "") == part
        )
        node = next(parts, whole)
    return node
