"""What a run uses and where each value came from.

the parent agent's defaults < the domain's settings (automatic) < what a fork changes from its
parent < --preset < the command line
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections
from absl import flags
from ml_collections import config_flags

from configs.agent_file import load_source
from configs.agent_source import AGENTS, Source
from configs.domains import (
    Setting,
    own_settings,
    qam_common_settings,
    shared_settings,
    tuned_otherwise,
)
from configs.flags import IGNORED
from configs.presets import PRESETS
from utils.errors import UserError

PHASES = {"cloning": "bc_steps", "offline": "offline_steps", "online": "online_steps"}
"""The flag of each phase's length."""
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
    note: str = ""
    """What other setting the agent's coefficients were tuned for; "" for the same."""

    def values(self) -> dict[str, Any]:
        """All values by name, those of the agent as 'agent.KEY'."""
        return self.flags | {f"agent.{key}": value for key, value in self.agent.items()}

    def overrides(self) -> dict[str, Any]:
        """The values that the command line set, by name."""
        values = self.values()
        return {
            name: values[name]
            for name, source in self.sources.items()
            if source == COMMAND_LINE
        }


class Layers(NamedTuple):
    """Flags and an agent's settings while one layer after another is laid over them."""

    flags: dict[str, Setting]
    agent: dict[str, Setting]

    def take(self, flags: dict[str, Setting], agent: dict[str, Setting]) -> None:
        """Lay values over those that are there; others are left out."""
        for ours, layer in ((self.flags, flags), (self.agent, agent)):
            ours.update({name: setting for name, setting in layer.items() if name in ours})

    def named(self) -> dict[str, Setting]:
        """All by name, the agent's as agent.KEY; --horizon_length is what the agent has."""
        horizon = {"horizon_length": self.agent["horizon_length"]}
        ours = {f"agent.{key}": setting for key, setting in self.agent.items()}
        return self.flags | horizon | ours

    def config(self) -> ml_collections.ConfigDict:
        """The agent's configuration."""
        values = {key: setting.value for key, setting in self.agent.items()}
        return ml_collections.ConfigDict(values)


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


def default_layer(fv: flags.FlagValues, source: Source) -> Layers:
    """Every flag's default, and the agent file's."""
    own = {"agent", "preset", "dry_run", "debug", "overwrite", *IGNORED}
    names = [name for name in fv if name not in own and not name.startswith("agent.")]
    # Not fv.agent, in which the command line's values are already.
    config = source.module.get_config()
    return Layers(
        {name: Setting(fv[name].default, DEFAULT) for name in names},
        {key: Setting(value, DEFAULT) for key, value in config.items()},
    )


def preset_layer(name: str, fv: flags.FlagValues, group: str, dataset: str) -> Layers:
    """What a preset sets; data that it makes lies below the runs.

    Args:
        name: of the preset.
        fv: the command line, which may say where runs are stored.
        group: --run_group where neither sets it.
        dataset: such as 'puzzle-4x4-play'.
    """
    preset, source = PRESETS[name], f"preset {name}"
    own = dict(preset.flags)
    if preset.transitions:
        place = Path(fv.save_dir) / preset.flags.get("run_group", group) / "data"
        own["ogbench_dataset_dir"] = str(place)
    if 0 < fv.online_steps <= own.get("start_training", 0):  # of the preset's own, longer phase
        own["start_training"] = fv.online_steps // 2
    layer = Layers(
        {name: Setting(value, source) for name, value in own.items()},
        {key: Setting(value, source) for key, value in preset.agent.items()},
    )
    common = qam_common_settings(dataset) if preset.qam_common else {}
    return Layers(common | layer.flags, common | layer.agent)


def command_line_layer(fv: flags.FlagValues) -> Layers:
    """What the command line sets. One horizon: the flag is the agent's setting too."""
    overrides = config_flags.get_override_values(fv["agent"])
    if "horizon_length" in overrides:
        raise UserError("--agent.horizon_length: use --horizon_length, which sets it")
    names = [name for name in fv if fv[name].present and name != "agent"]
    layer = {name: Setting(fv[name].value, COMMAND_LINE) for name in names}
    agent = {key: Setting(value, COMMAND_LINE) for key, value in overrides.items()}
    horizon = {key: layer[key] for key in ("horizon_length",) if key in layer}
    return Layers(layer, agent | horizon)


def agent_flags(source: Source) -> dict[str, Setting]:
    """The flags that an agent's runs set."""
    flags = source.module.AGENT.FLAGS
    return {name: Setting(value, source.file.name) for name, value in flags.items()}


def without_missing_phases(layers: Layers, source: Source) -> None:
    """Set the steps of a phase that the agent has not to 0; raises UserError where the command
    line asks for such updates or environment steps.
    """
    agent, file = source.module.AGENT, source.file.name
    for phase in missing_phases(agent, layers.config()):
        name = PHASES[phase]
        value, overrides = layers.flags[name]
        if value and overrides == COMMAND_LINE and phase != "cloning":
            raise UserError(f"--{name}={value}: {file} has no {phase} phase; leave it out")
        layers.flags[name] = Setting(0, f"{file} has no {phase} phase")


def missing_phases(agent: Any, config: ml_collections.ConfigDict) -> list[str]:
    """The phases that an agent has not; one that does nothing but clone has cloning too."""
    phases = {*agent.phases(config), *(["cloning"] if agent.CLONES_ALONE else [])}
    return [phase for phase in PHASES if phase not in phases]


def resolve(fv: flags.FlagValues, dataset: str) -> Settings:
    """Settings of the runs on one dataset; raises UserError for values that no run can use."""
    agent_file = config_flags.get_config_filename(fv["agent"])
    source = load_source(agent_file)
    layers = default_layer(fv, source)
    defaults = layers.named()
    layers.take(agent_flags(source), domain_layer(dataset, source, fv.agent))
    published = layers.named()
    preset = PRESETS[fv.preset] if fv.preset else None
    if preset:
        group = layers.flags["run_group"].value
        layers.take(*preset_layer(fv.preset, fv, group, dataset))
    layers.take(*command_line_layer(fv))
    without_missing_phases(layers, source)
    config, final = layers.config(), layers.named()
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
        note=tuned_otherwise(dataset, final),
    )
