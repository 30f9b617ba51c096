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
from tests.tiny_runs import lenient, resolved, run_code
from training.cloning import cloning_identity
from training.pretrained import check_base
from training.run import base_identity, bc_only
from utils.errors import UserError

NETWORK = '''
"""A field of one's own."""
import functools
from flax import linen as nn
from helper import squash, Inner
import other

WIDTH = 8
ACT = nn.relu
NEGATED = lambda x: -x
INIT = nn.initializers.orthogonal(0.01)
DENSE = functools.partial(nn.Dense, use_bias=False)


class Trunk(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        return nn.swish(DENSE(self.width)(x))


class Field(nn.Module):
    depth: int
    trunk: nn.Module

    @nn.compact
    def __call__(self, s, x, t):
        y = ACT(Inner(WIDTH)(self.trunk(NEGATED(x))))
        y = nn.Dense(x.shape[-1], kernel_init=INIT)(y)
        return squash(y) + other.shift(x) + other.squash(x)
'''
AGENT = """
from agents import trqam
from flax import linen as nn
from network import Field, Trunk
from utils.options import Option


class Mine(trqam.TRQAM):
    OPTIONS = trqam.TRQAM.OPTIONS | {"depth": Option(1, "how deep it is", above=0)}

    @classmethod
    def networks(cls, config):
        field = Field(config.depth, Trunk(4))
        return {"critic": cls.critic_network(config), "base": field, "policy": field}

    @classmethod
    def critic_network(cls, config):
        return super().critic_network(config)

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
    "other.py": "def shift(x):\n    return 0 * x\n\n\ndef squash(x):\n    return x\n",
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

    def loss(self, params, batch, noise, fixed):
        return super().loss(params, batch, noise, fixed)


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
    assert set(first) == {"cloning", "depth"}
    other = AGENT.replace("return 1.0", "return 2.0").replace("Mine", "Yours")
    other = other.replace("return super().critic", "pass; return super().critic")
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
        ("other.py", "return 0 * x", "return 2 * x"),
        ("other.py", "squash(x):\n    return x", "squash(x):\n    return -x"),
        ("network.py", "nn.swish", "nn.tanh"),
        ("network.py", "ACT = nn.relu", "ACT = nn.tanh"),
        ("network.py", "lambda x: -x", "lambda x: x"),
        ("network.py", "orthogonal(0.01)", "orthogonal(1.0)"),
        ("network.py", "use_bias=False", "use_bias=True"),
        ("mine.py", "Trunk(4)", "Trunk(8)"),
        ("mine.py", "field = Field(", "field = nn.remat(Field)("),
        (
            "mine.py",
            "    def trust_region",
            '    INPUTS = {"base": "sa"}\n\n    def trust_region',
        ),
    ],
)
def test_any_code_that_the_network_runs_changes_the_identity(
    name, before, after, tmp_path
):
    changed = {**FILES, name: FILES[name].replace(before, after)}
    assert changed != FILES
    assert identity(tmp_path / "a") != identity(tmp_path / "b", changed)


def test_the_code_of_a_transformed_network_counts(tmp_path):
    remat = FILES["mine.py"].replace("field = Field(", "field = nn.remat(Field)(")
    files = {**FILES, "mine.py": remat}
    shifted = NETWORK.replace("+ other.shift(x)", "- other.shift(x)")
    first = identity(tmp_path / "a", files)
    assert first == identity(tmp_path / "b", files)
    assert first != identity(tmp_path / "c", {**files, "network.py": shifted})


FUNCTIONS = """
import functools
from collections.abc import Callable
from typing import Any
from agents import trqam
from flax import linen as nn

RATE = 0.1


def leaky(x):
    return nn.leaky_relu(x, RATE)


def scaled(size):
    return lambda x: size * x


class Field(nn.Module):
    functions: Any
    activation: Callable = nn.relu
    kernel_init: Callable = nn.initializers.orthogonal()

    @nn.compact
    def __call__(self, s, x, t):
        return self.activation(nn.Dense(x.shape[-1], kernel_init=self.kernel_init)(x))


class Mine(trqam.TRQAM):
    @classmethod
    def networks(cls, config):
        functions = leaky, scaled(3), functools.partial(leaky), lambda x: config.tau * x
        field = Field((*functions, object()))
        return super().networks(config) | {"base": field, "policy": field}

    def loss(self, params, batch, noise, fixed):
        return super().loss(params, batch, noise, fixed)


