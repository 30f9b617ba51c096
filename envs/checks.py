"""What an environment returns, checked; what cannot be used is one line that names it."""

from collections.abc import Mapping
from typing import Any

import numpy as np

SUCCESS_KEYS = ("success", "is_success")  # of info, in order of precedence
Shape = tuple[int, ...]
_LARGEST = float(np.finfo(np.float32).max)  # what the replay stores


class EnvFault(ValueError):
    """One line on what an environment returned that cannot be used."""


def check_observation(value: Any, shape: Shape, name: str = "observation") -> np.ndarray:
    """A copy of an observation as float32; an environment may write the next into its array.

    Args:
        value: what the environment returned.
        shape: that of its observation space.
        name: what the message calls it.

    Raises:
        EnvFault: another shape, no numbers, NaN or infinity (also what is infinite as float32).
    """
    given = _numbers(value, name)
    if given.shape != shape:
        raise EnvFault(f"the {name} has the shape {given.shape} instead of {shape}")
    with np.errstate(over="ignore"):
        observation = np.array(given, np.float32)
    finite = np.isfinite(observation)
    if not finite.all():
        first = int(np.flatnonzero(~finite)[0])
        raise EnvFault(f"the {name} has {given.flat[first]} at index {first}")
    return observation


def check_number(value: Any, name: str) -> float:
    """A finite number, also of an array of one element; raises EnvFault for anything else."""
    given = _numbers(value, name)
    if given.size != 1:
        raise EnvFault(f"the {name} has the shape {given.shape} instead of one element")
    number = float(given.item())
    if not abs(number) <= _LARGEST:
        raise EnvFault(f"the {name} is {number}")
    return number


def success_of(info: Mapping[str, Any]) -> float:
    """The success in [0, 1] that an info reports, NaN if it reports none; raises EnvFault."""
    key = next((key for key in SUCCESS_KEYS if info.get(key) is not None), None)
    if key is None:
        return np.nan
    success = check_number(info[key], f"{key} in info")
    if not 0.0 <= success <= 1.0:
        raise EnvFault(f"the {key} in info is {success:g}, which is not between 0 and 1")
    return success


def _numbers(value: Any, name: str) -> np.ndarray:
    try:
        given = np.asarray(value)
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise EnvFault(f"the {name} is no array of numbers ({reason})") from error
    if given.dtype.kind not in "biuf":
        shown = " ".join(repr(value).split())
        raise EnvFault(f"the {name} is of type {given.dtype}, not numeric: {shown:.80}")
    return given
