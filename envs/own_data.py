"""The two layouts of a user's own data.

ogbench   every state has a row, also a trajectory's last; terminals is 1 in that final row
flat      every row is a transition (s, a, r); terminals is 1 in the last one (D4RL, FQL)

`as_rows` turns both into the ogbench layout with masks.
"""

import dataclasses
import functools
import json
import operator
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from envs.arrays import ACTION_LIMIT, Arrays
from envs.own_files import ENDS, LIMITS, NEEDED, is_minari
from utils.errors import UserError
from utils.messages import say, short_path, warn


@dataclasses.dataclass(frozen=True)
class Reading:
    """How a file was read and what of it is not used; summed over the shards of a folder."""

    layout: str = ""
    why: str = ""
    transitions: int = 0
    trajectories: int = 0
    left_out: int = 0
    """Flat layout: transitions that end at a time limit without a next observation."""
    rewards_left_out: float = 0.0
    unread: int = 0
    """ogbench layout: final rows that hold a reward other than 0 or a mask of 0."""
    jumps: int = 0
    """Rows inside a trajectory whose next observation differs from the next row's."""
    ended: int = 0
    """Transitions with mask 0, after which no value is bootstrapped."""
    clipped: int = 0
    """Action entries beyond ±1 by less than a thousandth."""
    assumed_ends: int = 0
    """Flat layout without masks: terminal rows that are assumed to end the task."""
    ends_at_limits: int = 0
    """Flat layout without masks: terminal rows that are marked as a time limit too."""
    endless: int = 0
    """ogbench layout without masks: trajectories, of which none ends the task."""

    def __add__(self, other: "Reading") -> "Reading":
        names = {field.name for field in dataclasses.fields(self)} - {"layout", "why"}
        sums = {name: getattr(self, name) + getattr(other, name) for name in names}
        return dataclasses.replace(self, **sums)

    def announce(self, source: Path) -> None:
        """Print how a file or folder was read, and warn of what is not used."""
        size = f"{self.transitions:,} transitions in {self.trajectories:,} trajectories"
        path = short_path(source)
        say(f"{path}: {size}, layout {self.layout} ({self.why})")
        for line in self.losses():
            warn(f"{path}: {line}")

    def losses(self) -> list[str]:
        """Return one line for each kind of data that is ignored or reinterpreted."""
        lines = []
        if self.left_out:
            lines.append(
                f"{self.left_out:,} transitions at a time limit are left out, because their"
                " next observation is not stored (their rewards sum to"
                f" {self.rewards_left_out:g}); add next_observations to keep them"
            )
        if self.unread:
            lines.append(
                f"{self.unread:,} final rows hold a reward other than 0 or a mask of 0, which"
                " is not read; if they are transitions, give --dataset_layout=flat"
            )
        if self.jumps:
            lines.append(
                f"{self.jumps:,} next_observations differ from the next row's observation"
                " though no trajectory ends there; each starts a new trajectory"
            )
        if self.assumed_ends:
            lines.append(
                f"{self.assumed_ends:,} terminal rows are taken to end the task (mask 0),"
                " because there are no masks; where they are time limits, set terminals to 0"
                " and timeouts to 1, or store masks"
            )
        if self.ends_at_limits:
            lines.append(
                f"{self.ends_at_limits:,} rows are terminal and at a time limit at once: taken"
                " to end the task (mask 0); set terminals to 0 there, or store masks"
            )
        if self.endless:
            lines.append(
                f"there are no masks, so none of the {self.endless:,} trajectories ends the"
                " task (mask 1 everywhere); store masks, 0 in the row before a final state that"
                " ended it"
            )
        if self.ended == self.transitions > self.trajectories:
            lines.append(
                "the mask of every transition is 0, in the middle of trajectories too: are"
                " masks inverted?"
            )
        if self.clipped:
            lines.append(
                f"{self.clipped:,} numbers of actions just beyond ±1 are clipped"
            )
        return lines

    def write(self, path: Path) -> None:
        """Write this record as JSON."""
        path.write_text(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def read(cls, path: Path) -> "Reading":
        """Read the record that `write` stored."""
        return cls(**json.loads(path.read_text()))


def sum_readings(readings: list[Reading]) -> Reading:
    """Add the readings of all shards of a folder."""
    return functools.reduce(operator.add, readings)


# ---------------------------------------------------------------- layouts


def layout_evidence(arrays: Arrays) -> tuple[str | None, str]:
    """Infer the layout from the arrays; return (layout or None, reason)."""
    flat_keys = [name for name in ("next_observations", *ENDS) if name in arrays]
    if flat_keys:
        return "flat", f"it holds {', '.join(flat_keys)}"
    final = arrays["terminals"] > 0
    if "masks" in arrays:
        return _evidence_of_masks(arrays["masks"], final)
    rewards = arrays["rewards"]
    filler = not rewards[final].any() and not arrays["actions"][final].any()
    if not filler and not np.isin(rewards[final], rewards[~final]).all():
        return "flat", "a terminal row has a reward that no other row has"
    return None, ""


def _evidence_of_masks(masks: np.ndarray, final: np.ndarray) -> tuple[str | None, str]:
    if (masks[final] == 0).any():
        return "flat", "a terminal row has mask 0"
    if (masks[:-1][final[1:]] == 0).any():
        return (
            "ogbench",
            "masks are 0 in rows before terminal rows, and in none of those",
        )
    return None, ""


def choose_layout(
    files: Iterable[tuple[Path, Arrays]], asked: str, where: str
) -> tuple[str, str]:
    """Return the layout of a file or of all shards, and the reason.

    Raises UserError if --dataset_layout=auto finds no evidence, or evidence for both layouts.

    Args:
        files: each file with its arrays.
        asked: the value of --dataset_layout.
        where: flag and path, which begin the message.
    """
    if asked != "auto":
        return asked, f"--dataset_layout={asked}"
    reasons: dict[str, str] = {}
    for path, arrays in files:
        minari = ("ogbench", "Minari's") if is_minari(path) else None
        layout, why = minari or layout_evidence(arrays)
        if layout:
            reasons.setdefault(layout, why)
    if len(reasons) == 1:
        return next(iter(reasons.items()))
    problem = "nothing in it shows its layout"
    if reasons:
        problem = "its shards are of both layouts"
    raise UserError(
        f"{where}: {problem}; give --dataset_layout=ogbench if the final state of every"
        " trajectory has a row of its own, with terminals 1 there, or --dataset_layout=flat if"
        " every row is a transition"
    )


def as_rows(arrays: Arrays, layout: str, why: str) -> tuple[Arrays, Reading]:
    """Convert arrays to the ogbench layout with masks, and record how they were read.

    Args:
        arrays: the arrays by name.
        layout: their layout, ogbench or flat.
        why: how the layout was chosen.
    """
    if layout == "flat":
        rows, reading = _flat_rows(arrays)
    else:
        rows, reading = _ogbench_rows(arrays)
    final = rows["terminals"] > 0
    clipped = int((np.abs(arrays["actions"]) > 1).sum())
    rows["actions"] = np.clip(rows["actions"], -ACTION_LIMIT, ACTION_LIMIT)
    counts = {
        "transitions": int((~final).sum()),
        "trajectories": int((~final[:-1] & final[1:]).sum()),
        "ended": int((rows["masks"][~final] == 0).sum()),
        "clipped": clipped,
    }
    return rows, dataclasses.replace(reading, layout=layout, why=why, **counts)


def _ogbench_rows(arrays: Arrays) -> tuple[Arrays, Reading]:
    """Add masks to rows of the ogbench layout; the last row always ends a trajectory."""
    final = arrays["terminals"] > 0
    final[-1:] = True
    masks = arrays.get("masks", np.ones(len(final), np.float32))
    unread = final & ((arrays["rewards"] != 0) | (masks == 0))
    endless = 0 if "masks" in arrays else int((~final[:-1] & final[1:]).sum())
    rows = {name: arrays[name] for name in NEEDED} | {
        "masks": masks,
        "terminals": final.astype(np.float32),
    }
    return rows, Reading(unread=int(unread.sum()), endless=endless)


def _flat_rows(arrays: Arrays) -> tuple[Arrays, Reading]:
    """Give every trajectory's final state a row of its own; see `_flat_ends`."""
    masks = arrays.get("masks", 1 - arrays["terminals"])
    ends, dropped, final_states, jumps = _flat_ends(arrays, masks)
    # a dropped transition's own row becomes the final state
    needs_row = ends & ~dropped
    source = np.repeat(np.arange(len(ends)), 1 + needs_row)
    is_new = np.diff(source, prepend=-1) == 0
    rows = {name: arrays[name][source] for name in NEEDED} | {"masks": masks[source]}
    rows["observations"][is_new] = final_states[needs_row]
    rows["rewards"][is_new] = 0
    rows["masks"][is_new] = 1
    rows["terminals"] = (is_new | dropped[source]).astype(np.float32)
    has_ends = any(name in arrays for name in ("masks", *ENDS))
    return rows, Reading(
        left_out=int(dropped.sum()),
        rewards_left_out=float(arrays["rewards"][dropped].sum()),
        jumps=jumps,
        assumed_ends=0 if has_ends else int(arrays["terminals"].sum()),
        ends_at_limits=0 if "masks" in arrays else _ends_at_limits(arrays),
    )


def _flat_ends(
    arrays: Arrays, masks: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Return (ends [R], dropped [R], final states [R, O], number of jumps).

    A final state is the last next_observation. Without next_observations it is unknown: where
    the task ended (mask 0) it is not needed, and the last observation is repeated; at a time
    limit it is needed, so the last transition is dropped.
    """
    flags = [arrays[name] > 0 for name in ("terminals", *ENDS) if name in arrays]
    ends = np.any(flags, axis=0)
    observations = arrays["observations"]
    following = arrays.get("next_observations")
    if following is None:
        ends[-1:] = True
        return ends, ends & (masks > 0), observations, 0
    continues = np.all(following[:-1] == observations[1:], axis=1)
    jumps = int((~continues & ~ends[:-1]).sum())
    ends = np.append(~continues | ends[:-1], True)
    return ends, np.zeros(len(ends), bool), following, jumps


def _ends_at_limits(arrays: Arrays) -> int:
    """Count the terminal rows that are marked as a time limit too."""
    limits = [arrays[name] > 0 for name in LIMITS if name in arrays]
    return int((np.any(limits, axis=0) & (arrays["terminals"] > 0)).sum())