get_config = Mine.get_config
AGENT = Mine
"""


def test_a_network_with_functions_as_fields_has_the_same_identity_in_every_process(
    tmp_path,
):
    ours = identity(tmp_path, {"mine.py": FUNCTIONS})
    assert set(ours) == {"cloning", "tau"}
    code = f"""
from configs.agent_file import load_source
from training.cloning import cloning_identity

load_source("agents/fql.py")
source = load_source({str(tmp_path / "mine.py")!r})
assert cloning_identity(source, source.module.get_config()) == {ours}
"""
    run_code(code, lenient())


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Callable = nn.relu", "Callable = nn.tanh"),
        ("orthogonal()", "orthogonal(0.01)"),
        ("leaky, scaled", "nn.relu, scaled"),
        ("scaled(3)", "scaled(4)"),
        ("size * x", "size + x"),
        ("RATE = 0.1", "RATE = 0.2"),
        ("partial(leaky)", "partial(leaky, 1)"),
        ("config.tau * x", "-config.tau * x"),
    ],
)
def test_another_function_as_a_field_changes_the_identity(before, after, tmp_path):
    changed = FUNCTIONS.replace(before, after)
    assert changed != FUNCTIONS
    first = identity(tmp_path / "a", {"mine.py": FUNCTIONS})
    assert first != identity(tmp_path / "b", {"mine.py": changed})


@pytest.mark.parametrize("code", [FUNCTIONS, PARTS])
def test_an_edit_of_the_loss_does_not_change_the_identity(code, tmp_path):
    files = {"mine.py": code, "parts.py": POWER}
    edited = code.replace("return super().loss(", "return 1 * super().loss(")
    assert edited != code
    first = identity(tmp_path / "a", files)
    assert first == identity(tmp_path / "b", {**files, "mine.py": edited})


def test_the_networks_settings_change_the_identity(tmp_path):
    assert identity(tmp_path / "a") != identity(tmp_path / "a", depth=2)


def test_an_overridden_flow_loss_counts_with_the_settings_that_it_reads(tmp_path):
    found = identity(tmp_path, {"mine.py": LOSS})
    assert found["lam_scale"] == 3.0
    assert set(found) == {"cloning", "lam_scale", "action_chunking"}
    assert identity(tmp_path, {"mine.py": LOSS}, kl_budget=0.1) == found
    assert identity(tmp_path, {"mine.py": LOSS.replace("* super", "+ super")}) != found


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("mine.py", "[1, 2]", "[1, 3]"),
        ("mine.py", '"a": 1', '"a": 2'),
        ("mine.py", "jax.nn.relu", "jax.nn.gelu"),
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


STATE = """
from typing import Any

import jax.numpy as jnp
from agents import trqam


class Mine(trqam.TRQAM):
    std: Any = None
    count: Any = None

    @classmethod
    def init_state(cls, config):
        state = super().init_state(config)
        return state | {"std": jnp.array([5.0, 0.1, 2.0]), "count": jnp.int32(0)}

    def velocity(self, params, observations):
        return super().velocity(params, observations / self.std)


get_config = Mine.get_config
AGENT = Mine
"""


def test_the_first_state_counts_where_cloning_reads_it(tmp_path):
    """The KL budget, which the state of TRQAM begins with, does not."""
    first = identity(tmp_path / "a", {"mine.py": STATE})
    assert identity(tmp_path / "a", {"mine.py": STATE}, kl_budget=0.1) == first
    assert identity(tmp_path / "b", {"mine.py": STATE.replace("0.1", "1.0")}) != first
    other = STATE.replace("/ self.std", "/ 2.0")
    first = identity(tmp_path / "c", {"mine.py": other})
    edited = other.replace("0.1", "1.0")
    assert identity(tmp_path / "d", {"mine.py": edited}) == first


READ_BY_NAME = """
from agents import trqam
from utils.options import Option


class Mine(trqam.TRQAM):
    OPTIONS = trqam.TRQAM.OPTIONS | {"bc_weight": Option(1.0, "weight of cloning")}

    def flow_loss(self, base, batch, noise):
        weight = self.config.get("bc_weight", 1.0)
        return weight * super().flow_loss(base, batch, noise)


