"""One seed of one method on one task, as reports use it."""

import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from configs.flags import NOT_TRAINING, UNHASHED
from configs.methods import row_name
from configs.run_folder import COMMAND_LINE, Columns
from envs.tasks import dataset_name
from utils.errors import UserError, printable

ORIGINS = ("pretrained_actor_path", "ogbench_dataset_dir", "robomimic_dataset_dir")
"""The flags that say where bases and data lie."""
NOT_A_METHOD = UNHASHED | set(ORIGINS)
RUNS, CURVES = "runs.json", "curves.csv"
"""The files of a study: configurations and warnings by run; evaluations and path KL by run."""


@dataclasses.dataclass(frozen=True)
class Result:
    """One seed of one method on one task. `method` is its name in a report, which differs
    from the names of the other methods.
    """

    method: str
    agent: str
    overrides: dict[str, Any]
    """What the command line set besides steps, intervals and paths, by name."""
    env_name: str
    seed: int
    folder: Path
    config: dict[str, Any]
    evaluations: Columns
    training: Columns
    offline_steps: int
    online_steps: int
    concerns: dict[str, str] = dataclasses.field(default_factory=dict)
    """The agent's warnings at the end of the run, by kind."""

    @property
    def domain(self) -> str:
        """The dataset of the task, or a user's own environment."""
        try:
            return dataset_name(self.env_name)
        except UserError:
            return self.env_name

    @property
    def cloning_steps(self) -> int:
        """The updates of the base that the run cloned before its first step."""
        flags = self.config.get("flags", {})
        if self.only_clones or flags.get("pretrained_actor_path"):
            return 0
        return flags.get("bc_steps", 0)

    @property
    def only_clones(self) -> bool:
        """Whether the run itself is behaviour cloning."""
        bc_only = self.config.get("flags", {}).get("bc_only")
        return bool(bc_only) or self.agent == "bc" or "cloning" in self.config

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.method} {self.env_name.removesuffix('-v0')} seed {self.seed}"

    @property
    def fingerprint(self) -> tuple:
        """What identifies its data; empty where config.json does not record it."""
        return tuple(sorted(self.config.get("dataset", {}).items()))

    @property
    def last_step(self) -> int:
        """The step of its last evaluation; -1 where there is none."""
        steps = self.evaluations["step"]
        return int(steps[-1]) if len(steps) else -1

    def phase(self, step: int) -> str:
        """offline or online; a run without an offline phase is online from its first step."""
        only_online = self.online_steps and not self.offline_steps
        return "online" if only_online or step > self.offline_steps else "offline"

    def ends(self) -> dict[str, int]:
        """The last step of each of its phases."""
        ends = {}
        if self.offline_steps:
            ends["offline"] = self.offline_steps
        if self.online_steps:
            ends["online"] = self.offline_steps + self.online_steps
        return ends

    def success(self, step: int) -> float | None:
        """The success rate at a step; None if not evaluated there, NaN if none is reported."""
        return self._evaluated("success", step)

    def mean_return(self, step: int) -> float | None:
        """The mean return at a step; None where it was not evaluated there."""
        return self._evaluated("return", step)

    def episodes(self, step: int) -> float:
        """The number of episodes of the evaluation at a step."""
        found = self._evaluated("episodes", step)
        return np.nan if found is None else found

    def _evaluated(self, column: str, step: int) -> float | None:
        found = np.flatnonzero(self.evaluations["step"] == step)
        return float(self.evaluations[column][found[-1]]) if len(found) else None

    @property
    def transitions(self) -> int | None:
        """Of the dataset."""
        return self.config.get("dataset", {}).get("transitions")

    @property
    def reward(self) -> str | None:
        """sparse, or default: as OGBench gives it."""
        sparse = self.config.get("flags", {}).get("sparse")
        if sparse is None:
            return None
        return "sparse" if sparse else "default"

    @property
    def origins(self) -> dict[str, str]:
        """The names of the base and of the data's folder that the command line gave, without
        their paths and the base's seed.
        """
        flags, sources = self.config.get("flags", {}), self.config.get("sources", {})
        return {
            name: re.sub(r"_s\d+_(?=[0-9a-f]+$)", "_", Path(flags[name]).name)
            for name in ORIGINS
            if sources.get(name) == COMMAND_LINE and flags.get(name)
        }

    def settings(self, step: int) -> dict[str, Any]:
        """Return the settings in config.json that affect training until a step, by name: no
        logging, no path, no seed.
        """
        values = self.config.get("flags", {}) | self.config.get("agent", {})
        left_out = {*NOT_TRAINING, *ORIGINS}
        found = {name: value for name, value in values.items() if name not in left_out}
        found |= {
            "pretrained_actor_path": self.origins.get("pretrained_actor_path", "none"),
            "offline_steps": min(self.offline_steps, step),
            "online_steps": min(self.online_steps, max(0, step - self.offline_steps)),
        }
        if self.transitions is not None:
            found["transitions"] = self.transitions
        return found

    @property
    def discount(self) -> float | None:
        """Of the agent."""
        return self.config.get("agent", {}).get("discount")

    @property
    def overrides_text(self) -> str:
        """The overrides as text."""
        shown = {
            printable(name): shown_value(value)
            for name, value in self.overrides.items()
        }
        return ", ".join(f"{name}={value}" for name, value in shown.items())

    @property
    def published_name(self) -> str:
        """What the papers call the method."""
        agent = self.config.get("agent", {})
        if self.agent == "qam" and agent.get("edit_scale"):
            return "QAM-E"
        if self.agent == "qam":
            return "QAM-F" if agent.get("fql_alpha") else "QAM"
        if not self.config:
            return self.method
        return row_name(self.agent, agent) or self.agent.upper()

    def kl(self, step: int) -> Columns:
        """path KL, its budget and λ (with lam_scale) at the logs up to a step: NaN where there
        is none, empty without a KL.

        With a fixed `lam` there is no budget to compare with: kl_budget is NaN even if it was
        logged.
        """
        kept = self.training["step"] <= step
        columns = {
            name.removeprefix("dual/"): values[kept]
            for name, values in self.training.items()
        }
        if np.isnan(columns["path_kl"]).all():
            return {}
        agent = self.config.get("agent", {})
        # with a step size of the dual, `lam` is another setting of a fork
        if "lam" in agent and "eta_lambda" not in agent:
            columns["kl_budget"] = np.full_like(columns["kl_budget"], np.nan)
        return columns | {"lam": columns["lam"] * agent.get("lam_scale", 1.0)}


def differing_settings(settings: list[dict[str, Any]]) -> list[str]:
    """List the settings that differ, with their values: "bc_steps 10000 and 20".

    A setting that one run does not record counts as equal.
    """
    found = []
    for name in sorted({name for own in settings for name in own}):
        values = {shown_value(own[name]) for own in settings if name in own}
        if len(values) > 1:
            found.append(f"{printable(name)} {' and '.join(sorted(values))}")
    return found


def real_folder(result: Result) -> Path:
    """The run folder with its own name, even where it was given as "." or by a link."""
    return Path(os.path.realpath(result.folder))


def as_json(value: Any) -> str:
    """The value as a text that is the same for the same settings in any order."""
    return json.dumps(value, sort_keys=True, default=str)


def shown_value(value: Any) -> str:
    """A value for a message or a command line; lists without spaces."""
    if isinstance(value, list):
        value = as_json(value).replace(" ", "")
    return printable(value)
