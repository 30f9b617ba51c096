"""What a run uses and where each value came from.

agent defaults < the domain's settings (automatic) < --preset < the command line
"""

import dataclasses
from pathlib import Path
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from configs.agent_file import Source, agent_lineage, read_source
from configs.domains import Setting, domain_settings
from configs.flags import IGNORED, check_agent_values
from configs.presets import PRESETS
from utils.errors import UserError

COMMAND_LINE = "command line"
DEFAULT = "default"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Resolved settings of one domain: flag values, the agent's configuration, and the source of each, by name."""

    agent_file: str
    source: Source
    """The agent file's source when the settings were resolved; later edits do not count."""
    flags: dict[str, Any]
    agent: ml_collections.ConfigDict
    sources: dict[str, str]
    transitions: int | None
    """How much data to make where none is; None where the dataset must be there or be downloaded."""
    random_data: bool
    """Whether it may be of random actions where no oracle can make it."""

    def given(self) -> dict[str, Any]:
        """The values that the command line set, by name."""
        values = self.flags | {f"agent.{key}": value for key, value in self.agent.items()}
        return {name: values[name] for name, source in self.sources.items() if source == COMMAND_LINE}

    def describe(self) -> str:
        """One line per value: name, value, source."""
        values = self.flags | {f"agent.{key}": value for key, value in self.agent.items()}
        width = max(map(len, values))
        return "\n".join(f"  {name:{width}}  {value!s:24}  {self.sources[name]}" for name, value in values.items())


def resolve(fv: flags.FlagValues, dataset: str) -> Settings:
    """Settings of the runs on one dataset; raises UserError for values that no run can use."""
    own = {"agent", "preset", "dry_run", "debug", "overwrite", *IGNORED}
    defined = [name for name in fv if name not in own and not name.startswith("agent.")]
    values = {name: Setting(fv[name].default, DEFAULT) for name in defined}
    agent = {key: Setting(value, DEFAULT) for key, value in fv.agent.items()}

    def take(settings: dict[str, Setting], layer: dict[str, Setting]) -> None:
        settings.update({key: setting for key, setting in layer.items() if key in settings})

    agent_file = config_flags.get_config_filename(fv["agent"])
    agent_source = read_source(agent_file)
    take(agent, domain_settings(dataset, agent_lineage(agent_source), fv.agent))
    preset = PRESETS[fv.preset] if fv.preset else None
    if preset:
        source = f"preset {fv.preset}"
        take(values, {key: Setting(value, source) for key, value in preset.flags.items()})
        take(agent, {key: Setting(value, source) for key, value in preset.agent.items()})
        data = f"{Path(fv.save_dir if fv['save_dir'].present else values['save_dir'].value)}/{values['run_group'].value}/data"
        values["ogbench_dataset_dir"] = Setting(data, source)
    overrides = config_flags.get_override_values(fv["agent"])
    if "horizon_length" in overrides:
        raise UserError("--agent.horizon_length: use --horizon_length, which sets it")
    take(values, {name: Setting(fv[name].value, COMMAND_LINE) for name in values if fv[name].present})
    take(agent, {key: Setting(value, COMMAND_LINE) for key, value in overrides.items()})
    # One horizon: the flag where it was given, else what the domain uses.
    if values["horizon_length"].source == COMMAND_LINE:
        agent["horizon_length"] = values["horizon_length"]
    values["horizon_length"] = agent["horizon_length"]

    config = ml_collections.ConfigDict({key: setting.value for key, setting in agent.items()})
    check_agent_values(config.to_dict())
    sources = {key: setting.source for key, setting in values.items()}
    return Settings(
        agent_file=agent_file,
        source=agent_source,
        flags={key: setting.value for key, setting in values.items()},
        agent=config,
        sources=sources | {f"agent.{key}": setting.source for key, setting in agent.items()},
        transitions=preset.transitions if preset else None,
        random_data=bool(preset and preset.random_data),
    )
