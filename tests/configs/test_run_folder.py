"""Tests that a damaged run folder is refused, and that every accepted one can be reported."""

import json
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from configs.run_folder import (
    NEEDED_TO_ACT,
    read_columns,
    read_config,
    read_done,
    read_evaluations,
)
from reports.files import as_csv, as_latex
from reports.html import page
from reports.naming import name_methods
from reports.reading import read_run
from reports.summary import make_report
from reports.text import as_text
from tests.odd_runs import ODD, with_entry
from tests.synthetic_runs import write_run
from utils.errors import DamagedFile, RunError, UserError, printable

TASK = "scene-play-singletask-task1-v0"


def good(place, **changed):
    kl = [(500_000, 1.0, 1.0), (1_000_000, 1.0, 1.0)]
    return write_run(place, TASK, 0, {0: 0.25, 1_000_000: 0.5}, kl=kl, **changed)


@pytest.mark.parametrize("kind", ODD)
def test_what_no_run_writes_is_refused_in_one_line_with_file_and_entry(kind, tmp_path):
    damage, message = ODD[kind]
    folder = good(tmp_path)
    assert read_run(folder).last_step == 1_000_000
    damage(folder)
    with pytest.raises(DamagedFile, match=message) as caught:
        read_run(folder)
    fault = caught.value.fault
    assert printable(fault) == fault and len(fault) < 400 and fault.endswith(")")
    assert fault.startswith(f"{folder}/")
    assert (
        str(caught.value) == f"{fault}; delete it, and the same command resumes the run"
    )


def test_what_a_run_writes_is_read(tmp_path):
    folder = good(tmp_path)
    assert read_config(folder)["flags"]["seed"] == 0
    assert read_config(tmp_path) is None and read_done(folder) is None
    (folder / "done.json").write_text(
        '{"offline_steps": 7, "online_steps": 0, "success": null}'
    )
    assert read_done(folder)["offline_steps"] == 7
    evaluations = read_evaluations(folder)
    assert evaluations["step"].tolist() == [0, 1_000_000]
    assert evaluations["success"].tolist() == [0.25, 0.5]
    assert np.isnan(evaluations["return"]).all()
    assert read_columns(folder / "timing.csv")["step"].tolist() == []


@pytest.mark.parametrize("path", ["", None, "~/bases/params.pkl", "x" * 4096])
def test_a_path_flag_may_be_missing_or_any_text(path, tmp_path):
    folder = good(tmp_path)
    for name in ("pretrained_actor_path", "ogbench_dataset_dir", "dataset"):
        with_entry(f"flags.{name}", path)(folder)
    assert_reported_or_refused(folder)
    assert read_run(folder).last_step == 1_000_000


def test_the_entries_that_a_policy_needs_are_checked_when_they_are_asked_for(tmp_path):
    folder = good(tmp_path)
    with pytest.raises(DamagedFile, match="flags.start_training is missing"):
        read_config(folder, NEEDED_TO_ACT)
    for name in NEEDED_TO_ACT:
        with_entry(name, 5)(folder)
    assert read_config(folder, NEEDED_TO_ACT)["action_dim"] == 5
    with_entry("observation_dim", 10**12)(folder)
    with pytest.raises(
        DamagedFile, match="observation_dim is 1000000000000, not a whole number"
    ):
        read_config(folder, NEEDED_TO_ACT)


@pytest.mark.parametrize(
    "text, shown",
    [
        ("trqam λ=0.3 ± é", "trqam λ=0.3 ± é"),
        ("a\u00a0b", "a\u00a0b"),
        ("a\nb\tc", r"a\nb\tc"),
        ("\x1b[2J\x07\x9b", r"\x1b[2J\x07\x9b"),
        ("a\u202eb\ud800\u2028", r"a\u202eb\ud800\u2028"),
    ],
)
def test_printed_names_have_no_control_characters(text, shown):
    assert printable(text) == shown


