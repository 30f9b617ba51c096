"""Exports a trained policy to one file that JAX runs without this project.

The file is a zip archive:
    policy.jax  StableHLO by `jax.export`, for CPU, CUDA and TPU, with the parameters it needs:
                (observations float32 [B, O], seed uint32, call uint32) -> float32 [B, H, A]
    about.json  its sizes and versions, and the run it was exported from
    reader.py   ten lines that run it (examples/run_exported_policy.py)

With seed s and call n = 0, 1, ... it returns the same chunks as call n of
`load_policy(run, seed=s)`. The chunk is NaN for an observation that is not finite.

JAX guarantees to read such a file with the release that wrote it, with releases up to six
months newer and up to three weeks older ("Compatibility guarantees" in its guide to export).
To use a policy longer, keep the run and export it again. The function may use custom calls of
jaxlib: load only files that you trust.
"""

import contextlib
import importlib.metadata
import json
import os
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp

from agents.base import Agent
from configs.agent_source import ROOT
from envs.tasks import dataset_name
from training.policy import (
    Scaling,
    chunks_from_seed,
    load_run,
    read_evaluation_lines,
    scaling_of,
    stored_precision,
    unscaled,
)
from training.run import git_commit
from utils.errors import UserError
from utils.files import expanded, put_in_place

PLATFORMS = ("cpu", "cuda", "tpu")
READER = ROOT / "examples" / "run_exported_policy.py"


def export_policy(
    run_dir: str | os.PathLike,
    out: str | os.PathLike,
    step: int | None = None,
    best: bool = False,
    overwrite: bool = False,
    trust: bool = False,
) -> dict[str, Any]:
    """Write the policy of a run folder to a file; return the content of its about.json.

    Raises UserError for the same reasons as `load_run`, and if the file exists.

    Args:
        run_dir: the run folder.
        out: the file to write.
        step: the step of the checkpoint; None for the newest.
        best: whether to use the checkpoint with the best evaluation instead.
        overwrite: whether to replace an existing file.
        trust: whether unknown code of the run folder may be executed.
    """
    path = expanded(out)
    folder = expanded(run_dir)
    if path.is_dir() or (path.exists() and not overwrite):
        remedy = "a file in it" if path.is_dir() else "another name, or --overwrite"
        raise UserError(f"--out={out} exists; give {remedy}")
    agent, stored, step = load_run(folder, step, best, trust)
    with stored_precision(stored):
        exported = export_agent(agent, stored["observation_dim"], scaling_of(stored))
    about = describe(exported) | provenance(folder, stored, step)
    write_policy(path, exported, about)
    return about


def export_agent(
    agent: Agent, observation_dim: int, scale: Scaling = unscaled
) -> jax.export.Exported:
    """Export an agent as (observations [B, O], seed, call) -> chunks [B, H, A], for any B.

    Args:
        agent: the agent.
        observation_dim: O.
        scale: maps observations [B, O] to those of the agent.
    """

    def policy(observations: jax.Array, seed: jax.Array, call: jax.Array) -> jax.Array:
        chunks = chunks_from_seed(agent, scale(observations), seed, call)
        finite = jnp.isfinite(observations).all(axis=-1)
        return jnp.where(finite[:, None, None], chunks, jnp.nan)

    (batch_size,) = jax.export.symbolic_shape("B")
    observations = jax.ShapeDtypeStruct((batch_size, observation_dim), jnp.float32)
    number = jax.ShapeDtypeStruct((), jnp.uint32)
    with without_locations():
        export = jax.export.export(jax.jit(policy), platforms=PLATFORMS)
        return export(observations, number, number)


@contextlib.contextmanager
def without_locations() -> Iterator[None]:
    """Compile without source locations, which would put local paths into the file."""
    name = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, before)


def describe(exported: jax.export.Exported) -> dict[str, Any]:
    """Return the entries of about.json that describe the function and the versions."""
    observations, (chunks,) = exported.in_avals[0], exported.out_avals
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib")}
    return {
        "function": f"(observations {observations}, seed uint32[], call uint32[]) -> {chunks}",
        "observation_dim": observations.shape[1],
        "action_dim": chunks.shape[2],
        "chunk_length": chunks.shape[1],
        "platforms": exported.platforms,
        "versions": versions
        | {project["name"]: project["version"], "commit": git_commit()},
    }


def provenance(folder: Path, stored: dict[str, Any], step: int) -> dict[str, Any]:
    """Return the entries of about.json that describe the run, without its local folders.

    Args:
        folder: the run folder.
        stored: its config.json.
        step: the step of the checkpoint.
    """
    flags = stored["flags"]
    task = flags["env_name"]
    own = flags.get("dataset")
    name = Path(own).name if own else dataset_name(task)
    evaluations = [
        line for line in read_evaluation_lines(folder) if line["step"] == step
    ]
    evaluated = evaluations[-1] if evaluations else {}
    return {
        "task": task,
        "agent": Path(stored["agent_file"]).stem,
        "seed": flags["seed"],
        "step": step,
        "success": evaluated.get("success"),  # JSON has no NaN
        "return": evaluated.get("return"),
        "commit": stored.get("commit"),
        "data": {"name": name} | stored.get("dataset", {}),
        "trained_with": stored.get("versions"),
    }


def write_policy(
    path: Path, exported: jax.export.Exported, about: dict[str, Any]
) -> None:
    """Write the archive atomically, creating its folder.

    Args:
        path: the file.
        exported: the function of policy.jax.
        about: the content of about.json.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as place:
        part = Path(place) / "part"
        with zipfile.ZipFile(part, "w") as archive:
            archive.writestr("policy.jax", bytes(exported.serialize()))
            archive.writestr("about.json", json.dumps(about, indent=1) + "\n")
            # not `write`: zip has no dates before 1980, which some file systems give
            archive.writestr("reader.py", READER.read_bytes())
        put_in_place(part, path)
