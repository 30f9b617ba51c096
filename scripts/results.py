"""Update the tables of the README and of docs/ from results/.

make results
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reports.pages import PAGES, renewed  # noqa: E402
from utils.command_line import report_error, run_program  # noqa: E402
from utils.errors import RunError, UserError  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Write the pages that have changed; print the state of each page."""
    formatter = argparse.RawDescriptionHelpFormatter
    argparse.ArgumentParser(description=__doc__, formatter_class=formatter).parse_args()
    try:
        for name in PAGES:
            print(f"{name}: {renew(ROOT / name)}")
    except (UserError, RunError, OSError) as error:
        return report_error(error)
    return 0


def renew(page: Path) -> str:
    """Write a page if it has changed; return what happened."""
    before = page.read_text(encoding="utf-8")
    after = renewed(before, ROOT / "results")
    if after == before:
        return "as results/ has it"
    page.write_text(after, encoding="utf-8")
    return "written"


if __name__ == "__main__":
    run_program(main)
