"""The command line: all flags with their published defaults, and one-line errors."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from configs.agent_file import load_source
from configs.agent_source import AGENTS
from configs.presets import PRESETS
from configs.suggestions import check_agent_keys, no_such_agent, unknown_flag
from utils.command_line import (
    refuse_control_characters,
    refuse_words,
    user_errors_of_flags,
)
from utils.errors import UserError
from utils.files import expanded
from utils.messages import note, wrapped

STEPS = ("bc_steps", "offline_steps", "online_steps")
NOT_TRAINING = (
    "log_interval",
    "eval_interval",
    "save_interval",
    "keep_checkpoints",
    "eval_workers",
    "eval_async",
    "video_episodes",
    "video_frame_skip",
    "arrays_dir",
    "compilation_cache_dir",
    "device_data_gb",
    "save_dir",
    "run_group",
    "tags",
    "logger",
    "env_name",
    "seed",
    "num_seeds",
)
"""Flags that do not say how to train: names, folders, and what is logged, saved and filmed."""
LAST_SEED = 2**31 - 1
MAX_SEEDS = 1000
UNHASHED = {*STEPS, *NOT_TRAINING}
"""Flags that the hash in a run folder's name leaves out."""
DATA_FOLDERS = ("ogbench_dataset_dir", "robomimic_dataset_dir")
MAY_CHANGE = {"offline_steps", "online_steps", *DATA_FOLDERS, *NOT_TRAINING}
"""Flags that may have other values when a run resumes."""
IGNORED_VALUES = ("buffer_size", "dataset_replace_interval")
IGNORED_SWITCHES = (
    "save_all_online_states",
    "save_last_checkpoint",
    "save_replay_buffer",
)
IGNORED = (*IGNORED_VALUES, *IGNORED_SWITCHES)


