"""The commands in the README and in docs/ work, and so do the links between the pages."""

import re
import shlex
from pathlib import Path

import pytest

import main as program
from scripts import sweep

ROOT = Path(__file__).resolve().parents[1]
GUIDES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {guide.relative_to(ROOT).as_posix(): guide.read_text() for guide in GUIDES}
TRAININGS = sorted(
    {
        command.strip().removesuffix(" \\")
        for text in TEXTS.values()
        for command in re.findall(r"python main\.py (--[^`\n#]*)", text)
        if "my_agents/" not in command
        and "examples." not in command
        and "--help" not in command
    }
)
SWEEPS = sorted(
    set(re.findall(r"python scripts/sweep\.py (--[^`\n#;\"]*)", TEXTS["README.md"]))
)


@pytest.mark.parametrize("command", TRAININGS)
def test_a_training_command_plans_runs(command, tmp_path, capsys):
    words = [*shlex.split(command), f"--save_dir={tmp_path}", "--dry_run"]
    assert program.main(["main.py", *words]) == 0
    assert " run" in capsys.readouterr().out


@pytest.mark.parametrize("command", SWEEPS)
def test_a_sweep_command_prints_its_jobs(command, tmp_path, capsys):
    words = [*shlex.split(command), f"--save_dir={tmp_path}", "--engine=print"]
    assert sweep.main(["sweep.py", *words]) == 0
    assert "main.py" in capsys.readouterr().out


def test_every_hook_of_the_readme_is_explained():
    _, _, table = TEXTS["README.md"].partition("| to change | start from | hooks |")
    lines = table.partition("\n\n")[0].splitlines()[2:]
    hooks = {hook for line in lines for hook in re.findall(r"`(\w+)", line)}
    assert {"dual_step", "networks", "times"} <= hooks
    assert {
        h for h in hooks if not re.search(rf"\b{h}\b", TEXTS["docs/agents.md"])
    } == set()


def test_the_guides_have_commands_of_both_kinds():
    assert len(TRAININGS) >= 3 and SWEEPS


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_to_files_and_headings(name):
    for target, _, heading in re.findall(
        r"\]\((?!https?:)([^)#]*)(#([^)]+))?\)", TEXTS[name]
    ):
        file = (ROOT / name).parent / target if target else ROOT / name
        assert file.exists(), target
        if heading:
            headings = re.findall(r"(?m)^#+ (.*)$", file.read_text())
            slugs = {
                re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings
            }
            assert heading in slugs, (target, heading)


def test_every_page_is_linked_from_the_readme():
    for guide in GUIDES[1:]:
        assert f"docs/{guide.name}" in TEXTS["README.md"]
