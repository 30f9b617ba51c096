"""Run folders: where a run lives, what it is made of, and whether it is finished.

    <save_dir>/<run_group>/<env_name>/<agent>_s<seed>_<hash>/
        config.json  train.csv  eval.csv  timing.csv  checkpoints/  videos/  done.json

The hash covers what the command line sets besides steps, intervals, logging and place; the rest is compared with
config.json.
"""

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import importlib.machinery
import importlib.metadata
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import IO, Any

from configs.settings import Settings
from envs.tasks import dataset_name
from utils.errors import RunError, UserError

STEPS = ("bc_steps", "offline_steps", "online_steps")
LOGGING = (
    "log_interval",
    "eval_interval",
    "save_interval",
    "keep_checkpoints",
    "eval_workers",
    "eval_async",
    "video_episodes",
    "video_frame_skip",
)
PLACE = ("compilation_cache_dir", "device_data_gb", "save_dir", "run_group", "tags", "logger", "env_name", "seed", "num_seeds")
UNHASHED = {*STEPS, *LOGGING, *PLACE}
ROOT = Path(__file__).resolve().parents[1]
AGENTS = ROOT / "agents"
BC_FILE = AGENTS / "bc.py"
BASE_SETTINGS = ("horizon_length", "action_chunking", "actor_hidden_dims", "actor_layer_norm", "lr", "batch_size")
MAY_CHANGE = {"offline_steps", "online_steps", "ogbench_dataset_dir", *LOGGING, *PLACE}


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
        identity = {name: value for name, value in settings.given().items() if name not in UNHASHED}
        agent_file = Path(settings.agent_file).resolve()
        if agent_file.parent != AGENTS:  # two files of one name are two agents
            identity["agent_file"] = str(agent_file)
        return cls(env_name, seed, settings, identity)

    def of_base(self) -> "Run":
        """The behaviour-cloning run whose base this run starts from, shared by all runs that would train the same one."""
        settings = bc_only(self.settings)
        changed = {
            "run_group": "bc",
            "offline_steps": self.settings.flags["bc_steps"],
            "eval_episodes": 0,
            "video_episodes": 0,
            "sparse": False,
        }
        settings = dataclasses.replace(settings, flags=settings.flags | changed)
        identity = {name: settings.agent[name] for name in BASE_SETTINGS}
        identity |= {name: settings.flags[name] for name in ("dataset", "dataset_proportion", "offline_steps")}
        identity["ogbench_dataset_dir"] = str(Path(settings.flags["ogbench_dataset_dir"]).expanduser())
        return Run(dataset_name(self.env_name), self.seed, settings, identity)

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
        return Path(flags["save_dir"]).expanduser() / flags["run_group"] / self.env_name.replace(":", "_") / name

    def is_done(self) -> bool:
        """Whether the run has finished at least the steps now asked for."""
        done = read_json(self.folder / "done.json")
        return done is not None and all(done[name] >= self.settings.flags[name] for name in STEPS[1:])

    def needs_base(self) -> bool:
        """Whether the run starts from a base that has to be trained, `of_base`."""
        flags = self.settings.flags
        from_base = load_agent(self.settings.agent_file).AGENT.STARTS_FROM_BASE
        return bool(from_base and flags["bc_steps"] and not flags["pretrained_actor_path"])

    def config(self) -> dict[str, Any]:
        """What config.json holds of the run itself: the settings, their sources, the versions."""
        flags = self.settings.flags | {"env_name": self.env_name, "seed": self.seed}
        return {
            "agent_file": self.settings.agent_file,
            "flags": flags,
            "agent": self.settings.agent.to_dict(),
            "sources": self.settings.sources,
            "versions": {name: importlib.metadata.version(name) for name in ("jax", "mujoco", "ogbench", "numpy")},
            "commit": git_commit(),
        }

    def check_folder(self) -> None:
        """Raise UserError where the folder cannot be written, or holds a run with other settings (the first are shown)."""
        place = self.folder
        while not place.exists() and place != place.parent:
            place = place.parent
        if not place.is_dir() or not os.access(place, os.W_OK):
            raise UserError(f"--save_dir={self.settings.flags['save_dir']}: cannot write to {place}; give another folder")
        stored = read_json(self.folder / "config.json")
        if stored is None:
            return
        ours = json.loads(json.dumps(self.config()))
        differences = [
            f"{prefix}{name}: stored {stored[part].get(name)}, now {ours[part].get(name)}"
            for part, prefix in (("flags", "--"), ("agent", "--agent."))
            for name in sorted(set(stored[part]) | set(ours[part]))
            if name not in MAY_CHANGE and stored[part].get(name) != ours[part].get(name)
        ]
        steps, now = stored["flags"]["offline_steps"], ours["flags"]["offline_steps"]
        if steps != now and self.newest_checkpoint() > min(steps, now):
            differences.append(f"--offline_steps: stored {steps}, now {now}, and the run is past the smaller of them")
        if differences:
            raise UserError(
                f"{self.folder} holds a run with other settings ({'; '.join(differences[:4])}); "
                "give another --run_group, or --overwrite to delete it"
            )

    def newest_checkpoint(self) -> int:
        """The step of the newest checkpoint in the folder; -1 where there is none."""
        return max((int(path.name) for path in self.folder.glob("checkpoints/*") if path.name.isdigit()), default=-1)

    def prepare(self, overwrite: bool, found: dict[str, Any]) -> None:
        """Make the folder, after --overwrite an empty one, and write config.json with what was `found` besides."""
        stored = read_json(self.folder / "config.json") or {}
        if not overwrite and stored.get("dataset", found["dataset"]) != found["dataset"]:
            flag = "--dataset" if self.settings.flags["dataset"] else "--ogbench_dataset_dir"
            raise UserError(
                f"{flag}: the data is not what {self.folder} began with ({stored['dataset']['transitions']} "
                f"transitions then, {found['dataset']['transitions']} now); bring it back, or give another --run_group"
            )
        if overwrite and self.folder.exists():
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "config.json", self.config() | found)

    @contextlib.contextmanager
    def locked(self, wait: bool = False) -> Iterator[None]:
        """Hold the run's lock, so that two processes never write one folder; raises RunError where another holds it."""
        path = lock_of(self.folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            free = try_lock(file, fcntl.LOCK_EX)
            if not free:
                time.sleep(0.2)  # it may only have been `is_locked`, looking
                free = try_lock(file, fcntl.LOCK_EX)
            if not free and not wait:
                raise RunError(f"{self.folder} is being written by another process; wait for it to end")
            if not free:
                print(f"waiting for the process that is training {self.folder}")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield


def lock_of(folder: Path) -> Path:
    """The file that a process locks while it writes a run's folder."""
    return folder.with_name(f".{folder.name}.lock")


def try_lock(file: IO, kind: int) -> bool:
    """Lock an open file, if nobody holds it."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_locked(folder: Path) -> bool:
    """Whether a process is writing a run's folder; changes nothing."""
    if not lock_of(folder).exists():
        return False
    with lock_of(folder).open() as file:
        return not try_lock(file, fcntl.LOCK_SH)


def bc_only(settings: Settings) -> Settings:
    """The same settings for the base alone: agents/bc.py for offline_steps."""
    config = load_agent(BC_FILE).get_config()
    config.update({key: settings.agent[key] for key in config})
    flags = settings.flags | {"bc_steps": 0, "online_steps": 0}
    known = {*flags, *(f"agent.{key}" for key in config)}
    sources = {name: source for name, source in settings.sources.items() if name in known}
    return dataclasses.replace(settings, agent_file=str(BC_FILE), flags=flags, agent=config, sources=sources)


@functools.cache  # one class for each file, so that what is compiled for it is compiled once
def load_agent(path: str | os.PathLike) -> ModuleType:
    """The module of an agent file anywhere on disk; it defines `AGENT` and `get_config`."""
    path = Path(path) if Path(path).is_file() else ROOT / path  # config.json may name it as seen from the project's root
    loader = importlib.machinery.SourceFileLoader(f"agent_{path.stem}", str(path))
    module = ModuleType(loader.name)
    loader.exec_module(module)
    return module


def digest(value: Any) -> str:
    """Eight hexadecimal digits of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:8]


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is no such file, RunError where there is no object in it."""
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text())
        if not isinstance(value, dict):
            raise ValueError("no object")
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}); delete it, and the same command goes on with the run") from error
    return value


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    with part.open("w") as file:
        file.write(json.dumps(value, indent=1, default=str) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def git_commit() -> str | None:
    """The commit of this checkout; None outside one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
