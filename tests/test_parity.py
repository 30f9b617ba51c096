"""tests/parity.py finds the published numbers here and refuses files with other ones."""

from pathlib import Path

import numpy as np
import pytest

from tests import parity

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.ci
@pytest.mark.parametrize(
    "name", ["trqam_chunk5", "trqam_nochunk_ln", "qam_chunk5", "sqam_chunk5"]
)
def test_published_numbers_are_reproduced(name):
    worst, problems = parity.compare(GOLDEN / f"{name}.npz")
    assert problems == []
    assert {
        "xs",
        "adjoints",
        "adj_loss",
        "critic_loss",
        "params_after/policy",
        "params_after/target_base",
    } <= set(worst)


@pytest.mark.ci
@pytest.mark.parametrize(
    ("name", "quantities"),
    [
        (
            "fql_chunk5",
            {
                "distill_loss",
                "bc_flow_loss",
                "next_actions",
                "params_after/one_step_actor",
            },
        ),
        ("ifql_chunk5", {"value_loss", "v_mean", "params_after/value"}),
        (
            "cgql_linex_chunk5",
            {"noisy_critic_loss", "next_actions", "params_after/target_base"},
        ),
        (
            "cgql_mse_chunk5",
            {"noisy_critic_loss", "next_actions", "params_after/target_base"},
        ),
        (
            "cgql_simple_chunk5",
            {"flow_loss", "next_actions", "params_after/target_base"},
        ),
        ("qam_edit_chunk5", {"q_loss", "entropy", "alpha", "params_after/editor"}),
        ("qam_fql_chunk5", {"q_loss", "distill_loss", "params_after/one_step_actor"}),
        ("dsrl_chunk5", {"latent_q_mean", "entropy", "params_after/noise_actor"}),
        ("fedit_chunk5", {"q_loss", "entropy", "actor_loss", "params_after/editor"}),
        ("fbrac_chunk5", {"actor_loss", "next_actions", "params_after/base"}),
        ("bam_chunk5", {"bam_loss", "bc_loss", "params_after/policy"}),
        ("fawac_chunk5", {"value_loss", "actor_loss", "params_after/value"}),
        ("qsm_chunk5", {"actor_loss", "next_actions", "params_after/time_features"}),
        ("dac_chunk5", {"actor_loss", "next_actions", "params_after/time_features"}),
        ("rebrac_chunk5", {"actor_loss", "bc_loss", "params_after/target_actor"}),
        ("rlpd_chunk5", {"actor_loss", "bc_loss", "entropy", "params_after/actor"}),
    ],
)
def test_published_numbers_of_the_other_agents_are_reproduced(name, quantities):
    worst, problems = parity.compare(GOLDEN / f"{name}.npz")
    assert problems == []
    assert quantities | {"critic_loss", "q_mean", "params_after/critic"} <= set(worst)


def test_a_mean_near_zero_may_carry_the_rounding_of_its_terms():
    """Values of order 1 round by 1.2e-7: 6e-5 of a mean of 0.002. One percent of it is 2e-5."""
    mean = np.float32(0.002)
    assert parity.distance("q_mean", mean + np.float32(1.2e-7), mean) < parity.TOLERANCE
    assert (
        parity.distance("q_mean", np.float32(1.01) * mean, mean) > 10 * parity.TOLERANCE
    )
    assert parity.distance("q_mean", np.float32(3.0), np.float32(2.0)) == 0.5


def test_errors_of_parameters_are_absolute():
    for ours, theirs, error in ((8.5, 8.0, 0.5), (0.002, 0.001, 1e-3)):
        found = parity.distance(
            "params_after/base", np.float32(ours), np.float32(theirs)
        )
        assert found == pytest.approx(error)


@pytest.mark.parametrize(
    ("agent", "own"),
    [("qam", set()), ("qsm", {"next_actions"}), ("dac", {"next_actions"})],
)
def test_states_have_their_own_tolerance(agent, own):
    states = {"xs", "adjoints"} | own
    quantities = {"xs", "adjoints", "next_actions", "q_mean", "params_after/critic"}
    assert {
        name for name in quantities if parity.tolerance(name, agent) == 5e-5
    } == states
    assert {parity.tolerance(name, agent) for name in quantities - states} == {1e-5}


