"""Settings of an agent: their defaults, descriptions and allowed values."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_collections

from utils.errors import UserError


class Option(NamedTuple):
    """One setting. A number must be finite and within the bounds that are not None; a tuple of
    positive integers holds layer widths; a default of None allows any value. The type of the
    default is that of every value: 1.0 allows 0.5, 1 does not.
    """

    default: Any
    doc: str
    above: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    choices: tuple[Any, ...] = ()

    def describe(self) -> str:
        """Return the description and the range, for --help."""
        bounds = {
            "above": self.above,
            "at least": self.at_least,
            "at most": self.at_most,
        }
        ranges = [
            f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None
        ]
        if self.choices:
            ranges.append(self.choose())
        return f"{self.doc} ({', '.join(ranges)})" if ranges else self.doc

    def fault(self, value: Any) -> str | None:
        """Return the advice for a value that is not allowed; None for an allowed value."""
        if self.choices:
            unset = value is None and self.default is None
            return None if unset or value in self.choices else f"use {self.choose()}"
        match self.default:
            case None | bool() | str():
                return None
            case tuple():
                return fault_of_tuple(self.default, value)
            case int() | float():
                return None if self.allows(value) else self.advice()
        kind = type(self.default).__name__
        return f"the default is of type {kind}; give a number, a text, a tuple or None"

    def choose(self) -> str:
        """List the choices."""
        return f"one of {', '.join(map(str, self.choices))}"

    def advice(self) -> str:
        """Say which numbers are allowed."""
        if self.above == 0 and self.at_most is not None:
            return f"give a number above 0 and at most {self.at_most:g}"
        if self.above == 0:
            return "give a positive number"
        if self.above is not None:
            return f"give a number above {self.above:g}"
        if self.at_least == 0 and self.at_most is not None:
            return f"give a number from 0 to {self.at_most:g}"
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


def fault_of_tuple(default: tuple, value: Any) -> str | None:
    """Return the advice for a tuple that is not allowed where `default` is; else None."""
    if are_widths(default):
        advice = "give positive layer widths, such as '(512,512)'"
        return None if are_widths(value) else advice
    return None if all(map(is_finite, value)) else "give finite numbers"


def are_widths(value: Any) -> bool:
    """Whether a value is a non-empty sequence of positive integers."""
    return bool(value) and all(isinstance(width, int) and width > 0 for width in value)


def is_finite(value: Any) -> bool:
    """Return False for NaN and infinities, True for everything else."""
    return not isinstance(value, float) or math.isfinite(value)


def defaults(options: Options) -> ml_collections.ConfigDict:
    """Return the configuration with the default of every setting."""
    return ml_collections.ConfigDict({name: o.default for name, o in options.items()})


def check(options: Options, config: Mapping[str, Any]) -> None:
    """Raise UserError for the first value in a configuration that is not allowed."""
    for name, option in options.items():
        if name in config and (advice := option.fault(config[name])):
            raise UserError(f"--agent.{name}={config[name]}: {advice}")
