"""The base that --pretrained_actor_path names: published weights, or a run of cloning."""

import hashlib
import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from agents.base import Agent
from configs.run_folder import read_config
from envs.bases import PUBLISHED, base_data, base_source, published_base
from envs.robomimic_data import Recipe
from training.checkpoints import Checkpoints, leaf_shapes
from training.cloning import cloning_identity
from training.data import TaskData
from training.run import BC_FILE, Run
from utils.errors import UserError
from utils.files import expanded, sha256_of
from utils.messages import say, warn
from utils.pickles import safe_unpickle

ACTORS = (
    "modules_actor_slow",
    "modules_actor_bc_flow",
    "modules_actor_flow",
    "modules_actor",
)


class PretrainedBase(NamedTuple):
    """The base that --pretrained_actor_path names."""

    params: dict
    record: dict[str, str]
    """Its entry in config.json: its source without a local path, and the sha256 of the file or,
    for a run folder, of the parameters."""
    data: str
    """What a published one was cloned from; "" if unknown."""
    config: dict[str, Any] | None
    """The config.json of its run folder, {} without one; None for a published file."""

    def describe(self) -> str:
        """Describe its source and data in one line."""
        cloned = f", {self.data}" if self.data else ""
        return f"base: {self.record['source']}{cloned}; bc_steps not run"

    def check_begun(self, folder: Path, stored: dict[str, Any] | None) -> None:
        """Raise UserError if a run folder began with another base.

        stored: the config.json of the folder; None if there is none.
        """
        then = (stored or {}).get("base", self.record)["sha256"]
        now = self.record["sha256"]
        if then != now and any(folder.glob("checkpoints/*")):
            source = self.record["source"]
            sums = f"sha256 {then:.12} then, {now:.12} now"
            raise UserError(
                f"--pretrained_actor_path: {source} is not the base that {folder} began with "
                f"({sums}); bring that one back, or give another --run_group"
            )


def pretrained_base(runs: Sequence[Run], overwrite: bool) -> PretrainedBase | None:
    """Read the base that --pretrained_actor_path names for the seeds of a task; None if unset.

    Raises UserError if it cannot be read, or a resumed run began with another base.

    Args:
        runs: the runs of the seeds.
        overwrite: whether every run starts again.
    """
    flags = runs[0].settings.flags
    path = flags["pretrained_actor_path"]
    if not path:
        return None
    if runs[0].cloning or not runs[0].starts_from_base:
        warn(
            f"--pretrained_actor_path has no effect: {runs[0].agent_name} starts from no base"
        )
        return None
    pretrained = read_pretrained_base(
        path, runs[0].env_name, flags["ogbench_dataset_dir"]
    )
    for run in runs if not overwrite else ():
        pretrained.check_begun(run.folder, read_config(run.folder))
    return pretrained


def read_pretrained_base(path: str, env_name: str, dataset_dir: str) -> PretrainedBase:
    """Read the base at a path; raise UserError if there is none.

    Args:
        path: a file, a run folder, or PUBLISHED, which is downloaded if it is missing.
        env_name: the task.
        dataset_dir: the folder that holds the published bases.
    """
    source = Path(path).name
    data = ""
    if path == PUBLISHED:
        path = str(published_base(env_name, dataset_dir))
        source = base_source(env_name)
        data = base_data(env_name)
    params = load_base(path)
    file = published_file(path)
    checksum = sha256_of(file) if file else sha256_of_tree(params)
    record = {"source": source, "sha256": checksum}
    config = None if file else read_config(expanded(path)) or {}
    return PretrainedBase(params, record, data, config)


def cloning_code_of(config: dict[str, Any] | None) -> str | None:
    """Return the digest of the code that cloned a base; "" for that of agents/bc.py and for
    published bases, None if unknown.

    config: as in `PretrainedBase`.
    """
    if config is None:
        return ""
    if "cloning" in config:
        return config["cloning"].get("cloning", "")
    return "" if Path(config.get("agent_file", "")).name == BC_FILE.name else None


