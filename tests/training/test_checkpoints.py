"""Tests that a checkpoint is read as it was written or is refused, and which ones are kept."""

import errno

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import bc
from training.checkpoints import (
    CheckpointError,
    Checkpoints,
    agent_from,
    agent_tree,
    best_step,
)
from utils.errors import RunError, UserError

TREE = {
    "agent": {
        "params": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)},
        "dual": None,
        "opt": {"0": {}},
    }
}


def kept(folder, count):
    return Checkpoints(folder / "checkpoints", keep=count)


def test_a_checkpoint_is_read_as_it_was_saved_even_if_the_arrays_are_overwritten(
    tmp_path,
):
    """The next update overwrites the arrays of a saved tree while they are still being written."""
    tree = {"w": jnp.arange(300_000.0), "step": jnp.array(7, jnp.int32)}
    expected = jax.tree.map(np.array, tree)
    overwrite = jax.jit(
        lambda tree: jax.tree.map(lambda leaf: leaf * 0 - 1, tree), donate_argnums=0
    )
    with kept(tmp_path, 2) as checkpoints:
        checkpoints.save(
            5, tree, {"phase": "offline", "rows": {"train": 3}, "sum": 0.1}
        )
        overwrite(tree)
    read, record = Checkpoints(tmp_path / "checkpoints").read(5)
    jax.tree.map(np.testing.assert_array_equal, read, expected)
    assert jax.tree.map(lambda leaf: leaf.dtype, read) == jax.tree.map(
        lambda leaf: leaf.dtype, expected
    )
    assert record == {"phase": "offline", "rows": {"train": 3}, "sum": 0.1}


def test_empty_and_absent_branches_are_restored(tmp_path):
    with kept(tmp_path, 1) as checkpoints:
        checkpoints.save(1, TREE, {})
        checkpoints.wait()
        assert jax.tree.structure(checkpoints.read(1)[0]) == jax.tree.structure(TREE)


def test_the_newest_and_the_precious_checkpoints_are_kept(tmp_path):
    asked = []
    with Checkpoints(
        tmp_path / "checkpoints", 2, lambda steps: asked.append(list(steps)) or {2}
    ) as checkpoints:
        for step in (1, 2, 5, 7, 9):
            checkpoints.save(step, TREE, {})
            assert checkpoints.latest() == step
        checkpoints.wait()
        assert checkpoints.steps() == [2, 7, 9]
    assert asked[-1] == [2, 5, 7, 9]


def test_the_best_step_is_one_of_those_given_and_the_latest_of_equals():
    evaluations = [
        {"step": step, "success": success}
        for step, success in ((0, 0.5), (4, 0.9), (8, 0.7), (12, 0.7), (16, 0.1))
    ]
    assert best_step(evaluations, [4, 8]) == 4
    assert best_step(evaluations, [0, 8, 12, 16]) == 12
    assert best_step(evaluations, [5]) is None


def test_without_success_the_highest_return_is_the_best():
    returns = {0: -9.0, 4: -2.5, 8: -3.0, 12: -2.5, 16: -7.0}
    evaluations = [{"step": step, "return": value} for step, value in returns.items()]
    assert best_step(evaluations, [0, 4, 8]) == 4
    assert best_step(evaluations, [*returns]) == 12  # the latest of equals
    assert best_step([line | {"success": 0.0} for line in evaluations], [0, 4, 16]) == 4
    # Success counts first as soon as it is above 0.
    evaluations[1]["success"], evaluations[4]["success"] = 0.5, 0.75
    assert best_step(evaluations, [*returns]) == 16


def test_a_tree_that_is_not_finite_is_not_saved(tmp_path):
    with kept(tmp_path, 2) as checkpoints:
        checkpoints.save(1, TREE, {})
        bad = {"agent": {"params": {"kernel": np.array([0.0, np.inf], np.float32)}}}
        with pytest.raises(
            RunError,
            match=(
                "agent/params/kernel is not finite at step 2: .* the last good checkpoint is"
                " that of step 1"
            ),
        ):
            checkpoints.wait()
            checkpoints.save(2, bad, {})
    assert Checkpoints(tmp_path / "checkpoints").steps() == [1]


def test_a_flipped_byte_is_noticed_or_changes_nothing(tmp_path):
    with kept(tmp_path, 1) as checkpoints:
        checkpoints.save(3, TREE, {"rows": 4})
    reader = Checkpoints(tmp_path / "checkpoints")
    intact, noticed = reader.read(3), 0
    for path in sorted((tmp_path / "checkpoints" / "3").rglob("*")):
        if not path.is_file():
            continue
        content = path.read_bytes()
        for place in {0, len(content) // 2, len(content) - 1} - {-1}:
            path.write_bytes(
                content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :]
            )
            try:
                tree, record = reader.read(3)
                jax.tree.map(np.testing.assert_array_equal, tree, intact[0])
                assert record == intact[1]
            except CheckpointError as error:
                noticed += 1
                assert "\n" not in str(error)
        path.write_bytes(content)
    assert noticed >= 5
    assert reader.read(3)[1] == intact[1]


