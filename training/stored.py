"""What a run's folder holds already: whether the run may resume there, and what has changed
since it began.
"""

import contextlib
import dataclasses
import glob
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from configs.agent_source import ROOT, Source, differing_files, kept_source
from configs.flags import MAY_CHANGE
from configs.run_folder import TRAINS, read_config
from envs.tasks import alias_of
from training.run import Run, total_updates
from utils.errors import DamagedFile, UserError, join_first
from utils.files import write_json
from utils.logging import warn, warn_once
from utils.replay import run_length


def check_folder(run: Run) -> None:
    """Raise UserError where the folder cannot be written or holds another run, of other code or
    settings; the first ones are shown.
    """
    check_writable(run)
    stored = read_config(run.folder, TRAINS)
    if stored is None:
        mention_namesakes(run.folder.parent, run.agent_name, run.source)
        mention_alias(run)
        return
    check_source(run, stored)
    if found := differences(run, stored):
        raise UserError(
            f"{run.folder} holds a run with other settings ({'; '.join(found[:4])});"
            " give another --run_group, or --overwrite to delete it"
        )


def check_writable(run: Run) -> None:
    """Raise UserError where the folder cannot be made or written."""
    place = run.folder
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise UserError(
            f"--save_dir={run.settings.flags['save_dir']}: cannot write to {place}; give"
            " another folder"
        )


def differences(run: Run, stored: dict[str, Any]) -> list[str]:
    """The settings that differ from those of a config.json and may not, with both values."""
    ours = json.loads(json.dumps(run.config()))
    found = [
        f"{prefix}{name}: stored {stored[part].get(name)}, now {ours[part].get(name)}"
        for part, prefix in (("flags", "--"), ("agent", "--agent."))
        for name in sorted(set(stored[part]) | set(ours[part]))
        if name not in MAY_CHANGE and differs(stored, ours, part, name)
    ]
    steps, now = stored["flags"]["offline_steps"], ours["flags"]["offline_steps"]
    if steps != now and run.newest_checkpoint() > min(steps, now):
        found.append(
            f"--offline_steps: stored {steps}, now {now}, and the run is past the smaller"
            " of them"
        )
    if run.agent.SCHEDULED and found_total(stored) != run.total_updates:
        found.append(
            f"updates of the whole run: stored {found_total(stored)}, now"
            f" {run.total_updates}, and the agent's schedule depends on them"
        )
    return found


def found_total(stored: dict[str, Any]) -> int:
    """The updates of the whole run that a config.json describes."""
    return total_updates(stored["flags"], run_length(SimpleNamespace(**stored["agent"])))


def differs(stored: dict[str, Any], ours: dict[str, Any], part: str, name: str) -> bool:
    """Whether a setting has another value in two config.json.

    One that a version does not know has its default there: it differs only where the other
    version has it from elsewhere (the command line, a preset, the domain).

    Args:
        stored, ours: what the two hold.
        part: flags or agent.
        name: of the setting.
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


def check_source(run: Run, stored: dict[str, Any]) -> None:
    """Raise UserError where a user's agent file differs from what the run began with."""
    kept = kept_source(run.folder, stored)
    if kept is None:
        return
    differing = sorted({name for name, _ in kept.digests.items() ^ run.source.digests.items()})
    if differing and not (stored["source"]["of_checkout"] and run.source.of_checkout):
        raise UserError(
            f"--agent: the code differs from what {run.folder} began with "
            f"({join_first(differing)}; its own is in source/); "
            "give another --run_group, or --overwrite to delete the run"
        )
    if not run.is_done():  # the project's own code may be a newer version's
        if differing:
            warn(f"{stored['agent_file']} has changed since {run.folder} began")
        mention_changes(kept, run.folder)


def mention_alias(run: Run) -> None:
    """Say where an older version stored this run under OGBench's alias for its task."""
    alias = alias_of(run.env_name)
    older = dataclasses.replace(run, env_name=alias).folder if alias else None
    if older and (older / "config.json").exists():
        text = f"{older} is this run under another name of its task"
        warn_once(f"{text}; to continue it, move it to {run.folder}")


def check_data(run: Run, transitions: int, crc: str) -> None:
    """Raise UserError where the folder holds a run that was trained on other data.

    An older version's checksum, an integer, is of a sample: of such a run only the
    transitions are counted.
    """
    stored = (read_config(run.folder) or {}).get("dataset", {})
    before, checksum = stored.get("transitions", transitions), stored.get("crc", crc)
    if before == transitions and (checksum == crc or isinstance(checksum, int)):
        return
    flag = "--dataset" if run.settings.flags["dataset"] else "--ogbench_dataset_dir"
    change = (
        f"{before:,} -> {transitions:,} transitions"
        if before != transitions
        else "other values in as many rows"
    )
    raise UserError(
        f"{flag}: dataset changed since {run.folder} started ({change}): "
        "restore it, choose another --run_group, or --overwrite"
    )


def prepare(run: Run, overwrite: bool, found: dict[str, Any]) -> None:
    """Make the folder and write config.json; raises UserError where the data has changed.

    Args:
        run: whose folder it is.
        overwrite: whether to empty the folder first.
        found: what config.json holds besides `Run.config`.
    """
    if not overwrite:
        check_data(run, **found["dataset"])
    if overwrite and run.folder.exists():
        shutil.rmtree(run.folder)
    run.folder.mkdir(parents=True, exist_ok=True)
    stored = read_config(run.folder) or {}
    if kept_source(run.folder, stored):
        found = found | {"source": stored["source"]}
    else:
        run.source.keep(run.folder)
    write_json(run.folder / "config.json", run.config() | found)


def mention_changes(kept: Source, folder: Path) -> None:
    """Say in one line which of the project's own modules have changed since a run began."""
    if changed := differing_files(ROOT, kept.checkout):
        have = "has" if len(changed) == 1 else "have"
        warn(f"{join_first(changed)} {have} changed since {folder} began")


def mention_namesakes(place: Path, name: str, source: Source) -> None:
    """Say in one line which runs in a folder bear an agent's name and have another source."""
    others = []
    for file in sorted(place.glob(f"{glob.escape(name)}_s*_*/config.json")):
        with contextlib.suppress(DamagedFile):
            record = (read_config(file.parent) or {}).get("source", {"file": None})
            if record["file"] == source.file.name and record["digest"] != source.digest:
                others.append(file.parent.name)
    if others:
        warn_once(f"{place} has runs of other code under the name {name}: {join_first(others)}")
