"""Tests which agents are refused before any training."""

import re
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from agents import fql, trqam
from configs.agent_file import load_source
from tests.small_datasets import make_dataset
from tests.tiny_runs import AGENTS, ROOT
from training.agent_check import check_agent
from utils.errors import UserError
from utils.networks import Critic

RUN = SimpleNamespace(settings=SimpleNamespace(agent_file="mine.py"))
DATA = SimpleNamespace(arrays=make_dataset([30, 20]), dims=(3, 2))


def check(module, **settings):
    """Check a tiny agent of an agent file or of a class that is in none."""
    config = module.get_config()
    tiny = {"actor_hidden_dims": (8, 8), "value_hidden_dims": (8, 8), "num_qs": 2}
    tiny |= {"flow_steps": 3, "horizon_length": 3, "action_chunking": True}
    tiny |= {"batch_size": 8} | settings
    config.update({key: value for key, value in tiny.items() if key in config})
    agent = jax.eval_shape(
        lambda: module.AGENT.create(jax.random.key(0), *DATA.dims, config)
    )
    check_agent(RUN, agent, DATA)


def check_fork(kind, **settings):
    check(SimpleNamespace(get_config=kind.get_config, AGENT=kind), **settings)


@pytest.mark.ci
@pytest.mark.parametrize("agent", [*AGENTS, "examples/td3_bc.py"])
@pytest.mark.usefixtures("no_key_twice")
def test_every_agent_passes(agent):
    check(load_source(ROOT / agent).module)


@pytest.mark.ci
@pytest.mark.parametrize("settings", [{"best_of_n": 3}, {"lql_points": 2}])
def test_an_agent_passes_with_settings_that_change_the_shapes(settings):
    check(trqam, **settings)


class WithLastAxis(nn.Module):
    """Two critics that keep the last axis of their output layer."""

    @nn.compact
    def __call__(self, s, a):
        return jnp.stack([nn.Dense(1)(s) + nn.Dense(1)(a) for _ in range(2)])


class OneCritic(fql.FQL):
    """It has no ensemble."""

    @classmethod
    def critic_network(cls, config):
        return Critic(config.value_hidden_dims, config.value_layer_norm)


class Columns(fql.FQL):
    @classmethod
    def critic_network(cls, config):
        return WithLastAxis()


class WholeBatch(fql.FQL):
    """It returns the samples of all draws."""

    def act(self, observations, x0):
        return self.sample(observations, x0)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (OneCritic, r"the critic returns values of shape \[1009\] for 1009 actions"),
        (Columns, r"values of shape \[2, 1009, 1\] for 1009 actions; return \[E, 1009\]"),
        (WholeBatch, r"act returns actions of shape \[1, 1009, 6\] .*; return \[1009, 6\]"),
    ],
)  # fmt: skip
def test_values_and_actions_of_a_wrong_shape_are_refused(kind, message):
    with pytest.raises(UserError, match=f"^--agent=mine.py: .*{message}"):
        check_fork(kind)


class EachMember(trqam.TRQAM):
    def policy_value(self, q):
        return q


class OfTheBatch(trqam.TRQAM):
    def policy_value(self, q):
        return q.min()


@pytest.mark.parametrize(("kind", "shape"), [(EachMember, "2, 1009"), (OfTheBatch, "")])
def test_a_value_for_the_policy_of_another_shape_is_refused(kind, shape):
    """The gradient of its sum would be that of another objective."""
    message = (
        rf"policy_value returns shape \[{shape}\] of q \[2, 1009\]; return \[1009\]"
    )
    with pytest.raises(UserError, match=message):
        check_fork(kind)


class Concatenated(nn.Module):
    """A field for inputs of equal leading axes, as the loss of cloning has them."""

    @nn.compact
    def __call__(self, s, x, t):
        return nn.Dense(x.shape[-1])(jnp.concatenate([s, x, t], axis=-1))


