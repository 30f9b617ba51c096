"""The text that is printed before training: tasks, and settings that differ from the defaults.

trqam: 2 runs in exp/Debug/TASK/trqam_sSEED_5371bf93
scene-play-singletask-task1-v0  seeds 0-1

settings that differ from the published defaults, [n] from where (--dry_run lists all settings):
  agent.action_chunking=True [1]  agent.kl_budget=0.5 [2]

[1] TRQAM paper (arXiv 2605.27079), settings shared by all methods
[2] command line
"""

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from configs.run_folder import DEFAULT, PRESET
from configs.settings import Settings
from utils.messages import WIDTH, short_path, wrapped

SHOWN_ABOVE = {"env_name", "seed", "num_seeds", "save_dir", "run_group"}
TWICE = "agent.horizon_length"  # equal to the flag of the same name
GLUE = "\xa0"  # replaces a space inside a setting, where no line may break


class Listed(Protocol):
    """The properties of a run that are printed."""

    @property
    def env_name(self) -> str: ...
    @property
    def agent_name(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def folder(self) -> Path: ...
    @property
    def settings(self) -> Settings: ...


class Entry(NamedTuple):
    """A value as text, and its source."""

    text: str
    source: str


Entries = dict[str, Entry]


class Group(NamedTuple):
    """Domains with the same entries."""

    domains: list[str]
    entries: Entries


def listing(runs: Sequence[Listed], everything: bool) -> str:
    """Return the text for runs: their tasks, and the settings that differ.

    everything: whether to list all settings and all folders, as --dry_run does.
    """
    common, groups = group_domains(runs, everything)
    used = [common, *(group.entries for group in groups)]
    marks = number_sources(
        entry.source for entries in used for entry in entries.values()
    )
    lines = [*task_lines(runs, everything), ""]
    if everything:
        lines += ["settings (default: of the flag or the agent file):"]
    elif any(used):
        what = "settings that differ from the published defaults"
        lines += [f"{what}, [n] from where (--dry_run lists all settings):"]
    lines += setting_lines(common, marks, everything)
    for group in groups:
        lines += wrapped(", ".join(group.domains) + ":")
        lines += setting_lines(group.entries, marks, everything)
    return "\n".join([*lines, *footnotes(marks), *notes(runs)])


def task_lines(runs: Sequence[Listed], everything: bool) -> list[str]:
    """Return the number of runs and their folder, then one line per task.

    everything: whether to list all folders.
    """
    tasks: dict[str, list[Listed]] = {}
    for run in runs:
        tasks.setdefault(run.env_name, []).append(run)
    if len(runs) == 1:
        where = f"1 run in {short_path(runs[0].folder)}"
    else:
        patterns = dict.fromkeys(short_path(pattern(run)) for run in runs)
        where = f"{len(runs)} runs in {', '.join(patterns)}"
    lines = wrapped(f"{runs[0].agent_name}: {where}")
    width = max(map(len, tasks))
    for task, members in tasks.items():
        lines.append(f"{task:{width}}  {seeds_text([run.seed for run in members])}")
        lines += [f"  {short_path(run.folder)}" for run in members if everything]
    return lines


def pattern(run: Listed) -> Path:
    """Return a run's folder with its task and seed replaced by TASK and SEED."""
    name = run.folder.name.replace(f"_s{run.seed}_", "_sSEED_")
    return run.folder.parent.with_name("TASK") / name


def seeds_text(seeds: Sequence[int]) -> str:
    """Return 'seed 3' or 'seeds 0-7', for consecutive seeds."""
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]}-{seeds[-1]}"


def group_domains(
    runs: Sequence[Listed], everything: bool
) -> tuple[Entries, list[Group]]:
    """Return the entries that all domains share, and groups of domains with equal other ones.

    everything: whether to include settings with their default value.
    """
    # All tasks of a domain have the same settings.
    domains = {run.env_name.partition("-singletask")[0]: run.settings for run in runs}
    listed = {
        name: entries_of(settings, everything) for name, settings in domains.items()
    }
    first, *others = listed.values()
    common: Entries = {}
    for name, entry in first.items():
        if all(entries.get(name) == entry for entries in others):
            common[name] = entry
    own: dict[str, Entries] = {}
    for domain, entries in listed.items():
        rest = entries.keys() - common.keys()
        own[domain] = {name: entry for name, entry in entries.items() if name in rest}
    return common, group_equal_entries(own)


def group_equal_entries(entries_by_domain: dict[str, Entries]) -> list[Group]:
    """Group domains with equal entries; leave out domains without entries."""
    groups: list[Group] = []
    for domain, entries in entries_by_domain.items():
        same = [group for group in groups if group.entries == entries]
        if same:
            same[0].domains.append(domain)
        elif entries:
            groups.append(Group([domain], entries))
    return groups


def entries_of(settings: Settings, everything: bool) -> Entries:
    """Return the settings to list, by name.

    everything: whether to include settings with their default value.
    """
    wanted = settings.differing - SHOWN_ABOVE - {TWICE}
    entries = {}
    for name, value in settings.values().items():
        if everything or name in wanted:
            entries[name] = Entry(str(value), settings.sources[name])
    return entries


def number_sources(sources: Iterable[str]) -> dict[str, str]:
    """Return a mark for each source but the default: '[1]', '[2]', in order of appearance."""
    cited = [source for source in dict.fromkeys(sources) if source != DEFAULT]
    return {source: f"[{i}]" for i, source in enumerate(cited, 1)}


def setting_lines(
    entries: Entries, marks: dict[str, str], everything: bool
) -> list[str]:
    """Return the lines of settings with the marks of their sources.

    Args:
        entries: the settings.
        marks: the mark of each source.
        everything: whether each setting has a line of its own.
    """
    if everything:
        width = max(map(len, entries), default=0)
        return [
            full_line(f"{name:{width}}", *entry, marks)
            for name, entry in entries.items()
        ]
    words = [
        f"{name}={text} {marks[source]}" for name, (text, source) in entries.items()
    ]
    lines = wrapped("  " + "  ".join(word.replace(" ", GLUE) for word in words))
    return [line.replace(GLUE, " ") for line in lines]


def full_line(name: str, text: str, source: str, marks: dict[str, str]) -> str:
    """Return '  name  value  source', with the source shortened to fit on the line.

    Args:
        name: the padded name.
        text: the value.
        source: the source of the value.
        marks: the mark of each source, whose footnote is complete.
    """
    line = f"  {name}  {text:24}  "
    words = f"{marks[source]} {source}" if source in marks else source
    return line + textwrap.shorten(
        words, max(20, WIDTH - len(line)), placeholder=" ..."
    )


def footnotes(marks: dict[str, str]) -> list[str]:
    """Return an empty line and one footnote per source; [] without sources."""
    lines = []
    for source, mark in marks.items():
        where = " (configs/presets.py)" if source.startswith(PRESET) else ""
        lines += wrapped(f"{mark} {source}{where}")
    return ["", *lines] if lines else []


def notes(runs: Sequence[Listed]) -> list[str]:
    """Return an empty line and the tuning notes, one for all domains that share it."""
    domains: dict[str, dict[str, None]] = {}
    for run in runs:
        name = run.env_name.partition("-singletask")[0]
        domains.setdefault(run.settings.note, {})[name] = None
    lines = []
    for note, names in domains.items():
        where = f"{', '.join(names)}: " if len(domains) > 1 else "coefficients "
        lines += wrapped(where + note) if note else []
    return ["", *lines] if lines else []
