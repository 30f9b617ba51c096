"""A trained agent as a function of observations: for evaluation, for films, and for use
elsewhere.
"""

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
from configs.run_folder import ACTS, evaluation_rows, read_config
from configs.trust import UntrustedError, check_trusted
from envs.evaluation import Policy, Values
from training.checkpoints import Checkpoints, agent_from, best_step
from training.keys import stream
from training.run import total_updates
from training.stored import mention_changes
from utils.errors import DamagedFile, RunError, UserError
from utils.files import expanded
from utils.logging import warn
from utils.replay import run_length


@jax.jit
def act_by_row(agent: Agent, observations: jax.Array, seeds: jax.Array) -> jax.Array:
    """Actions [S, D] at observations [S, O]; the noise of a row follows from its own seeds [S,
    3] alone.
    """

    def noise(row: jax.Array) -> jax.Array:
        key = stream(jax.random.key(row[0]), "evaluation")
        key = jax.random.fold_in(jax.random.fold_in(key, row[1]), row[2])
        return jax.random.normal(key, (agent.draws, agent.flat_action_dim))

    return agent.act(observations, jax.vmap(noise, out_axes=1)(seeds))


def chunk_length(config: Any) -> int:
    """Environment steps for which the policy is asked at a time."""
    return config.horizon_length if config.action_chunking else 1


def evaluation_policy(agent: Agent) -> Policy:
    """The agent as `envs.evaluation.evaluate` wants it."""
    return lambda observations, seeds: np.asarray(act_by_row(agent, observations, seeds))


@jax.jit
def mean_q(agent: Agent, observations: jax.Array, actions: jax.Array) -> jax.Array:
    """The mean over the agent's critics [S] for actions [S, D] at observations [S, O]."""
    return agent.expected_return(observations, actions)


def evaluation_values(agent: Agent) -> Values | None:
    """What the agent's critic expects of the actions that it takes, in discounted reward; None
    where it has no critic.
    """
    if not agent.has_critic:
        return None
    return lambda observations, actions: np.asarray(mean_q(agent, observations, actions))


def load_run(
    run_dir: str | os.PathLike, best: bool = False, trust: bool = False
) -> tuple[Agent, dict[str, Any]]:
    """The agent of a run folder, and its config.json.

    Its code is the source that the run folder keeps, whatever lies at the agent file's place
    now. **That code is executed.** Unless each of its files equals one of this checkout or was
    trained on this machine, it takes `trust`: load only runs of people whom you trust.

    Args:
        run_dir: the run folder.
        best: the checkpoint that did best in its evaluation; else the newest.
        trust: whether code that is not known here may be executed.

    Raises UserError where the folder holds no checkpoint of a run that can be read, and where
    its code is not trusted; the message lists the files.
    """
    folder = expanded(run_dir)
    stored = read_stored(folder)
    agent = untrained(folder, stored, agent_of_run(folder, stored, trust))
    checkpoints = Checkpoints(folder / "checkpoints")
    wanted = best_evaluated(folder, checkpoints.steps()) if best else None
    tree = (
        checkpoints.read(wanted)[0]
        if wanted is not None
        else next((tree for _, tree, _ in checkpoints.readable()), None)
    )
    if tree is None:
        raise UserError(f"{folder} holds no checkpoint that can be read")
    return agent_from(tree["agent"], agent, folder), stored


def read_stored(folder: Path) -> dict[str, Any]:
    """The config.json of a run folder whose policy is wanted; raises UserError where there is
    none, and RunError for one that is damaged.
    """
    try:
        stored = read_config(folder, ACTS)
    except DamagedFile as error:
        raise RunError(error.fault) from error
    if stored is None:
        raise UserError(f"{folder} is not the folder of a run: it has no config.json")
    return stored


def untrained(folder: Path, stored: dict[str, Any], kind: type[Agent]) -> Agent:
    """The agent of a run before its first update; raises RunError where its class makes none of
    these settings.

    Args:
        folder: the run folder.
        stored: its config.json.
        kind: the agent's class.
    """
    dims = stored["observation_dim"], stored["action_dim"]
    cloning = bool(stored["flags"].get("bc_only"))
    settings = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in stored["agent"].items()
    }
    try:
        config = ml_collections.ConfigDict(settings)
        total = total_updates(stored["flags"], run_length(config))
        return kind.create(jax.random.key(0), *dims, config, total, cloning)
    except Exception as error:  # of any type: the settings may be anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        path = folder / "config.json"
        raise RunError(f"{path} is damaged (it makes no agent: {reason:.200})") from error