get_config = Mine.get_config
AGENT = Mine
"""


@pytest.mark.parametrize("read", ['.get("bc_weight", 1.0)', '["bc_weight"]'])
def test_a_setting_that_is_read_by_its_name_counts(read, tmp_path):
    code = READ_BY_NAME.replace('.get("bc_weight", 1.0)', read)
    found = identity(tmp_path, {"mine.py": code})
    assert found["bc_weight"] == 1.0
    assert identity(tmp_path, {"mine.py": code}, bc_weight=3.0) != found


INHERITED = """
from agents import qgf


class Mine(qgf.QGF):
    pass


get_config = Mine.get_config
AGENT = Mine
"""
SAMPLED = """
from agents import trqam


class Mine(trqam.TRQAM):
    def flow_loss(self, base, batch, noise):
        sample = self.flow_sample(base, batch["observations"], noise["flow_x0"])
        return super().flow_loss(base, batch, noise) + sample.mean()


get_config = Mine.get_config
AGENT = Mine
"""


@pytest.mark.parametrize("code", [INHERITED, SAMPLED])
def test_a_setting_that_cloning_reads_in_an_ancestor_counts(code, tmp_path):
    found = identity(tmp_path, {"mine.py": code}, flow_steps=7)
    assert found["flow_steps"] == 7
    assert set(found) == {"cloning", "flow_steps", "action_chunking"}


SHARED_FLOW = """
from agents import trqam


class Mine(trqam.TRQAM):
    def trust_region(self):
        return 1.0


get_config = Mine.get_config
AGENT = Mine
"""
OVERRIDDEN = """    {decorator}
    def {name}({receiver}, *arguments, **options):
        return super().{name}(*arguments, **options)

    def trust_region"""


@pytest.mark.parametrize("code", [SHARED_FLOW, AGENT])
@pytest.mark.parametrize(
    "name",
    [
        *("apply", "update", "update_with_noise"),
        *("draw_noise", "cloning_loss", "optimiser", "init_params"),
    ],
)
def test_an_agent_with_its_own_step_noise_loss_optimiser_or_start_has_its_own_base(
    name, code, tmp_path
):
    of_class = isinstance(inspect.getattr_static(Agent, name), classmethod)
    words = ("@classmethod", "cls") if of_class else ("", "self")
    method = OVERRIDDEN.format(name=name, decorator=words[0], receiver=words[1])
    files = {**FILES, "mine.py": code.replace("    def trust_region", method)}
    found = identity(tmp_path / "a", files)
    allowed = {"cloning", "action_chunking", "lr", "clip_grad", "depth"}
    assert {"cloning"} <= set(found) <= allowed
    again = method.replace(f"return super().{name}", f"return 1 * super().{name}")
    files["mine.py"] = code.replace("    def trust_region", again)
    assert identity(tmp_path / "b", files) != found


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


def fork_without(option, flow, folder):
    """Return a fork of TRQAM that lacks an option, with the velocity field `flow`."""
    fork = folder / "mine.py"
    fork.write_text(f"""
from agents import trqam
from agents.options import without
from utils.networks import VelocityField


class Mine(trqam.TRQAM):
    OPTIONS = without(trqam.TRQAM.OPTIONS, "{option}")

    @classmethod
    def networks(cls, config):
        flow = {flow}
        return {{"critic": cls.critic_network(config), "base": flow, "policy": flow}}


get_config = Mine.get_config
AGENT = Mine
""")
    return fork


def test_a_fork_of_the_shared_flow_may_leave_out_the_layer_norm(tmp_path):
    """Its base is trained as TRQAM's."""
    flow = "VelocityField(config.actor_hidden_dims, False)"
    fork = fork_without("actor_layer_norm", flow, tmp_path)
    mine = bc_only(resolved("--env_name=scene", f"--agent={fork}"))
    assert mine.agent == bc_only(resolved("--env_name=scene")).agent


def test_a_fork_may_leave_out_the_widths_of_the_shared_flow(tmp_path):
    """Its base is its own, since no setting says how wide it is."""
    flow = "VelocityField((64, 64), config.actor_layer_norm)"
    fork = fork_without("actor_hidden_dims", flow, tmp_path)
    settings = resolved("--env_name=scene", f"--agent={fork}")
    found = base_identity(settings)
    assert found["actor_hidden_dims"] is None and "cloning" in found
    assert bc_only(settings).source == settings.source
