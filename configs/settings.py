"""Resolves the settings of a run, and records the source of each value.

the parent agent's defaults < the domain's settings < what a fork changes from its parent
< --preset < the command line
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections
from absl import flags
from ml_collections import config_flags

from configs.agent_file import load_source, root_class
from configs.agent_source import AGENTS, Source
from configs.domains import (
    Setting,
    folder_flag_of_dataset,
    own_settings,
    qam_common_settings,
    shared_settings,
    tuning_note,
)
from configs.flags import IGNORED
from configs.presets import PRESETS
from configs.run_folder import COMMAND_LINE, DEFAULT, PRESET, values_by_name
from utils.errors import UserError

PHASES = {"cloning": "bc_steps", "offline": "offline_steps", "online": "online_steps"}
"""The flag for the length of each phase."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """The resolved settings of one domain, and the source of each by name."""

    agent_file: str
    source: Source
    """The agent's code when the settings were resolved."""
    flags: dict[str, Any]
    agent: ml_collections.ConfigDict
    sources: dict[str, str]
    transitions: int | None
    """How many transitions to collect if the dataset is missing; None: download it."""
    random_data: bool
    """Whether random actions may replace a missing oracle."""
    differing: frozenset[str]
    """The names of values that differ from the default, or from what the domain sets."""
    note: str = ""
    """The settings that the agent's coefficients were tuned for, if they differ."""

    def values(self) -> dict[str, Any]:
        """Return all values by name, those of the agent as 'agent.KEY'."""
        return values_by_name(self.flags, self.agent)

    def overrides(self) -> dict[str, Any]:
        """Return the values that the command line set, by name."""
        values = self.values()
        names = [
            name for name, source in self.sources.items() if source == COMMAND_LINE
        ]
        return {name: values[name] for name in names}


class Layers(NamedTuple):
    """The flags and the agent's settings of one layer, or of several layers combined."""

    flags: dict[str, Setting]
    agent: dict[str, Setting]

    def override(self, flags: dict[str, Setting], agent: dict[str, Setting]) -> None:
        """Replace values by those of another layer; unknown names are ignored."""
        for ours, layer in ((self.flags, flags), (self.agent, agent)):
            for name in ours.keys() & layer.keys():
                ours[name] = layer[name]

    def by_name(self) -> dict[str, Setting]:
        """Return all settings by name, the agent's as agent.KEY.

        The flag --horizon_length has the agent's value.
        """
        settings = self.flags | {"horizon_length": self.agent["horizon_length"]}
        for key, setting in self.agent.items():
            settings[f"agent.{key}"] = setting
        return settings

    def config(self) -> ml_collections.ConfigDict:
        """Return the agent's configuration."""
        values = {key: setting.value for key, setting in self.agent.items()}
        return ml_collections.ConfigDict(values)


def differing(final: dict[str, Setting], *layers: dict[str, Setting]) -> frozenset[str]:
    """Return the names of settings that have another value in one of the layers."""
    names: set[str] = set()
    for layer in layers:
        names |= {name for name in layer if layer[name].value != final[name].value}
    return frozenset(names)


def lineage(source: Source) -> list[str]:
    """Return the project's agent files that an agent inherits from, such as trqam, sqam.

    The oldest ancestor is first; the agent itself is last if it is one of the project's.
    """
    kinds = reversed(source.module.AGENT.__mro__)
    modules = [
        kind.__module__ for kind in kinds if kind.__module__.startswith("agents.")
    ]
    names = [module.removeprefix("agents.") for module in modules]
    names = [name for name in names if hasattr(sys.modules[f"agents.{name}"], "AGENT")]
    names += [source.file.stem] if source.of_checkout else []
    return list(dict.fromkeys(names))


def domain_layer(
    dataset: str, source: Source, agent: ml_collections.ConfigDict
) -> dict[str, Setting]:
    """Return the settings of a domain for an agent.

    The defaults that an agent file changes from its parent's are kept, unless the domain has a
    setting for this very agent. Its ancestors are treated in the same way, the oldest first.

    Args:
        dataset: such as 'puzzle-4x4-play'.
        source: the source of the agent file.
        agent: the agent's settings, from its file and the command line.
    """
    own = source.file.stem if source.of_checkout else ""
    ancestors = [name for name in lineage(source) if name != own]
    family = [*(load_source(AGENTS / f"{name}.py") for name in ancestors), source]
    layer = shared_settings(dataset)
    for parent, child in zip([None, *family], family, strict=False):
        layer |= changed_from(parent, child, layer)
        if child.of_checkout:
            layer |= own_settings(dataset, child.file.stem, agent)
    return layer


def changed_from(
    parent: Source | None, source: Source, layer: dict[str, Setting]
) -> dict[str, Setting]:
    """Return the settings of a layer whose default an agent file changes from its parent's.

    Args:
        parent: the source of its parent; None for an agent written from scratch, which is
            compared with the defaults that all agents share.
        source: the source of the agent file.
        layer: the settings to consider.
    """
    config = source.module.get_config()
    before = root_class(source.module.AGENT).get_config()
    label = f"{source.file.name}, changed from base.py"
    if parent:
        before = parent.module.get_config()
        label = f"{source.file.name}, changed from {parent.file.name}"
    changed = [
        name for name in layer if name in config and before.get(name) != config[name]
    ]
    return {name: Setting(config[name], label) for name in changed}


def default_layer(fv: flags.FlagValues, source: Source) -> Layers:
    """Return the defaults of all flags and of the agent file."""
    own = {"agent", "preset", "dry_run", "debug", "overwrite", *IGNORED}
    names = [name for name in fv if name not in own and not name.startswith("agent.")]
    # Not fv.agent, which already has the command line's values.
    config = source.module.get_config()
    return Layers(
        {name: Setting(fv[name].default, DEFAULT) for name in names},
        {key: Setting(value, DEFAULT) for key, value in config.items()},
    )


