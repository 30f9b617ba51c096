"""Stores online transitions in an append-only file."""

import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from training.checkpoints import CheckpointError
from utils.replay import FIELDS


class ReplayFile:
    """Online transitions in an append-only file, in the compact layout (utils/replay.py).

    Each transition has a row, and each trajectory one more for its final observation, with
    `starts` 0. A checkpoint stores a `position`: the number of rows and their CRC-32. `resume`
    deletes all later rows.

    Args:
        path: the file.
        observation_dim: O.
        action_dim: A.
    """

    def __init__(self, path: Path, observation_dim: int, action_dim: int):
        self.path = path
        widths = {"observations": (observation_dim,), "actions": (action_dim,)}
        self.dtype = np.dtype(
            [(name, "<f4", widths.get(name, ())) for name in (*FIELDS, "starts")]
        )
        self.rows = 0
        self.crc = 0
        self._file: Any = None

    def append(self, transition: dict[str, Any]) -> None:
        """Append one transition, as `OnlineEpisodes.add_result` returns it."""
        rows = np.zeros(2 if transition["terminals"] else 1, self.dtype)
        for name in FIELDS:
            rows[name][0] = transition[name]
        rows["starts"][0] = 1
        rows["observations"][1:] = transition["next_observations"]
        self._write(rows)

    def _write(self, rows: np.ndarray) -> None:
        if self._file is None:
            self._file = self.path.open("ab")
        data = rows.tobytes()
        self._file.write(data)
        self.rows += len(rows)
        self.crc = zlib.crc32(data, self.crc)

    def position(self) -> dict[str, int]:
        """Flush the file to disk and return the position of its end."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
        return {"rows": self.rows, "crc": self.crc}

    def read(self, position: dict[str, int]) -> np.ndarray:
        """Return the rows up to a position; raise CheckpointError if they have changed."""
        size = position["rows"] * self.dtype.itemsize
        data = b""
        if size:
            try:
                with self.path.open("rb") as file:
                    data = file.read(size)
            except FileNotFoundError:
                raise CheckpointError(f"{self.path} is missing") from None
        if len(data) != size or zlib.crc32(data) != position["crc"]:
            raise CheckpointError(
                f"the first {position['rows']} rows of {self.path} are not what was written"
            )
        return np.frombuffer(data, self.dtype)

    def resume(self, position: dict[str, int]) -> None:
        """Cut the file at a position and continue there."""
        if self.path.exists():
            os.truncate(self.path, position["rows"] * self.dtype.itemsize)
        self.rows = position["rows"]
        self.crc = position["crc"]

    def end_trajectory(self, observation: list[float]) -> None:
        """End the running trajectory at its newest observation [O].

        `as_dataset` marks its last transition as terminal.
        """
        row = np.zeros(1, self.dtype)
        row["observations"] = observation
        self._write(row)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def as_dataset(
    rows: np.ndarray, observation: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Convert the rows of a replay file to a compact dataset.

    observation: the newest one of the running episode [O]; None between episodes.
    """
    rows = rows.copy()
    rows["terminals"][np.flatnonzero(rows["starts"] == 0) - 1] = 1
    if observation is not None:
        rows = np.concatenate([rows, np.zeros(1, rows.dtype)])
        rows["observations"][-1] = observation
    return {name: rows[name] for name in FIELDS} | {
        "rows": np.flatnonzero(rows["starts"]).astype(np.int32)
    }
