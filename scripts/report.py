"""Turn runs into tables and curves: success with intervals, methods compared with each other
and with published figures.

    python scripts/report.py exp/                                        # for each domain
    python scripts/report.py exp/ --details                              # and each task
    python scripts/report.py exp/ --html=report.html --csv=report.csv --latex=report.tex
    python scripts/report.py exp/ --step=200_000  # at one step (last: the last shared)
    python scripts/report.py exp/ --picture=curves.png  # success, path KL, lambda by task
    python scripts/report.py exp/Debug/ exp_data.pkl    # published exp_data pickles beside them
    python scripts/report.py other.pkl --pickle_axes=seeds,evaluations   # transposed arrays
    python scripts/report.py exp/Debug/ --export=results/NAME  # keep what it reads
    python scripts/report.py exp/again --repeat_of=results/study  # do they agree?

Folders are searched for run folders at any depth. Without --step a run counts at the end of its
offline and of its online phase; unfinished ones are named and left out. Methods differ in the
agent or in settings. The terminal shows at most 120 columns; CSV and page have every number.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reports.published_pickles import AXES  # noqa: E402
from utils.command_line import (  # noqa: E402
    Parser,
    at_least,
    output_file,
    report_error,
    run_program,
)
from utils.errors import RunError, UserError, printable  # noqa: E402
from utils.files import expanded  # noqa: E402

if TYPE_CHECKING:
    from reports.summary import Report

ROOT = Path(__file__).resolve().parents[1]
PICTURES = (".png", ".pdf", ".svg")


def step(text: str) -> str:
    """A value of --step."""
    return text if text in ("final", "last") else str(int(text))


def parse(argv: list[str]) -> argparse.Namespace:
    """The flags; raises UserError."""
    parser = Parser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="FOLDER",
        help="folders with runs, and exp_data pickles (.pkl)",
    )
    parser.add_argument(
        "--step",
        type=step,
        default="final",
        help="final (the end of each phase), last (that all runs of a task share), or N",
    )
    parser.add_argument(
        "--bootstrap",
        type=at_least(1),
        default=2000,
        help="replicates of the bootstrap",
    )
    doc = "also every task, pair of methods and published figure"
    parser.add_argument("--details", action="store_true", help=doc)
    outputs = {
        "csv": "write every number",
        "latex": "write a LaTeX table",
        "html": "write one page with tables and curves",
        "picture": "draw success, path KL and lambda of each task (.png, .pdf, .svg)",
    }
    for name, doc in outputs.items():
        parser.add_argument(f"--{name}", type=output_file, metavar="FILE", help=doc)
    doc = "CSV of published success to draw in --picture (reports/picture.py: COLUMNS)"
    parser.add_argument("--published_curves", type=Path, metavar="FILE", help=doc)
    parser.add_argument(
        "--export",
        type=Path,
        metavar="DIR",
        help="copy what a report reads of each run",
    )
    doc = (
        "check each run, at the ends of its phases or at --step, against the 95 %% prediction"
        " interval of other seeds with the same settings in this folder; exit code 1 if not"
        " all are inside"
    )
    parser.add_argument("--repeat_of", type=Path, metavar="DIR", help=doc)
    parser.add_argument(
        "--pickle_interval",
        type=at_least(1),
        default=50_000,
        help="steps between the evaluations in a pickle",
    )
    doc = f"axes of a pickle's arrays: {' or '.join(AXES)}"
    parser.add_argument(
        "--pickle_axes", default=AXES[0], choices=AXES, metavar="AXES", help=doc
    )
    flags = parser.parse_args(argv)
    if flags.picture and flags.picture.suffix not in PICTURES:
        name = printable(flags.picture)
        raise UserError(f"--picture={name}: end it in {', '.join(PICTURES)}")
    if flags.published_curves and not flags.picture:
        raise UserError("--published_curves: it is drawn in --picture; give one")
    return flags


def write(files: list[tuple[Path, str]]) -> list[str]:
    """Write the texts; returns the names of their files."""
    for path, text in files:
        path.write_text(text, encoding="utf-8")
    return [printable(path) for path, _ in files]


def run(argv: list[str]) -> int:
    """Body of `main`, which adds error handling."""
    flags = parse(argv)
    from reports.export import export
    from reports.files import as_csv, as_latex
    from reports.published import read_published
    from reports.reading import read_all
    from reports.summary import make_report
    from reports.text import as_text

    results, notes = read_all(flags.paths, flags.pickle_interval, flags.pickle_axes)
    report = make_report(results, flags.step, read_published(), notes, flags.bootstrap)
    if flags.latex and not report.rows:
        raise UserError("--latex: no run reports success; --csv has returns too")
    outputs = [(flags.csv, as_csv), (flags.latex, as_latex), (flags.html, as_html)]
    written = write([(path, made(report)) for path, made in outputs if path])
    if flags.picture:
        written.append(draw_picture(report, flags))
    if flags.export:
        exported = export(results, expanded(flags.export))
        written.append(f"{exported} runs below {printable(flags.export)}")
    print(
        as_text(report, flags.details),
        *(f"written: {what}" for what in written),
        sep="\n",
    )
    return repeated(report, flags) if flags.repeat_of else 0


def as_html(report: "Report") -> str:
    """The page; matplotlib, which draws it, takes a second to import."""
    from reports.html import page

    return page(report)


def draw_picture(report: "Report", flags: argparse.Namespace) -> str:
    """Draw --picture; return its name."""
    from reports.cells import keys_of
    from reports.picture import picture, read_published_curves

    path = flags.picture
    curves = flags.published_curves
    published = read_published_curves(expanded(curves)) if curves else []
    figure = picture(keys_of(report.methods), report.results, published)
    figure.savefig(path, dpi=160)
    return printable(path)


def repeated(report: "Report", flags: argparse.Namespace) -> int:
    """Compare runs with those of --repeat_of; returns the exit code, 1 where one is outside."""
    from reports.reading import fill_success, read_all
    from reports.repeat import repeats
    from reports.text import wrapped

    others, _ = read_all(
        [str(flags.repeat_of)], flags.pickle_interval, flags.pickle_axes
    )
    fill_success([*report.results, *others])
    compared = repeats(report, others, flags.step)
    print("", *(wrapped(line) for line, _ in compared), sep="\n")
    return 0 if all(inside for _, inside in compared) else 1


def main(argv: list[str]) -> int:
    """Report, and return the exit code."""
    try:
        return run(argv[1:])
    except (UserError, RunError, OSError) as error:
        return report_error(error)


if __name__ == "__main__":
    run_program(lambda: main(sys.argv))