def define_flags(argv: Sequence[str]) -> flags.FlagValues:
    """Define all flags of main.py; `argv` names the agent whose settings become flags."""
    fv = flags.FlagValues()

    def text(name: str, default: str | None, doc: str) -> None:
        flags.DEFINE_string(name, default, doc, flag_values=fv)

    def count(
        name: str, default: int, doc: str, low: int = 0, high: int | None = None
    ) -> None:
        flags.DEFINE_integer(
            name, default, doc, lower_bound=low, upper_bound=high, flag_values=fv
        )

    def number(
        name: str, default: float | None, doc: str, low: float | None = None
    ) -> None:
        flags.DEFINE_float(name, default, doc, lower_bound=low, flag_values=fv)

    def choice(name: str, default: str | None, values: list[str], doc: str) -> None:
        flags.DEFINE_enum(name, default, values, doc, flag_values=fv)

    def switch(name: str, doc: str, default: bool | None = False) -> None:
        flags.DEFINE_boolean(name, default, doc, flag_values=fv)

    text(
        "env_name",
        None,
        "an OGBench single task, a domain (its five tasks), all50, a task of robomimic such as "
        "lift-mh-low_dim, robomimic (three of them), or module:EnvId of your own environment; "
        "several with commas between them",
    )
    doc = "agent file; --agent.KEY=VALUE overrides; agents/trqam.py unless given"
    define_agent_flag(fv, argv, doc)
    choice(
        "preset",
        None,
        list(PRESETS),
        "settings for a purpose (configs/presets.py); quickstart, study and smoke make their"
        " own data",
    )
    count("seed", 0, "random seed", high=LAST_SEED)
    count(
        "num_seeds", 1, "run seeds seed .. seed + num_seeds - 1", low=1, high=MAX_SEEDS
    )

    count(
        "bc_steps",
        300_000,
        "behaviour-cloning updates of the base before fine-tuning, cached; 0 starts untrained",
    )
    count("offline_steps", 1_000_000, "offline updates")
    count("online_steps", 500_000, "online environment steps")
    switch(
        "bc_only",
        "only clone behaviour, for --offline_steps updates (within a normal run: --bc_steps)",
    )
    text(
        "pretrained_actor_path",
        None,
        "start from this base instead of training one: 'published' (the paper's own of the "
        "domain, fetched once to <ogbench_dataset_dir>/bases), a run folder, "
        "or a published params_*.pkl or its folder",
    )
    count(
        "start_training",
        5_000,
        "online environment steps before the first online update",
    )
    count("utd_ratio", 1, "updates per online environment step", low=1)
    switch(
        "balanced_sampling",
        "online, take half of each batch from the dataset and half from the replay; actions are"
        " random before start_training",
    )
    number(
        "kl_budget_online",
        None,
        "the KL budget from the first online step on, above 0",
    )

    count(
        "horizon_length",
        5,
        "H: environment steps of a chunk, and of the critic's backup",
        low=1,
    )
    switch(
        "sparse",
        "replace every reward other than 0 by -1; an error if a reward is positive",
    )
    number("dataset_proportion", 1.0, "share of the dataset used, from its start")
    text(
        "ogbench_dataset_dir",
        "~/.ogbench/data",
        "folder of OGBench's npz files (downloaded here when missing)",
    )
    text(
        "robomimic_dataset_dir",
        "~/.robomimic",
        "folder of robomimic's demonstrations, <task>/<mh|ph>/low_dim_v15.hdf5",
    )
    text(
        "arrays_dir",
        None,
        "folder for the memory-mapped copy of sharded data, as large as the data; unset: beside"
        " the shards",
    )
    text(
        "dataset",
        None,
        "data instead of the task's own: an npz, HDF5 or Minari file, or a folder of them;"
        " --env_name=module:EnvId needs it",
    )
    choice(
        "dataset_layout",
        "auto",
        ["auto", "ogbench", "flat"],
        "layout of --dataset: flat (every row is a transition), ogbench (each trajectory's"
        " final state has its own row), auto (detect)",
    )
    number(
        "action_scale",
        1.0,
        "divide the actions of --dataset by this, if the environment has a wrapper that"
        " rescales actions",
    )
    number(
        "device_data_gb",
        None,
        "copy the dataset to the device if it has at most this many GB, else read it from the"
        " host. 0: always from the host; unset: half of the device's free memory",
        low=0.0,
    )

    count(
        "log_interval",
        5_000,
        "steps between lines of train.csv; 0: only at the end of each phase",
    )
    count(
        "eval_interval",
        50_000,
        "steps between evaluations; 0: only before and after each phase",
    )
    count(
        "save_interval",
        50_000,
        "steps between checkpoints; 0: only at the end of each phase",
    )
    doc = "how many of the newest checkpoints to keep, besides the best one"
    count("keep_checkpoints", 2, doc, low=1)
    doc = "episodes of an evaluation; 0: none; another number is another run"
    count("eval_episodes", 50, doc)
    count("eval_workers", 0, "environment processes; 0: one per core, at most 8")
    switch(
        "eval_async",
        "evaluate on the CPU while training continues; unset: yes on a GPU or TPU, no on a CPU",
        default=None,
    )
    count("video_episodes", 0, "episodes filmed when the run ends")
    count("video_frame_skip", 3, "environment steps per frame", low=1)

    choice(
        "matmul_precision",
        "default",
        ["default", "highest", "high", "bfloat16"],
        "precision of matrix products. On A100 and H100, highest is float32 and the others are"
        " TF32; a CPU always uses float32",
    )
    text(
        "compilation_cache_dir",
        "~/.cache/trqam/jax",
        "folder for compiled programs, empty for none; JAX_COMPILATION_CACHE_DIR overrides it",
    )

    text("save_dir", "exp/", "where runs are stored")
    text("run_group", "Debug", "folder of the run below save_dir")
    text("tags", "", "comma-separated tags for Weights & Biases")
    text("logger", "csv", "csv, and tensorboard or wandb besides: --logger=csv,wandb")
    switch("dry_run", "print the resolved runs and settings, train nothing")
    switch("overwrite", "delete all that these runs have stored and start again")
    switch("debug", "show the traceback of an error")
    for name in IGNORED_VALUES:
        text(name, None, "accepted and ignored")
    for name in IGNORED_SWITCHES:
        switch(name, "accepted and ignored")
    return fv


def define_agent_flag(fv: flags.FlagValues, argv: Sequence[str], doc: str) -> None:
    """Define --agent, and --agent.KEY for the settings of an agent file.

    Args:
        fv: the flags to extend.
        argv: the command line, which names the agent file.
        doc: the help text of --agent.
    """
    with user_errors_of_flags():  # a --flagfile is read here
        config_flags.DEFINE_config_file(
            "agent", None, doc, flag_values=fv, sys_argv=list(argv)
        )
    fv["agent"].parser = _AgentParser()


class _AgentParser(flags.ArgumentParser):
    """Reads an agent file's settings as ml_collections does, but by `load_source`."""

    def parse(self, path: str) -> ml_collections.ConfigDict:
        config = load_source(path).module.get_config()
        return ml_collections.ConfigDict(config).lock()


