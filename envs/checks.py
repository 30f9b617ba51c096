"""Checks of what an environment returns; an error is one line that names the value."""

from collections.abc import Mapping
from typing import Any

import numpy as np

SUCCESS_KEYS = ("success", "is_success")  # of info, in order of precedence
Shape = tuple[int, ...]
_LARGEST = float(np.finfo(np.float32).max)  # the replay stores float32


class EnvFault(ValueError):
    """An environment returned an unusable value; the message is one line."""


def check_observation(
    value: Any, shape: Shape, name: str = "observation"
) -> np.ndarray:
    """Return a copy of an observation as float32.

    It is a copy because an environment may write its next observation into the same array.

    Args:
        value: what the environment returned.
        shape: the shape of the observation space.
        name: what the message calls the value.

    Raises:
        EnvFault: for another shape, a non-numeric type, and values that are not finite in
            float32.
    """
    array = _numbers(value, name)
    if array.shape != shape:
        raise EnvFault(f"the {name} has the shape {array.shape} instead of {shape}")
    with np.errstate(over="ignore"):
        observation = np.array(array, np.float32)
    finite = np.isfinite(observation)
    if not finite.all():
        first = int(np.flatnonzero(~finite)[0])
        raise EnvFault(f"the {name} has {array.flat[first]} at index {first}")
    return observation


def check_number(value: Any, name: str) -> float:
    """Return a finite number, or the one element of an array; raise EnvFault otherwise."""
    array = _numbers(value, name)
    if array.size != 1:
        raise EnvFault(f"the {name} has the shape {array.shape} instead of one element")
    number = float(array.item())
    if not abs(number) <= _LARGEST:
        raise EnvFault(f"the {name} is {number}")
    return number


def success_of(info: Mapping[str, Any]) -> float:
    """Return the success in [0, 1] that an info reports, NaN if it reports none.

    Raises EnvFault for any other value.
    """
    key = next((key for key in SUCCESS_KEYS if info.get(key) is not None), None)
    if key is None:
        return np.nan
    success = check_number(info[key], f"{key} in info")
    if not 0.0 <= success <= 1.0:
        raise EnvFault(
            f"the {key} in info is {success:g}, which is not between 0 and 1"
        )
    return success


def _numbers(value: Any, name: str) -> np.ndarray:
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise EnvFault(f"the {name} is not an array of numbers ({reason})") from error
    if array.dtype.kind not in "biuf":
        text = " ".join(repr(value).split())
        raise EnvFault(f"the {name} is of type {array.dtype}, not numeric: {text:.80}")
    return array
