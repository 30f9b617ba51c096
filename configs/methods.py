"""The methods of the results table: their names, agent files and settings."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple


class Method(NamedTuple):
    """A method: its name in publications, its agent file, and the settings that define it."""

    name: str
    agent: str
    settings: dict[str, str]


def read_methods() -> tuple[Method, ...]:
    """Read methods.csv, where settings are written KEY=VALUE and separated by spaces."""
    methods = []
    with open(Path(__file__).with_name("methods.csv"), newline="") as file:
        for line in csv.DictReader(file):
            settings = dict(word.split("=", 1) for word in line["settings"].split())
            methods.append(Method(line["method"], line["agent"], settings))
    return tuple(methods)


METHODS = read_methods()


def row_name(agent: str, settings: Mapping[str, Any]) -> str | None:
    """Return the published name of an agent file with these settings; None if it has none."""
    for method in METHODS:
        same = all(
            str(settings.get(key)) == value for key, value in method.settings.items()
        )
        if method.agent == agent and same:
            return method.name
    return None
