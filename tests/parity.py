"""Compare an agent with the published code, number by number.

    python tests/parity.py FILE.npz...
    python tests/parity.py --matmul_precision=bfloat16 FILE.npz...      # what that changes
    JAX_PLATFORMS=cuda python tests/parity.py --matmul_precision=highest FILE.npz...

Each file holds parameters, batches, every random draw and the results of a few consecutive updates of the published
code. One line is printed per quantity with its largest error over the updates; the exit code is 1 beyond a tolerance,
when a quantity in the file is unknown here, and when parameters of ours are missing there or a quantity that it holds for
another update. What the file holds for no update is named and not compared.

Error is max|a - b| / max|b| per array: 1e-5, adjoints and xs 5e-5; parameters 1e-5 absolute after the last update.
"""

import importlib
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

TOLERANCE = 1e-5
LOOSE = {"xs": 5e-5, "adjoints": 5e-5}
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
}
FEW = {name: METRICS[name] for name in ("critic_loss", "q_mean")}
OWN_METRICS = {  # of agents whose files hold other quantities, or call ours by other names
    "fql": FEW | {"actor_loss": "actor/loss", "bc_flow_loss": "flow/loss", "distill_loss": "actor/distill_loss"},
    "ifql": {
        "critic_loss": "critic/loss",
        "q_mean": "critic/target_mean",
        "actor_loss": "flow/loss",
        "value_loss": "value/loss",
        "v_mean": "value/mean",
    },
    "cgql": FEW | {"flow_loss": "flow/loss", "noisy_critic_loss": "critic/noisy_loss"},
}
FIXED = {"xs": "xs", "adjoints": "adjoints", "next_actions": "next_actions", "policy_actions": "x_final"}
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
}


class Golden:
    """One file: its sizes and hyperparameters, and its arrays by prefix."""

    def __init__(self, path: str):
        with np.load(path, allow_pickle=False) as file:
            self.arrays = {name: file[name] for name in file.files if name != "meta"}
            self.meta = json.loads(file["meta"].tobytes().decode())

    def tree(self, prefix: str) -> dict:
        """The arrays below `prefix/` as a nested dictionary."""
        found = {k[len(prefix) + 1 :]: v for k, v in self.arrays.items() if k.startswith(prefix + "/")}
        return unflatten_dict({k: jnp.asarray(v) for k, v in found.items()}, sep="/")


def build(golden: Golden):
    """The agent at the file's starting parameters."""
    meta = golden.meta
    module = importlib.import_module(f"agents.{meta['agent']}")
    config = module.get_config()
    config.update(
        {
            "horizon_length": meta["H"],
            "actor_hidden_dims": tuple(meta["hidden"]),
            "value_hidden_dims": tuple(meta["hidden"]),
            **{key: value for key, value in meta.items() if key in config and key not in ALIASES},
        }
    )
    if "grad_clip" in meta and "clip_grad" in config:
        config.clip_grad = meta["grad_clip"] is not None
    unread = set(meta) - set(config) - ALIASES
    if unread:
        print(f"note: the agent does not know {sorted(unread)}; the numbers decide whether that matters")
    agent = module.AGENT.create(jax.random.key(0), meta["O"], meta["A"], config)
    params = golden.tree("params")
    agent = agent.replace(
        params={name: params.pop(name) for name in agent.params},
        target_params={name: params.pop(f"target_{name}") for name in agent.target_params},
    )
    if params:
        raise SystemExit(f"{meta['agent']}: networks of the file that the agent does not have: {sorted(params)}")
    if "lam" in meta and getattr(agent, "dual", None) is not None:
        dual = agent.dual.replace(lam=jnp.float32(meta["lam"]), kl_ema=jnp.float32(meta["kl_ema"]))
        agent = agent.replace(dual=dual)
    return agent


