"""Turn a published BC checkpoint into a finished run of agents/bc.py.

    python scripts/convert_checkpoint.py params_300000.pkl exp/bc_cube_double
    --env_name=cube-double

`--pretrained_actor_path` and `training.policy.load_policy` take the folder. Widths and
LayerNorm are read off the file; O and A come from the environment and H from its domain's
settings, which main.py's flags change (--horizon_length=1).
"""

import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.command_line import (  # noqa: E402
    refuse_control_characters,
    report_error,
    run_program,
)
from utils.errors import RunError, UserError  # noqa: E402
from utils.files import expanded  # noqa: E402

USAGE = (
    "usage: python scripts/convert_checkpoint.py FILE.pkl NEW_FOLDER --env_name=NAME"
    " [--horizon_length=H]"
)


def convert(source: str, out: Path, arguments: list[str]) -> None:
    """Write the run folder `out` atomically for the run that main.py's `arguments` describe.

    Raises UserError for a file that is no such checkpoint, one that does not fit the
    environment, and a folder in use.
    """
    from configs.flags import parse_flags
    from training.plan import plan
    from training.pretrained import (
        base_shape,
        load_published,
        published_file,
        published_step,
    )

    file = published_file(source)
    if file is None:
        raise UserError(
            f"{source}: there is no such file, nor a folder of params_*.pkl"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already; give a new folder")
    base, step = load_published(file), published_step(file)
    shape = base_shape(base, str(file))
    found = [
        f"--agent.actor_hidden_dims={shape.hidden_dims}",
        f"--agent.actor_layer_norm={shape.layer_norm}",
    ]
    run = plan(
        parse_flags(["convert_checkpoint.py", *arguments, *found, f"--bc_steps={step}"])
    )[0]
    write_run(run, base, step, file, out)


def write_run(run, base: dict, step: int, file: Path, out: Path) -> None:
    """Write the agents/bc.py run that `run` would start from, with this base as its result."""
    import jax
    import jax.numpy as jnp

    from configs.flags import STEPS
    from envs.ogbench import make_env
    from training.checkpoints import Checkpoints, agent_tree
    from training.data import recipe_of
    from training.pretrained import check_base
    from utils.files import write_json

    recipe = recipe_of(run)
    env = make_env(run.env_name, recipe=recipe)
    (observation_dim,) = env.observation_space.shape
    (action_dim,) = env.action_space.shape
    env.close()
    run = run.expected_base()
    settings = run.settings
    agent = run.agent.create(
        jax.random.key(0), observation_dim, action_dim, settings.agent
    )
    check_base(base, agent.params["base"], str(file))
    agent = agent.with_base(base).replace(step=jnp.asarray(step, jnp.int32))
    dims = {"observation_dim": observation_dim, "action_dim": action_dim}
    dims |= {"environment": recipe._asdict()} if recipe else {}
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
        part = Path(folder) / "run"
        with Checkpoints(part / "checkpoints", keep=1) as checkpoints:
            checkpoints.save(step, {"agent": agent_tree(agent)}, record={})
        config = run.config() | dims | {"converted_from": file.name}
        config["sources"] |= dict.fromkeys(
            ("offline_steps", "agent.actor_hidden_dims", "agent.actor_layer_norm"),
            file.name,
        )
        run.source.keep(part)
        write_json(part / "config.json", config)
        write_json(
            part / "done.json",
            {name: settings.flags[name] for name in STEPS} | {"success": None},
        )
        os.replace(part, out)


def parse(argv: list[str]) -> tuple[str, Path, list[str]]:
    """The checkpoint, the new folder and the flags of main.py; raises UserError."""
    refuse_control_characters(argv)
    flags = [word for word in argv[1:] if word.startswith("--")]
    paths = [word for word in argv[1:] if not word.startswith("--")]
    if len(paths) != 2 or not any(flag.startswith("--env_name=") for flag in flags):
        raise UserError(USAGE)
    if any(flag.startswith("--agent.actor_") for flag in flags):
        raise UserError(
            "--agent.actor_hidden_dims, --agent.actor_layer_norm: they are read off the file;"
            " leave them out"
        )
    return paths[0], expanded(paths[1]), flags


def main(argv: list[str]) -> int:
    """Convert, say where it is, and return the exit code."""
    if {"--help", "-h"} & set(argv):
        print(__doc__)
        return 0
    try:
        source, out, flags = parse(argv)
        convert(source, out, flags)
    except (UserError, RunError, OSError) as error:
        return report_error(error)
    print(out)
    return 0


if __name__ == "__main__":
    run_program(lambda: main(sys.argv))
