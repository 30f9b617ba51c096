"""Ways to damage the files of a run folder, and the message for each."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def without(*names: str) -> Callable[[Path], None]:
    """Remove entries of config.json, by the path of their keys."""

    def damage(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        for name in names:
            *above, last = name.split(".")
            part = config
            for key in above:
                part = part[key]
            del part[last]
        (folder / "config.json").write_text(json.dumps(config))

    return damage


def with_entry(name: str, value: Any) -> Callable[[Path], None]:
    """Set an entry of config.json."""

    def damage(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        *above, last = name.split(".")
        part = config
        for key in above:
            part = part.setdefault(key, {})
        part[last] = value
        (folder / "config.json").write_text(json.dumps(config))

    return damage


def text(name: str, content: str | bytes) -> Callable[[Path], None]:
    """Replace a file."""

    def damage(folder: Path) -> None:
        data = content if isinstance(content, bytes) else content.encode()
        (folder / name).write_bytes(data)

    return damage


def add_line(name: str, line: str) -> Callable[[Path], None]:
    """Add a line to a CSV file."""

    def damage(folder: Path) -> None:
        with (folder / name).open("a") as file:
            file.write(line + "\n")

    return damage


def other(name: str, make: Callable[[Path], Any]) -> Callable[[Path], None]:
    """Replace a file by something else, which `make` creates."""

    def damage(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return damage


def link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


STRANGER = {"agent_file": "a.py", "flags": {}, "agent": {}, "sources": {}}
DEEP = '{"agent_file": ' + "[" * 100_000 + "]" * 100_000 + "}"

ODD: dict[str, tuple[Callable[[Path], None], str]] = {
    "no entries": (text("config.json", "{}"), "config.json .*agent_file is missing"),
    "empty parts": (
        text("config.json", json.dumps(STRANGER)),
        r"config.json .*flags\.env_name is missing",
    ),
    "no flags": (without("flags"), r"flags is missing"),
    "no seed": (without("flags.seed"), r"flags\.seed is missing"),
    "no sources": (without("sources"), "sources is missing"),
    "null": (
        with_entry("agent_file", None),
        "agent_file is None, not the path of a file",
    ),
    "null flags": (with_entry("flags", None), "flags is None, not an object"),
    "a list": (with_entry("agent", [1, 2]), r"agent is \[1, 2\], not an object"),
    "a list at the top": (
        text("config.json", "[]"),
        "config.json is damaged .no object",
    ),
    "a seed as text": (
        with_entry("flags.seed", "0"),
        r"seed is '0', not a whole number",
    ),
    "a seed as truth": (
        with_entry("flags.seed", True),
        "seed is True, not a whole number",
    ),
    "a negative seed": (with_entry("flags.seed", -1), "seed is -1, not a whole number"),
    "huge steps": (
        with_entry("flags.offline_steps", 10**400),
        r"steps is 1000+\.\.\., not a",
    ),
    "half a step": (
        with_entry("flags.online_steps", 0.5),
        "steps is 0.5, not a whole number",
    ),
    "an endless number": (
        with_entry("agent.lam_scale", float("inf")),
        "lam_scale is inf, not",
    ),
    "a discount in words": (
        with_entry("agent.discount", "high"),
        "discount is 'high', not a",
    ),
    "sources of lists": (
        with_entry("sources.seed", []),
        "sources is .*not an object of texts",
    ),
    "a task of two lines": (
        with_entry("flags.env_name", "scene\n\x1b[2J"),
        r"env_name is 'scene\\n\\x1b\[2J', not a short text",
    ),
    "an endless task": (
        with_entry("flags.env_name", "a" * 10**6),
        r"env_name is 'a+\.\.\., ",
    ),
    "a source without a digest": (
        with_entry("source.file", "a.py"),
        "source.package is missing",
    ),
    "a source elsewhere": (
        with_entry("source.file", "../../a.py"),
        "source.file is '../../a.py', not the name of a file",
    ),
    "data in lists": (with_entry("dataset.crc", [7]), "dataset is .*without lists"),
    "half a letter": (
        lambda folder: edit_text(folder / "config.json", '"c0ffee"', r'"\ud800"'),
        "config.json is damaged .'utf-8' codec can't encode",
    ),
    "deep": (text("config.json", DEEP), "config.json is damaged .nested too deeply"),
    "a long number": (
        text("config.json", "9" * 10_000),
        "config.json is damaged .Exceeds",
    ),
    "cut": (text("config.json", '{"agent_file": "agents/t'), "config.json is damaged"),
    "config not UTF-8": (
        text("config.json", b'{"agent_file": "\xff"}'),
        "can't decode byte 0xff",
    ),
    "a config folder": (
        other("config.json", Path.mkdir),
        "config.json is damaged .a folder",
    ),
    "a config pipe": (
        other("config.json", os.mkfifo),
        "config.json .*not a regular file",
    ),
    "a config without end": (
        other("config.json", link("/dev/zero")),
        "config.json .*not a regular file",
    ),
    "a config nowhere": (
        other("config.json", link("nowhere")),
        "config.json is damaged .a link to nothing",
    ),
    "a config in a circle": (
        other("config.json", link("config.json")),
        "config.json is damaged .Too many levels",
    ),
    "a large config": (
        other("config.json", sparse),
        "config.json .*larger than 16 MiB",
    ),
    "done without steps": (
        text("done.json", "{}"),
        "done.json .*offline_steps is missing",
    ),
    "done of a list": (text("done.json", "[1]"), "done.json is damaged .no object"),
    "done with more than all": (
        text("done.json", '{"offline_steps": 1, "online_steps": 0, "success": 17}'),
        "done.json .*success is 17, not a number from 0 to 1 or null",
    ),
    "success above 1": (
        add_line("eval.csv", "7,50,17.0"),
        "eval.csv .*success is '17.0', not",
    ),
    "success below 0": (
        add_line("eval.csv", "7,50,-0.1"),
        "eval.csv .*success is '-0.1', not",
    ),
    "endless success": (
        add_line("eval.csv", "7,50,inf"),
        "eval.csv .*success is 'inf', not",
    ),
    "success in words": (
        add_line("eval.csv", "7,50,yes"),
        "eval.csv .*success is 'yes', not",
    ),
    "a negative step": (
        add_line("eval.csv", "-7,50,0.5"),
        "eval.csv .*step is '-7', not a whole",
    ),
    "an endless step": (
        add_line("eval.csv", "1e999,50,0.5"),
        "eval.csv .*step is '1e999', not",
    ),
    "no step": (
        add_line("eval.csv", ",50,0.5"),
        "eval.csv .*step is '', not a whole number",
    ),
    "negative episodes": (
        add_line("eval.csv", "7,-50,0.5"),
        "episodes is '-50', not a number from 0",
    ),
    "too many cells": (
        add_line("eval.csv", "7,50,0.5,1"),
        "line 4 has more cells than the header",
    ),
    "no column step": (
        text("eval.csv", "a,b\n1,2\n"),
        "eval.csv .*there is no column step",
    ),
    "neither success nor return": (
        text("eval.csv", "step,episodes\n1000000,50\n"),
        "eval.csv .*neither success nor return",
    ),
    "a long cell": (
        add_line("eval.csv", "7,50," + "1" * 131_073),
        "eval.csv .*field larger than",
    ),
    "eval not UTF-8": (text("eval.csv", b"step,success\n1,\xff\n"), "eval.csv .*0xff"),
    "an eval folder": (other("eval.csv", Path.mkdir), "eval.csv is damaged .a folder"),
    "an eval pipe": (other("eval.csv", os.mkfifo), "eval.csv .*not a regular file"),
    "an eval without end": (
        other("eval.csv", link("/dev/zero")),
        "eval.csv .*not a regular",
    ),
    "a large eval": (other("eval.csv", sparse), "eval.csv .*larger than 512 MiB"),
    "endless KL": (
        text("train.csv", "step,dual/path_kl\n1,inf\n"),
        "train.csv .*dual/path_kl is 'inf', not a finite number",
    ),
    "a budget of nothing": (
        text("train.csv", "step,dual/path_kl,dual/kl_budget\n1,0.5,0\n"),
        "train.csv .*dual/kl_budget is '0', not a positive number",
    ),
    "a train pipe": (other("train.csv", os.mkfifo), "train.csv .*not a regular file"),
}
"""Changes to a run folder of `tests.synthetic_runs`, each with the message about it."""


def edit_text(path: Path, old: str, new: str) -> None:
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new))
