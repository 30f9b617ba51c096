"""The table's methods against updates written straight from the equations.

TRQAM, QAM and SQAM have their own tests. The straightforward updates agree with the published
numbers, which have one set of sizes. Here they write golden files with other settings, which
parity.py compares with our updates: LayerNorm in the actor, best of n, no chunks, no pessimism,
invalid chunks.
"""

import importlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from tests import parity
from tests.agents import straightforward_rows
from tests.agents.tiny_agents import OBS, A, B, diverse, random_batch, tiny
from tests.test_parity import GOLDEN

UPDATES = {"rebrac": 4}  # 2 for the others
HIDDEN = (16, 16)
WITHOUT_FLOW = ("qsm", "dac", "rebrac", "rlpd")
BARE = {
    "actor_layer_norm": True,
    "rho": 0.0,
    "horizon_length": 1,
    "action_chunking": False,
}
NORMED = {"actor_layer_norm": True, "rho": 0.0}
DENOISER = {"time_dim": 6, "diffusion_steps": 3}
CASES = {
    "FEdit": ("fedit", NORMED | {"best_of_n": 2, "edit_scale": 0.4}),
    "FBRAC": ("fbrac", BARE | {"alpha": 0.1}),
    "BAM": ("bam", {"actor_layer_norm": True, "inv_temp": 3.0, "best_of_n": 2}),
    "FAWAC": ("fawac", NORMED | {"inv_temp": 3.0}),
    "QSM": ("qsm", NORMED | DENOISER | {"inv_temp": 3.0, "alpha": 10.0}),
    "DAC": ("dac", BARE | DENOISER | {"beta_schedule": "cosine", "alpha": 0.3}),
    "ReBRAC": ("rebrac", BARE | {"rho": 0.5, "actor_freq": 3, "actor_noise": 0.6}),
    "RLPD": ("rlpd", {"rho": 0.0, "action_chunking": False, "bc_alpha": 0.1}),
    "QAM-E": ("qam_edit", BARE | {"best_of_n": 2, "inv_temp": 3.0}),
    "QAM-F": ("qam_fql", NORMED | {"best_of_n": 2}),
    "DSRL": ("dsrl", NORMED | {"best_of_n": 3, "noise_scale": 1.4}),
    "CGQL-S": ("cgql", BARE | {"mode": "simple"}),
    "CGQL-M": ("cgql", NORMED | {"mode": "mse"}),
}
SLOW_CASES = {
    "BAM without the critic": ("bam", BARE | {"inv_temp": 0.0}),
    "QSM, linear schedule": ("qsm", DENOISER | {"beta_schedule": "linear", "rho": 0.5}),
    "ReBRAC, chunks": ("rebrac", {"actor_noise": 0.2, "actor_freq": 2}),
    "QAM-E, chunks": ("qam_edit", {"actor_layer_norm": True, "edit_scale": 0.9}),
    "DSRL, no chunks": ("dsrl", BARE | {"noise_scale": 0.6}),
    "CGQL-S, two samples": ("cgql", {"mode": "simple", "best_of_n": 2}),
    "CGQL-L without guidance": ("cgql", {"mode": "linex", "inv_temp": 0.0}),
}


def noise_shapes(name, config, d):
    """Return the shapes of an update's Gaussian draws, by their names in a golden file."""
    n, steps = config.get("best_of_n", 1), config.flow_steps
    shapes = {"next_action": (n, B, d) if n > 1 else (B, d)}
    shapes |= {} if name in WITHOUT_FLOW else {"flow_x0": (B, d)}
    sde = {"sde_x0": (B, d), "sde_noise": (steps, B, d)}
    qam = sde | {"z": (B, d)}
    denoiser = {
        "next_noise": (config.get("diffusion_steps", 0), B, d),
        "ddpm_noise": (B, d),
    }
    own = {
        "fedit": {"z": (B, d), "edit": (n + 1, B, d)},
        "fbrac": {"z": (B, d)},
        "bam": sde,
        "qsm": denoiser,
        "dac": denoiser,
        "rlpd": {"actor": (B, d)},
        "qam_edit": qam | {"edit": (n + 1, B, d)},
        "qam_fql": qam,
        "dsrl": {"latent": (B, d), "actor": (B, d)},
        "cgql": {"noisy_x0": (B, d)} if config.get("mode") != "simple" else {},
    }
    return shapes | own.get(name, {})


