"""Makes every test, and every process a test starts, strict and free of a GPU and of OpenGL.

Environment variables rather than `jax.config`: programs under test inherit them, and jax stays unloaded here.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["MUJOCO_GL"] = "disabled"
os.environ["JAX_DEBUG_KEY_REUSE"] = "1"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
