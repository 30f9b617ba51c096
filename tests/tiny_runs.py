"""Commands of main.py with tiny networks on a real environment."""

import os
import subprocess
import sys
from pathlib import Path

import main as program
from training.plan import plan

ROOT = Path(__file__).resolve().parents[1]


FILE = "pointmaze-medium-navigate-v0.npz"


TASK = "pointmaze-medium-navigate-singletask-task1-v0"


AGENTS = sorted(
    f"agents/{path.name}"
    for path in (ROOT / "agents").glob("*.py")
    if "\nAGENT = " in path.read_text()
)


TINY = [
    "--agent.actor_hidden_dims=(8,8)",
    "--agent.value_hidden_dims=(8,8)",
    "--agent.num_qs=2",
    "--agent.flow_steps=2",
    "--agent.batch_size=8",
]


def run(*flags):
    return program.main(["main.py", *map(str, flags)])


def unwrapped(text):
    """Printed text with each message on one line."""
    return text.replace("\n  ", " ")


def resolved(*flags):
    from configs.flags import parse_flags

    return plan(parse_flags(["main.py", *flags]))[0].settings


def train(data, exp, *flags):
    defaults = [
        f"--env_name={TASK}", f"--ogbench_dataset_dir={data}/good", f"--save_dir={exp}", "--bc_steps=4", "--offline_steps=8",
        "--online_steps=12", "--start_training=4", "--log_interval=4", "--eval_interval=8", "--save_interval=4",
        "--eval_episodes=0", "--eval_workers=1", *TINY,
    ]  # fmt: skip
    return run(*defaults, *flags)


def only_run(exp):
    (config,) = exp.glob(f"Debug/{TASK}/*/config.json")
    return config.parent


def lenient():
    """A user's environment variables, without the strict settings of the tests."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("JAX_") or name == "JAX_PLATFORMS"
    }


def run_code(code, environ):
    """Run Python code in a process in the project's folder; it must exit with 0."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environ,
    )
    assert done.returncode == 0, done.stderr
