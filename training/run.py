"""A run: its settings, the folder it lives in, and whether it is finished.

    <save_dir>/<run_group>/<env_name>/<agent>_s<seed>_<hash>/
        config.json  train.csv  eval.csv  timing.csv  concerns.json  done.json
        checkpoints/  source/  videos/

The hash covers what the command line sets besides steps, intervals, logging and place, and the
source of an agent file outside agents/; the rest is compared with config.json (stored.py).
"""

import contextlib
import dataclasses
import fcntl
import glob
import importlib.metadata
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_collections

from configs.agent_file import load_source
from configs.agent_source import AGENTS, Source, kept_source
from configs.flags import STEPS, UNHASHED
from configs.run_folder import read_config, read_done
from configs.settings import Settings
from envs.tasks import dataset_name
from training.cloning import clones_as_bc, cloning_identity
from utils.errors import DamagedFile, RunError, UserError
from utils.files import digest, expanded, lock_of, try_lock
from utils.logging import say, shown
from utils.replay import run_length

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
    "ogbench_dataset_dir",
    "offline_steps",
)


@dataclasses.dataclass(frozen=True)
class Run:
    """One task (for a base: one dataset), one agent, one seed, and the folder of it all."""

    env_name: str
    seed: int
    settings: Settings
    identity: dict[str, Any]
    """What the hash in the folder's name covers."""

    @classmethod
    def of_task(cls, env_name: str, seed: int, settings: Settings) -> "Run":
        """The run of a task; what the command line sets makes its identity."""
        given = settings.given()
        given = {name: value for name, value in given.items() if name not in UNHASHED}
        run = cls(env_name, seed, settings, given)
        if run.source.of_checkout:
            return run
        # Two files of one name are two agents; one file in two places is one.
        run = dataclasses.replace(run, identity=given | {"agent_source": run.source.digest})
        # An older version went by the file's path.
        path = str(expanded(settings.agent_file).resolve())
        older = dataclasses.replace(run, identity=given | {"agent_file": path})
        return older if not run.folder.exists() and older.is_stored() else run

    def base_settings(self) -> Settings:
        """The settings of the behaviour-cloning run whose base this run starts from."""
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
        """The behaviour-cloning run whose base this run starts from, shared by all runs that
        would train the same one.

        data: the fingerprint of what behaviour cloning reads, wherever it lies.
        """
        settings = self.base_settings()
        identity = base_identity(settings)
        identity |= {"offline_steps": settings.flags["offline_steps"], "data": data}
        return Run(dataset_name(self.env_name), self.seed, settings, identity)

    def expected_base(self) -> "ExpectedBase":
        """The same run for a process that has not read the data."""
        settings = self.base_settings()
        identity = base_identity(settings)
        identity |= {name: settings.flags[name] for name in BASE_FLAGS}
        return ExpectedBase(dataset_name(self.env_name), self.seed, settings, identity)

    @property
    def agent_name(self) -> str:
        """The agent file's name: trqam for agents/trqam.py."""
        return Path(self.settings.agent_file).stem

    @property
    def name(self) -> str:
        """What the progress bar and messages call the run."""
        return f"{self.agent_name} {self.env_name.removesuffix('-v0')} seed {self.seed}"

    @property
    def folder(self) -> Path:
        """Where the run is stored."""
        flags = self.settings.flags
        name = f"{self.agent_name}_s{self.seed}_{digest(self.identity)}"
        return (
            expanded(flags["save_dir"])
            / flags["run_group"]
            / self.env_name.replace(":", "_")
            / name
        )

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
        """The updates of the whole run, offline and online."""
        return total_updates(self.settings.flags, run_length(self.settings.agent))

    @property
    def cloning(self) -> bool:
        """Whether the run trains a base and nothing else."""
        return bool(self.settings.flags["bc_only"]) or self.agent.CLONES_ALONE

    @property
    def starts_from_base(self) -> bool:
        """Whether behaviour cloning comes first."""
        return starts_from_base(self.settings)

    def is_stored(self) -> bool:
        """Whether the folder holds a run of this agent; where no source is kept, of any."""
        try:
            stored = read_config(self.folder)
        except DamagedFile:  # which is reported when the run resumes
            return True
        kept = kept_source(self.folder, stored) if stored else None
        return stored is not None and (kept is None or kept.digest == self.source.digest)

    def is_done(self) -> bool:
        """Whether the run has finished at least the steps now asked for."""
        done = read_done(self.folder)
        return done is not None and all(
            done[name] >= self.settings.flags[name] for name in STEPS[1:]
        )

    def needs_base(self) -> bool:
        """Whether the run starts from a base that has to be trained, `of_base`."""
        flags = self.settings.flags
        return bool(
            self.starts_from_base and flags["bc_steps"] and not flags["pretrained_actor_path"]
        )

    def config(self) -> dict[str, Any]:
        """What config.json holds of the run itself: settings, their sources, versions."""
        flags = self.settings.flags | {"env_name": self.env_name, "seed": self.seed}
        return {
            **self.source.record(),
            "flags": flags,
            "agent": self.settings.agent.to_dict(),
            "sources": self.settings.sources,
            **(
                {"cloning": cloning_identity(self.source, self.settings.agent)}
                if self.cloning
                else {}
            ),
            "versions": {
                name: importlib.metadata.version(name)
                for name in ("jax", "mujoco", "ogbench", "numpy")
            },
            "commit": git_commit(),
        }

    def newest_checkpoint(self) -> int:
        """The step of the newest checkpoint in the folder; -1 where there is none."""
        return max(
            (
                int(path.name)
                for path in self.folder.glob("checkpoints/*")
                if path.name.isdigit()
            ),
            default=-1,
        )

    @contextlib.contextmanager
    def locked(self, wait: bool = False) -> Iterator[None]:
        """Hold the run's lock, so that two processes never write one folder; raises RunError
        where another holds it.
        """
        path = lock_of(self.folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            free = try_lock(file, fcntl.LOCK_EX)
            if not free:
                time.sleep(0.2)  # it may only have been `is_locked`, looking
                free = try_lock(file, fcntl.LOCK_EX)
            if not free and not wait:
                raise RunError(
                    f"{self.folder} is being written by another process; wait for it to end"
                )
            if not free:
                say(f"waiting for the process that is training {shown(self.folder)}")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield


@dataclasses.dataclass(frozen=True)
class ExpectedBase(Run):
    """A behaviour-cloning run that is known by the place of its data, because the data has not
    been read here.
    """

    @property
    def folder(self) -> Path:
        """The newest run of the same settings on data of that place; a folder that is not there
        while there is none.
        """
        expected = super().folder
        found = [
            folder
            for folder in expected.parent.glob(f"{glob.escape(self.agent_name)}_s{self.seed}_*")
            if self.made(folder)
        ]
        return max(
            found,
            key=lambda folder: (folder / "config.json").stat().st_mtime_ns,
            default=expected,
        )

    def made(self, folder: Path) -> bool:
        """Whether a folder holds such a run."""
        try:
            stored = read_config(folder)
        except DamagedFile:
            return False
        if stored is None:
            return False
        values = {**stored["agent"], **stored["flags"], **stored.get("cloning", {})}
        return all(
            values.get(name) == value
            for name, value in json.loads(json.dumps(self.identity)).items()
        )


def starts_from_base(settings: Settings) -> bool:
    """Whether behaviour cloning is a phase of the agent."""
    return "cloning" in settings.source.module.AGENT.phases(settings.agent)


def total_updates(flags: dict[str, Any], needed: int) -> int:
    """The updates of a whole run with these flags: all offline ones, and online `utd_ratio` for
    each environment step after the first ones.

    needed: how many transitions in a row a batch has, `utils.replay.run_length`.
    """
    learning = flags["online_steps"] - first_learning_step(flags, needed)
    return flags["offline_steps"] + max(0, learning) * flags["utd_ratio"]


def first_learning_step(flags: dict[str, Any], needed: int) -> int:
    """How many online environment steps come before the first online update, `needed` at the
    least.
    """
    return max(flags["start_training"], needed)


def base_identity(settings: Settings) -> dict[str, Any]:
    """What identifies a base besides its data and steps."""
    identity = {name: settings.agent[name] for name in BASE_SETTINGS}
    return identity | cloning_identity(settings.source, settings.agent)


def bc_only(settings: Settings) -> Settings:
    """The same settings for the base alone, for offline_steps: of agents/bc.py, or of the
    agent itself where it has a flow of its own.

    Raises UserError where it has no base.
    """
    if not (starts_from_base(settings) or settings.source.module.AGENT.CLONES_ALONE):
        name = settings.source.file.name
        raise UserError(f"--bc_only: {name} has no base to clone; leave it out")
    flags = settings.flags | {"bc_steps": 0, "online_steps": 0}
    if not clones_as_bc(settings.source.module.AGENT, settings.agent):
        agent = ml_collections.ConfigDict(settings.agent)
        if "lql_points" in agent:
            agent.lql_points = 1  # cloning has no critic, and reads no runs
        return dataclasses.replace(settings, flags=flags | {"bc_only": True}, agent=agent)
    source = load_source(BC_FILE)
    config = source.module.get_config()
    config.update({key: settings.agent[key] for key in config})
    known = {*flags, *(f"agent.{key}" for key in config)}
    sources = {name: source for name, source in settings.sources.items() if name in known}
    changed = {"agent_file": str(BC_FILE), "source": source, "flags": flags, "agent": config}
    return dataclasses.replace(settings, **changed, sources=sources)


def git_commit() -> str | None:
    """The commit of this checkout; None outside one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