# ---------------------------------------------------------------- fuzz


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        ["command line", "preset smoke", "\x1b[2J", "..", "/", "agents/a.py"]
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
NAMES = (
    "agent_file flags agent sources source base cloning dataset command device commit flags.env_name"
    " flags.seed flags.offline_steps flags.online_steps flags.sparse flags.eval_episodes"
    " flags.bc_only flags.pretrained_actor_path flags.ogbench_dataset_dir agent.discount"
    " agent.lam agent.lam_scale agent.lambda_min agent.lambda_max agent.kl_budget agent.mode"
    " agent.lr sources.seed sources.agent.lr dataset.transitions dataset.crc source.file"
    " source.digest source.of_checkout"
).split()


def assert_reported_or_refused(folder):
    """Check that a folder is refused in one line or accepted by every output; return whether it was
    accepted.
    """
    try:
        result = read_run(folder)
    except DamagedFile as error:
        assert printable(error.fault) == error.fault and str(folder) in error.fault
        return False
    if result is None or result.last_step < 0:
        return False
    try:
        found = make_report(name_methods([result, result]), "final", [], replicates=10)
    except UserError as error:
        assert "\n" not in str(error)
        return False
    as_text(found, details=True).encode()
    as_csv(found).encode()
    as_latex(found).encode()
    page(found).encode()
    assert all(
        printable(line) == line for line in as_text(found, details=True).split("\n")
    )
    return True


def test_an_intact_run_is_accepted(tmp_path):
    assert assert_reported_or_refused(good(tmp_path))


fuzz = settings(
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.ci
@fuzz
@given(
    changes=st.dictionaries(st.sampled_from(NAMES), json_values, min_size=1, max_size=3)
)
def test_any_json_is_reported_or_refused_in_one_line(changes, tmp_path_factory):
    folder = good(tmp_path_factory.mktemp("run"))
    config = json.loads((folder / "config.json").read_text())
    for name, value in changes.items():
        part, _, key = name.partition(".")
        if not key:
            config[part] = value
        elif isinstance(config.setdefault(part, {}), dict):
            config[part][key] = value
    (folder / "config.json").write_text(json.dumps(config))
    assert_reported_or_refused(folder)


cells = (
    st.integers(-5, 2_000_000).map(str)
    | st.floats().map(repr)
    | st.sampled_from(
        [
            "",
            "0.5",
            "1",
            "0",
            "nan",
            "-0.0",
            "1e308",
            "1e-320",
            "\x1b[2J",
            '"',
            "x",
            "é",
        ]
    )
)
FILES = {
    "eval.csv": ("step", "episodes", "success", "return"),
    "train.csv": ("step", "phase", "dual/path_kl", "dual/kl_budget", "dual/lam"),
}


@fuzz
@given(data=st.data(), name=st.sampled_from(sorted(FILES)))
def test_any_csv_is_reported_or_refused_in_one_line(data, name, tmp_path_factory):
    folder = good(tmp_path_factory.mktemp("run"))
    header = data.draw(st.permutations(FILES[name]))[: data.draw(st.integers(1, 5))]
    lines = data.draw(st.lists(st.lists(cells, max_size=5), max_size=4))
    steps = [
        ["1000000", *line[1:]] if data.draw(st.booleans()) else line for line in lines
    ]
    text = "".join(",".join(line) + "\n" for line in [header, *steps])
    (folder / name).write_text(
        text + data.draw(st.sampled_from(["", "1000000,50", "\n"]))
    )
    assert_reported_or_refused(folder)


@fuzz
@given(
    content=st.binary(max_size=60),
    name=st.sampled_from(["config.json", "done.json", *FILES]),
)
def test_any_bytes_are_reported_or_refused_in_one_line(content, name, tmp_path_factory):
    folder = good(tmp_path_factory.mktemp("run"))
    (folder / name).write_bytes(content)
    assert_reported_or_refused(folder)


@fuzz
@given(success=st.floats(), step=st.integers(-(10**20), 10**20))
def test_success_must_be_a_share_and_step_a_count(success, step, tmp_path_factory):
    folder = good(tmp_path_factory.mktemp("run"))
    (folder / "eval.csv").write_text(
        f"step,episodes,return,success\n{step},50,1.0,{success!r}\n"
    )
    fine = (math.isnan(success) or 0 <= success <= 1) and 0 <= step < 2**53
    if fine:
        assert read_run(folder).last_step == step
    else:
        with pytest.raises(
            RunError, match="eval.csv is damaged .line 2: (step|success) is "
        ):
            read_run(folder)
