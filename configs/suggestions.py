"""Errors for flags, settings and agents that do not exist, with the name that was meant."""

import difflib
import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from configs.agent_source import AGENTS, ROOT
from utils.errors import UserError
from utils.files import expanded

SYNONYMS = {
    "gamma": ("discount",),
    "learning_rate": ("lr",),
    "actor_lr": ("lr",),
    "critic_lr": ("lr",),
    "polyak": ("tau",),
    "target_update_rate": ("tau",),
    "ensemble": ("num_qs",),
    "ensemble_size": ("num_qs",),
    "num_critics": ("num_qs",),
    "hidden_dims": ("actor_hidden_dims", "value_hidden_dims"),
    "layer_norm": ("actor_layer_norm", "value_layer_norm"),
    "denoising_steps": ("flow_steps",),
    "target_kl": ("kl_budget",),
    "epsilon": ("kl_budget",),
    "expectile": ("kappa",),
    "bc_coef": ("alpha",),
    "horizon": ("horizon_length",),
    "chunk_size": ("horizon_length",),
    "n_step": ("horizon_length",),
    "utd": ("utd_ratio",),
    "seeds": ("num_seeds",),
    "first_seed": ("seed",),
    "agents": ("agent",),
    "env": ("env_name",),
    "task": ("env_name",),
}
"""Names that other programs use for a setting or flag, and the names here."""


def no_such_agent(path: str) -> UserError:
    """Return the error for an agent file that does not exist, with the nearest one."""
    file = Path(os.path.abspath(expanded(path)))
    if (ROOT / path).is_file():
        meant = f"the project has {ROOT / path}"
    else:
        names = sorted(agent.stem for agent in AGENTS.glob("*.py") if is_agent(agent))
        nearest = difflib.get_close_matches(file.stem, names, n=1, cutoff=0.0)[0]
        name = f"agents/{nearest}.py"
        meant = f"the nearest agent is {name if Path(name).is_file() else ROOT / name}"
    return UserError(f"--agent={path}: there is no such file as {file}; {meant}")


def is_agent(file: Path) -> bool:
    """Whether a file defines an agent; it is not executed."""
    return "\nAGENT = " in file.read_text()


def check_agent_keys(
    argv: Sequence[str], flag_names: Collection[str], agent: str, known: list[str]
) -> None:
    """Raise UserError, with the nearest name, for an --agent.KEY that the agent does not have.

    Args:
        argv: the command line.
        flag_names: the names of all flags.
        agent: the agent file.
        known: the names of its settings.
    """
    for word in argv:
        name = word.lstrip("-").partition("=")[0].removeprefix("no")
        key = name.removeprefix("agent.")
        if not word.startswith("-") or key == name or key in known:
            continue
        hint = nearest_setting(key, flag_names, known)
        raise UserError(f"--agent.{key}: {agent} has no such setting; {hint}")


def nearest_setting(key: str, flag_names: Collection[str], known: list[str]) -> str:
    """Return a hint at the flag or setting that --agent.KEY, which does not exist, may mean."""
    if flags := names_here(key, flag_names):
        return f"it is a flag, --{flags[0]}"
    near = names_here(key, known) or difflib.get_close_matches(
        key, known, 1, cutoff=0.6
    )
    nearest = " or ".join(f"--agent.{name}" for name in near)
    return f"the nearest is {nearest}" if near else "--help lists all"


def unknown_flag(
    word: str, flag_names: Iterable[str], agent: str, known: list[str]
) -> UserError:
    """Return the error for a flag that does not exist, with the nearest one.

    Args:
        word: the argument.
        flag_names: the names of all flags.
        agent: the agent file.
        known: the names of its settings.
    """
    name, _, value = word.lstrip("-").partition("=")
    written = {key: f"--agent.{key}" for key in known}
    written |= {
        flag: f"--{flag}" for flag in flag_names if not flag.startswith("agent.")
    }
    if meant := names_here(name, written):
        words = [f"{written[key]}={value}" if value else written[key] for key in meant]
        return UserError(
            f"--{name}: no such flag; here it is called {' or '.join(words)}"
        )
    for nearest in difflib.get_close_matches(name, written, n=1, cutoff=0.75):
        return UserError(f"--{name}: no such flag; the nearest is {written[nearest]}")
    return UserError(
        f"--{name}: no such flag, nor a setting of {agent}; --help lists all"
    )


def names_here(name: str, names: Collection[str]) -> list[str]:
    """Return a name if it is in `names`, else its synonyms in `names`."""
    if name in names:
        return [name]
    return [key for key in SYNONYMS.get(name, ()) if key in names]
