"""Several seeds train in one program as they would alone."""

import itertools
import os
import re
import shutil
import signal

import jax
import jax.numpy as jnp
import pytest

from envs.workers import EnvWorkers
from tests.tiny_runs import TASK, lenient, only_run, run_code, train, unwrapped
from utils.csv_log import CsvLog


@pytest.mark.slow
def test_a_broken_seed_does_not_change_the_others(data, tmp_path, monkeypatch, capsys):
    """Seed 0 of two starts from parameters that are not finite. Seed 1 logs what it logs alone,
    and the last line of the errors names seed 0.
    """
    from training import train as train_module

    real, flags = train_module.new_agent, ["--bc_steps=0", "--num_seeds=2"]

    def poisoned(*args):
        run, agent = args[0], real(*args)
        return (
            agent
            if run.seed
            else agent.replace(
                params=jax.tree.map(lambda leaf: leaf * jnp.nan, agent.params)
            )
        )

    monkeypatch.setattr(train_module, "new_agent", poisoned)
    assert train(data, tmp_path / "both", *flags) == 1
    error = unwrapped(capsys.readouterr().err)
    assert re.search(
        r"warning: [\w/]+ is not finite since update 1, .*_s0_\w+; there is no checkpoint yet;"
        r" the other seeds continue",
        error,
    )
    assert re.search(
        r"error: [\w/]+ is not finite since update 1, seen at step 4 of \S+_s0_",
        error.splitlines()[-1],
    )
    assert train(data, tmp_path / "alone", "--bc_steps=0", "--seed=1") == 0
    ours, alone = (
        next((tmp_path / which).glob(f"Debug/{TASK}/trqam_s1_*"))
        for which in ("both", "alone")
    )
    assert (ours / "done.json").exists() and not list(
        ours.parent.glob("*_s0_*/done.json")
    )
    for one, other in zip(
        CsvLog(ours / "train.csv").read(),
        CsvLog(alone / "train.csv").read(),
        strict=True,
    ):
        assert one.pop("phase") == other.pop("phase")
        assert one == pytest.approx(other, rel=1e-3)


@pytest.mark.slow
def test_seeds_have_their_own_folders_and_resume_together(
    data, tmp_path, monkeypatch, capsys
):
    """Two of three seeds are a checkpoint ahead, as after a kill between two saves. All resume
    from the newest step that all three have.
    """
    from training.updates import Updates

    flags = ["--num_seeds=3", "--eval_episodes=1"]
    assert train(data, tmp_path / "whole", *flags) == 0
    real = Updates.run
    for calls, newest, shared in ((7, 16, 12), (1, 4, None)):
        left, place = iter(range(calls)), tmp_path / f"cut{calls}"

        def failing(updates, *args, left=left):
            # A base has no num_qs and is not interrupted.
            if updates.config.get("num_qs") and next(left, None) is None:
                raise KeyboardInterrupt
            real(updates, *args)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Updates, "run", failing)
            train(data, place, *flags)
        folders = sorted(place.glob(f"Debug/{TASK}/trqam_s*"))
        assert [path.name[:8] for path in folders] == [
            "trqam_s0",
            "trqam_s1",
            "trqam_s2",
        ]
        assert newest == max(
            int(path.name) for path in (folders[1] / "checkpoints").iterdir()
        )
        shutil.rmtree(folders[1] / "checkpoints" / str(newest))
        capsys.readouterr()
        assert train(data, place, *flags) == 0
        resumed = re.findall(
            r"resumed at step (\d+): .*/trqam_s\d_", unwrapped(capsys.readouterr().out)
        )
        assert resumed == ([] if shared is None else [str(shared)] * 3)
        for folder in folders:
            for name in ("train.csv", "eval.csv", "replay.bin"):
                uninterrupted = next(
                    (tmp_path / "whole").glob(f"Debug/{TASK}/{folder.name}/{name}")
                )
                assert (folder / name).read_bytes() == uninterrupted.read_bytes()


@pytest.mark.slow
def test_a_seed_on_one_of_four_devices_trains_as_it_does_alone(data, tmp_path):
    """Logs and evaluations agree offline and online, also after resuming from a checkpoint. The
    data is on the devices first, then on the host.
    """
    flags = ["--agent.kl_budget=0.5", "--eval_episodes=2"]
    environ = lenient() | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    # The second command resumes from the first one's checkpoint.
    for steps, place in ((12, 1), (16, 0)):
        words = [
            str(data),
            str(tmp_path / "four"),
            "--num_seeds=4",
            f"--online_steps={steps}",
            f"--device_data_gb={place}",
            *flags,
        ]
        code = f"from tests.tiny_runs import train; raise SystemExit(train(*{words}))"
        run_code(code, environ)
    assert train(data, tmp_path / "alone", "--seed=2", "--online_steps=16", *flags) == 0
    (four,), (alone,) = (
        (tmp_path / name).glob(f"Debug/{TASK}/trqam_s2_*") for name in ("four", "alone")
    )
    # The first command was also evaluated at its end.
    for log, ends in (("train.csv", ()), ("eval.csv", (20,))):
        ours = [row for row in CsvLog(four / log).read() if row["step"] not in ends]
        for one, other in zip(ours, CsvLog(alone / log).read(), strict=True):
            assert one.pop("phase", None) == other.pop("phase", None)
            assert one == pytest.approx(other, rel=0.01, abs=1e-4)
    assert (four / "checkpoints" / "24").is_dir()