def agent_of_run(folder: Path, stored: dict[str, Any], trust: bool = False) -> type[Agent]:
    """The class of the agent that a run began with, whatever lies at its file's place today.

    It executes Python code from the run folder, or equal code from the recorded place, where
    data files may lie next to it. Code on disk that differs from what the run began with is
    mentioned. A run of an older version kept no source: its file is looked for at its recorded
    path, then in the checkout. Raises UserError as `load_source` does, and UntrustedError.

    Args:
        folder: the run folder.
        stored: its config.json.
        trust: whether code that is not known here may be executed.
    """
    kept, recorded = kept_source(folder, stored), Path(stored["agent_file"])
    path = ROOT / recorded
    admit = None if trust else check_trusted
    if kept is None:
        path = recorded if recorded.is_file() else path
        warn(f"{folder} keeps no source of its agent; {path.absolute()} is used")
        return load_source(path, admit=admit).module.AGENT
    if admit:  # all at once: `load_source` asks for one after the other
        admit({kept.file.parent / name: content for name, content in kept.kept.items()})
    mention_changes(kept, folder)
    if path.is_file():
        if not differing_files(path.parent, kept.digests):
            with contextlib.suppress(UntrustedError):  # another comment makes it another file
                return load_source(path, kept.package, admit).module.AGENT
        else:
            warn(f"{path} differs from what {folder} began with; {kept.file} is used")
    return load_kept(kept, path, stored, admit)


def load_kept(
    kept: Source, path: Path, stored: dict[str, Any], admit: Admit | None
) -> type[Agent]:
    """The class of the agent in a run folder's source or, where that is the project's own and
    too old to run, in today's file.

    Args:
        kept: the source in the run folder.
        path: of today's file.
        stored: the run's config.json.
        admit: as of `load_source`.
    """
    try:
        return load_source(kept.file, kept.package, admit).module.AGENT
    except UserError as error:
        if isinstance(error, UntrustedError) or not stored["source"]["of_checkout"]:
            raise
        warn(f"the project has changed too much for it ({error}); {path} is used")
        return load_source(path, admit=admit).module.AGENT


def best_evaluated(folder: Path, steps: Collection[int]) -> int | None:
    """The step that did best in the evaluations of a run folder, of those given.

    None, with a warning, where none of them was evaluated.
    """
    step = best_step(evaluation_rows(folder), steps)
    if step is None and steps:
        warn(f"no checkpoint of {folder} was evaluated: the newest is taken for the best")
    return step


def chunks_from_seed(
    agent: Agent,
    observations: jax.Array,
    seed: jax.Array,
    call: jax.Array,
    action_dim: int,
) -> jax.Array:
    """Action chunks [B, H, A] in [-1, 1] from the noise of a seed and of a call's number.

    `load_policy` and the files of `training.export_policy` use it, so their noise is the same.

    Args:
        observations: [B, O]; B may be a symbolic dimension.
        seed, call: uint32 scalars.
        action_dim: A.
    """
    rows, flat = observations.shape[0], agent.flat_action_dim
    key = jax.random.fold_in(stream(jax.random.key(seed), "policy"), call)
    x0 = jax.random.normal(key, (agent.draws, rows, flat))
    return agent.act(observations, x0).reshape(rows, flat // action_dim, action_dim)


def checked_observations(observations: np.ndarray, observation_dim: int) -> np.ndarray:
    """Observations [O] or [B, O] as float32 [B, O].

    Raises ValueError for another shape and for values that are not finite in float32.
    """
    shape = np.shape(observations)
    if len(shape) not in (1, 2) or shape[-1] != observation_dim:
        wanted = f"[{observation_dim}] or [B, {observation_dim}]"
        raise ValueError(f"observations have shape {list(shape)}; this policy takes {wanted}")
    with np.errstate(over="ignore"):  # what overflows is reported below
        batch = np.atleast_2d(np.asarray(observations, np.float32))
    if not np.isfinite(batch).all():
        row, entry = np.argwhere(~np.isfinite(batch))[0]
        value = batch[row, entry]
        raise ValueError(f"observations must be finite; entry {entry} of row {row} is {value}")
    return batch


def load_policy(
    run_dir: str | os.PathLike, seed: int = 0, best: bool = False, trust: bool = False
) -> Callable[[np.ndarray], np.ndarray]:
    """The policy of a run folder: observations [O] or [B, O] -> action chunks [H, A] or [B, H,
    A] in [-1, 1].

    Every call draws fresh noise from `seed`, which is below 2^32. The Python source that the
    run folder keeps is executed, as `load_run` says; where it is not known here, that takes
    trust=True. Raises what `load_run` raises; the policy raises ValueError for observations of
    another width or with NaN or infinity.
    """
    agent, stored = load_run(run_dir, best, trust)
    act = jax.jit(chunks_from_seed, static_argnames="action_dim")
    start, calls = np.uint32(seed), itertools.count()

    def policy(observations: np.ndarray) -> np.ndarray:
        batch = checked_observations(observations, stored["observation_dim"])
        call = np.uint32(next(calls))
        chunks = np.asarray(act(agent, batch, start, call, action_dim=stored["action_dim"]))
        return chunks if np.ndim(observations) > 1 else chunks[0]

    return policy
