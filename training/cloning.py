"""Identifies behaviour-cloned bases: the code and settings that a base depends on."""

import ast
import collections
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from agents.base import Agent
from configs.agent_source import Source, read
from utils.code import repr_digest, skeleton
from utils.networks import VelocityField

HOOKS = (
    *("velocity", "flow_loss", "flow_noise_shapes", "flat_actions"),
    *("cloning_loss", "draw_noise", "optimiser", "init_params"),
)
"""The methods of an agent that cloning depends on, besides those about its networks."""
OF_CRITICS = ("critic_network", "value_network")
"""Methods that cloning does not depend on, although `networks` calls them."""

Definitions = dict[str, list[ast.stmt]]
"""Statements by the names that they define; the name of an agent's member begins with a dot."""


def cloning_identity(source: Source, config: Any) -> dict[str, Any]:
    """Return what identifies an agent's base: a digest of code, and the settings it reads.

    The code is that of `networks` and of the cloning methods, where the agent file and its
    siblings define them, with everything there that it names. Returns {} if agents/bc.py clones
    the same base.
    """
    kind = source.module.AGENT
    if clones_as_bc(kind, config):
        return {}
    base = kind.networks(config)["base"]
    network = re.sub(" at 0x[0-9a-f]+", "", repr(base))
    start = [f".{name}" for name in ("networks", "INPUTS", "widths", *HOOKS)]
    start += re.findall(r"\w+", network)
    start += [each.__name__ for each in type(base).__mro__]
    code = reached(definitions(source, type(base)), start)
    settings = {name: config[name] for name in sorted(words(code) & set(config))}
    texts = {repr(skeleton(statement)) for statement in code}
    return {**settings, "cloning": repr_digest((network, sorted(texts)))}


def clones_as_bc(kind: type[Agent], config: Any) -> bool:
    """Whether agents/bc.py clones the same base as an agent with these settings.

    It does not if no setting says how wide the network is.
    """
    shared = VelocityField(
        config.get("actor_hidden_dims"), config.get("actor_layer_norm", False)
    )
    hooks = [(getattr(kind, name), getattr(Agent, name)) for name in HOOKS]
    overrides = any(
        getattr(own, "__func__", own) is not getattr(shared, "__func__", shared)
        for own, shared in hooks
    )
    return kind.networks(config)["base"] == shared and not overrides


def definitions(source: Source, network: type) -> Definitions:
    """Return what the agent file, its siblings and the network's file in agents/ define.

    Args:
        source: the source of the agent.
        network: the class of the velocity field.
    """
    contents = list(source.kept.values())
    if network.__module__.startswith("agents."):
        contents.append(read(Path(str(sys.modules[network.__module__].__file__))))
    agents = {each.__name__ for each in source.module.AGENT.__mro__}
    found: Definitions = collections.defaultdict(list)
    for content in contents:
        for statement in ast.parse(content).body:
            prefix, inner = "", [statement]
            if isinstance(statement, ast.ClassDef) and statement.name in agents:
                prefix, inner = ".", statement.body
            for each in inner:
                for name in defined_names(each):
                    found[prefix + name].append(each)
    return found


def defined_names(statement: ast.stmt) -> set[str]:
    """Return the names that a statement defines or imports."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return {statement.name}
    names = set()
    for node in ast.walk(statement):
        match node:
            case ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.alias(name=name, asname=renamed):
                names.add(renamed or name)
    return names


def reached(found: Definitions, start: Iterable[str]) -> list[ast.stmt]:
    """Return the definitions of names, of the names that these use, and so on."""
    code: list[ast.stmt] = []
    waiting = list(start)
    seen = {f".{name}" for name in OF_CRITICS}
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            code += found.get(name, [])
            for statement in found.get(name, []):
                waiting += used_names(statement)
    return code


def used_names(statement: ast.stmt) -> Iterator[str]:
    """Yield the names that a statement uses or imports, those of attributes with a dot too."""
    for node in ast.walk(statement):
        match node:
            case ast.Name(id=name):
                yield name
            case ast.Attribute(attr=name):
                yield from (name, f".{name}")
            case ast.alias(name=name):
                yield name.rpartition(".")[2]


def words(code: Iterable[ast.stmt]) -> set[str]:
    """Return the names of all attributes and all texts in code, such as `lr` in `config.lr` and
    in `config["lr"]`.
    """
    names = set()
    for statement in code:
        for node in ast.walk(statement):
            match node:
                case ast.Attribute(attr=name) | ast.Constant(value=str(name)):
                    names.add(name)
    return names