@pytest.mark.ci
def test_seeds_step_side_by_side_and_a_killed_environment_loses_nothing(
    data, tmp_path, monkeypatch, capsys
):
    flags = ["--num_seeds=2", "--bc_steps=0", "--offline_steps=0", "--save_interval=8"]
    assert train(data, tmp_path / "whole", *flags) == 0
    real, calls = EnvWorkers.run_chunks, itertools.count(1)

    def run_chunks(workers, *args):
        if next(calls) == 6:
            os.kill(workers.pids[-1], signal.SIGKILL)
        return real(workers, *args)

    with monkeypatch.context() as patch:
        patch.setattr(EnvWorkers, "run_chunks", run_chunks)
        assert train(data, tmp_path / "cut", *flags) == 1
    assert "died (killed by signal 9)" in capsys.readouterr().err
    assert train(data, tmp_path / "cut", *flags) == 0
    assert unwrapped(capsys.readouterr().out).count("resumed at step 5: ") == 2
    cut, uninterrupted = (
        sorted((tmp_path / which).glob(f"Debug/{TASK}/trqam_s*/*.*"))
        for which in ("cut", "whole")
    )
    compared = [
        (a, b)
        for a, b in zip(cut, uninterrupted, strict=True)
        if a.name in ("train.csv", "replay.bin")
    ]
    assert len(compared) == 4 and all(
        a.read_bytes() == b.read_bytes() for a, b in compared
    )


@pytest.mark.ci
def test_a_seed_whose_state_is_not_finite_does_not_stop_the_others(
    data, tmp_path, monkeypatch, printed
):
    """No metric shows it: the state of a fork, here of seed 0."""
    from training import train as train_module

    (tmp_path / "forky.py").write_text(
        "from typing import Any\n"
        "from agents import trqam\n"
        "class Forky(trqam.TRQAM):\n"
        "    scale: Any = None\n"
        "get_config = Forky.get_config\n"
        "AGENT = Forky\n"
    )
    real = train_module.new_agent

    def with_scale(*args):
        return real(*args).replace(scale=jnp.float32(args[0].seed or jnp.inf))

    monkeypatch.setattr(train_module, "new_agent", with_scale)
    flags = [f"--agent={tmp_path / 'forky.py'}", "--bc_steps=0", "--num_seeds=2"]
    for _ in range(2):
        assert train(data, tmp_path, "--online_steps=0", *flags) == 1
        error = unwrapped(printed().err).splitlines()[-1]
        assert "error: agent/scale is not finite at step 4 of " in error
        assert "_s0_" in error and error.endswith("; there is no checkpoint yet")
    (done,) = tmp_path.glob(f"Debug/{TASK}/forky_s*/done.json")
    assert done.parent.name.startswith("forky_s1_")


def kill_at_the_first_update(patch):
    from training.updates import Updates

    def killed(*_):
        raise KeyboardInterrupt

    patch.setattr(Updates, "run", killed)


@pytest.mark.ci
def test_a_seed_added_later_costs_a_run_nothing_that_it_has(
    data, tmp_path, monkeypatch, printed
):
    """The run's only checkpoint is within one save interval of the new seed's start."""
    flags = ["--bc_steps=0", "--save_interval=8", "--eval_episodes=1"]
    assert train(data, tmp_path, "--online_steps=0", *flags) == 0
    folder = only_run(tmp_path)
    kept = {
        path.relative_to(folder): path.read_bytes()
        for path in [*folder.glob("*.csv"), *folder.glob("checkpoints/8/**/*")]
        if path.is_file()
    }

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        kill_at_the_first_update(patch)
        train(data, tmp_path, "--num_seeds=2", *flags)
    assert kept == {path: (folder / path).read_bytes() for path in kept}
    printed()
    assert train(data, tmp_path, "--online_steps=0", *flags) == 0
    assert "finished already" in printed().out
    assert train(data, tmp_path, "--num_seeds=2", *flags) == 0
    assert len(list(tmp_path.glob(f"Debug/{TASK}/*/done.json"))) == 2


@pytest.mark.ci
def test_a_run_that_went_back_behind_its_end_is_not_finished(
    data, tmp_path, monkeypatch, printed
):
    flags = ["--bc_steps=0", "--online_steps=0"]
    assert train(data, tmp_path, *flags) == 0
    folder = only_run(tmp_path)
    for path in (folder / "checkpoints" / "8").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    # a longer run meets the damage and resumes from the checkpoint before
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        kill_at_the_first_update(patch)
        train(data, tmp_path, *flags, "--offline_steps=12")
    printed()
    assert train(data, tmp_path, *flags) == 0
    assert "resumed at step 4" in unwrapped(printed().out)
    assert [row["step"] for row in CsvLog(folder / "train.csv").read()] == [4, 8]