def sha256_of_tree(tree: Any) -> str:
    """Return the SHA-256 of all arrays of a tree, in the order of their names."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        found.update(np.asarray(leaf).tobytes())
    return found.hexdigest()


def check_start(
    run: Run, agent: Agent, data: TaskData, pretrained: PretrainedBase | None
) -> None:
    """Raise UserError if the agent cannot use the base or the online KL budget.

    Prints a line about the base, and warns if it was cloned by other code than the agent's or
    from other data.

    Args:
        run: the run of a seed.
        agent: its agent.
        data: what the run learns from.
        pretrained: the base; None without one.
    """
    flags = run.settings.flags
    if flags["kl_budget_online"] is not None:
        agent.with_kl_budget(flags["kl_budget_online"])
    if pretrained:
        where = f"--pretrained_actor_path={flags['pretrained_actor_path']}"
        check_base(pretrained.params, agent.params["base"], where)
        ours = cloning_identity(run.source, run.settings.agent).get("cloning", "")
        if cloning_code_of(pretrained.config) not in (None, ours):
            warn(
                f"{where}: it has the shapes of {run.agent_name}'s base but was cloned by other"
                " code; clone one without this flag if that matters"
            )
        check_data_of_base(pretrained.config or {}, data, where)
        say(pretrained.describe())


def check_data_of_base(config: dict[str, Any], data: TaskData, where: str) -> None:
    """Warn if a base was cloned from other data; raise UserError if its observations were
    scaled by other ranges, which are those of robomimic's files.

    Args:
        config: the config.json of its run folder; {} if unknown.
        data: the data now.
        where: flag and path, which begin the message.
    """
    theirs, ours = Recipe.from_record(config.get("environment")), data.recipe
    if theirs and ours and (theirs.low, theirs.high) != (ours.low, ours.high):
        raise UserError(
            f"{where}: it was cloned with observations that were scaled by another file's"
            " ranges; clone one without this flag"
        )
    crc = str(config.get("dataset", {}).get("crc", "")).partition("-")[0]
    if crc and crc != data.fingerprint.behaviour:
        warn(
            f"{where}: it was cloned from other data than this run's; clone one without this"
            " flag if that matters"
        )


# ---------------------------------------------------------------- files


class BaseShape(NamedTuple):
    """The properties in which two MLP bases can differ: O, hidden widths, LayerNorm, D."""

    observation_dim: int
    hidden_dims: tuple[int, ...]
    layer_norm: bool
    flat_action_dim: int

    def leaves(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """Return the shape of every array; the input is concat(s [O], x [D], t [1])."""
        input_dim = self.observation_dim + self.flat_action_dim + 1
        widths = (input_dim, *self.hidden_dims, self.flat_action_dim)
        shapes: dict[str, dict[str, tuple[int, ...]]] = {}
        for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
            shapes[f"Dense_{i}"] = {"kernel": (inputs, outputs), "bias": (outputs,)}
        for i, width in enumerate(self.hidden_dims if self.layer_norm else ()):
            shapes[f"LayerNorm_{i}"] = {"scale": (width,), "bias": (width,)}
        return shapes


def base_shape(base: dict, where: str) -> BaseShape:
    """Infer the shape of a base {Dense_i: {kernel, bias}, LayerNorm_i: {scale, bias}}.

    Raises UserError, which begins with `where`, if the base is not an MLP.
    """
    try:
        shapes: dict[str, Any] = {}
        for layer, leaves in base.items():
            shapes[layer] = {name: leaf.shape for name, leaf in leaves.items()}
        layers = sum(layer.startswith("Dense_") for layer in shapes)
        kernels = [shapes[f"Dense_{i}"]["kernel"] for i in range(layers)]
        *hidden, flat = (width for _, width in kernels)
        observation_dim = kernels[0][0] - flat - 1
        found = BaseShape(observation_dim, tuple(hidden), "LayerNorm_0" in shapes, flat)
    except (AttributeError, KeyError, ValueError):
        found = None
        shapes = {}
    if found is None or found.leaves() != shapes:
        raise UserError(
            f"{where}: its actor is not a plain multilayer perceptron with LayerNorm after each"
            " layer or none"
        )
    return found


def check_base(base: dict, expected: dict, where: str) -> None:
    """Raise UserError, which names what differs, if a base does not fit an agent.

    Args:
        base: the parameters of the base.
        expected: parameters of the agent's own base.
        where: flag and path, which begin the message.
    """
    theirs = leaf_shapes(base)
    ours = leaf_shapes(expected)
    if theirs == ours:
        return
    if is_mlp(expected):
        check_mlp(base, expected, where)
    names = [
        name for name in sorted({*theirs, *ours}) if theirs.get(name) != ours.get(name)
    ]
    differing = [
        f"{name} is {theirs.get(name, 'missing')} there and {ours.get(name, 'missing')} here"
        for name in names[:3]
    ]
    raise UserError(f"{where}: it is a base of another network: {'; '.join(differing)}")


def is_mlp(base: dict) -> bool:
    """Whether a base is an MLP."""
    try:
        base_shape(base, "")
    except UserError:
        return False
    return True


def check_mlp(base: dict, expected: dict, where: str) -> None:
    """Raise UserError, which names both shapes and the flags, if a base is another MLP.

    The arguments are those of `check_base`; `expected` is an MLP.
    """
    theirs = base_shape(base, where)
    ours = base_shape(expected, where)
    names = {
        "observations O =": "--env_name",
        "actor_hidden_dims": "--agent.actor_hidden_dims",
        "layer norm": "--agent.actor_layer_norm",
        "actions D =": "--horizon_length, --agent.action_chunking",
    }
    differences = []
    for (name, flag), there, here in zip(names.items(), theirs, ours, strict=True):
        if there != here:
            if isinstance(there, bool):
                there, here = ("on", "off") if there else ("off", "on")
            differences.append(f"{name} {there} there and {here} here ({flag})")
    if differences:
        raise UserError(f"{where}: {'; '.join(differences)}")


def published_file(path: str | os.PathLike) -> Path | None:
    """Return a published file, or the newest params_<step>.pkl of a folder, or None."""
    path = expanded(path)
    if path.is_file():
        return path
    files = [file for file in path.glob("params_*.pkl") if file.stem[7:].isdigit()]
    return max(files, key=published_step, default=None)


def published_step(path: Path) -> int:
    """Return the step in a file's name, 300000 for params_300000.pkl; 0 without one."""
    match = re.fullmatch(r"params_(\d+)\.pkl", path.name)
    return int(match[1]) if match else 0


