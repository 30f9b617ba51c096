"""Runs policy.zip, written by scripts/export_policy.py; needs `pip install jax flatbuffers`."""

import zipfile

import jax.export
import numpy as np

exported = jax.export.deserialize(zipfile.ZipFile("policy.zip").read("policy.jax"))
act, width = jax.jit(exported.call), exported.in_avals[0].shape[1]


def policy(observations, seed, call):  # [B, O] -> chunks [B, H, A]; call = 0, 1, 2, ...
    observations = np.asarray(observations, np.float32)
    if observations.shape[1:] != (width,) or not np.isfinite(observations).all():
        raise ValueError(f"observations {observations.shape} must be [B, {width}] and finite")
    return np.asarray(act(observations, np.uint32(seed), np.uint32(call)))
