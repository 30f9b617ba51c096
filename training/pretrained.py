"""Reading bases: published weights and the run folders of behaviour cloning."""

import itertools
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict

from training.checkpoints import Checkpoints
from utils.errors import UserError
from utils.files import expanded
from utils.pickles import safe_unpickle

ACTORS = ("modules_actor_slow", "modules_actor_bc_flow", "modules_actor_flow", "modules_actor")


class BaseShape(NamedTuple):
    """All that can differ between two bases: O, the widths of the hidden layers, LayerNorm or
    none, D.
    """

    observation_dim: int
    hidden_dims: tuple[int, ...]
    layer_norm: bool
    flat_action_dim: int

    def leaves(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """The shape of every array of such a base, whose inputs are concat(s [O], x [D], t
        [1]).
        """
        widths = (
            self.observation_dim + self.flat_action_dim + 1,
            *self.hidden_dims,
            self.flat_action_dim,
        )
        shapes: dict[str, dict[str, tuple[int, ...]]] = {}
        for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
            shapes[f"Dense_{i}"] = {"kernel": (inputs, outputs), "bias": (outputs,)}
        for i, width in enumerate(self.hidden_dims if self.layer_norm else ()):
            shapes[f"LayerNorm_{i}"] = {"scale": (width,), "bias": (width,)}
        return shapes


def base_shape(base: dict, where: str) -> BaseShape:
    """The shape of a base, {Dense_i: {kernel, bias}, LayerNorm_i: {scale, bias}}; raises
    UserError where it is no MLP.
    """
    try:
        shapes = {
            layer: {name: leaf.shape for name, leaf in leaves.items()}
            for layer, leaves in base.items()
        }
        kernels = [
            shapes[f"Dense_{i}"]["kernel"]
            for i in range(sum(layer.startswith("Dense_") for layer in shapes))
        ]
        *hidden, flat = (width for _, width in kernels)
        found = BaseShape(
            kernels[0][0] - flat - 1, tuple(hidden), "LayerNorm_0" in shapes, flat
        )
    except (AttributeError, KeyError, ValueError):
        found, shapes = None, {}
    if found is None or found.leaves() != shapes:
        raise UserError(
            f"{where}: its actor is not a plain multilayer perceptron with LayerNorm after each"
            " layer or none"
        )
    return found


def check_base(base: dict, expected: dict, where: str) -> None:
    """Raise UserError, naming what differs, where a base has another shape than the agent's."""
    theirs, ours = leaf_shapes(base), leaf_shapes(expected)
    if theirs == ours:
        return
    if is_mlp(expected):
        check_mlp(base, expected, where)
    names = [name for name in sorted({*theirs, *ours}) if theirs.get(name) != ours.get(name)]
    differing = [
        f"{name} is {theirs.get(name, 'missing')} there and {ours.get(name, 'missing')} here"
        for name in names[:3]
    ]
    raise UserError(f"{where}: it is a base of another network: {'; '.join(differing)}")


def leaf_shapes(base: dict) -> dict[str, tuple[int, ...]]:
    """The shape of every array, by its place in the tree."""
    return {"/".join(place): np.shape(leaf) for place, leaf in flatten_dict(base).items()}


def is_mlp(base: dict) -> bool:
    """Whether a base is a plain multilayer perceptron."""
    try:
        base_shape(base, "")
    except UserError:
        return False
    return True


def check_mlp(base: dict, expected: dict, where: str) -> None:
    """Raise UserError, naming both sides and the flags, where a base is no multilayer
    perceptron of the shape of the agent's own.
    """
    theirs, ours = base_shape(base, where), base_shape(expected, where)
    words = {
        "observations O =": (theirs.observation_dim, ours.observation_dim, "--env_name"),
        "actor_hidden_dims": (
            theirs.hidden_dims,
            ours.hidden_dims,
            "--agent.actor_hidden_dims",
        ),
        "layer norm": (
            *("on" if side.layer_norm else "off" for side in (theirs, ours)),
            "--agent.actor_layer_norm",
        ),
        "actions D =": (
            theirs.flat_action_dim,
            ours.flat_action_dim,
            "--horizon_length, --agent.action_chunking",
        ),
    }
    differences = [
        f"{name} {one} there and {other} here ({flag})"
        for name, (one, other, flag) in words.items()
        if one != other
    ]
    if differences:
        raise UserError(f"{where}: {'; '.join(differences)}")


def published_file(path: str | os.PathLike) -> Path | None:
    """The file itself, or the newest params_<step>.pkl of a folder; None where there is
    neither.
    """
    path = expanded(path)
    if path.is_file():
        return path
    return max(
        (file for file in path.glob("params_*.pkl") if file.stem[7:].isdigit()),
        key=published_step,
        default=None,
    )


def published_step(path: Path) -> int:
    """300000 of params_300000.pkl; 0 where the name has no step."""
    match = re.fullmatch(r"params_(\d+)\.pkl", path.name)
    return int(match[1]) if match else 0


def load_published(path: str | os.PathLike, where: str | None = None) -> dict:
    """The base in a published file: {Dense_i: {kernel, bias}, LayerNorm_i: {scale, bias}},
    NumPy float32.

    Read from agent/network/params/<the first of ACTORS that is there>/mlp. Raises UserError,
    which begins with `where` (default: the path), for a file without it.
    """
    where = where or str(path)
    node = published_actor(safe_unpickle(path, where), where)
    base_shape(node, where)
    base = {
        layer: {name: np.array(leaf, np.float32) for name, leaf in leaves.items()}
        for layer, leaves in node.items()
    }
    for layer, leaves in base.items():
        for name, leaf in leaves.items():
            if not np.isfinite(leaf).all():
                raise UserError(f"{where}: {layer}/{name} holds NaN or infinite values")
    return base


def published_actor(node: Any, where: str) -> dict:
    """The actor in the content of a published file; raises UserError where it has none."""
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
        node, at = held[name], name
    return node


def load_base(path: str | os.PathLike) -> dict:
    """The parameters of a base: of a run folder or a published file."""
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