def made_noise(name, agent, u):
    """Return the draws of update u."""
    rng, shapes = (
        np.random.default_rng(100 + u),
        noise_shapes(name, agent.config, agent.flat_action_dim),
    )
    noise = {
        key: rng.normal(size=shape).astype(np.float32) for key, shape in shapes.items()
    }
    times = {key.replace("_x0", "_t") for key in shapes} & {"flow_t", "noisy_t"}
    if "ddpm_noise" in noise:
        steps = agent.config.diffusion_steps
        noise["ddpm_t"] = rng.integers(1, steps + 1, B).astype(np.int32)
    return noise | {
        key: rng.uniform(size=(B, 1)).astype(np.float32) for key in sorted(times)
    }


def made_batch(config, u):
    """Return a batch with a chunk that succeeds and one past the end of a trajectory."""
    batch, horizon = random_batch(u), config.horizon_length
    batch |= {
        key: value[:, :horizon] for key, value in batch.items() if key != "observations"
    }
    batch["masks"] = batch["masks"].at[1, -1].set(0.0)
    batch["valid"] = batch["valid"].at[0, -1].set(0.0)
    return batch


def write_golden(path, name, agent):
    """Write a golden file for parity.py, with the numbers of the straightforward update."""
    config = agent.config
    meta = {
        key: value for key, value in config.items() if not key.endswith("hidden_dims")
    }
    meta |= {
        "agent": name,
        "B": B,
        "O": OBS,
        "A": A,
        "H": config.horizon_length,
        "hidden": HIDDEN,
        "n_updates": UPDATES.get(name, 2),
    }
    meta |= {
        "activation": "gelu",
        "grad_clip": 1.0 if config.get("clip_grad") else None,
        "target_entropy": -1.5,
    }
    params = flatten_dict(parity.networks(agent), sep="/")
    arrays = {f"params/{key}": value for key, value in params.items()}
    update = jax.jit(straightforward_rows.update(name))
    for u in range(meta["n_updates"]):
        batch, noise = made_batch(config, u), made_noise(name, agent, u)
        n = config.get("best_of_n", 1)
        full = noise | {"next_action": noise["next_action"].reshape(n, B, -1)}
        agent, metrics, fixed = update(agent, batch, full)
        for key, value in parity.outputs(agent, metrics, fixed, meta).items():
            arrays[f"update{u}/{key if '/' in key else f'out/{key}'}"] = value
        for part, values in (("batch", batch), ("noise", noise)):
            arrays |= {
                f"update{u}/{part}/{key}": value for key, value in values.items()
            }
    np.savez(
        path,
        meta=np.frombuffer(json.dumps(meta).encode(), np.uint8),
        **{k: np.asarray(v) for k, v in arrays.items()},
    )


