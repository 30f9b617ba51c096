"""What a run uses and where each value came from.

the parent agent's defaults < the domain's settings (automatic) < what a fork changes from its
parent < --preset < the command line
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from configs.agent_file import load_source
from configs.agent_source import AGENTS, Source
from configs.domains import Setting, own_settings, shared_settings
from configs.flags import IGNORED
from configs.presets import PRESETS
from utils.errors import UserError

COMMAND_LINE = "command line"
DEFAULT = "default"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Resolved settings of one domain: flag values, the agent's configuration, and the source
    of each, by name.
    """

    agent_file: str
    source: Source
    """The agent file's source when the settings were resolved; later edits do not count."""
    flags: dict[str, Any]
    agent: ml_collections.ConfigDict
    sources: dict[str, str]
    transitions: int | None
    """How much data to make where none is; None where the dataset must be there or be
    downloaded.
    """
    random_data: bool
    """Whether it may be of random actions where no oracle can make it."""
    differing: frozenset[str]
    """The names of the values that are not the default, or not what the domain has set."""

    def values(self) -> dict[str, Any]:
        """All values by name, those of the agent as 'agent.KEY'."""
        return self.flags | {f"agent.{key}": value for key, value in self.agent.items()}

    def given(self) -> dict[str, Any]:
        """The values that the command line set, by name."""
        values = self.values()
        return {
            name: values[name]
            for name, source in self.sources.items()
            if source == COMMAND_LINE
        }


def named(values: dict[str, Setting], agent: dict[str, Setting]) -> dict[str, Setting]:
    """Flags and the agent's settings by name; --horizon_length is what the agent has."""
    horizon = {"horizon_length": agent["horizon_length"]}
    return values | horizon | {f"agent.{key}": setting for key, setting in agent.items()}


def differing(final: dict[str, Setting], *layers: dict[str, Setting]) -> frozenset[str]:
    """The names of the settings that have another value in one of the layers below."""
    names = (name for old in layers for name in old if old[name].value != final[name].value)
    return frozenset(names)


def lineage(source: Source) -> list[str]:
    """The names of the project's agent files that an agent is made of, the first ancestor
    first, itself last if it is one of them: trqam, sqam.
    """
    kinds = reversed(source.module.AGENT.__mro__)
    modules = [kind.__module__ for kind in kinds if kind.__module__.startswith("agents.")]
    names = [module.removeprefix("agents.") for module in modules]
    names = [name for name in names if hasattr(sys.modules[f"agents.{name}"], "AGENT")]
    names += [source.file.stem] if source.of_checkout else []
    return list(dict.fromkeys(names))


def domain_layer(
    dataset: str, source: Source, agent: ml_collections.ConfigDict
) -> dict[str, Setting]:
    """What a domain sets for an agent. What the agent's file changes from its parent's defaults
    stays as it is there, but for what the domain sets for this very agent.

    Args:
        dataset: such as 'puzzle-4x4-play'.
        source: the agent file's.
        agent: the agent's settings, from its file and the command line.
    """
    names = lineage(source)
    own = source.file.stem if source.of_checkout else ""
    ancestors = [name for name in names if name != own]
    layer = shared_settings(dataset)
    for name in ancestors:
        layer |= own_settings(dataset, name, agent)
    if ancestors:
        layer |= changed_from(ancestors[-1], source, layer)
    return layer | own_settings(dataset, own, agent)


def changed_from(parent: str, source: Source, layer: dict[str, Setting]) -> dict[str, Setting]:
    """Of the settings in a layer, those to which an agent's file gives another default than its
    parent, agents/<parent>.py.
    """
    config = source.module.get_config()
    before = load_source(AGENTS / f"{parent}.py").module.get_config()
    changed = [name for name in layer if name in config and before.get(name) != config[name]]
    label = f"{source.file.name}, changed from {parent}.py"
    return {name: Setting(config[name], label) for name in changed}


def resolve(fv: flags.FlagValues, dataset: str) -> Settings:
    """Settings of the runs on one dataset; raises UserError for values that no run can use."""
    own = {"agent", "preset", "dry_run", "debug", "overwrite", *IGNORED}
    defined = [name for name in fv if name not in own and not name.startswith("agent.")]
    values = {name: Setting(fv[name].default, DEFAULT) for name in defined}
    agent_file = config_flags.get_config_filename(fv["agent"])
    # Not fv.agent, in which the command line's values are already.
    agent_source = load_source(agent_file)
    default_config = agent_source.module.get_config()
    agent = {key: Setting(value, DEFAULT) for key, value in default_config.items()}

    def take(settings: dict[str, Setting], layer: dict[str, Setting]) -> None:
        settings.update({key: setting for key, setting in layer.items() if key in settings})

    defaults = named(values, agent)
    take(agent, domain_layer(dataset, agent_source, fv.agent))
    published = named(values, agent)
    preset = PRESETS[fv.preset] if fv.preset else None
    if preset:
        source = f"preset {fv.preset}"
        take(values, {key: Setting(value, source) for key, value in preset.flags.items()})
        take(agent, {key: Setting(value, source) for key, value in preset.agent.items()})
        place = fv.save_dir if fv["save_dir"].present else values["save_dir"].value
        data = str(Path(place) / values["run_group"].value / "data")
        values["ogbench_dataset_dir"] = Setting(data, source)
    overrides = config_flags.get_override_values(fv["agent"])
    if "horizon_length" in overrides:
        raise UserError("--agent.horizon_length: use --horizon_length, which sets it")
    take(
        values,
        {name: Setting(fv[name].value, COMMAND_LINE) for name in values if fv[name].present},
    )
    take(agent, {key: Setting(value, COMMAND_LINE) for key, value in overrides.items()})
    # One horizon: the flag where it was given, else what the domain uses.
    if values["horizon_length"].source == COMMAND_LINE:
        agent["horizon_length"] = values["horizon_length"]
    final = named(values, agent)

    config = ml_collections.ConfigDict({key: setting.value for key, setting in agent.items()})
    agent_source.module.AGENT.check(config)
    return Settings(
        agent_file=agent_file,
        source=agent_source,
        flags={name: final[name].value for name in values},
        agent=config,
        sources={name: setting.source for name, setting in final.items()},
        transitions=preset.transitions if preset else None,
        random_data=bool(preset and preset.random_data),
        differing=differing(final, defaults, published),
    )
