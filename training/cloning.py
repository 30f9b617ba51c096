"""Identifies behaviour-cloned bases: the code and settings that a base depends on."""

import ast
import collections
import re
import sys
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from agents.base import Agent
from configs.agent_source import Source, read
from utils.code import repr_digest, skeleton
from utils.networks import VelocityField

NETWORKS = ("networks", "INPUTS", "widths")
HOOKS = (
    *("apply", "velocity", "flow_loss", "flow_noise_shapes", "flat_actions"),
    *("update", "update_with_noise", "cloning_loss", "draw_noise"),
    *("optimiser", "init_params"),
)
"""The methods of an agent that cloning depends on, besides those about its networks."""
NOT_CLONING = (
    *("critic_network", "value_network", "init_state", "noise_shapes", "loss"),
    *("fixed_quantities", "averaging_step", "after_step"),
)
"""Methods that cloning does not depend on, although `networks` or a hook names them."""
SHARED = ("agents.base", "agents.losses")
"""Modules with the members of all agents, which clone the base of agents/bc.py."""
RECEIVERS = ("self", "cls", "super()", "type(self)")
"""What a method calls its agent."""

Definitions = dict[str, list[ast.stmt]]
"""Statements by the names that they define; the name of an agent's member begins with a dot."""


def cloning_identity(source: Source, config: Any) -> dict[str, Any]:
    """Return what identifies an agent's base: a digest of code, and the settings it reads.

    The code is that of the cloning methods that the agent or its ancestors override, of its
    networks if the agent file and its siblings define them, and of everything there and in its
    ancestors that this code names; where that reads fields of the state that the agent file
    declares, of its `init_state` too. Returns {} if agents/bc.py clones the same base.
    """
    kind = source.module.AGENT
    if clones_as_bc(kind, config):
        return {}
    base = kind.networks(config)["base"]
    network = re.sub(" at 0x[0-9a-f]+", "", repr(base))
    code = cloning_code(source, type(base), re.findall(r"\w+", network))
    settings = {name: config[name] for name in sorted(words(code) & set(config))}
    texts = {repr(skeleton(statement)) for statement in code}
    return {**settings, "cloning": repr_digest((network, sorted(texts)))}


def cloning_code(source: Source, network: type, named: Iterable[str]) -> list[ast.stmt]:
    """Return the statements that cloning depends on.

    Args:
        source: the source of the agent.
        network: the class of the velocity field.
        named: words in the text of the velocity field, such as the classes of its fields.
    """
    ancestors = source.module.AGENT.__mro__
    modules = {each.__module__ for each in (*ancestors, *network.__mro__)} - {*SHARED}
    inherited = sorted(name for name in modules if name.startswith("agents."))
    code = AgentCode(
        {each.__name__ for each in ancestors},
        source.kept.values(),
        map(content_of, inherited),
        map(content_of, SHARED),
    )
    names = [*named, *(each.__name__ for each in network.__mro__)]
    names += [f".{name}" for name in HOOKS]
    start = statements_of(code.own, [f".{name}" for name in NETWORKS])
    start += statements_of(code.own, names) + statements_of(code.inherited, names)
    found = code.reached(start)
    if not code.reads_state(found):
        return found
    return code.reached([*start, *statements_of(code.own, [".init_state"])])


class AgentCode:
    """What the files of an agent and its ancestors define.

    Args:
        agents: the names of the classes whose members have names with a dot.
        own: the contents of the agent file and its siblings.
        inherited: those of the modules of its ancestors and of its network.
        shared: those of the modules SHARED.
    """

    def __init__(
        self,
        agents: Collection[str],
        own: Iterable[bytes],
        inherited: Iterable[bytes],
        shared: Iterable[bytes],
    ):
        self.agents = agents
        self.own = self._definitions(own)
        self.inherited = self._definitions(inherited)
        self.shared = self._definitions(shared)

    def _definitions(self, contents: Iterable[bytes]) -> Definitions:
        defined: Definitions = collections.defaultdict(list)
        for content in contents:
            for statement in ast.parse(content).body:
                prefix, inner = "", [statement]
                if (
                    isinstance(statement, ast.ClassDef)
                    and statement.name in self.agents
                ):
                    prefix, inner = ".", statement.body
                for each in inner:
                    for name in defined_names(each):
                        defined[prefix + name].append(each)
        return defined

    def reached(self, start: Iterable[ast.stmt]) -> list[ast.stmt]:
        """Return statements and what defines the names that they use, and so on.

        `networks` and what is NOT_CLONING are not followed.
        """
        code = []
        waiting = list(start)
        seen = {f".{name}" for name in (*NETWORKS, *NOT_CLONING)}
        while waiting:
            statement = waiting.pop()
            code.append(statement)
            names = self._used_names(statement) - seen
            seen |= names
            for place in (self.own, self.inherited, self.shared):
                waiting += statements_of(place, names)
        return code

    def reads_state(self, code: Iterable[ast.stmt]) -> bool:
        """Whether code reads a field of the state that the agent file declares."""
        used = set().union(*map(self._used_names, code))
        members = statements_of(self.own, [n for n in used if n.startswith(".")])
        return any(isinstance(statement, ast.AnnAssign) for statement in members)

    def _used_names(self, statement: ast.stmt) -> set[str]:
        """Return the names that a statement uses or imports; agents' members with a dot."""
        names = set()
        for node in ast.walk(statement):
            match node:
                case ast.Name(id=name):
                    names.add(name)
                case ast.Attribute(value=value, attr=name):
                    of_agent = ast.unparse(value) in (*RECEIVERS, *self.agents)
                    names.add(f".{name}" if of_agent else name)
                case ast.alias(name=name):
                    names.add(name.rpartition(".")[2])
        return names


def clones_as_bc(kind: type[Agent], config: Any) -> bool:
    """Whether agents/bc.py clones the same base as an agent with these settings.

    It does not if no setting says how wide the network is.
    """
    shared = VelocityField(
        config.get("actor_hidden_dims"), config.get("actor_layer_norm", False)
    )
    hooks = [(getattr(kind, name), getattr(Agent, name)) for name in HOOKS]
    overrides = any(
        getattr(own, "__func__", own) is not getattr(theirs, "__func__", theirs)
        for own, theirs in hooks
    )
    return kind.networks(config)["base"] == shared and not overrides


def content_of(module: str) -> bytes:
    """Return the content of an imported module's file."""
    return read(Path(str(sys.modules[module].__file__)))


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


def statements_of(defined: Definitions, names: Iterable[str]) -> list[ast.stmt]:
    """Return the statements that define names."""
    return [statement for name in names for statement in defined.get(name, [])]


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
