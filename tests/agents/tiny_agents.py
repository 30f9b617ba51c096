"""Small agents and batches for the tests of this folder."""

import jax
import jax.numpy as jnp
import numpy as np

B, OBS, A, H, K = 6, 4, 2, 3, 5
D = A * H


def tiny(module, **settings):
    """Return a small agent of an agent file."""
    config = module.get_config()
    config.update(
        dict(
            actor_hidden_dims=(16, 16),
            horizon_length=H,
            action_chunking=True,
            flow_steps=K,
            batch_size=B,
        )
    )
    if "num_qs" in config:
        config.update(dict(value_hidden_dims=(16, 16), num_qs=3))
    config.update(settings)
    module.AGENT.check(config)
    return module.AGENT.create(jax.random.key(0), OBS, A, config)


def random_batch(seed=0):
    rng = np.random.default_rng(seed)
    batch = {
        "observations": rng.normal(size=(B, OBS)),
        "actions": rng.uniform(-1, 1, (B, H, A)),
        "rewards": -rng.uniform(size=(B, H)),
        "masks": np.ones((B, H)),
        "valid": np.ones((B, H)),
        "next_observations": rng.normal(size=(B, H, OBS)),
    }
    return {name: jnp.asarray(value, jnp.float32) for name, value in batch.items()}


def diverse(agent):
    """Return the agent with noise on every parameter and average, as in the middle of training."""
    leaves, structure = jax.tree.flatten((agent.params, agent.target_params))
    keys = jax.random.split(jax.random.key(9), len(leaves))
    moved = [
        leaf + 0.1 * jax.random.normal(key, leaf.shape)
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    params, target_params = jax.tree.unflatten(structure, moved)
    return agent.replace(params=params, target_params=target_params)
