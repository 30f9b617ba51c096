"""Checkpoints by Orbax: written atomically in the background, and verified when they are read.

A checkpoint is a tree of arrays and a record (a JSON object). It also stores the shape, type
and CRC-32 of every array, and a CRC-32 of these and the record. Reading fails if any differs.
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
from utils.errors import RunError, UserError, machine_fault
from utils.messages import say


class CheckpointError(RunError):
    """A checkpoint cannot be read."""


class Checkpoints:
    """The checkpoints of a run folder by step; a context manager that waits for pending writes.

    Args:
        folder: the folder, with one subfolder per step.
        keep: how many of the newest to keep; None opens the folder for reading only.
        precious: takes all steps and returns those to keep besides the newest.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        keep: int | None = None,
        precious: Callable[[Sequence[int]], Collection[int]] = lambda steps: (),
    ):
        self.folder = Path(folder).absolute()
        self._keep = keep
        self._precious = precious
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
            cleanup_tmp_directories=True,  # left by a killed process
            # If creating folders in the background fails, Orbax's threads wait until a timeout
            # ends the process.
            async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
        )
        return ocp.CheckpointManager(self.folder, options=options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failed: type[BaseException] | None, *_) -> None:
        if self._keep is None:
            return
        try:
            self.wait()
        except RunError:
            if not failed:  # else the error of the block is reported
                raise
        self._manager.close()

    def steps(self) -> list[int]:
        """Return the steps of all checkpoints, the newest last."""
        return sorted(
            int(path.name) for path in self.folder.glob("*") if path.name.isdigit()
        )

    def latest(self) -> int | None:
        """Return the step of the newest checkpoint, written or pending; None without any."""
        return self._manager.latest_step()

    # ---------------------------------------------------------------- writing

    def save(self, step: int, tree: Any, record: dict[str, Any]) -> None:
        """Copy the arrays, then write a checkpoint in the background.

        Raises RunError if an array is not finite, and if this or the last checkpoint cannot be
        written.

        Args:
            step: the step.
            tree: nested dicts of arrays.
            record: a JSON object.
        """
        # On a CPU device_get returns views, which the next update would overwrite.
        host = jax.tree.map(np.array, jax.device_get(tree))
        if name := first_not_finite(host):
            raise RunError(
                f"{name} is not finite at step {step}: no checkpoint written;"
                f" {self.last_good()}"
            )
        arrays = {name: _fingerprint(leaf) for name, leaf in named_leaves(host)}
        content: dict[str, Any] = {"record": record, "arrays": arrays}
        content |= {"crc": zlib.crc32(json.dumps(content, sort_keys=True).encode())}
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(host), record=ocp.args.JsonSave(content)
        )
        with self._writing():
            self._manager.save(step, args=arguments, force=True)

    def wait(self) -> None:
        """Wait until everything is written; raise RunError if a write failed."""
        with self._writing():
            self._manager.wait_until_finished()

    def check(self) -> None:
        """Raise RunError if a write in the background has failed."""
        with self._writing():
            self._manager.check_for_errors()

    def last_good(self) -> str:
        """Wait for pending writes; return a phrase about the newest checkpoint."""
        with contextlib.suppress(Exception):  # reported by the caller
            self._manager.wait_until_finished()
        steps = self.steps()
        if not steps:
            return "there is no checkpoint yet"
        return f"the last good checkpoint is that of step {steps[-1]}"

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn any error of the block into a RunError about the checkpoint."""
        try:
            yield
        except Exception as error:  # Orbax and its storage raise many types
            raise RunError(
                f"cannot write a checkpoint in {self.folder} ({self._reason(error)});"
                f" {self.last_good()}: make room or mend it, and give the same command again"
            ) from error

    def _reason(self, error: Exception) -> str:
        """Return an error of Orbax as one line of at most about 300 characters.

        The cause comes after many paths and before the bracketed details.
        """
        text = f"{type(error).__name__}: {error}".replace(f"{self.folder}/", "")
        text = " ".join(text.split())
        text = re.split(r" \[(?:tensorstore_spec|source locations)=", text)[0]
        return text if len(text) <= 300 else f"{text[:100]} ... {text[-200:]}"

    def set_aside(self, steps: list[int]) -> None:
        """Move checkpoints that cannot be read to <folder>.unreadable."""
        aside = self.folder.with_name(f"{self.folder.name}.unreadable")
        for step in steps:
            aside.mkdir(exist_ok=True)
            earlier = sum(
                path.name.partition("_")[0] == str(step) for path in aside.iterdir()
            )
            name = f"{step}_{earlier}" if earlier else str(step)
            os.replace(self.folder / str(step), aside / name)
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
        """Read the tree of a step, nested dicts of NumPy arrays, and its record.

        Raises CheckpointError if anything differs from what was written, and RunError if this
        machine cannot read what may be intact: then no other checkpoint must replace it.
        """
        try:
            arguments = ocp.args.Composite(record=ocp.args.JsonRestore())
            content = self._manager.restore(step, args=arguments).record
            crc = content.pop("crc")
            if crc != zlib.crc32(json.dumps(content, sort_keys=True).encode()):
                raise ValueError("its record is not what was written")
            arguments = ocp.args.Composite(state=ocp.args.StandardRestore())
            tree = self._manager.restore(step, args=arguments).state
            tree = jax.tree.map(np.asarray, tree)
            for name, leaf in named_leaves(tree):
                if content["arrays"].pop(name) != _fingerprint(leaf):
                    raise ValueError(f"{name} is not what was written")
            if content["arrays"]:
                raise ValueError(f"{next(iter(content['arrays']))} is missing")
        except Exception as error:  # Orbax and its storage raise many types
            if why := machine_fault(error):
                raise RunError(
                    f"checkpoint {self.folder / str(step)} cannot be read now ({why}); the same"
                    " command resumes there once it can, or without it if you delete it"
                ) from error
            raise CheckpointError(
                f"checkpoint {self.folder / str(step)} cannot be read ({self._reason(error)})"
            ) from error
        return tree, content["record"]

    def readable(self) -> Iterator[tuple[int, dict, dict[str, Any]]]:
        """Yield (step, tree, record) of every readable checkpoint, the newest first.

        Prints a line for each checkpoint that cannot be read.
        """
        for step in reversed(self.steps()):
            try:
                yield step, *self.read(step)
            except CheckpointError as error:
                say(f"{error}; falling back to the one before")

    def holds(self, step: int) -> bool:
        """Whether the checkpoint of a step is readable; print a line if it is damaged."""
        if step not in self.steps():
            return False
        try:
            self.read(step)
        except CheckpointError as error:
            say(f"{error}; it is not used")
            return False
        return True


class _Precious(PreservationPolicy):
    def __init__(self, precious: Callable[[Sequence[int]], Collection[int]]):
        self._precious = precious

    def should_preserve(
        self, checkpoints: Sequence[Any], *, context: Any
    ) -> list[bool]:
        precious = self._precious([checkpoint.step for checkpoint in checkpoints])
        return [checkpoint.step in precious for checkpoint in checkpoints]


def best_step(
    evaluations: Iterable[dict[str, Any]], steps: Collection[int]
) -> int | None:
    """Return the step with the best evaluation among `steps`; None if none was evaluated.

    The best has the highest success rate, then the highest return, then the latest step. If the
    environment reports no success, the return decides.

    Args:
        evaluations: the lines of an eval.csv.
        steps: the steps to choose from.
    """

    def rank(line: dict[str, Any]) -> tuple[float, float, int]:
        return line.get("success", 0.0), line.get("return", -math.inf), line["step"]

    among = [line for line in evaluations if line["step"] in steps]
    return max(among, key=rank)["step"] if among else None


@functools.cache
def _quiet_orbax() -> None:
    """Silence Orbax, which logs every step and prints tracebacks of arrays read in parallel."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    hook = sys.unraisablehook
    sys.unraisablehook = lambda unraisable: (
        None
        if str(unraisable.exc_value) == "Event loop is closed"
        else hook(unraisable)
    )


