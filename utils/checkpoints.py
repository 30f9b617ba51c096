"""Checkpoints through Orbax: written whole or not at all, the newest readable one is the one that counts."""

import os
from pathlib import Path
from typing import Any, Self

import jax
import orbax.checkpoint as ocp
from flax.serialization import from_state_dict, to_state_dict

from agents.base import Agent
from utils.errors import UserError


class Checkpoints:
    """The checkpoints of one run folder, by step; a context manager that waits for what is still being written."""

    def __init__(self, folder: str | os.PathLike, keep: int = 2):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._manager = ocp.CheckpointManager(Path(folder).absolute(), options=options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self._manager.close()

    def latest(self) -> int | None:
        """The step of the newest checkpoint; None where there is none."""
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """The steps of all checkpoints."""
        return list(self._manager.all_steps())

    def save(self, step: int, tree: Any) -> None:
        """Write a tree of arrays; returns once they are copied and goes on writing in the background."""
        if self.latest() != step:
            self._manager.save(step, args=ocp.args.StandardSave(tree))

    def restore(self, step: int, like: Any) -> Any:
        """Read the tree of a step into the shapes and types of `like`."""
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        return self._manager.restore(step, args=ocp.args.StandardRestore(abstract))


def save_agent(checkpoints: Checkpoints, step: int, agent: Agent) -> None:
    """Store the whole agent under a step."""
    checkpoints.save(step, {"agent": to_state_dict(agent)})


def restore_agent(checkpoints: Checkpoints, step: int, agent: Agent) -> Agent:
    """The agent of a step; `agent` gives structure and shapes."""
    return from_state_dict(agent, checkpoints.restore(step, {"agent": to_state_dict(agent)})["agent"])


def load_base(path: str | os.PathLike) -> dict:
    """The base of a behaviour-cloning run, from its folder: {Dense_i: {kernel, bias}, LayerNorm_i: {scale, bias}}."""
    folder = Path(path).expanduser() / "checkpoints"
    if not folder.is_dir():
        raise UserError(f"--pretrained_actor_path={path}: no run folder of agents/bc.py is there")
    with ocp.CheckpointManager(folder.absolute(), item_handlers=ocp.StandardCheckpointHandler()) as manager:
        step = manager.latest_step()
        if step is None:
            raise UserError(f"--pretrained_actor_path={path}: the run has no checkpoint yet")
        # Onto this machine's device, whatever the device that it was saved from.
        place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), manager.item_metadata(step).tree
        )
        params = manager.restore(step, args=ocp.args.StandardRestore(abstract))["agent"]["params"]
    if "base" not in params:
        raise UserError(f"--pretrained_actor_path={path}: its agent has no base; give a run of agents/bc.py")
    return params["base"]


def check_base(base: dict, expected: dict, path: str | os.PathLike) -> None:
    """Raise UserError, naming both sides, where a base does not have the shapes of the agent's own."""
    ours, theirs = (
        {jax.tree_util.keystr(k): v.shape for k, v in jax.tree_util.tree_leaves_with_path(tree)} for tree in (expected, base)
    )
    wrong = sorted(set(ours.items()) ^ set(theirs.items()))
    if wrong:
        name = wrong[0][0]
        raise UserError(
            f"--pretrained_actor_path={path}: {name} is {theirs.get(name, 'missing')} there and "
            f"{ours.get(name, 'missing')} here; match --agent.actor_hidden_dims, --agent.actor_layer_norm and --horizon_length"
        )