def load_published(path: str | os.PathLike, where: str | None = None) -> dict:
    """Read {Dense_i: {kernel, bias}, LayerNorm_i: {scale, bias}} from a published file.

    The base is at agent/network/params/<the first of ACTORS that exists>/mlp; its arrays are
    NumPy float32. Raises UserError, which begins with `where` (default: the path), for any
    other file.
    """
    where = where or str(path)
    node = published_actor(safe_unpickle(path, where), where)
    base_shape(node, where)
    base: dict[str, dict[str, np.ndarray]] = {}
    for layer, leaves in node.items():
        base[layer] = {
            name: np.array(leaf, np.float32) for name, leaf in leaves.items()
        }
        for name, leaf in base[layer].items():
            if not np.isfinite(leaf).all():
                raise UserError(f"{where}: {layer}/{name} holds NaN or infinite values")
    return base


def published_actor(node: Any, where: str) -> dict:
    """Return the actor in the content of a published file; raise UserError without one."""
    at = "the file"
    for names in (("agent",), ("network",), ("params",), ACTORS, ("mlp",)):
        held = node if isinstance(node, dict) else {}
        name = next((name for name in names if name in held), None)
        if name is None:
            found = ", ".join(map(repr, held)) or "nothing"
            raise UserError(
                f"{where}: not a published BC checkpoint: {at} has no {' or '.join(names)}; it"
                f" has {found:.200}"
            )
        node = held[name]
        at = name
    return node


def load_base(path: str | os.PathLike) -> dict:
    """Read the parameters of a base from a run folder or a published file.

    Raises UserError if the path holds neither, or a run without a base.
    """
    if file := published_file(path):
        return load_published(file, f"--pretrained_actor_path={file}")
    folder = expanded(path) / "checkpoints"
    if not folder.is_dir():
        raise UserError(
            f"--pretrained_actor_path={path}: no run folder with checkpoints and no published"
            " params_*.pkl is there"
        )
    tree = next((tree for _, tree, _ in Checkpoints(folder).readable()), None)
    if tree is None:
        raise UserError(
            f"--pretrained_actor_path={path}: the run has no checkpoint that can be read"
        )
    if "base" not in tree["agent"]["params"]:
        raise UserError(
            f"--pretrained_actor_path={path}: its agent has no base; give a run with --bc_only"
        )
    return tree["agent"]["params"]["base"]
