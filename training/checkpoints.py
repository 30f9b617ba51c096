"""Checkpoints through Orbax: whole or not there at all, written in the background, and checked
when they are read.

A checkpoint is a tree of arrays and a record (a JSON object). Beside the record stand shape,
type and CRC-32 of every array and a CRC-32 of all that: what is read is what was written, or it
is refused.
"""

import contextlib
import functools
import json
import logging
import math
import os
import re
import shutil
import sys
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax.serialization import from_state_dict, to_state_dict
from orbax.checkpoint.checkpoint_managers import (
    AnyPreservationPolicy,
    LatestN,
    PreservationPolicy,
)

from agents.base import Agent
from utils.errors import RunError, UserError
from utils.logging import say


class CheckpointError(RunError):
    """A checkpoint that cannot be used, and why."""


class Checkpoints:
    """The checkpoints of one run folder, by step; a context manager that waits for what is
    still being written.

    Args:
        folder: where they lie, one folder for each step.
        keep: how many of the newest stay; None for a reader, who changes nothing.
        precious: which others stay of those there are; asked whenever one is written.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        keep: int | None = None,
        precious: Callable[[Sequence[int]], Collection[int]] = lambda steps: (),
    ):
        self.folder = Path(folder).absolute()
        self._keep, self._precious = keep, precious
        if keep is not None or self.folder.is_dir():
            self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        _quiet_orbax()
        if self._keep is None:
            options = ocp.CheckpointManagerOptions(read_only=True, create=False)
            return ocp.CheckpointManager(self.folder, options=options)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=AnyPreservationPolicy(
                [LatestN(self._keep), _Precious(self._precious)]
            ),
            cleanup_tmp_directories=True,  # of a process that was killed while it wrote
            # Where they cannot be made in the background, Orbax's threads wait for them until a
            # timeout ends the process.
            async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
        )
        return ocp.CheckpointManager(self.folder, options=options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failed: type[BaseException] | None, *_) -> None:
        if self._keep is not None:
            with contextlib.suppress(*[RunError] if failed else []):  # the first error counts
                self.wait()
            self._manager.close()

    def steps(self) -> list[int]:
        """The steps of all checkpoints, the newest last."""
        return sorted(int(path.name) for path in self.folder.glob("*") if path.name.isdigit())

    def latest(self) -> int | None:
        """The step of the newest checkpoint, the one being written included; None where there
        is none.
        """
        return self._manager.latest_step()

    # ---------------------------------------------------------------- writing

    def save(self, step: int, tree: Any, record: dict[str, Any]) -> None:
        """Write a checkpoint; returns once the arrays are copied and goes on in the background.

        tree: nested dicts of arrays; record: a JSON object. Raises RunError where an array is
        not finite, and where this or the last checkpoint cannot be written.
        """
        # Copies: on a CPU the host's view of an array is the array, which the next update
        # overwrites.
        host = jax.tree.map(np.array, jax.device_get(tree))
        arrays = {}
        for path, leaf in jax.tree_util.tree_leaves_with_path(host):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            if not np.isfinite(leaf).all():
                raise RunError(
                    f"{name} is not finite at step {step}: no checkpoint written;"
                    f" {self.last_good()}"
                )
            arrays[name] = _fingerprint(leaf)
        content: dict[str, Any] = {"record": record, "arrays": arrays}
        content |= {"crc": _crc(json.dumps(content, sort_keys=True).encode())}
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(host), record=ocp.args.JsonSave(content)
        )
        try:
            self._manager.save(step, args=arguments, force=True)
        except Exception as error:  # of many types, by what fails below Orbax
            raise self._unwritten(error) from error

    def wait(self) -> None:
        """Wait until everything is written; raises RunError where it could not be."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._unwritten(error) from error

    def check(self) -> None:
        """Raise RunError where what is written in the background could not be."""
        try:
            self._manager.check_for_errors()
        except Exception as error:
            raise self._unwritten(error) from error

    def last_good(self) -> str:
        """Half a sentence on what a run can go on from, once what is being written is there."""
        with contextlib.suppress(Exception):  # of many types; told where it matters
            self._manager.wait_until_finished()
        steps = self.steps()
        return (
            f"the last good checkpoint is that of step {steps[-1]}"
            if steps
            else "there is no checkpoint yet"
        )

    def _unwritten(self, error: Exception) -> RunError:
        return RunError(
            f"cannot write a checkpoint in {self.folder} ({self._reason(error)});"
            f" {self.last_good()}: make room or mend it, and give the same command again"
        )

    def _reason(self, error: Exception) -> str:
        """What an error of Orbax's says, in one line; the cause stands at its end, behind many
        paths and before its details.
        """
        text = " ".join(
            f"{type(error).__name__}: {error}".replace(f"{self.folder}/", "").split()
        )
        text = re.split(r" \[(?:tensorstore_spec|source locations)=", text)[0]
        return text if len(text) <= 300 else f"{text[:100]} ... {text[-200:]}"

    def set_aside(self, steps: list[int]) -> None:
        """Move checkpoints to <folder>.unreadable, where they are in nobody's way."""
        aside = self.folder.with_name(f"{self.folder.name}.unreadable")
        for step in steps:
            aside.mkdir(exist_ok=True)
            taken = sum(path.name.partition("_")[0] == str(step) for path in aside.iterdir())
            os.replace(
                self.folder / str(step), aside / (f"{step}_{taken}" if taken else str(step))
            )
        self._reopen(steps)

    def remove(self, steps: list[int]) -> None:
        """Delete checkpoints that training will write again."""
        for step in steps:
            shutil.rmtree(self.folder / str(step))
        self._reopen(steps)

    def _reopen(self, changed: list[int]) -> None:
        if changed:
            self._manager.close()
            self._manager = self._open()

    # ---------------------------------------------------------------- reading

    def read(self, step: int) -> tuple[dict, dict[str, Any]]:
        """The tree of a step, as nested dicts of NumPy arrays, and its record; raises
        CheckpointError.
        """
        try:
            content = self._manager.restore(
                step, args=ocp.args.Composite(record=ocp.args.JsonRestore())
            ).record
            crc = content.pop("crc")
            if crc != _crc(json.dumps(content, sort_keys=True).encode()):
                raise ValueError("its record is not what was written")
            tree = self._manager.restore(
                step, args=ocp.args.Composite(state=ocp.args.StandardRestore())
            ).state
            tree = jax.tree.map(np.asarray, tree)
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
                name = jax.tree_util.keystr(path, simple=True, separator="/")
                if content["arrays"].pop(name) != _fingerprint(leaf):
                    raise ValueError(f"{name} is not what was written")
            if content["arrays"]:
                raise ValueError(f"{next(iter(content['arrays']))} is missing")
        except Exception as error:  # of many types, by what is damaged below Orbax
            raise CheckpointError(
                f"checkpoint {self.folder / str(step)} cannot be read ({self._reason(error)})"
            ) from error
        return tree, content["record"]

    def readable(self) -> Iterator[tuple[int, dict, dict[str, Any]]]:
        """(step, tree, record) of every checkpoint that can be read, the newest first; says
        which ones cannot.
        """
        for step in reversed(self.steps()):
            try:
                yield step, *self.read(step)
            except CheckpointError as error:
                say(f"{error}; falling back to the one before")

    def holds(self, step: int) -> bool:
        """Whether the checkpoint of a step is there and can be read; says so if not."""
        return next((found for found, *_ in self.readable() if found >= step), None) == step


