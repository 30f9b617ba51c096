"""Compares a run with its folder: whether it may resume there, and what has changed."""

import contextlib
import glob
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from configs.agent_source import ROOT, Source, differing_files, kept_source
from configs.flags import MAY_CHANGE
from configs.run_folder import DEFAULT, NEEDED_TO_RESUME, read_config
from envs.tasks import folder_flag
from training.run import Run, total_updates
from utils.errors import DamagedFile, UserError, join_first
from utils.files import write_json
from utils.messages import warn, warn_once


def check_folder(run: Run) -> None:
    """Raise UserError if the folder cannot be written, or holds other code or settings."""
    check_writable(run)
    stored = read_config(run.folder, NEEDED_TO_RESUME)
    if stored is None:
        mention_namesakes(run.folder.parent, run.agent_name, run.source)
        return
    check_source(run, stored)
    check_settings(run, stored)


def check_finished(runs: Iterable[Run]) -> None:
    """Raise UserError for finished runs that `check_folder` refuses. Warn of damaged ones and,
    once for all of them, that the project's own agent files have changed.
    """
    changed = []
    for run in runs:
        try:
            changed += [run] if changed_since(run) else []
        except DamagedFile as error:
            warn(error.fault)
    if changed:
        names = join_first(dict.fromkeys(run.agent_name for run in changed))
        warn(
            f"{len(changed)} finished runs are of agent files that have changed since ({names};"
            f" {changed[0].folder}); to train them anew: another --run_group, or main.py with"
            " --overwrite"
        )


def changed_since(run: Run) -> list[str]:
    """List the agent's files that have changed since the run in the folder began.

    Raises UserError if the folder holds other settings, or other code of a user's.
    """
    stored = read_config(run.folder, NEEDED_TO_RESUME)
    if stored is None:
        return []
    check_settings(run, stored)
    return changed_source(run, stored)


def check_settings(run: Run, stored: dict[str, Any]) -> None:
    """Raise UserError if a config.json has other settings than the run."""
    if found := differences(run, stored):
        raise UserError(
            f"{run.folder} holds a run with other settings ({'; '.join(found[:4])});"
            " give another --run_group, or delete that folder"
        )


def check_writable(run: Run) -> None:
    """Raise UserError if the folder cannot be created or written."""
    place = run.folder
    # unlike Path.exists, it is False below a folder that may not be entered
    while not os.path.exists(place) and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise UserError(
            f"--save_dir={run.settings.flags['save_dir']}: cannot write to {place}; give"
            " another folder"
        )


def differences(run: Run, stored: dict[str, Any]) -> list[str]:
    """List the settings that differ from those of a config.json although they must not."""
    ours = json.loads(json.dumps(run.config()))
    found = []
    for part, prefix in (("flags", "--"), ("agent", "--agent.")):
        for name in sorted({*stored[part], *ours[part]} - MAY_CHANGE):
            if differs(stored, ours, part, name):
                values = f"stored {stored[part].get(name)}, now {ours[part].get(name)}"
                found.append(f"{prefix}{name}: {values}")
    steps = stored["flags"]["offline_steps"]
    now = ours["flags"]["offline_steps"]
    if steps != now and run.newest_checkpoint() > min(steps, now):
        found.append(
            f"--offline_steps: stored {steps}, now {now}, and the run has passed the smaller"
            " one"
        )
    if run.agent.SCHEDULED and stored_total(stored) != run.total_updates:
        found.append(
            f"updates of the run: stored {stored_total(stored)}, now {run.total_updates},"
            " and the agent's schedule depends on them"
        )
    return found


def stored_total(stored: dict[str, Any]) -> int:
    """Return the number of all updates of the run that a config.json describes."""
    return total_updates(stored["flags"], SimpleNamespace(**stored["agent"]))


def differs(stored: dict[str, Any], ours: dict[str, Any], part: str, name: str) -> bool:
    """Whether a setting differs between two config.json.

    A version that does not know the setting behaves as with its default. Then the two differ
    only if the other one set it (by the command line, a preset or the domain).

    Args:
        stored: the config.json in the folder.
        ours: the one to be written.
        part: "flags" or "agent".
        name: the name of the setting.
    """
    known = [config for config in (stored, ours) if name in config[part]]
    if len(known) == 2:
        return stored[part][name] != ours[part][name]
    source = name if part == "flags" else f"agent.{name}"
    return any(config["sources"].get(source, DEFAULT) != DEFAULT for config in known)


