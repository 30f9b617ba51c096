"""Update the tables of the README and of docs/ from results/.

make results
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reports.pages import PAGES, renewed  # noqa: E402
from utils.command_line import run_program  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Write the pages that have changed; print the state of each page."""
    formatter = argparse.RawDescriptionHelpFormatter
    argparse.ArgumentParser(description=__doc__, formatter_class=formatter).parse_args()
    for name in PAGES:
        page = ROOT / name
        before = page.read_text(encoding="utf-8")
        after = renewed(before, ROOT / "results")
        if after != before:
            page.write_text(after, encoding="utf-8")
        print(f"{name}: {'as results/ has it' if after == before else 'written'}")
    return 0


if __name__ == "__main__":
    run_program(main)
