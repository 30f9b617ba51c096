"""The settings that agents share, with the published defaults."""

from typing import Any

from utils.errors import UserError
from utils.options import Option, Options
from utils.replay import chunks_per_sequence

COMMON: Options = {
    "lr": Option(3e-4, "learning rate of Adam, for all networks", above=0),
    "batch_size": Option(256, "chunks in a batch", above=0),
    "actor_hidden_dims": Option((512,) * 4, "hidden layer widths of flows and actors"),
    "actor_layer_norm": Option(False, "LayerNorm after each hidden layer of flows and actors"),
    "horizon_length": Option(5, "H; give --horizon_length, not this", above=0),
    "action_chunking": Option(False, "act by chunks of H actions, as domains with H > 1 do"),
    "flow_steps": Option(10, "K, Euler steps of the flow", above=0),
    "discount": Option(0.995, "discount per environment step", above=0, at_most=1),
}
"""The settings of all agents; `without` drops those that an agent does not read."""

CRITIC: Options = {
    "value_hidden_dims": Option((512,) * 4, "hidden layer widths of critics and values"),
    "value_layer_norm": Option(True, "LayerNorm after each hidden layer of critics and values"),
    "num_qs": Option(10, "E, members of the critic ensemble", above=0),
    "rho": Option(0.5, "pessimism of the critic target, in deviations over the ensemble"),
    "tau": Option(0.005, "step of the exponential moving averages", above=0, at_most=1),
    "best_of_n": Option(1, "actions drawn for each one taken, the best by the critic", above=0),
    "lql_points": Option(1, "n, chunks in a sequence of LQL's hinges; 1: no hinges", above=0),
    "hinge_weight": Option(1.0, "weight of LQL's hinges, with lql_points above 1", at_least=0),
}
"""What an agent with a critic reads besides."""

LQL_OPTIONS = ("lql_points", "hinge_weight")
"""Those of LQL, for agents whose critic loss is a squared TD error."""

CLIP_GRAD = Option(True, "clip the norm of the joint gradient of all networks to 1")
"""The setting `clip_grad`, for the agents that were published with it."""


def without(options: Options, *names: str) -> Options:
    """The options but for these, which an agent does not read."""
    return {name: option for name, option in options.items() if name not in names}


def check_sequences(config: Any) -> None:
    """Raise UserError where sequences of chunks do not fill a batch."""
    points, chunks = chunks_per_sequence(config), config.batch_size
    if chunks % points:
        raise UserError(
            f"--agent.lql_points={points}: sequences of {points} chunks do not fill"
            f" --agent.batch_size={chunks}; give a divisor of it"
        )
