"""tests/parity.py on the published numbers, and on files that it has to refuse."""

from pathlib import Path

import numpy as np
import pytest

from tests import parity

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", ["trqam_chunk5", "trqam_nochunk_ln", "qam_chunk5", "sqam_chunk5"])
def test_published_numbers(name):
    worst, problems = parity.compare(GOLDEN / f"{name}.npz")
    assert problems == []
    assert {"xs", "adjoints", "adj_loss", "critic_loss", "params_after/policy", "params_after/target_base"} <= set(worst)


@pytest.mark.parametrize(
    ("name", "quantities"),
    [
        ("fql_chunk5", {"distill_loss", "bc_flow_loss", "next_actions", "params_after/one_step_actor"}),
        ("ifql_chunk5", {"value_loss", "v_mean", "params_after/value"}),
        ("cgql_linex_chunk5", {"noisy_critic_loss", "next_actions", "params_after/target_base"}),
    ],
)
def test_published_numbers_of_the_other_agents(name, quantities):
    worst, problems = parity.compare(GOLDEN / f"{name}.npz")
    assert problems == []
    assert quantities | {"critic_loss", "q_mean", "params_after/critic"} <= set(worst)


def changed(tmp_path, change):
    with np.load(GOLDEN / "trqam_nochunk_ln.npz") as file:
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (scale("update2/out/path_kl"), "path_kl: error"),
        (scale("update0/params_after/critic/Dense_1/kernel"), "params_after/critic: error"),
        (
            lambda arrays: arrays.update({"update1/out/surprise": np.zeros(3)}),
            "surprise is in the file and not computed",
        ),
        (
            lambda arrays: arrays.update({"update7/out/lam": np.zeros(())}),
            "update7/out/lam is in the file and belongs to no",
        ),
        (lambda arrays: arrays.pop("update1/out/xs"), "xs is computed here and not in the file"),
        (
            lambda arrays: arrays.pop("update0/params_after/policy/Dense_0/bias"),
            "params_after/policy/Dense_0/bias is computed",
        ),
    ],
)
def test_wrong_file_is_noticed(tmp_path, capsys, change, message):
    path = changed(tmp_path, change)
    assert parity.main([str(path)]) == 1
    assert message in capsys.readouterr().out