def preset_layer(
    fv: flags.FlagValues, layers: Layers, source: Source, dataset: str
) -> Layers:
    """Return the settings of the preset; the data that it collects is stored with its runs.

    Args:
        fv: the command line, which names the preset and may set the folder of the runs.
        layers: the settings without the preset.
        source: the source of the agent file.
        dataset: such as 'puzzle-4x4-play'.
    """
    preset = PRESETS[fv.preset]
    origin = PRESET + fv.preset
    own = preset_flags(preset.flags, source, layers.config())
    group = layers.flags["run_group"].value
    if preset.transitions:
        place = Path(fv.save_dir) / preset.flags.get("run_group", group) / "data"
        own[folder_flag_of_dataset(dataset)] = str(place)
    # a shorter phase than the preset's
    if 0 < fv.online_steps <= own.get("start_training", 0):
        own["start_training"] = fv.online_steps // 2
    layer = Layers(
        {name: Setting(value, origin) for name, value in own.items()},
        {key: Setting(value, origin) for key, value in preset.agent.items()},
    )
    common = qam_common_settings(dataset) if preset.qam_common else {}
    return Layers(common | layer.flags, common | layer.agent)


def preset_flags(
    flags: dict[str, Any], source: Source, config: ml_collections.ConfigDict
) -> dict[str, Any]:
    """Return the flags of a preset; an agent that trains online alone makes the steps of an
    offline preset online.
    """
    own = dict(flags)
    # without a `return` it is None, which is refused later
    phases = tuple(source.module.AGENT.phases(config) or ())
    if phases == ("online",) and own.get("online_steps") == 0:
        own["online_steps"] = own["offline_steps"]
        own.setdefault("start_training", min(5_000, own["online_steps"] // 10))
    return own


def command_line_layer(fv: flags.FlagValues) -> Layers:
    """Return the settings of the command line; --horizon_length also sets the agent's value."""
    overrides = config_flags.get_override_values(fv["agent"])
    if "horizon_length" in overrides:
        raise UserError("--agent.horizon_length: use --horizon_length, which sets it")
    names = [name for name in fv if fv[name].present and name != "agent"]
    layer = {name: Setting(fv[name].value, COMMAND_LINE) for name in names}
    agent = {key: Setting(value, COMMAND_LINE) for key, value in overrides.items()}
    if "horizon_length" in layer:
        agent["horizon_length"] = layer["horizon_length"]
    return Layers(layer, agent)


def agent_flags(fv: flags.FlagValues, source: Source) -> dict[str, Setting]:
    """Return the flags that an agent sets for its runs; raise UserError for a wrong one."""
    flags = source.module.AGENT.FLAGS
    for name, value in flags.items():
        where = f"--agent: {source.file.name}: FLAGS sets {name}={value!r}"
        if name == "horizon_length" or name not in fv:
            raise UserError(f"{where}, which is no flag that it may set")
        try:
            if fv[name].parser.parse(value) != value:
                raise UserError(f"{where}, of another type than --{name}")
        except (TypeError, ValueError) as error:
            raise UserError(f"{where}: {error}") from error
    return {name: Setting(value, source.file.name) for name, value in flags.items()}


def without_missing_phases(layers: Layers, source: Source) -> None:
    """Set the steps of phases that the agent does not have to 0.

    Raises UserError if the command line asks for steps of such a phase.
    """
    agent = source.module.AGENT
    file = source.file.name
    for phase in missing_phases(agent, layers.config()):
        name = PHASES[phase]
        value, origin = layers.flags[name]
        if value and origin == COMMAND_LINE and phase != "cloning":
            raise UserError(
                f"--{name}={value}: {file} has no {phase} phase; leave it out"
            )
        layers.flags[name] = Setting(0, f"{file} has no {phase} phase")


def missing_phases(agent: Any, config: ml_collections.ConfigDict) -> list[str]:
    """Return the phases that an agent does not have; an agent that only clones has cloning.

    Raises UserError if its `phases` names no phases.
    """
    named = agent.phases(config)
    if not isinstance(named, tuple | list | set) or not set(named) <= set(PHASES):
        raise UserError(
            f"--agent: {agent.__name__}.phases returns {named!r}; return a tuple of"
            f" {', '.join(PHASES)}, such as ('offline',)"
        )
    phases = set(named)
    if agent.CLONES_ALONE:
        phases.add("cloning")
    return [phase for phase in PHASES if phase not in phases]


def resolve(fv: flags.FlagValues, dataset: str) -> Settings:
    """Resolve the settings of the runs on a dataset; raise UserError for unusable values."""
    agent_file = config_flags.get_config_filename(fv["agent"])
    source = load_source(agent_file)
    layers = default_layer(fv, source)
    defaults = layers.by_name()
    layers.override(agent_flags(fv, source), domain_layer(dataset, source, fv.agent))
    published = layers.by_name()
    preset = PRESETS[fv.preset] if fv.preset else None
    if preset:
        layers.override(*preset_layer(fv, layers, source, dataset))
    layers.override(*command_line_layer(fv))
    without_missing_phases(layers, source)
    config = layers.config()
    final = layers.by_name()
    source.module.AGENT.check(config)
    return Settings(
        agent_file=agent_file,
        source=source,
        flags={name: final[name].value for name in layers.flags},
        agent=config,
        sources={name: setting.source for name, setting in final.items()},
        transitions=preset.transitions if preset else None,
        random_data=bool(preset and preset.random_data),
        differing=differing(final, defaults, published),
        note=tuning_note(dataset, final),
    )
