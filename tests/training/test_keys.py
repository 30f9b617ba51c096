"""Seeds, and pretraining and finetuning, draw different random numbers."""

from types import SimpleNamespace

import jax

from training.keys import keys_of


def test_every_seed_role_and_purpose_has_its_own_key():
    runs = [
        SimpleNamespace(seed=seed, cloning=cloning)
        for seed in (0, 1)
        for cloning in (False, True)
    ]
    keys = [
        tuple(jax.random.key_data(key).tolist()) for run in runs for key in keys_of(run)
    ]
    assert len(set(keys)) == len(keys) == 2 * 2 * 3
