"""Compare an agent with the published code, number by number.

    python tests/parity.py FILE.npz...
    JAX_PLATFORMS=cuda python tests/parity.py --matmul_precision=highest FILE.npz...

Each file holds parameters, batches, every random draw and the results of a few consecutive
updates of the published code. One line is printed per quantity, with its largest error over the
updates. The exit code is 1 in these cases:

- An error is beyond its tolerance.
- A quantity in the file is unknown here.
- The file lacks parameters of ours, or in one update a quantity that it has in another.

Our quantities that the file has in no update are mentioned and not compared. What only the files
of certain agents hold is in tests/parity_own.py.

The error of an array is max|a - b| / max(max|b|, 0.1): a mean of values of order 1 may be near 0
and still carries their rounding. It may be 1e-5, and 5e-5 for states of a process; for
parameters the absolute error may be 1e-5 after each update. States are adjoints and xs, and
next_actions of QSM and DAC, whose sampler multiplies rounding by 12.
"""

import functools
import importlib
import json
import os
import sys
from collections import defaultdict
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from tests import parity_own

TOLERANCE = 1e-5
STATE_TOLERANCE = 5e-5
STATES = {"xs", "adjoints"}
# further states, by agent
OWN_STATES = {
    "qsm": {"next_actions"},
    "dac": {"next_actions"},
}
LEAST_SCALE = 0.1  # an error is relative to this scale at least
METRICS = {
    "critic_loss": "critic/loss",
    "flow_loss": "flow/loss",
    "adj_loss": "adjoint/loss",
    "q_mean": "critic/q_mean",
    "global_grad_norm": "grad_norm",
    "path_kl": "dual/path_kl",
    "lam": "dual/lam",
    "kl_ema": "dual/kl_ema",
    "value_gap": "critic/value_gap",
    "actor_loss": "actor/loss",
    "bc_loss": "actor/bc_loss",
    "q_loss": "head/q_loss",
    "distill_loss": "head/distill_loss",
    "alpha": "entropy/alpha",
    "alpha_loss": "entropy/alpha_loss",
    "entropy": "entropy/mean",
    "entropy_loss": "entropy/loss",
    "latent_q_mean": "latent/q_mean",
    "noisy_critic_loss": "critic/noisy_loss",
    "value_loss": "value/loss",
    "v_mean": "value/mean",
}
# names that mean something else in the files of one agent
OWN_METRICS = {
    "fql": {"bc_flow_loss": "flow/loss", "distill_loss": "actor/distill_loss"},
    "ifql": {"q_mean": "critic/target_mean", "actor_loss": "flow/loss"},
    "dsrl": {"distill_loss": "latent/loss"},
    "bam": {"bam_loss": "actor/loss"},
    "rql": {"q_flow_mean": "actor/q_mean"},
    "lql": {
        **{f"{part}_loss": f"critic/{part}_loss" for part in ("td", "lower", "upper")},
        "critic_loss": "critic/loss",
    },
}
FIXED = {
    "reversed": "reversed",
    "xs": "xs",
    "adjoints": "adjoints",
    "next_actions": "next_actions",
    "policy_actions": "x_final",
}
PARTS = ("batch", "noise", "out", "params_after")
ALIASES = {
    "layer_norm",
    "activation",
    "hidden",
    "agent",
    "B",
    "O",
    "A",
    "H",
    "n_updates",
    "grad_clip",
    "source",
    "lam",
    "kl_ema",
    *parity_own.META,
}


class Golden:
    """One file: its sizes and hyperparameters, and its arrays by prefix."""

    def __init__(self, path: str):
        with np.load(path, allow_pickle=False) as file:
            self.arrays = {name: file[name] for name in file.files if name != "meta"}
            self.text = file["meta"].tobytes().decode()
        self.meta = json.loads(self.text)

    def tree(self, prefix: str) -> dict:
        """The arrays below `prefix/` as a nested dictionary."""
        found = {
            k[len(prefix) + 1 :]: v
            for k, v in self.arrays.items()
            if k.startswith(prefix + "/")
        }
        return unflatten_dict({k: jnp.asarray(v) for k, v in found.items()}, sep="/")

    @property
    def trains(self) -> bool:
        """Whether the file holds the results of updates; otherwise it only covers acting."""
        return any("/params_after/" in name for name in self.arrays)

    @property
    def outputs(self) -> set[str]:
        """The outputs that the file has for any update."""
        return {name.partition("/out/")[2] for name in self.arrays}

    def noise(self, u: int, samples: int) -> dict:
        """The random draws of update u. For n = 1 a file may have next_action as [B, D]."""
        noise = self.tree(f"update{u}/noise")
        if "next_action" in noise:
            noise["next_action"] = noise["next_action"].reshape(
                samples, self.meta["B"], -1
            )
        return noise

    def results(self, u: int) -> dict[str, np.ndarray]:
        """The outputs of update u, and the parameters after it under params_after/, by name."""
        prefix = f"update{u}/"
        starts = (f"{prefix}out/", f"{prefix}params_after/")
        found = {k: v for k, v in self.arrays.items() if k.startswith(starts)}
        return {
            k.removeprefix(prefix).removeprefix("out/"): v for k, v in found.items()
        }

    def strays(self) -> list[str]:
        """One line for each array that belongs to no update."""
        us = range(self.meta["n_updates"])
        updates = [f"update{u}/{part}/" for u in us for part in PARTS]
        stray = [
            name for name in self.arrays if not name.startswith(("params/", *updates))
        ]
        return [f"{name} is in the file and belongs to no update" for name in stray]