def help_text(argv: Sequence[str]) -> str:
    """Return the text of --help: all flags, and the settings of the agent in `argv`."""
    argv = [argv[0], *with_flag_files(argv[1:])]
    agent, _ = take_agent(argv)
    module = load_source(agent).module
    lines = [define_flags(argv).get_help(), f"\nsettings of {agent}:"]
    for name, default in module.get_config().items():
        option = module.AGENT.OPTIONS.get(name)
        text = option.describe() if option else "not described by the agent file"
        lines += wrapped(f"  --agent.{name}: {text}")
        lines.append(f"    (default: {default})")
    return "\n".join(lines)


def parse_flags(argv: Sequence[str]) -> flags.FlagValues:
    """Parse a command line; raise UserError for any mistake in it."""
    refuse_control_characters(argv)
    words = with_equals(with_flag_files(argv[1:]))
    agent, rest = take_agent([argv[0], *last_of_each_setting(words)])
    known = list(load_source(agent).module.get_config())
    # --agent first, because it defines the flags --agent.KEY
    argv = [argv[0], f"--agent={agent}", *rest]
    fv = define_flags(argv)
    parse_words(fv, argv, agent, known)
    check_values(fv)
    for name in IGNORED:
        if fv[name].present:
            note(f"--{name} is accepted for compatibility and has no effect here")
    return fv


def with_flag_files(words: Sequence[str]) -> list[str]:
    """Return the words of a command line, with those of each --flagfile in its place."""
    with user_errors_of_flags():
        return flags.FlagValues().read_flags_from_files(list(words), force_gnu=True)


def with_equals(words: Sequence[str]) -> list[str]:
    """Write --agent.KEY VALUE as one word, --agent.KEY=VALUE."""
    joined: list[str] = []
    for word in words:
        lacks_value = joined and re.fullmatch(r"--?agent\.[^=]+", joined[-1])
        if lacks_value and not word.startswith("-"):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def last_of_each_setting(words: Sequence[str]) -> list[str]:
    """Keep the last --agent.KEY=VALUE of each key; ml_collections would join tuples."""
    kept: list[str] = []
    seen: set[str] = set()
    for word in reversed(words):
        key = setting_of(word)
        if key and key in seen:
            continue
        seen.add(key)
        kept.append(word)
    return kept[::-1]


def setting_of(word: str) -> str:
    """Return the key of --agent.KEY=VALUE; "" for any other word."""
    name, equals, _ = word.lstrip("-").partition("=")
    return name if equals and name.startswith("agent.") else ""


def parse_words(
    fv: flags.FlagValues, argv: Sequence[str], agent: str, known: list[str]
) -> None:
    """Parse a command line into flags.

    Raises UserError for an unknown flag or setting, and for a value that cannot be read.

    Args:
        fv: the flags to set.
        argv: the command line.
        agent: the agent file.
        known: the names of its settings.
    """
    check_agent_keys(argv, list(fv), agent, known)
    with user_errors_of_flags():
        try:
            rest = fv(argv)
        except flags.UnrecognizedFlagError as error:
            raise unknown_flag(error.flagvalue, fv, agent, known) from error
    refuse_words(rest[1:])


def check_values(fv: flags.FlagValues) -> None:
    """Raise UserError for a number out of its range."""
    if not 0.0 < fv.dataset_proportion <= 1.0:
        raise UserError(
            f"--dataset_proportion={fv.dataset_proportion}: give a share above 0 and at most 1"
        )
    for name in ("action_scale", "kl_budget_online"):
        value: Any = fv[name].value  # None if it is not set
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"--{name}={value}: give a positive number")
    last = fv.seed + fv.num_seeds - 1
    if last > LAST_SEED:
        raise UserError(
            f"--num_seeds={fv.num_seeds}: the last of the seeds from --seed={fv.seed} on would"
            f" be {last}; the largest seed is {LAST_SEED}"
        )


def take_agent(argv: Sequence[str]) -> tuple[str, list[str]]:
    """Return the last agent file that a command line names, and the other arguments.

    The default is agents/trqam.py. Raises UserError if the file does not exist.
    """
    agent = (
        "agents/trqam.py"
        if Path("agents/trqam.py").is_file()
        else str(AGENTS / "trqam.py")
    )
    rest = []
    words = iter(argv[1:])
    for word in words:
        if word in ("--agent", "-agent"):
            agent = next(words, "")
        elif word.startswith(("--agent=", "-agent=")):
            agent = word.split("=", 1)[1]
        else:
            rest.append(word)
    if not expanded(agent).is_file():
        raise no_such_agent(agent)
    return agent, rest
