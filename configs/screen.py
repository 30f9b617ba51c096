"""What is printed before a run: its tasks, and the settings that differ from the defaults.

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

from configs.settings import DEFAULT, Settings
from utils.logging import WIDTH, shown, wrapped

SHOWN_ABOVE = {"env_name", "seed", "num_seeds", "save_dir", "run_group"}
TWICE = "agent.horizon_length"  # the flag of the same name sets it
GLUE = "\xa0"  # stands for a space inside a setting, where no line may break


class Listed(Protocol):
    """What is listed of a run."""

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
    """What is printed before the runs: their tasks, and the settings that differ.

    everything: list all settings and every run's folder, as --dry_run does.
    """
    common, groups = grouped(runs, everything)
    used = [common, *(group.entries for group in groups)]
    marks = numbered(entry.source for entries in used for entry in entries.values())
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
    """How many runs and where, then each task on a line; with `everything` each folder too."""
    tasks: dict[str, list[Listed]] = {}
    for run in runs:
        tasks.setdefault(run.env_name, []).append(run)
    if len(runs) == 1:
        place = f"1 run in {shown(runs[0].folder)}"
    else:
        patterns = dict.fromkeys(shown(pattern(run)) for run in runs)
        place = f"{len(runs)} runs in {', '.join(patterns)}"
    lines = wrapped(f"{runs[0].agent_name}: {place}")
    width = max(map(len, tasks))
    for task, members in tasks.items():
        lines.append(f"{task:{width}}  {seeds_text([run.seed for run in members])}")
        lines += [f"  {shown(run.folder)}" for run in members if everything]
    return lines


def pattern(run: Listed) -> Path:
    """The run's folder with TASK and SEED for its own, equal for all runs of a command."""
    name = run.folder.name.replace(f"_s{run.seed}_", "_sSEED_")
    return run.folder.parent.with_name("TASK") / name


def seeds_text(seeds: Sequence[int]) -> str:
    """'seed 3', or 'seeds 0-7': the seeds of a command are consecutive."""
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]}-{seeds[-1]}"


def grouped(runs: Sequence[Listed], everything: bool) -> tuple[Entries, list[Group]]:
    """The entries that all domains share, then those of each domain besides.

    Domains whose own entries are equal are one group.
    """
    # A plan resolves the settings of a domain once, for all its tasks.
    domains = {run.env_name.partition("-singletask")[0]: run.settings for run in runs}
    listed = {name: entries_of(settings, everything) for name, settings in domains.items()}
    shared = set.intersection(*(set(entries.items()) for entries in listed.values()))
    first = next(iter(listed.values()))
    common = {name: entry for name, entry in first.items() if (name, entry) in shared}
    own = {
        domain: {name: entry for name, entry in entries.items() if name not in common}
        for domain, entries in listed.items()
    }
    return common, groups_of_equals(own)


def groups_of_equals(entries_by_domain: dict[str, Entries]) -> list[Group]:
    """Domains with equal entries as one group; those without entries are left out."""
    groups: list[Group] = []
    for domain, entries in entries_by_domain.items():
        same = [group for group in groups if group.entries == entries]
        if same:
            same[0].domains.append(domain)
        elif entries:
            groups.append(Group([domain], entries))
    return groups


def entries_of(settings: Settings, everything: bool) -> Entries:
    """The settings to list, by name."""
    values = settings.values()
    wanted = values if everything else settings.differing - SHOWN_ABOVE - {TWICE}
    sources = settings.sources
    return {name: Entry(str(values[name]), sources[name]) for name in values if name in wanted}


def numbered(sources: Iterable[str]) -> dict[str, str]:
    """A mark for each source but the default: '[1]', '[2]', in order of appearance."""
    cited = [source for source in dict.fromkeys(sources) if source != DEFAULT]
    return {source: f"[{i}]" for i, source in enumerate(cited, 1)}


def setting_lines(entries: Entries, marks: dict[str, str], everything: bool) -> list[str]:
    """The settings with their sources: one on a line or, where only some are listed, many."""
    if everything:
        width = max(map(len, entries), default=0)
        return [full_line(f"{name:{width}}", *entry, marks) for name, entry in entries.items()]
    words = [f"{name}={text} {marks[source]}" for name, (text, source) in entries.items()]
    lines = wrapped("  " + "  ".join(word.replace(" ", GLUE) for word in words))
    return [line.replace(GLUE, " ") for line in lines]


def full_line(name: str, text: str, source: str, marks: dict[str, str]) -> str:
    """'  name  value  source', the source shortened to what fits; its footnote is complete."""
    line = f"  {name}  {text:24}  "
    words = f"{marks[source]} {source}" if source in marks else source
    return line + textwrap.shorten(words, max(20, WIDTH - len(line)), placeholder=" ...")


def footnotes(marks: dict[str, str]) -> list[str]:
    """One for each source, after an empty line."""
    lines = []
    for source, mark in marks.items():
        where = " (configs/presets.py)" if source.startswith("preset ") else ""
        lines += wrapped(f"{mark} {source}{where}")
    return ["", *lines] if lines else []


def notes(runs: Sequence[Listed]) -> list[str]:
    """What other settings the coefficients were tuned for, after an empty line; one line for
    all domains of which this is equally true.
    """
    domains: dict[str, dict[str, None]] = {}
    for run in runs:
        name = run.env_name.partition("-singletask")[0]
        domains.setdefault(run.settings.note, {})[name] = None
    lines = []
    for note, names in domains.items():
        where = f"{', '.join(names)}: " if len(domains) > 1 else "coefficients "
        lines += wrapped(where + note) if note else []
    return ["", *lines] if lines else []
