"""What reports call the methods: the agent, and the settings in which its runs differ."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reports.results import Result, as_json, real_folder, shown_value
from utils.errors import join_first, printable

GROUP_FOLDER = "in"
"""The setting that distinguishes runs of one method by their group's folder."""


def name_methods(results: list[Result]) -> list[Result]:
    """The same results, each method called by its agent and by the settings in which it differs
    from others of that agent.
    """
    settings = distinct_settings(results)
    by_agent: dict[str, list[dict[str, Any]]] = {}
    for result, own in zip(results, settings, strict=True):
        by_agent.setdefault(result.agent, []).append(own)
    differing = {
        agent: differing_keys(variants) for agent, variants in by_agent.items()
    }
    return [
        dataclasses.replace(result, method=method_name(result.agent, own, differing))
        for result, own in zip(results, settings, strict=True)
    ]


def distinct_settings(results: list[Result]) -> list[dict[str, Any]]:
    """Return the overrides of each result, and more where runs share method, task and seed.

    Runs in different group folders get the folder's name, or its path if names do not differ.
    Runs in one folder get the names of the base and the data that they were given, or else the
    hash in the run folder's name.
    """
    settings = [dict(result.overrides) for result in results]
    tell_apart(results, settings, lambda r: {GROUP_FOLDER: group_folder(r).name})
    tell_apart(results, settings, lambda r: {GROUP_FOLDER: str(group_folder(r))})
    tell_apart(results, settings, lambda r: r.origins)
    tell_apart(
        results, settings, lambda r: {"hash": real_folder(r).name.rpartition("_")[2]}
    )
    return settings


def tell_apart(
    results: list[Result],
    settings: list[dict[str, Any]],
    more_of: Callable[[Result], dict[str, str]],
) -> None:
    """Add settings to runs that still share their method, task and seed, to distinguish them.

    Args:
        results: all runs.
        settings: theirs; some grow.
        more_of: what is added to the settings of a run, where it differs between them.
    """
    members: dict[str, list[int]] = {}
    for i, result in enumerate(results):
        members.setdefault(as_json([result.agent, settings[i]]), []).append(i)
    for same in members.values():
        if len({(results[i].env_name, results[i].seed) for i in same}) == len(same):
            continue
        more = {i: more_of(results[i]) for i in same}
        if len(set(map(as_json, more.values()))) > 1:
            for i in same:
                settings[i] |= more[i]


def differing_keys(settings: list[dict[str, Any]]) -> set[str]:
    """The names of the settings that are not the same in all."""
    names = {name for own in settings for name in own}
    return {
        name for name in names if len({as_json(own.get(name)) for own in settings}) > 1
    }


def method_name(
    agent: str, settings: dict[str, Any], differing: dict[str, set[str]]
) -> str:
    """What a report calls a method; `differing` names the settings that it shows, by agent."""
    shown = {
        name: value for name, value in settings.items() if name in differing[agent]
    }
    words = [agent]
    for name, value in shown.items():
        sign = " " if name == GROUP_FOLDER else "="
        words.append(f"{printable(name)}{sign}{shown_value(value)}")
    return " ".join(words)


def group_folder(result: Result) -> Path:
    """The folder of a run's group, or a pickle."""
    if not result.config:
        return result.folder
    return Path(os.path.abspath(result.folder)).parent.parent


def without_doubles(results: list[Result], notes: list[str]) -> list[Result]:
    """The first result of each method, task and seed; the others are named in `notes`."""
    kept: dict[tuple[str, str, int], Result] = {}
    twice = []
    for result in results:
        key = (result.method, result.env_name, result.seed)
        if kept.setdefault(key, result) is not result:
            twice.append(str(result.folder))
    if twice:
        doubles = f"{len(twice)} runs have the method, task and seed of another"
        notes.append(f"{doubles} and are left out: {join_first(twice)}")
    return list(kept.values())
