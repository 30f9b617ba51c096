"""The rows of the table: what methods are called, and the agent file and settings of each."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple


class Method(NamedTuple):
    """A row: its name in publications, the name of the agent file, and the settings that make
    it this method, by key.
    """

    name: str
    agent: str
    settings: dict[str, str]


def read_methods() -> tuple[Method, ...]:
    """The rows of methods.csv; its settings are written KEY=VALUE, with spaces between them."""
    with open(Path(__file__).with_name("methods.csv"), newline="") as file:
        return tuple(
            Method(
                line["method"],
                line["agent"],
                dict(word.split("=", 1) for word in line["settings"].split()),
            )
            for line in csv.DictReader(file)
        )


METHODS = read_methods()


def row_name(agent: str, settings: Mapping[str, Any]) -> str | None:
    """What publications call an agent file with these settings; None where no row has them."""
    for method in METHODS:
        same = all(str(settings.get(key)) == value for key, value in method.settings.items())
        if method.agent == agent and same:
            return method.name
    return None
