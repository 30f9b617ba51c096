"""Loads the agents of run folders, for rollouts, films and other programs."""

import contextlib
import itertools
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from agents.base import Agent
from configs.agent_file import Admit, load_source
from configs.agent_source import ROOT, Source, differing_files, kept_source
from configs.run_folder import NEEDED_TO_ACT, evaluation_lines, read_config
from configs.trust import UntrustedError, check_trusted
from envs.robomimic_data import Recipe
from training.acting import chunk_shape, clipped_actions
from training.checkpoints import Checkpoints, agent_from, best_step
from training.keys import stream
from training.run import total_updates
from training.stored import mention_changes
from utils.errors import DamagedFile, RunError, UserError, one_line
from utils.files import expanded
from utils.messages import warn


def load_run(
    run_dir: str | os.PathLike,
    step: int | None = None,
    best: bool = False,
    trust: bool = False,
) -> tuple[Agent, dict[str, Any], int]:
    """Load the agent at a checkpoint of a run folder, its config.json, and the step.

    The agent's code is the source in the run folder, not the current agent file. **That code is
    executed.** `trust` is needed unless each of its files equals one of this checkout or was
    trained on this machine: load only runs of people whom you trust.

    Raises UserError if the folder holds no such checkpoint or none that can be read, and if its
    code is not trusted; the message lists the files. Raises RunError for damaged files.

    Args:
        run_dir: the run folder.
        step: the step of the checkpoint; None for the newest that can be read.
        best: whether to load the checkpoint with the best evaluation instead; `step` has no
            effect then.
        trust: whether unknown code may be executed.
    """
    folder = expanded(run_dir)
    stored = read_stored(folder)
    agent = create_untrained(folder, stored, agent_of_run(folder, stored, trust))
    checkpoints = Checkpoints(folder / "checkpoints")
    steps = checkpoints.steps()
    if step is not None and step not in steps:
        there = ", ".join(map(str, steps)) or "none"
        raise UserError(
            f"--step={step}: {folder} has no such checkpoint; it has {there}"
        )
    if best:
        step = best_evaluated(folder, steps)
    if step is not None:
        tree, _ = checkpoints.read(step)
        return agent_from(tree["agent"], agent, folder), stored, step
    for step, tree, _ in checkpoints.readable():
        return agent_from(tree["agent"], agent, folder), stored, step
    raise UserError(f"{folder} holds no checkpoint that can be read")


def read_stored(folder: Path) -> dict[str, Any]:
    """Read the config.json of a run folder whose policy is to be loaded.

    Raises UserError if there is none, and RunError if it is damaged.
    """
    try:
        stored = read_config(folder, NEEDED_TO_ACT)
    except DamagedFile as error:
        raise RunError(error.fault) from error
    if stored is None:
        raise UserError(f"{folder} is not the folder of a run: it has no config.json")
    return stored


def create_untrained(folder: Path, stored: dict[str, Any], kind: type[Agent]) -> Agent:
    """Create the agent of a run before its first update.

    Raises RunError if the class cannot be created with the stored settings, or cannot read a
    file.

    Args:
        folder: the run folder.
        stored: its config.json.
        kind: the agent's class.
    """
    dims = stored["observation_dim"], stored["action_dim"]
    cloning = bool(stored["flags"].get("bc_only"))
    settings = dict(stored["agent"])
    for name, value in settings.items():
        settings[name] = tuple(value) if isinstance(value, list) else value
    try:
        config = ml_collections.ConfigDict(settings)
        total = total_updates(stored["flags"], config)
        return kind.create(jax.random.key(0), *dims, config, total, cloning)
    except OSError as error:  # a fork reads files of its own
        raise RunError(
            f"{folder}: its agent cannot read a file ({one_line(error)}); put it back"
        ) from error
    except Exception as error:  # stored settings may be anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        path = folder / "config.json"
        raise RunError(
            f"{path} is damaged (it makes no agent: {reason:.200})"
        ) from error


def agent_of_run(
    folder: Path, stored: dict[str, Any], trust: bool = False
) -> type[Agent]:
    """Load the class of the agent that a run began with.

    The code is executed from the run folder, or from the recorded path if the code there is
    equal (it may read data files beside it). A warning mentions code that has changed. Raises
    UserError if the folder has no source and as `load_source` does, and UntrustedError.

    Args:
        folder: the run folder.
        stored: its config.json.
        trust: whether unknown code may be executed.
    """
    kept = kept_source(folder, stored)
    if kept is None:
        raise UserError(f"{folder} lacks the code of its agent, source/")
    path = ROOT / stored["agent_file"]
    admit = None if trust else check_trusted
    if admit:  # all files in one error; `load_source` would report them one by one
        admit({kept.file.parent / name: content for name, content in kept.kept.items()})
    mention_changes(kept, folder)
    if path.is_file():
        if not differing_files(path.parent, kept.digests):
            # Comments change what is trusted, but not the digests compared above.
            with contextlib.suppress(UntrustedError):
                return load_source(path, kept.package, admit).module.AGENT
        else:
            warn(f"{path} differs from what {folder} began with; {kept.file} is used")
    return load_kept(kept, path, stored, admit)


