"""Which precision the matrix products of a loaded policy have."""

import json
import shutil

import jax

from agents.base import Agent


def with_highest_precision(run_dir, copy):
    """Copy a run folder as that of a run with --matmul_precision=highest; return the copy."""
    shutil.copytree(run_dir, copy)
    stored = json.loads((copy / "config.json").read_text())
    stored["flags"]["matmul_precision"] = "highest"
    (copy / "config.json").write_text(json.dumps(stored))
    return copy


def precisions_of_acting(monkeypatch):
    """Return a list that gets the precision each time an agent's `act` is traced."""
    precisions = []
    act = Agent.act

    def recorded(self, *arguments):
        precisions.append(jax.config.jax_default_matmul_precision)
        return act(self, *arguments)

    monkeypatch.setattr(Agent, "act", recorded)
    return precisions