def check_source(run: Run, stored: dict[str, Any]) -> None:
    """Raise UserError if a user's agent file has changed since the run began; else warn.

    Warnings are about the project's own code.
    """
    differing = changed_source(run, stored)
    file = stored["agent_file"]
    if differing and run.is_done():
        warn(
            f"{file} has changed since {run.folder}, which has finished; to train it anew:"
            " another --run_group, or --overwrite"
        )
    elif differing:
        warn(f"{file} has changed since {run.folder} began")
    kept = kept_source(run.folder, stored)
    # modules of the project do not matter to a finished run
    if kept and not run.is_done():
        mention_changes(kept, run.folder)


def changed_source(run: Run, stored: dict[str, Any]) -> list[str]:
    """List the files of the agent that have changed since the run began.

    Raises UserError if there are any and they are not the project's own.
    """
    kept = kept_source(run.folder, stored)
    if kept is None:
        return []
    differing = sorted(
        {name for name, _ in kept.digests.items() ^ run.source.digests.items()}
    )
    if differing and not (stored["source"]["of_checkout"] and run.source.of_checkout):
        raise UserError(
            f"--agent: the code differs from what {run.folder} began with "
            f"({join_first(differing)}; its own is in source/); "
            "give another --run_group, or delete that folder"
        )
    return differing


def check_data(run: Run, transitions: int, crc: str) -> None:
    """Raise UserError if the folder holds a run that was trained on other data.

    Args:
        run: the run.
        transitions: the number of transitions now.
        crc: the checksum of the data now.
    """
    stored = (read_config(run.folder) or {}).get("dataset", {})
    before = stored.get("transitions", transitions)
    if before == transitions and stored.get("crc", crc) == crc:
        return
    named = run.settings.flags["dataset"]
    flag = "--dataset" if named else f"--{folder_flag(run.env_name)}"
    change = (
        f"{before:,} -> {transitions:,} transitions"
        if before != transitions
        else "as many transitions, but other values"
    )
    raise UserError(
        f"{flag}: dataset changed since {run.folder} started ({change}): "
        "restore it, choose another --run_group, or delete that folder"
    )


def check_environment(run: Run, described: dict[str, Any] | None) -> None:
    """Raise UserError if the data describes another environment than when the run began.

    Args:
        run: the run.
        described: the entry of config.json now; None for tasks that have none.
    """
    stored = (read_config(run.folder) or {}).get("environment", described)
    if stored != described:
        raise UserError(
            f"--{folder_flag(run.env_name)}: the file of demonstrations describes another"
            f" environment than when {run.folder} started: restore it, choose another"
            " --run_group, or delete that folder"
        )


def prepare_folder(run: Run, overwrite: bool, found: dict[str, Any]) -> None:
    """Create the folder and write config.json; raise UserError if the data has changed.

    Args:
        run: the run.
        overwrite: whether to empty the folder first.
        found: the entries of config.json besides `Run.config`.
    """
    if not overwrite:
        check_data(run, **found["dataset"])
        check_environment(run, found.get("environment"))
    if overwrite and run.folder.exists():
        if (step := run.newest_checkpoint()) >= 0:
            warn(f"--overwrite: {run.folder} is deleted, which was at step {step:,}")
        shutil.rmtree(run.folder)
    run.folder.mkdir(parents=True, exist_ok=True)
    stored = read_config(run.folder) or {}
    if kept_source(run.folder, stored):
        found = found | {"source": stored["source"]}
    else:
        run.source.keep(run.folder)
    write_json(run.folder / "config.json", run.config() | found)


def mention_changes(kept: Source, folder: Path) -> None:
    """Warn of the project's own modules that have changed since a run began."""
    if changed := differing_files(ROOT, kept.checkout):
        have = "has" if len(changed) == 1 else "have"
        warn(f"{join_first(changed)} {have} changed since {folder} began")


def mention_namesakes(place: Path, name: str, source: Source) -> None:
    """Warn of runs in a folder with the same agent name but another source.

    Args:
        place: the folder of a task's runs.
        name: the name of the agent.
        source: the source of the agent.
    """
    others = []
    for file in sorted(place.glob(f"{glob.escape(name)}_s*_*/config.json")):
        with contextlib.suppress(DamagedFile):
            record = (read_config(file.parent) or {}).get("source", {"file": None})
            if record["file"] == source.file.name and record["digest"] != source.digest:
                others.append(file.parent.name)
    if others:
        warn_once(
            f"{place} has runs of other code under the name {name}: {join_first(others)}"
        )