def load_kept(
    kept: Source, path: Path, stored: dict[str, Any], admit: Admit | None
) -> type[Agent]:
    """Load the class of the agent in a run folder's source.

    If that source is one of the project's own files and no longer runs, the current file is
    loaded instead.

    Args:
        kept: the source in the run folder.
        path: the current file.
        stored: the run's config.json.
        admit: as in `load_source`.
    """
    try:
        return load_source(kept.file, kept.package, admit).module.AGENT
    except UserError as error:
        if isinstance(error, UntrustedError) or not stored["source"]["of_checkout"]:
            raise
        warn(f"the project has changed too much for it ({error}); {path} is used")
        return load_source(path, admit=admit).module.AGENT


def best_evaluated(folder: Path, steps: Collection[int]) -> int | None:
    """Return the step with the best evaluation in a run folder, among `steps`.

    Returns None, with a warning, if none of them was evaluated.
    """
    step = best_step(read_evaluation_lines(folder), steps)
    if step is None and steps:
        warn(f"no checkpoint of {folder} was evaluated: the newest is used instead")
    return step


def read_evaluation_lines(folder: Path) -> list[dict[str, Any]]:
    """Read the lines of eval.csv in a run folder whose policy is loaded.

    Raises RunError if it is damaged, without the advice for a run that is to resume.
    """
    try:
        return evaluation_lines(folder)
    except DamagedFile as error:
        raise RunError(error.fault) from error


def chunks_from_seed(
    agent: Agent, observations: jax.Array, seed: jax.Array, call: jax.Array
) -> jax.Array:
    """Return action chunks [B, H, A] in [-1, 1], with noise from a seed and a call number.

    `load_policy` and exported files use this function, so their noise is equal.

    Args:
        agent: the agent.
        observations: [B, O]; B may be a symbolic dimension.
        seed: uint32 scalar.
        call: uint32 scalar, the number of the call.
    """
    batch_size = observations.shape[0]
    key = jax.random.fold_in(stream(jax.random.key(seed), "policy"), call)
    x0 = jax.random.normal(key, (agent.draws, batch_size, agent.flat_action_dim))
    return clipped_actions(agent, observations, x0).reshape(
        batch_size, *chunk_shape(agent)
    )


Scaling = Callable[[jax.Array], jax.Array]
"""Maps the observations [B, O] of an environment to those that an agent was trained on."""


def unscaled(observations: jax.Array) -> jax.Array:
    """Return observations unchanged."""
    return observations


def scaling_of(stored: dict[str, Any]) -> Scaling:
    """Return the scaling of a run's observations: that of robomimic's data, or none.

    stored: the run's config.json.
    """
    recipe = Recipe.from_record(stored.get("environment"))
    return recipe.scale if recipe else unscaled


def stored_precision(stored: dict[str, Any]) -> contextlib.AbstractContextManager:
    """Return a context in which matrix products have the precision of a run's own.

    stored: the run's config.json.
    """
    name = stored["flags"].get("matmul_precision", "default")
    return jax.default_matmul_precision(None if name == "default" else name)


def checked_observations(observations: np.ndarray, observation_dim: int) -> np.ndarray:
    """Return observations [O] or [B, O] as float32 [B, O].

    Raises ValueError for another shape and for values that are not finite in float32.
    """
    shape = np.shape(observations)
    if len(shape) not in (1, 2) or shape[-1] != observation_dim:
        wanted = f"[{observation_dim}] or [B, {observation_dim}]"
        raise ValueError(
            f"observations have shape {list(shape)}; this policy takes {wanted}"
        )
    with np.errstate(over="ignore"):  # what overflows is reported below
        batch = np.atleast_2d(np.asarray(observations, np.float32))
    if not np.isfinite(batch).all():
        number, entry = np.argwhere(~np.isfinite(batch))[0]
        value = batch[number, entry]
        raise ValueError(
            f"observations must be finite; entry {entry} of observation {number} is {value}"
        )
    return batch


def load_policy(
    run_dir: str | os.PathLike, seed: int = 0, best: bool = False, trust: bool = False
) -> Callable[[np.ndarray], np.ndarray]:
    """Load the policy of a run folder as a function.

    The function takes observations [O] or [B, O] and returns action chunks [H, A] or [B, H, A]
    in [-1, 1], with fresh noise at every call. For robomimic, observations are those of
    robosuite, which are scaled here as in the run. It raises ValueError for observations of
    another width or with NaN or infinity. Python code in the run folder is executed; `load_run`
    says when that needs `trust`, and which errors it raises.

    Args:
        run_dir: the run folder.
        seed: determines the noise; below 2^32.
        best: whether to load the checkpoint with the best evaluation instead of the newest.
        trust: whether unknown code may be executed.
    """
    agent, stored, _ = load_run(run_dir, best=best, trust=trust)
    scale = scaling_of(stored)

    @jax.jit
    def act(
        agent: Agent, observations: jax.Array, seed: jax.Array, call: jax.Array
    ) -> jax.Array:
        return chunks_from_seed(agent, scale(observations), seed, call)

    start = np.uint32(seed)
    calls = itertools.count()

    def policy(observations: np.ndarray) -> np.ndarray:
        batch = checked_observations(observations, stored["observation_dim"])
        call = np.uint32(next(calls))
        with stored_precision(stored):
            chunks = np.asarray(act(agent, batch, start, call))
        return chunks if np.ndim(observations) > 1 else chunks[0]

    return policy
