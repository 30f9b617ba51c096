"""A run: its settings, its folder, and whether it is finished.

    <save_dir>/<run_group>/<env_name>/<agent>_s<seed>_<hash>/
        config.json  train.csv  eval.csv  timing.csv  concerns.json  done.json
        replay.bin  checkpoints/  source/  videos/

The hash covers what the command line sets, except steps, intervals, logging and the folders of
runs and caches, and the source of an agent file outside agents/. Other settings are compared
with config.json (stored.py), except those in MAY_CHANGE (configs/flags.py).
"""

import contextlib
import dataclasses
import fcntl
import functools
import glob
import importlib.metadata
import json
import subprocess
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ml_collections

from configs.agent_file import load_source
from configs.agent_source import AGENTS, Source
from configs.flags import STEPS, UNHASHED
from configs.run_folder import read_config, read_done
from configs.settings import Settings
from envs.tasks import dataset_name, folder_flag, is_robomimic
from training.cloning import clones_as_bc, cloning_identity
from utils.errors import DamagedFile, RunError, UserError
from utils.files import digest, expanded, lock_of, try_lock
from utils.messages import say, short_path
from utils.replay import transitions_per_sequence

BC_FILE = AGENTS / "bc.py"
BASE_SETTINGS = (
    "horizon_length",
    "action_chunking",
    "actor_hidden_dims",
    "actor_layer_norm",
    "lr",
    "batch_size",
)
BASE_FLAGS = (
    "dataset",
    "dataset_proportion",
    "dataset_layout",
    "action_scale",
    "offline_steps",
)


