"""Tests which agents share a behaviour-cloned base, and which bases an agent refuses."""

import inspect

import jax
import numpy as np
import pytest

from agents import trqam, trqam_custom_network
from agents.base import Agent
from configs.agent_file import load_source
from configs.agent_source import AGENTS
from tests.agents.tiny_agents import tiny
from tests.tiny_runs import resolved
from training.cloning import cloning_identity
from training.pretrained import check_base
from training.run import base_identity, bc_only
from utils.errors import UserError

NETWORK = '''
"""A field of one's own."""
import jax.numpy as jnp
from flax import linen as nn
from helper import squash, Inner
import other

WIDTH = 8


class Field(nn.Module):
    depth: int

    @nn.compact
    def __call__(self, s, x, t):
        return squash(nn.Dense(x.shape[-1])(Inner(WIDTH)(x))) + other.shift(x)
'''
AGENT = """
from agents import trqam
from network import Field
from utils.options import Option


class Mine(trqam.TRQAM):
    OPTIONS = trqam.TRQAM.OPTIONS | {"depth": Option(1, "how deep it is", above=0)}

    @classmethod
    def networks(cls, config):
        field = Field(config.depth)
        return super().networks(config) | {"base": field, "policy": field}

    def trust_region(self):
        return 1.0


get_config = Mine.get_config
AGENT = Mine
"""
HELPER = """
from flax import linen as nn


def squash(x):
    return x


class Inner(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.width)(x)


def unused(x):
    return x
"""
FILES = {
    "mine.py": AGENT,
    "network.py": NETWORK,
    "helper.py": HELPER,
    "other.py": "def shift(x):\n    return 0 * x\n",
}
LOSS = """
from agents import trqam


class Mine(trqam.TRQAM):
    def flow_loss(self, base, batch, noise):
        return self.config.lam_scale * super().flow_loss(base, batch, noise)


get_config = Mine.get_config
AGENT = Mine
"""

PARTS = """
import functools
import jax
import numpy as np
from agents import trqam
import parts

FREQ = [1, 2]
NAMED = {"a": 1, "b": jax.nn.relu}
KINDS = {"x", "y"}
TABLE = np.arange(2000)
POWER = 2


@jax.jit
def jitted(x):
    return x


@functools.cache
def cached(x):
    return x


class Mine(trqam.TRQAM):
    SCALE = 0.5

    @property
    def offset(self):
        return 1.0

    def weight(self):
        return self.SCALE + cached(2)

    def flow_loss(self, base, batch, noise):
        loss = self.weight() * jitted(super().flow_loss(base, batch, noise))
        found = FREQ, NAMED, KINDS, TABLE
        return loss ** POWER + self.offset + parts.power() + self.extra(found)

    @classmethod
    def extra(cls, x):
        return 0.0


get_config = Mine.get_config
AGENT = Mine
"""
POWER = """
POWER = 3


def power():
    return POWER
"""


def identity(folder, files=FILES, **settings):
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    source = load_source(folder / "mine.py")
    config = source.module.get_config()
    config.update(settings)
    return cloning_identity(source, config)


@pytest.mark.parametrize(
    "name",
    [
        "trqam",
        "qam",
        "sqam",
        "fql",
        "trqam_fixed_lambda",
        "trqam_distributional_critic",
    ],
)
def test_agents_with_the_shared_flow_share_the_base_of_bc(name):
    source = load_source(AGENTS / f"{name}.py")
    assert cloning_identity(source, source.module.get_config()) == {}


def test_a_fork_need_not_offer_the_layer_norm_of_the_shared_flow():
    source = load_source(AGENTS / "trqam_custom_network.py")
    config = source.module.get_config()
    assert "actor_layer_norm" not in config and "frequencies" in config
    settings = resolved("--env_name=scene", f"--agent={source.file}")
    identity = base_identity(settings)
    assert identity["actor_layer_norm"] is None and "cloning" in identity


def test_the_same_network_in_another_file_has_the_same_identity(tmp_path):
    first = identity(tmp_path / "a")
    assert set(first) == {"cloning"}
    other = AGENT.replace("return 1.0", "return 2.0").replace("Mine", "Yours")
    moved = {
        **FILES,
        "mine.py": other.replace("AGENT = Yours", "AGENT = Yours\nSPARE = 3"),
    }
    assert identity(tmp_path / "b", moved, kl_budget=0.3) == first
    documented = NETWORK.replace("A field of one's own.", "Another sentence.")
    assert identity(tmp_path / "c", {**FILES, "network.py": documented}) == first
    unused = HELPER.replace(
        "def unused(x):\n    return x", "def unused(x):\n    return -x"
    )
    assert identity(tmp_path / "d", {**FILES, "helper.py": unused}) == first


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("network.py", "+ other.shift(x)", "- other.shift(x)"),
        ("network.py", "WIDTH = 8", "WIDTH = 16"),
        ("helper.py", "def squash(x):\n    return x", "def squash(x):\n    return -x"),
        ("helper.py", "nn.Dense(self.width)(x)", "nn.Dense(2 * self.width)(x)"),
        ("other.py", "return 0 * x", "return x"),
    ],
)
def test_any_code_that_the_network_runs_changes_the_identity(
    name, before, after, tmp_path
):
    changed = {**FILES, name: FILES[name].replace(before, after)}
    assert changed != FILES
    assert identity(tmp_path / "a") != identity(tmp_path / "b", changed)