@pytest.mark.ci
def test_the_agent_of_the_file_decides_what_a_state_is(tmp_path, monkeypatch):
    def shift(arrays):
        arrays["update0/out/next_actions"] *= np.float32(1 + 3e-5)

    path = changed(tmp_path, shift)
    assert [problem.split(":")[0] for problem in parity.compare(path)[1]] == [
        "next_actions"
    ]
    monkeypatch.setitem(parity.OWN_STATES, "trqam", {"next_actions"})
    assert parity.compare(path)[1] == []


@pytest.mark.parametrize(
    "path", sorted(GOLDEN.glob("*.npz")), ids=lambda path: path.stem
)
def test_one_percent_of_any_output_is_noticed(path):
    """The same holds for any parameter above 0.01: no output is so small that it escapes."""
    golden = parity.Golden(path)
    for u in range(golden.meta["n_updates"]):
        for name, value in golden.results(u).items():
            if name.startswith("params_after/") and np.abs(value).max() <= 1e-2:
                continue
            wrong = value.astype(np.float32)
            wrong.flat[np.abs(wrong).argmax()] *= 1.01
            allowed = parity.tolerance(name, golden.meta["agent"])
            assert parity.distance(name, value, wrong) > 2 * allowed, (u, name)


def test_other_networks_are_noticed(tmp_path):
    """The file has LayerNorm in the editor, which is another method, and lacks an output."""

    def change(arrays):
        arrays["params/editor/LayerNorm_0/scale"] = np.ones(24, np.float32)
        arrays["params/editor/Dense_2/bias"] = arrays["params/editor/Dense_2/bias"][1:]

    worst, problems = parity.compare(changed(tmp_path, change, "qam_edit_chunk5"))
    assert worst == {}
    assert problems == [
        "params/editor/Dense_2/bias: (30,) here, (29,) in the file",
        "params/editor/LayerNorm_0/scale: none here, (24,) in the file",
    ]


def changed(tmp_path, change, name="trqam_nochunk_ln"):
    with np.load(GOLDEN / f"{name}.npz") as file:
        arrays = dict(file)
    change(arrays)
    np.savez(tmp_path / "changed.npz", **arrays)
    return tmp_path / "changed.npz"


def scale(name):
    def change(arrays):
        array = arrays[name].astype(np.float32)
        array.flat[np.abs(array).argmax()] *= 1.01
        arrays[name] = array

    return change


# each with the line about it
FAULTS = [
    (scale("update2/out/path_kl"), "path_kl: error"),
    (
        scale("update0/params_after/critic/Dense_1/kernel"),
        "params_after/critic: error",
    ),
    (
        lambda arrays: arrays.update({"update1/out/surprise": np.zeros(3)}),
        "update 1: surprise is in the file and not computed",
    ),
    (
        lambda arrays: arrays.update({"update7/out/lam": np.zeros(())}),
        "update7/out/lam is in the file and belongs to no",
    ),
    (
        lambda arrays: arrays.pop("update1/out/xs"),
        "update 1: xs is computed here and not in the file",
    ),
    (
        lambda arrays: arrays.pop("update0/params_after/policy/Dense_0/bias"),
        "update 0: params_after/policy/Dense_0/bias is computed",
    ),
]


@pytest.mark.ci
def test_every_fault_of_a_wrong_file_is_a_problem_of_its_own(tmp_path, capsys):
    def change(arrays):
        for fault, _ in FAULTS:
            fault(arrays)

    path = changed(tmp_path, change)
    assert parity.main([str(path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    problems = [line.split(" WRONG ")[1] for line in lines if " WRONG " in line]
    assert len(problems) == len(FAULTS)
    for _, message in FAULTS:
        assert any(problem.startswith(message) for problem in problems), message
