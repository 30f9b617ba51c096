"""Settings of an agent: their defaults, what they mean, and which values a run can use."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_collections

from utils.errors import UserError


class Option(NamedTuple):
    """One setting. Numbers are finite; of the bounds, those that are given hold."""

    default: Any
    doc: str
    above: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    choices: tuple[str, ...] = ()

    def describe(self) -> str:
        """What it means and its range, for --help."""
        bounds = {"above": self.above, "at least": self.at_least, "at most": self.at_most}
        found = [f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None]
        found += [f"one of {', '.join(self.choices)}"] if self.choices else []
        return f"{self.doc} ({', '.join(found)})" if found else self.doc

    def fault(self, value: Any) -> str | None:
        """What to give instead of a value that no run can use; None for one that is fine."""
        match self.default:
            case bool():
                return None
            case str():
                wrong = self.choices and value not in self.choices
                return f"use one of {', '.join(self.choices)}" if wrong else None
            case tuple():
                advice = "give positive layer widths, such as '(512,512)'"
                return None if are_widths(value) else advice
        return None if self.allows(value) else self.advice()

    def advice(self) -> str:
        """Which numbers to give."""
        if self.above == 0 and self.at_most is not None:
            return f"give a number above 0 and at most {self.at_most:g}"
        if self.above == 0:
            return "give a positive number"
        if self.above is not None:
            return f"give a number above {self.above:g}"
        return "give 0 or a positive number" if self.at_least == 0 else "give a number"

    def allows(self, value: float) -> bool:
        """Whether a number is finite and within the bounds."""
        return (
            math.isfinite(value)
            and (self.above is None or value > self.above)
            and (self.at_least is None or value >= self.at_least)
            and (self.at_most is None or value <= self.at_most)
        )


Options = dict[str, Option]


def are_widths(value: Any) -> bool:
    """Whether a value is a sequence of positive whole numbers, at least one."""
    return bool(value) and all(isinstance(width, int) and width > 0 for width in value)


def defaults(options: Options) -> ml_collections.ConfigDict:
    """The configuration with every default."""
    return ml_collections.ConfigDict({name: o.default for name, o in options.items()})


def check(options: Options, config: Mapping[str, Any]) -> None:
    """Raise UserError for the first value in a configuration that no run can use."""
    for name, option in options.items():
        if name in config and (advice := option.fault(config[name])):
            raise UserError(f"--agent.{name}={config[name]}: {advice}")