@dataclasses.dataclass(frozen=True)
class Run:
    """One agent with one seed on one task, or on a dataset if it is a pretraining run."""

    env_name: str
    seed: int
    settings: Settings
    identity: dict[str, Any]
    """The values that the hash in the folder's name covers."""

    @classmethod
    def of_task(cls, env_name: str, seed: int, settings: Settings) -> "Run":
        """Create the run of a task, identified by what the command line sets.

        An agent file outside the checkout is identified by its content, not by its path.

        Args:
            env_name: the task.
            seed: the seed.
            settings: the settings for the task's dataset.
        """
        overrides = settings.overrides()
        identity = {name: overrides[name] for name in overrides if name not in UNHASHED}
        if not settings.source.of_checkout:
            identity["agent_source"] = settings.source.digest
        return cls(env_name, seed, settings, identity)

    def base_settings(self) -> Settings:
        """Return the settings of the pretraining run whose base this run starts from."""
        settings = bc_only(self.settings)
        changed = {
            "run_group": "bc",
            "offline_steps": self.settings.flags["bc_steps"],
            "eval_episodes": 0,
            "video_episodes": 0,
            "sparse": False,
        }
        return dataclasses.replace(settings, flags=settings.flags | changed)

    def of_base(self, data: str) -> "Run":
        """Return the pretraining run of this run's base, which all equal bases share.

        data: the fingerprint of what behaviour cloning reads.
        """
        settings = self.base_settings()
        identity = base_identity(settings)
        identity |= {"offline_steps": settings.flags["offline_steps"], "data": data}
        return Run(dataset_name(self.env_name), self.seed, settings, identity)

    def expected_base(self) -> "ExpectedBase":
        """Return the pretraining run of this run's base without reading the data."""
        settings = self.base_settings()
        identity = base_identity(settings)
        names = (*BASE_FLAGS, folder_flag(self.env_name))
        identity |= {name: settings.flags[name] for name in names}
        return ExpectedBase(dataset_name(self.env_name), self.seed, settings, identity)

    @property
    def agent_name(self) -> str:
        """The agent file's name: trqam for agents/trqam.py."""
        return Path(self.settings.agent_file).stem

    @property
    def name(self) -> str:
        """The name of the run in messages."""
        return f"{self.agent_name} {self.env_name.removesuffix('-v0')} seed {self.seed}"

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        flags = self.settings.flags
        group = expanded(flags["save_dir"]) / flags["run_group"]
        name = f"{self.agent_name}_s{self.seed}_{digest(self.identity)}"
        return group / self.env_name.replace(":", "_") / name

    @property
    def source(self) -> Source:
        """The source of the agent file."""
        return self.settings.source

    @property
    def agent(self) -> Any:
        """The class of the agent."""
        return self.source.module.AGENT

    @property
    def total_updates(self) -> int:
        """The number of all updates, offline and online."""
        return total_updates(self.settings.flags, self.settings.agent)

    @property
    def cloning(self) -> bool:
        """Whether the run only trains a base."""
        return bool(self.settings.flags["bc_only"]) or self.agent.CLONES_ALONE

    @property
    def starts_from_base(self) -> bool:
        """Whether the run starts with behaviour cloning."""
        return starts_from_base(self.settings)

    def is_done(self) -> bool:
        """Whether the run has finished at least as many steps as its flags ask for."""
        done = read_done(self.folder)
        flags = self.settings.flags
        return done is not None and all(done[name] >= flags[name] for name in STEPS[1:])

    def needs_base(self) -> bool:
        """Whether the run starts from a base that has to be trained (`of_base`)."""
        flags = self.settings.flags
        trains = flags["bc_steps"] and not flags["pretrained_actor_path"]
        return bool(self.starts_from_base and trains)

    def config(self) -> dict[str, Any]:
        """Return the entries of config.json about settings, their sources, and versions."""
        flags = self.settings.flags | {"env_name": self.env_name, "seed": self.seed}
        config = {
            **self.source.record(),
            "flags": flags,
            "agent": self.settings.agent.to_dict(),
            "sources": self.settings.sources,
        }
        if self.cloning:
            config["cloning"] = cloning_identity(self.source, self.settings.agent)
        names = ["jax", "mujoco", "ogbench", "numpy"]
        if is_robomimic(self.env_name) and find_spec("robosuite"):
            names.append("robosuite")
        config["versions"] = {name: _version(name) for name in names}
        return config | {"commit": git_commit()}

    def newest_checkpoint(self) -> int:
        """Return the step of the newest checkpoint in the folder; -1 without any."""
        names = [path.name for path in self.folder.glob("checkpoints/*")]
        return max((int(name) for name in names if name.isdigit()), default=-1)

    @contextlib.contextmanager
    def locked(self, wait: bool = False) -> Iterator[None]:
        """Hold the run's lock for the block, so that no two processes write one folder.

        wait: whether to wait for another process that holds it, instead of raising RunError.
        """
        path = lock_of(self.folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            free = try_lock(file, fcntl.LOCK_EX)
            if not free:
                time.sleep(0.2)  # `is_locked` holds it for a moment
                free = try_lock(file, fcntl.LOCK_EX)
            if not free and not wait:
                raise RunError(
                    f"{self.folder} is being written by another process; wait for it to end"
                )
            if not free:
                say(
                    f"waiting for the process that is training {short_path(self.folder)}"
                )
                fcntl.flock(file, fcntl.LOCK_EX)
            yield


@dataclasses.dataclass(frozen=True)
class ExpectedBase(Run):
    """A pretraining run that is identified by the path of its data, which was not read."""

    @property
    def folder(self) -> Path:
        """The newest folder with this identity; a path that does not exist if there is none."""
        expected = super().folder
        pattern = f"{glob.escape(self.agent_name)}_s{self.seed}_*"
        found = [
            folder for folder in expected.parent.glob(pattern) if self.matches(folder)
        ]

        def changed(folder: Path) -> int:
            return (folder / "config.json").stat().st_mtime_ns

        return max(found, key=changed, default=expected)

    def matches(self, folder: Path) -> bool:
        """Whether a folder holds a run with this identity."""
        try:
            stored = read_config(folder)
        except DamagedFile:
            return False
        if stored is None:
            return False
        values = {**stored["agent"], **stored["flags"], **stored.get("cloning", {})}
        identity = json.loads(json.dumps(self.identity))
        return all(values.get(name) == value for name, value in identity.items())


def starts_from_base(settings: Settings) -> bool:
    """Whether the agent has a behaviour-cloning phase."""
    return "cloning" in settings.source.module.AGENT.phases(settings.agent)


def total_updates(flags: dict[str, Any], agent: Any) -> int:
    """Return the number of all updates of a run, offline and online.

    Online, each environment step from the first learning step on has `utd_ratio` updates.
    agent: the agent's settings.
    """
    learning = flags["online_steps"] - first_learning_step(flags, agent)
    return flags["offline_steps"] + max(0, learning) * flags["utd_ratio"]


def first_learning_step(flags: dict[str, Any], agent: Any) -> int:
    """Return how many online environment steps come before the first online update.

    agent: the agent's settings.
    """
    return max(flags["start_training"], transitions_per_sequence(agent))


def base_identity(settings: Settings) -> dict[str, Any]:
    """Return what identifies a base besides its data and its number of updates."""
    identity = {name: settings.agent.get(name) for name in BASE_SETTINGS}
    return identity | cloning_identity(settings.source, settings.agent)


def bc_only(settings: Settings) -> Settings:
    """Return settings that train only the base, for offline_steps updates.

    The agent is agents/bc.py, or the agent itself if it has its own flow. Raises UserError if
    the agent has no base.
    """
    if not (starts_from_base(settings) or settings.source.module.AGENT.CLONES_ALONE):
        name = settings.source.file.name
        raise UserError(f"--bc_only: {name} has no base to clone; leave it out")
    flags = settings.flags | {"bc_steps": 0, "online_steps": 0}
    if not clones_as_bc(settings.source.module.AGENT, settings.agent):
        agent = ml_collections.ConfigDict(settings.agent)
        if "lql_points" in agent:
            agent.lql_points = 1  # cloning has no critic and needs no sequences
        flags |= {"bc_only": True}
        return dataclasses.replace(settings, flags=flags, agent=agent)
    source = load_source(BC_FILE)
    config = source.module.get_config()
    config.update({key: settings.agent[key] for key in config if key in settings.agent})
    known = {*flags, *(f"agent.{key}" for key in config)}
    sources = {
        name: source for name, source in settings.sources.items() if name in known
    }
    changed = {
        "agent_file": str(BC_FILE),
        "source": source,
        "flags": flags,
        "agent": config,
    }
    return dataclasses.replace(settings, **changed, sources=sources)


_version = functools.cache(importlib.metadata.version)  # a sweep asks for every run


@functools.cache
def git_commit() -> str | None:
    """Return the commit of this checkout; None outside a git repository."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