def build(golden: Golden):
    """An agent with the file's settings and its own initial parameters."""
    meta = golden.meta
    name = parity_own.MODULES.get(meta["agent"], f"agents.{meta['agent']}")
    module = importlib.import_module(name)
    config = module.get_config()
    config.update(
        {
            "horizon_length": meta["H"],
            "actor_hidden_dims": tuple(meta["hidden"]),
            "value_hidden_dims": tuple(meta["hidden"]),
            **{
                key: setting(meta[key])
                for key in (meta.keys() & config.keys()) - ALIASES
            },
            **parity_own.settings_of(meta),
        }
    )
    if "grad_clip" in meta and "clip_grad" in config:
        config.clip_grad = meta["grad_clip"] is not None
    unread = set(meta) - set(config) - ALIASES
    if unread:
        print(
            f"note: the agent does not know {sorted(unread)}; the numbers decide whether that"
            " matters"
        )
    return module.AGENT.create(jax.random.key(0), meta["O"], meta["A"], config)


def setting(value):
    """A value of the file's JSON as the agents' settings have it: lists become tuples."""
    return tuple(value) if isinstance(value, list) else value


def networks(agent) -> dict:
    """All parameters of the agent under the file's names."""
    targets = {f"target_{name}": params for name, params in agent.target_params.items()}
    return agent.params | targets


def shapes(networks: dict) -> dict[str, str]:
    """The shape of each parameter, by its name in a file."""
    return {
        name: str(value.shape)
        for name, value in flatten_dict(networks, sep="/").items()
    }


def differing_networks(agent, golden: Golden) -> list[str]:
    """One line for each parameter that only one side has, or that differs in shape."""
    own, held = networks(agent), golden.tree("params")
    if not golden.trains:
        own = {name: own[name] for name in own.keys() & held.keys()}
    ours, theirs = shapes(own), shapes(held)
    names = sorted({name for name, _ in ours.items() ^ theirs.items()})
    pairs = {name: (ours.get(name, "none"), theirs.get(name, "none")) for name in names}
    return [
        f"params/{name}: {a} here, {b} in the file" for name, (a, b) in pairs.items()
    ]


def started(agent, golden: Golden):
    """The agent with the initial parameters and dual state of the file."""
    params, meta = networks(agent) | golden.tree("params"), golden.meta
    agent = agent.replace(
        params={name: params[name] for name in agent.params},
        target_params={name: params[f"target_{name}"] for name in agent.target_params},
    )
    if "lam" in meta and getattr(agent, "dual", None) is not None:
        dual = agent.dual.replace(
            lam=jnp.float32(meta["lam"]), kl_ema=jnp.float32(meta["kl_ema"])
        )
        agent = agent.replace(dual=dual)
    return agent


def update_and_states(agent, batch: dict, noise: dict) -> tuple:
    """Do one update; return the agent, its metrics, and what its loss has read."""
    updated, metrics, fixed = agent.update_with_noise(batch, noise)
    if hasattr(agent, "matching"):
        policy, s = agent.params["policy"], batch["observations"]
        rollout, adjoints = agent.matching(policy, s, noise, fixed)
        fixed |= {"xs": rollout.xs, "x_final": rollout.x_final, "adjoints": adjoints}
    return updated, metrics, fixed


@functools.cache
def compiled_outputs(meta: str) -> parity_own.Outputs:
    """The outputs before an update that files with these settings alone hold, compiled once."""
    return jax.jit(parity_own.outputs_of(json.loads(meta)))