class _Precious(PreservationPolicy):
    def __init__(self, precious: Callable[[Sequence[int]], Collection[int]]):
        self._precious = precious

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        precious = self._precious([checkpoint.step for checkpoint in checkpoints])
        return [checkpoint.step in precious for checkpoint in checkpoints]


def best_step(evaluations: Iterable[dict[str, Any]], steps: Collection[int]) -> int | None:
    """The step with the highest success rate, of those given; None where none was evaluated.

    Of equal rates it is that with the highest return, and then the latest. An environment that
    reports no success has no rates, so that its return decides.

    Args:
        evaluations: rows of an eval.csv.
        steps: those that count.
    """

    def rank(row: dict[str, Any]) -> tuple[float, float, int]:
        return row.get("success", 0.0), row.get("return", -math.inf), row["step"]

    ranks = (rank(row) for row in evaluations if row["step"] in steps)
    return max(ranks, default=(0.0, 0.0, None))[2]


@functools.cache
def _quiet_orbax() -> None:
    """It tells of every step it takes; and where one array cannot be read, all others then
    being read print tracebacks.
    """
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    hook = sys.unraisablehook
    sys.unraisablehook = lambda unraisable: (
        None if str(unraisable.exc_value) == "Event loop is closed" else hook(unraisable)
    )


def _crc(data: Any) -> int:
    return zlib.crc32(data)


def _fingerprint(leaf: np.ndarray) -> list:
    return [list(leaf.shape), str(leaf.dtype), _crc(np.ascontiguousarray(leaf))]


def agent_tree(agent: Agent) -> dict:
    """The whole agent as nested dicts of arrays."""
    return to_state_dict(agent)


def agent_from(tree: dict, like: Agent, where: str | os.PathLike) -> Agent:
    """The agent in a checkpoint's tree; raises UserError where it is not one like `like`."""
    ours, theirs = _shapes(to_state_dict(like)), _shapes(tree)
    wrong = sorted(set(ours.items()) ^ set(theirs.items()))
    if wrong:
        name = wrong[0][0]
        raise UserError(
            f"{where} holds another agent: {name} is {theirs.get(name, 'missing')} there and"
            f" {ours.get(name, 'missing')} here; the agent file has changed since: give another"
            " --run_group, or --overwrite to delete the run"
        )
    return jax.device_put(from_state_dict(like, tree))


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
        for path, leaf in leaves
    }