def test_the_networks_settings_change_the_identity(tmp_path):
    assert identity(tmp_path / "a") != identity(tmp_path / "a", depth=2)


def test_an_overridden_flow_loss_counts_with_the_settings_that_it_reads(tmp_path):
    found = identity(tmp_path, {"mine.py": LOSS})
    assert found["lam_scale"] == 3.0 and set(found) == {"cloning", "lam_scale"}
    assert identity(tmp_path, {"mine.py": LOSS}, kl_budget=0.1) == found
    assert identity(tmp_path, {"mine.py": LOSS.replace("* super", "+ super")}) != found


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("mine.py", "[1, 2]", "[1, 3]"),
        ("mine.py", '"a": 1', '"a": 2'),
        ("mine.py", '"y"', '"z"'),
        ("mine.py", "np.arange(2000)", "np.arange(2000) * (np.arange(2000) != 1000)"),
        ("mine.py", "POWER = 2", "POWER = 4"),
        ("mine.py", "jitted(x):\n    return x", "jitted(x):\n    return -x"),
        ("mine.py", "cached(x):\n    return x", "cached(x):\n    return -x"),
        ("parts.py", "POWER = 3", "POWER = 5"),
        ("mine.py", "SCALE = 0.5", "SCALE = 0.25"),
        ("mine.py", "return self.SCALE", "return 2 * self.SCALE"),
        ("mine.py", "return 1.0", "return 2.0"),
        ("mine.py", "return 0.0", "return 3.0"),
    ],
)
def test_any_code_that_an_overridden_flow_loss_runs_changes_the_identity(
    name, before, after, tmp_path
):
    files = {"mine.py": PARTS, "parts.py": POWER}
    changed = files | {name: files[name].replace(before, after)}
    assert changed != files
    assert identity(tmp_path / "a", files) == identity(tmp_path / "b", files)
    assert identity(tmp_path / "a", files) != identity(tmp_path / "c", changed)


OVERRIDDEN = """
from agents import trqam


class Mine(trqam.TRQAM):
    {decorator}
    def {name}({receiver}, *arguments, **options):
        return super().{name}(*arguments, **options)


get_config = Mine.get_config
AGENT = Mine
"""


@pytest.mark.parametrize(
    "name", ["draw_noise", "cloning_loss", "optimiser", "init_params"]
)
def test_an_agent_with_its_own_noise_loss_optimiser_or_start_has_its_own_base(
    name, tmp_path
):
    of_class = isinstance(inspect.getattr_static(Agent, name), classmethod)
    words = ("@classmethod", "cls") if of_class else ("", "self")
    code = OVERRIDDEN.format(name=name, decorator=words[0], receiver=words[1])
    found = identity(tmp_path / "a", {"mine.py": code})
    assert set(found) == {"cloning"}
    changed = code.replace("return super", "return 1 * super")
    assert identity(tmp_path / "b", {"mine.py": changed}) != found


def test_a_base_of_another_network_is_refused_with_the_differences():
    ours, theirs = (
        tiny(module).params["base"] for module in (trqam_custom_network, trqam)
    )
    check_base(ours, jax.tree.map(np.zeros_like, ours), "here")
    with pytest.raises(UserError) as caught:
        check_base(theirs, ours, "--pretrained_actor_path=x")
    text = str(caught.value)
    assert text.startswith(
        "--pretrained_actor_path=x: it is a base of another network: "
    )
    assert "Dense_0/bias is (16,) there and (16,) here" not in text
    assert "missing" in text and len(text) < 300
    with pytest.raises(UserError, match="not a plain multilayer perceptron"):
        check_base(ours, theirs, "x")


def test_a_fork_of_the_shared_flow_may_leave_out_the_layer_norm(tmp_path):
    """Its base is trained as TRQAM's."""
    fork = tmp_path / "mine.py"
    fork.write_text("""
from agents import trqam
from agents.options import without
from utils.networks import VelocityField


class Mine(trqam.TRQAM):
    OPTIONS = without(trqam.TRQAM.OPTIONS, "actor_layer_norm")

    @classmethod
    def networks(cls, config):
        flow = VelocityField(config.actor_hidden_dims, False)
        return {"critic": cls.critic_network(config), "base": flow, "policy": flow}


get_config = Mine.get_config
AGENT = Mine
""")
    mine = bc_only(resolved("--env_name=scene", f"--agent={fork}"))
    assert mine.agent == bc_only(resolved("--env_name=scene")).agent