def test_the_values_that_are_read_are_checked(tmp_path, monkeypatch):
    """A wrong number is noticed even if the storage returns it without an error."""
    with kept(tmp_path, 1) as checkpoints:
        checkpoints.save(3, TREE, {})
    reader = Checkpoints(tmp_path / "checkpoints")
    real = reader._manager.restore

    def wrong(*args, **kwargs):
        content = real(*args, **kwargs)
        if "state" in content:
            content.state["agent"]["params"]["kernel"] = content.state["agent"][
                "params"
            ]["kernel"] + np.float32(1e-6)
        return content

    monkeypatch.setattr(reader._manager, "restore", wrong)
    with pytest.raises(
        CheckpointError, match="agent/params/kernel is not what was written"
    ):
        reader.read(3)


def test_the_newest_readable_checkpoint_is_used_and_damaged_ones_are_set_aside(
    tmp_path, printed
):
    with kept(tmp_path, 3) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, TREE, {"step": step})
        checkpoints.wait()
        (tmp_path / "checkpoints" / "3" / "record" / "metadata").write_text("{}")
        assert not checkpoints.holds(3)
        step, _, record = next(checkpoints.readable())
        assert (step, record) == (2, {"step": 2})
        assert "checkpoints/3 cannot be read" in printed().out
        for _ in range(2):  # twice, because a step may go wrong again
            checkpoints.set_aside([3])
            assert (checkpoints.steps(), checkpoints.latest()) == ([1, 2], 2)
            checkpoints.save(3, TREE, {"step": 3})
            checkpoints.wait()
        assert checkpoints.holds(3)
    assert sorted(
        path.name for path in (tmp_path / "checkpoints.unreadable").iterdir()
    ) == [
        "3",
        "3_1",
    ]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        PermissionError(errno.EACCES, "Permission denied"),
        ValueError("reading x: [OS error 116: ESTALE Stale file handle]"),
    ],
)
def test_a_checkpoint_that_may_be_intact_is_never_replaced_by_the_one_before(
    error, tmp_path, monkeypatch
):
    """Resuming from the one before would delete what was trained since."""

    def fail(*_, **__):
        raise error

    with kept(tmp_path, 2) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, TREE, {"step": step})
        checkpoints.wait()
        with monkeypatch.context() as patched:
            patched.setattr(checkpoints._manager, "restore", fail)
            for read in (checkpoints.holds, lambda _: next(checkpoints.readable())):
                with pytest.raises(RunError, match="checkpoints/2 cannot be read now"):
                    read(2)
        assert next(checkpoints.readable())[0] == 2


def test_a_reader_does_not_disturb_a_writer(tmp_path):
    with kept(tmp_path, 1) as checkpoints:
        checkpoints.save(1, TREE, {})
    unfinished = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
    (unfinished / "state").mkdir(parents=True)
    assert [step for step, *_ in Checkpoints(tmp_path / "checkpoints").readable()] == [
        1
    ]
    assert unfinished.exists()
    # The next writer deletes what a killed one left before it saves its own.
    with kept(tmp_path, 1) as checkpoints:
        assert checkpoints.latest() == 1
        checkpoints.save(2, TREE, {})
    assert (checkpoints.steps(), unfinished.exists()) == ([2], False)


def test_an_agent_is_restored_completely_and_another_one_is_refused():
    config = bc.get_config()
    config.update(dict(actor_hidden_dims=(4,), horizon_length=1))
    agent, other = (bc.BC.create(jax.random.key(seed), 3, 2, config) for seed in (0, 1))
    tree = jax.tree.map(np.asarray, agent_tree(agent))
    back = agent_from(tree, other, "here")
    jax.tree.map(np.testing.assert_array_equal, back, agent)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(back))
    config.actor_layer_norm = True
    with pytest.raises(
        UserError,
        match=r"here holds another agent: .*LayerNorm_0/bias is missing there and \(4,\) here",
    ):
        agent_from(tree, bc.BC.create(jax.random.key(0), 3, 2, config), "here")


class Weighted(bc.BC):
    """An agent whose state holds a number of Python."""

    weight: jax.Array

    @classmethod
    def init_state(cls, config):
        return {"weight": 0.5}


def test_an_agent_whose_state_began_as_a_number_is_restored():
    config = bc.get_config()
    config.update(dict(actor_hidden_dims=(4,), horizon_length=1))
    agent = Weighted.create(jax.random.key(0), 3, 2, config)
    tree = jax.tree.map(np.asarray, agent_tree(agent))
    back = agent_from(tree, agent, "here")
    assert back.weight == 0.5 and back.weight.dtype == jnp.float32
    # else the second call of a compiled update would be compiled again
    assert not agent.weight.weak_type