def outputs(agent, metrics: dict, fixed: dict, meta: dict) -> dict[str, np.ndarray]:
    """All our quantities that a file may hold, under the file's names."""
    keys = METRICS | OWN_METRICS.get(meta["agent"], {})
    ours = {name: metrics[key] for name, key in keys.items() if key in metrics}
    ours |= {name: fixed[key] for name, key in FIXED.items() if key in fixed}
    if "xs" in fixed:
        ts = agent.times()
        ours["ts"] = jnp.broadcast_to(ts[:, None, None], (len(ts), meta["B"], 1))
    params = flatten_dict(networks(agent), sep="/")
    flat = {f"params_after/{name}": value for name, value in params.items()}
    return {name: np.asarray(value) for name, value in (ours | flat).items()}


def compare(path: str) -> tuple[dict[str, float], list[str]]:
    """Return the largest error of each quantity over all updates, and the problems."""
    golden = Golden(path)
    agent = build(golden)
    if problems := differing_networks(agent, golden):
        return {}, problems
    agent, problems, worst = started(agent, golden), golden.strays(), defaultdict(float)
    update, own = jax.jit(update_and_states), compiled_outputs(golden.text)
    for u in range(golden.meta["n_updates"]):
        noise, batch = golden.noise(u, agent.samples), golden.tree(f"update{u}/batch")
        batch = parity_own.batch_of(golden.meta, batch)
        ours, theirs = own(agent, batch, noise), golden.results(u)
        if golden.trains:
            agent, metrics, fixed = update(agent, batch, noise)
            ours |= outputs(agent, metrics, fixed, golden.meta)
        ours = {name: np.asarray(value) for name, value in ours.items()}
        problems += [
            f"update {u}: {name}" for name in unmatched(ours, theirs, golden.outputs)
        ]
        for name in sorted(ours.keys() & theirs.keys()):
            quantity = (
                "/".join(name.split("/")[:2])
                if name.startswith("params_after/")
                else name
            )
            worst[quantity] = max(
                worst[quantity], distance(quantity, ours[name], theirs[name])
            )
    outside = [name for name in ours if not name.startswith("params_after/")]
    if uncompared := sorted(set(outside) - golden.outputs):
        print(f"note: not in the file and not compared: {', '.join(uncompared)}")
    for quantity, error in worst.items():
        if not error <= (allowed := tolerance(quantity, golden.meta["agent"])):
            problems.append(f"{quantity}: error {error:.1e} is beyond {allowed:.0e}")
    return worst, problems


def unmatched(ours: dict, theirs: dict, held: set[str]) -> list[str]:
    """What only one side has in an update; `held` are the outputs that the file has in any."""
    unknown, missing = theirs.keys() - ours.keys(), ours.keys() - theirs.keys()
    missing = {
        name for name in missing if name.startswith("params_after/") or name in held
    }
    return [
        *(f"{name} is in the file and not computed here" for name in sorted(unknown)),
        *(f"{name} is computed here and not in the file" for name in sorted(missing)),
    ]


def tolerance(quantity: str, agent: str) -> float:
    """The largest error that is allowed for a quantity in a file of this agent."""
    return (
        STATE_TOLERANCE
        if quantity in STATES | OWN_STATES.get(agent, set())
        else TOLERANCE
    )


def distance(quantity: str, ours: np.ndarray, theirs: np.ndarray) -> float:
    """Absolute error for parameters, relative to the largest entry or to 0.1 for the rest.

    Infinite for another shape and for values that are not finite.
    """
    if ours.shape != theirs.shape or not (
        np.isfinite(ours).all() and np.isfinite(theirs).all()
    ):
        return float("inf")
    error = np.abs(ours.astype(np.float64) - theirs).max()
    if quantity.startswith("params_after/"):
        return float(error)
    return float(error / max(np.abs(theirs).max(), LEAST_SCALE))


def main(arguments: list[str]) -> int:
    """Print the comparison of every file; return 0 if all agree."""
    option = "--matmul_precision="
    paths = [word for word in arguments if not word.startswith(option)]
    for word in set(arguments) - set(paths):
        jax.config.update("jax_default_matmul_precision", word.removeprefix(option))
    if not paths or {"--help", "-h"} & set(paths):
        print(__doc__)
        return 0 if paths else 2
    for path in paths:
        if not Path(path).is_file():
            print(f"error: {path}: there is no such file", file=sys.stderr)
            return 2
    failed = False
    for path in paths:
        worst, problems = compare(path)
        agent = Golden(path).meta["agent"]
        for quantity, error in sorted(worst.items()):
            allowed = tolerance(quantity, agent)
            print(
                f"{Path(path).name:24} {quantity:28} {error:.1e}  (at most {allowed:.0e})"
            )
        for problem in problems:
            print(f"{Path(path).name:24} WRONG {problem}")
        failed |= bool(problems)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
