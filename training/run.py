"""Run folders: where a run lives, what it is made of, and whether it is finished.

    <save_dir>/<run_group>/<env_name>/<agent>_s<seed>_<hash>/
        config.json  train.csv  eval.csv  timing.csv  checkpoints/  source/  videos/  done.json

The hash covers what the command line sets besides steps, intervals, logging and place, and the
source of an agent file outside agents/; the rest is compared with config.json.
"""

import contextlib
import dataclasses
import fcntl
import glob
import importlib.metadata
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from configs.agent_file import load_source
from configs.agent_source import AGENTS, ROOT, Source, differing_files, kept_source
from configs.flags import MAY_CHANGE, STEPS, UNHASHED
from configs.settings import Settings
from envs.tasks import alias_of, dataset_name
from utils.errors import RunError, UserError, join_first
from utils.files import digest, lock_of, read_json, try_lock, write_json
from utils.logging import say, shown, warn, warn_once

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
        path = str(Path(settings.agent_file).expanduser().resolve())
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
        identity = {name: settings.agent[name] for name in BASE_SETTINGS}
        identity |= {"offline_steps": settings.flags["offline_steps"], "data": data}
        return Run(dataset_name(self.env_name), self.seed, settings, identity)

    def expected_base(self) -> "ExpectedBase":
        """The same run for a process that has not read the data."""
        settings = self.base_settings()
        identity = {name: settings.agent[name] for name in BASE_SETTINGS}
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
            Path(flags["save_dir"]).expanduser()
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

    def is_stored(self) -> bool:
        """Whether the folder holds a run with this agent, as far as its source is kept."""
        try:
            stored = read_json(self.folder / "config.json")
        except RunError:  # a damaged file, which is reported where the run is to go on
            return True
        kept = kept_source(self.folder, stored) if stored else None
        return stored is not None and (kept is None or kept.digest == self.source.digest)

    def is_done(self) -> bool:
        """Whether the run has finished at least the steps now asked for."""
        done = read_json(self.folder / "done.json")
        return done is not None and all(
            done[name] >= self.settings.flags[name] for name in STEPS[1:]
        )

    def needs_base(self) -> bool:
        """Whether the run starts from a base that has to be trained, `of_base`."""
        flags = self.settings.flags
        from_base = self.agent.STARTS_FROM_BASE
        return bool(from_base and flags["bc_steps"] and not flags["pretrained_actor_path"])

    def config(self) -> dict[str, Any]:
        """What config.json holds of the run itself: settings, their sources, versions."""
        flags = self.settings.flags | {"env_name": self.env_name, "seed": self.seed}
        return {
            **self.source.record(),
            "flags": flags,
            "agent": self.settings.agent.to_dict(),
            "sources": self.settings.sources,
            "versions": {
                name: importlib.metadata.version(name)
                for name in ("jax", "mujoco", "ogbench", "numpy")
            },
            "commit": git_commit(),
        }

    def check_folder(self) -> None:
        """Raise UserError where the folder cannot be written, or holds a run with other
        settings (the first are shown).
        """
        self.check_writable()
        stored = read_json(self.folder / "config.json")
        if stored is None:
            mention_namesakes(self.folder.parent, self.agent_name, self.source)
            self.mention_alias()
            return
        self.check_source(stored)
        if differences := self.differences(stored):
            raise UserError(
                f"{self.folder} holds a run with other settings ({'; '.join(differences[:4])});"
                " give another --run_group, or --overwrite to delete it"
            )

    def check_writable(self) -> None:
        """Raise UserError where the folder cannot be made or written."""
        place = self.folder
        while not place.exists() and place != place.parent:
            place = place.parent
        if not place.is_dir() or not os.access(place, os.W_OK):
            raise UserError(
                f"--save_dir={self.settings.flags['save_dir']}: cannot write to {place}; give"
                " another folder"
            )

    def differences(self, stored: dict[str, Any]) -> list[str]:
        """The settings that may not differ from those of a config.json and do, with both
        values.
        """
        ours = json.loads(json.dumps(self.config()))
        found = [
            f"{prefix}{name}: stored {stored[part].get(name)}, now {ours[part].get(name)}"
            for part, prefix in (("flags", "--"), ("agent", "--agent."))
            for name in sorted(set(stored[part]) | set(ours[part]))
            if name not in MAY_CHANGE and self.differs(stored, ours, part, name)
        ]
        steps, now = stored["flags"]["offline_steps"], ours["flags"]["offline_steps"]
        if steps != now and self.newest_checkpoint() > min(steps, now):
            found.append(
                f"--offline_steps: stored {steps}, now {now}, and the run is past the smaller"
                " of them"
            )
        return found

    @staticmethod
    def differs(stored: dict[str, Any], ours: dict[str, Any], part: str, name: str) -> bool:
        """Whether a setting of flags or agent has another value; one that a version does not
        know has its default there.
        """
        both = (stored, ours)
        if all(name in config[part] for config in both):
            return stored[part][name] != ours[part][name]
        source = name if part == "flags" else f"agent.{name}"
        return any(
            config["sources"].get(source, "default") != "default"
            for config in both
            if name in config[part]
        )

    def check_source(self, stored: dict[str, Any]) -> None:
        """Raise UserError where a user's agent file differs from what the run began with."""
        kept = kept_source(self.folder, stored)
        if kept is None:
            return
        differing = sorted(
            {name for name, _ in kept.digests.items() ^ self.source.digests.items()}
        )
        if differing and not (stored["source"]["of_checkout"] and self.source.of_checkout):
            raise UserError(
                f"--agent: the code differs from what {self.folder} began with "
                f"({join_first(differing)}; its own is in source/); "
                "give another --run_group, or --overwrite to delete the run"
            )
        if not self.is_done():  # the project's own code may be a newer version's
            if differing:
                warn(f"{stored['agent_file']} has changed since {self.folder} began")
            mention_changes(kept, self.folder)

    def mention_alias(self) -> None:
        """Say where an older version stored this run under OGBench's alias for its task."""
        alias = alias_of(self.env_name)
        older = dataclasses.replace(self, env_name=alias).folder if alias else None
        if older and (older / "config.json").exists():
            text = f"{older} is this run under another name of its task"
            warn_once(f"{text}; to continue it, move it to {self.folder}")

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

    def check_data(self, transitions: int, crc: str) -> None:
        """Raise UserError where the folder holds a run that was trained on other data.

        An older version's checksum, an integer, is of a sample: of such a run only the
        transitions are counted.
        """
        stored = (read_json(self.folder / "config.json") or {}).get("dataset", {})
        before, checksum = stored.get("transitions", transitions), stored.get("crc", crc)
        if before == transitions and (checksum == crc or isinstance(checksum, int)):
            return
        flag = "--dataset" if self.settings.flags["dataset"] else "--ogbench_dataset_dir"
        change = (
            f"{before:,} -> {transitions:,} transitions"
            if before != transitions
            else "other values in as many rows"
        )
        raise UserError(
            f"{flag}: dataset changed since {self.folder} started ({change}): "
            "restore it, choose another --run_group, or --overwrite"
        )

    def prepare(self, overwrite: bool, found: dict[str, Any]) -> None:
        """Make the folder, after --overwrite an empty one, and write config.json with what was
        `found` besides.
        """
        if not overwrite:
            self.check_data(**found["dataset"])
        if overwrite and self.folder.exists():
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        stored = read_json(self.folder / "config.json") or {}
        if kept_source(self.folder, stored):
            found = found | {"source": stored["source"]}
        else:
            self.source.keep(self.folder)
        write_json(self.folder / "config.json", self.config() | found)

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
            folder for folder in expected.parent.glob(f"bc_s{self.seed}_*") if self.made(folder)
        ]
        return max(
            found,
            key=lambda folder: (folder / "config.json").stat().st_mtime_ns,
            default=expected,
        )

    def made(self, folder: Path) -> bool:
        """Whether a folder holds such a run."""
        try:
            stored = read_json(folder / "config.json") or {}
            values = {**stored["agent"], **stored["flags"]}
        except (RunError, KeyError, TypeError):
            return False
        return all(
            values.get(name) == value
            for name, value in json.loads(json.dumps(self.identity)).items()
        )


def mention_changes(kept: Source, folder: Path) -> None:
    """Say in one line which of the project's own modules have changed since a run began."""
    if changed := differing_files(ROOT, kept.checkout):
        have = "has" if len(changed) == 1 else "have"
        warn(f"{join_first(changed)} {have} changed since {folder} began")


def mention_namesakes(place: Path, name: str, source: Source) -> None:
    """Say in one line which runs in a folder bear an agent's name and have another source."""
    others = []
    for file in sorted(place.glob(f"{glob.escape(name)}_s*_*/config.json")):
        with contextlib.suppress(RunError):
            record = (read_json(file) or {}).get("source", {"file": None})
            if record["file"] == source.file.name and record["digest"] != source.digest:
                others.append(file.parent.name)
    if others:
        warn_once(f"{place} has runs of other code under the name {name}: {join_first(others)}")


def bc_only(settings: Settings) -> Settings:
    """The same settings for the base alone: agents/bc.py for offline_steps."""
    source = load_source(BC_FILE)
    config = source.module.get_config()
    config.update({key: settings.agent[key] for key in config})
    flags = settings.flags | {"bc_steps": 0, "online_steps": 0}
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