def outputs(agent, metrics: dict, fixed: dict, meta: dict) -> dict[str, np.ndarray]:
    """Everything ours that a file may hold, under the file's names."""
    ours = {name: metrics[key] for name, key in OWN_METRICS.get(meta["agent"], METRICS).items() if key in metrics}
    ours |= {name: fixed[key] for name, key in FIXED.items() if key in fixed}
    if "xs" in fixed:
        ts = agent.times()
        ours["ts"] = jnp.broadcast_to(ts[:, None, None], (len(ts), meta["B"], 1))
    networks = agent.params | {f"target_{name}": params for name, params in agent.target_params.items()}
    flat = {f"params_after/{name}": value for name, value in flatten_dict(networks, sep="/").items()}
    return {name: np.asarray(value) for name, value in (ours | flat).items()}


def compare(path: str) -> tuple[dict[str, float], list[str]]:
    """Largest error by quantity over all updates of the file; and what went wrong."""
    golden = Golden(path)
    agent, meta = build(golden), golden.meta
    worst: dict[str, float] = {}
    stems = ("params/", *(f"update{u}/{part}/" for u in range(meta["n_updates"]) for part in PARTS))
    problems = [f"{name} is in the file and belongs to no update" for name in golden.arrays if not name.startswith(stems)]
    held = {name.partition("/out/")[2] for name in golden.arrays}
    update = jax.jit(type(agent).update_with_noise)
    for u in range(meta["n_updates"]):
        noise = golden.tree(f"update{u}/noise")
        if "next_action" in noise:
            noise["next_action"] = noise["next_action"].reshape(agent.samples, meta["B"], -1)
        agent, metrics, fixed = update(agent, golden.tree(f"update{u}/batch"), noise)
        ours = outputs(agent, metrics, fixed, meta)
        if u == 0 and (absent := sorted(name for name in ours if "/" not in name and name not in held)):
            print(f"note: not in the file and not compared: {', '.join(absent)}")
        prefix = f"update{u}/"
        theirs = {
            name.removeprefix(prefix).removeprefix("out/"): value
            for name, value in golden.arrays.items()
            if name.startswith((prefix + "out/", prefix + "params_after/"))
        }
        problems += [f"update {u}: {name} is in the file and not computed here" for name in sorted(set(theirs) - set(ours))]
        missing = sorted(name for name in set(ours) - set(theirs) if "/" in name or name in held)
        problems += [f"update {u}: {name} is computed here and not in the file" for name in missing]
        for name in sorted(set(theirs) & set(ours)):
            quantity = "/".join(name.split("/")[:2]) if name.startswith("params_after/") else name
            error = distance(quantity, ours[name], theirs[name])
            worst[quantity] = max(worst.get(quantity, 0.0), error)
    for quantity, error in worst.items():
        if not error <= tolerance(quantity):
            problems.append(f"{quantity}: error {error:.1e} is beyond {tolerance(quantity):.0e}")
    return worst, problems


def tolerance(quantity: str) -> float:
    """The largest error allowed."""
    return LOOSE.get(quantity, TOLERANCE)


def distance(quantity: str, ours: np.ndarray, theirs: np.ndarray) -> float:
    """Absolute error for parameters, error relative to the largest entry for the rest; infinite for another shape or NaN."""
    if ours.shape != theirs.shape or not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return float("inf")
    error = np.abs(ours.astype(np.float64) - theirs).max()
    return float(error if quantity.startswith("params_after/") else error / max(np.abs(theirs).max(), 1e-30))


def main(arguments: list[str]) -> int:
    """Print the comparison of every file; 0 if all of it holds."""
    option = "--matmul_precision="
    paths = [word for word in arguments if not word.startswith(option)]
    for word in set(arguments) - set(paths):
        jax.config.update("jax_default_matmul_precision", word.removeprefix(option))
    if not paths:
        print(__doc__)
        return 2
    failed = False
    for path in paths:
        worst, problems = compare(path)
        for quantity, error in sorted(worst.items()):
            print(f"{Path(path).name:24} {quantity:28} {error:.1e}  (at most {tolerance(quantity):.0e})")
        for problem in problems:
            print(f"{Path(path).name:24} WRONG {problem}")
        failed |= bool(problems)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
