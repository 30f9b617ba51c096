"""The methods with published figures: their names, agent files and settings."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple


class Method(NamedTuple):
    """A method: its name in publications, its agent file, and the settings that define it."""

    name: str
    agent: str
    settings: dict[str, str]
    table: str
    """paper: one of the results table; beyond: published since."""


def read_methods() -> tuple[Method, ...]:
    """Read methods.csv, where settings are written KEY=VALUE and separated by spaces."""
    methods = []
    with open(Path(__file__).with_name("methods.csv"), newline="") as file:
        for line in csv.DictReader(file):
            settings = dict(word.split("=", 1) for word in line["settings"].split())
            names = line["method"], line["agent"]
            methods.append(Method(*names, settings, line["table"]))
    return tuple(methods)


KNOWN = read_methods()
METHODS = tuple(method for method in KNOWN if method.table == "paper")
"""Those of the results table."""


def row_name(agent: str, settings: Mapping[str, Any]) -> str | None:
    """Return the published name of an agent file with these settings; None if it has none."""
    for method in KNOWN:
        same = all(
            str(settings.get(key)) == value for key, value in method.settings.items()
        )
        if method.agent == agent and same:
            return method.name
    return None