class WithField(trqam.TRQAM):
    """TRQAM whose flows are `field`."""

    field = Concatenated()

    @classmethod
    def networks(cls, config):
        return super().networks(config) | {"base": cls.field, "policy": cls.field}


def test_a_field_that_can_be_cloned_but_not_asked_for_actions_is_found():
    with pytest.raises(TypeError, match="[Cc]oncatenate"):
        check_fork(WithField)


class Broadcast(nn.Module):
    """The same, whatever the leading axes are."""

    @nn.compact
    def __call__(self, s, x, t):
        s, t = (jnp.broadcast_to(i, (*x.shape[:-1], i.shape[-1])) for i in (s, t))
        return nn.Dense(x.shape[-1])(jnp.concatenate([s, x, t], axis=-1))


class Wide(WithField):
    field = Broadcast()


def test_a_field_that_broadcasts_before_it_concatenates_passes():
    check_fork(Wide)


class Counting(fql.FQL):
    """A field of its state becomes what `grow` makes of it."""

    count: Any = None
    grow = staticmethod(lambda count: count)

    @classmethod
    def init_state(cls, config):
        return {"count": jnp.int32(0)}

    def after_step(self, metrics):
        return self.replace(count=self.grow(self.count)), metrics


class Halves(Counting):
    grow = staticmethod(lambda count: count + 0.5)


class Grows(Counting):
    grow = staticmethod(lambda count: jnp.stack([count, count]))


@pytest.mark.parametrize(
    ("kind", "types"),
    [(Halves, "int32[] into float32[]"), (Grows, "int32[] into int32[2]")],
)
def test_a_state_that_changes_its_type_is_refused_with_its_name(kind, types):
    with pytest.raises(UserError, match=re.escape(f"turns count from {types}; keep")):
        check_fork(kind)


class Running(trqam.TRQAM):
    """It has running means of the observations, which cloning moves too."""

    mean: Any = None

    @classmethod
    def init_state(cls, config):
        return super().init_state(config) | {"mean": jnp.float32(0.0)}

    def update_with_noise(self, batch, noise):
        agent, metrics, fixed = super().update_with_noise(batch, noise)
        mean = 0.9 * self.mean + 0.1 * batch["observations"].mean()
        return agent.replace(mean=mean), metrics, fixed


class RunningLater(Running):
    """Only fine-tuning moves them."""

    def update_with_noise(self, batch, noise):
        agent, metrics, fixed = super().update_with_noise(batch, noise)
        return agent.replace(mean=self.mean) if self.cloning else agent, metrics, fixed


def test_a_state_that_cloning_changes_is_refused():
    with pytest.raises(
        UserError, match="^--agent=mine.py: cloning changes mean, which"
    ):
        check_fork(Running)
    check_fork(RunningLater)


class Named(fql.FQL):
    """It logs a metric that has the name of a column."""

    def loss(self, params, batch, noise, fixed):
        loss, metrics = super().loss(params, batch, noise, fixed)
        return loss, metrics | {"step": loss}


def test_a_metric_that_cannot_be_logged_is_refused():
    with pytest.raises(UserError, match="metric step"):
        check_fork(Named)


class Nested(fql.FQL):
    """It logs a metric that is a dict."""

    def loss(self, params, batch, noise, fixed):
        loss, metrics = super().loss(params, batch, noise, fixed)
        return loss, metrics | {"mine": {"loss": loss}}


def test_a_metric_that_is_no_array_is_refused():
    with pytest.raises(UserError, match="metric mine is a dict; metrics are scalars"):
        check_fork(Nested)


class NoConcerns(fql.FQL):
    def concerns(self, lines):
        pass


class Misspelt(trqam.TRQAM):
    def concerns(self, lines):
        return {"mine": f"{lines[-1]['dual/pathkl']}"}


def test_a_mistake_in_concerns_is_found_before_training():
    with pytest.raises(UserError, match="concerns returns None; return texts by kind"):
        check_fork(NoConcerns)
    with pytest.raises(KeyError, match="dual/pathkl"):
        check_fork(Misspelt)