def _fingerprint(leaf: np.ndarray) -> list:
    return [
        list(leaf.shape),
        str(leaf.dtype),
        zlib.crc32(np.ascontiguousarray(leaf).data),
    ]


def first_not_finite(tree: Any) -> str | None:
    """Return the name of the first array that is not finite; None if all are."""
    leaves = named_leaves(tree)
    return next((name for name, leaf in leaves if not np.isfinite(leaf).all()), None)


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """Return (name, leaf) of every leaf; names are paths such as params/policy/Dense_0/bias."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/"), x)
        for path, x in leaves
    ]


def agent_tree(agent: Agent) -> dict:
    """Return an agent as nested dicts of arrays."""
    return to_state_dict(agent)


def agent_from(tree: dict, like: Agent, where: str | os.PathLike) -> Agent:
    """Restore the agent in a checkpoint's tree.

    Raises UserError if its arrays are not those of `like`.

    Args:
        tree: nested dicts of arrays, as `agent_tree` returns them.
        like: an agent of the same settings.
        where: the run folder, for the message.
    """
    ours = leaf_shapes(to_state_dict(like))
    theirs = leaf_shapes(tree)
    wrong = sorted(set(ours.items()) ^ set(theirs.items()))
    if wrong:
        name = wrong[0][0]
        raise UserError(
            f"{where} holds another agent: {name} is {theirs.get(name, 'missing')} there and"
            f" {ours.get(name, 'missing')} here; the agent file has changed since: give another"
            " --run_group, or delete that folder"
        )
    return jax.device_put(from_state_dict(like, tree))


def leaf_shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Return the shape of every array of a tree by its name."""
    return {name: np.shape(leaf) for name, leaf in named_leaves(tree)}