PARAMETERS = [pytest.param(*values, id=name) for name, values in CASES.items()]
PARAMETERS += [
    pytest.param(*values, id=name, marks=pytest.mark.slow)
    for name, values in SLOW_CASES.items()
]  # fmt: skip
ENTROPY = {"entropy", "entropy_loss", "alpha", "alpha_loss"}
OUTPUTS = {
    "fedit": ENTROPY | {"flow_loss", "actor_loss", "q_loss"},
    "fbrac": {"flow_loss", "actor_loss", "q_loss"},
    "bam": {"flow_loss", "bc_loss", "bam_loss"},
    "fawac": {"value_loss", "v_mean", "actor_loss"},
    "qsm": {"actor_loss"},
    "dac": {"actor_loss"},
    "rebrac": {"actor_loss", "bc_loss"},
    "rlpd": ENTROPY | {"actor_loss", "bc_loss"},
    "qam_edit": ENTROPY | {"flow_loss", "adj_loss", "xs", "adjoints", "q_loss"},
    "qam_fql": {"flow_loss", "adj_loss", "xs", "adjoints", "q_loss", "distill_loss"},
    "dsrl": ENTROPY | {"flow_loss", "distill_loss", "latent_q_mean", "actor_loss"},
    "cgql": {"flow_loss"},
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "settings"), PARAMETERS)
def test_equals_the_straightforward_update(tmp_path, name, settings):
    agent = diverse(
        tiny(importlib.import_module(f"agents.{name}"), flow_steps=3, **settings)
    )
    write_golden(tmp_path / "made.npz", name, agent)
    worst, problems = parity.compare(tmp_path / "made.npz")
    assert problems == []
    expected = OUTPUTS[name] | {
        "critic_loss",
        "q_mean",
        "next_actions",
        "global_grad_norm",
    }
    assert expected | {f"params_after/{key}" for key in parity.networks(agent)} <= set(
        worst
    )
    assert ("noisy_critic_loss" in worst) == (settings.get("mode") in ("mse", "linex"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("qam_edit", "qam_fql", "dsrl", "cgql_simple", "cgql_mse", "cgql_linex"),
        *("fedit", "fbrac", "bam", "fawac", "qsm", "dac", "rebrac", "rlpd"),
    ],
)  # fmt: skip
def test_the_straightforward_update_gives_the_published_numbers(monkeypatch, name):
    agent = name.partition("_")[0] if name.startswith("cgql") else name
    kind = importlib.import_module(f"agents.{agent}").AGENT
    monkeypatch.setattr(kind, "update_with_noise", straightforward_rows.update(agent))
    worst, problems = parity.compare(GOLDEN / f"{name}_chunk5.npz")
    assert problems == []
    assert {"critic_loss", "params_after/critic"} <= set(worst)
    # The files of ReBRAC and RLPD have no next actions.
    assert ("next_actions" in worst) == (name not in ("rebrac", "rlpd"))


@pytest.mark.parametrize("layer_norm", [False, True])
def test_layer_norm_is_in_velocity_fields_and_in_no_tanh_gaussian(layer_norm):
    """A one-step actor counts as a velocity field; it reads no time."""
    fields = {"policy", "base", "one_step_actor"} if layer_norm else set()
    critics = {"critic", "latent_critic"}
    heads = {"qam_edit": "editor", "dsrl": "noise_actor", "qam_fql": "one_step_actor"}
    for name, head in (heads | {"fql": "one_step_actor"}).items():
        agent = tiny(
            importlib.import_module(f"agents.{name}"), actor_layer_norm=layer_norm
        )
        normed = {
            net for net, params in agent.params.items() if "LayerNorm_0" in params
        }
        assert head in agent.params
        assert normed == (fields | critics) & set(agent.params), name


@pytest.mark.parametrize(
    ("name", "head"), [("qam_edit", "editor"), ("dsrl", "noise_actor")]
)
def test_mean_and_log_std_are_each_initialised_for_their_own_width(name, head):
    """Each is Xavier-uniform for (hidden, D): wider than a layer with 2 D outputs would be."""
    module = importlib.import_module(f"agents.{name}")
    agent = tiny(module, actor_hidden_dims=(16, 64))
    last, d = agent.params[head]["Dense_2"], agent.flat_action_dim
    assert last["kernel"].shape == (64, 2 * d)
    assert not last["bias"].any()
    bound, joint = np.sqrt(6 / (64 + d)), np.sqrt(6 / (64 + 2 * d))
    halves = jnp.split(last["kernel"], 2, axis=1)
    for half in halves:
        assert joint < jnp.abs(half).max() <= bound
        np.testing.assert_allclose(half.std(), bound / np.sqrt(3), rtol=0.1)
    assert np.abs(np.corrcoef(*(half.ravel() for half in halves))[0, 1]) < 0.2
