"""Measure speeds on this machine: updates, batches, checkpoints, and all runs of the table.

    python scripts/benchmark.py update --agent=agents/trqam.py --seeds=1,2,4 --json
    python scripts/benchmark.py table --out=results/speed_cpu.json
    python scripts/benchmark.py data --help

With --json the last line is one JSON object.
"""

import argparse
import os
import shlex
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import (  # noqa: E402
    checkpoint,
    compile,
    data,
    gpu,
    oracle,
    table,
    update,
)
from benchmarks.common import publish  # noqa: E402
from utils.command_line import Parser, report_error, run_program  # noqa: E402
from utils.errors import RunError, UserError  # noqa: E402

COMMANDS = {
    "update": update,
    "data": data,
    "table": table,
    "oracle": oracle,
    "checkpoint": checkpoint,
    "compile": compile,
    "gpu": gpu,
}


class Help(argparse.RawDescriptionHelpFormatter):
    """Formats help without wrapping, with flags and their text on one line if both fit."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=30)


def make_parser() -> Parser:
    """Return a parser with a subcommand for each benchmark."""
    parser = Parser(
        prog="benchmark.py",
        description=__doc__,
        formatter_class=Help,
        allow_abbrev=False,
    )
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(
        title="benchmarks", prog="benchmark.py", metavar="NAME [FLAGS]"
    )
    for name, module in COMMANDS.items():
        doc = module.__doc__ or ""
        command = commands.add_parser(
            name,
            help=doc.partition("\n")[0],
            description=doc,
            formatter_class=Help,
            allow_abbrev=False,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def parse(argv: list[str]) -> argparse.Namespace:
    """Return the options of the benchmark that a command line names; raise UserError."""
    options, rest = make_parser().parse_known_args(argv[1:])
    if options.run is None:
        names = ", ".join(COMMANDS)
        raise UserError(
            f"give a benchmark first: {names}; --help says what each measures"
        )
    if "agent_words" in options:
        options.agent_words = rest  # --agent.KEY: the agent file defines these flags
    elif rest:
        raise UserError(f"{rest[0]}: no such flag of this benchmark; --help lists all")
    return options


def main(argv: list[str]) -> int:
    """Run a benchmark; print errors as one line. Returns the exit code."""
    try:
        options = parse(argv)
        result = options.run(options)
        if result is not None:
            publish(
                result,
                options,
                shlex.join(["python", "scripts/benchmark.py", *argv[1:]]),
            )
    except (UserError, RunError, OSError) as error:
        return report_error(error)
    return 0


if __name__ == "__main__":
    run_program(lambda: main(sys.argv))
