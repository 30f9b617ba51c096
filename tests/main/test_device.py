"""The device flags take effect, and timing.csv says how long the device is idle."""

import time

import pytest

from tests.tiny_runs import lenient, only_run, run_code, train
from utils.csv_log import CsvLog


def test_the_device_is_idle_while_the_host_is_busy(data, tmp_path, monkeypatch):
    from utils import progress

    steps = [
        "--bc_only",
        "--offline_steps=40",
        "--log_interval=20",
        "--eval_interval=0",
        "--save_interval=0",
    ]
    real = progress.ProgressBar.update
    monkeypatch.setattr(
        progress.ProgressBar, "update", lambda bar, n: (time.sleep(0.1), real(bar, n))
    )
    assert train(data, tmp_path, *steps) == 0
    # The first line includes the compilation.
    last = CsvLog(only_run(tmp_path) / "timing.csv").read()[-1]
    assert 0.5 < last["device_idle"] <= 1.0


@pytest.mark.ci
def test_the_device_is_not_idle_while_the_host_waits_for_actions(
    data, tmp_path, monkeypatch
):
    """Actions need the newest update, so the device works until they are computed."""
    from training import updates

    real = updates.act_online
    monkeypatch.setattr(
        updates, "act_online", lambda *arguments: (time.sleep(0.1), real(*arguments))[1]
    )
    assert (
        train(data, tmp_path, "--offline_steps=0", "--bc_steps=0", "--start_training=1")
        == 0
    )
    last = CsvLog(only_run(tmp_path) / "timing.csv").read()[-1]
    assert last["device_idle"] < 0.5


@pytest.mark.ci
def test_flags_set_the_matmul_precision_and_the_folder_of_compiled_programs(
    data, tmp_path
):
    """Both are set once for a process, so the command runs in its own process."""
    words = [
        str(data),
        str(tmp_path),
        "--bc_only",
        "--offline_steps=8",
        "--online_steps=0",
    ]
    words += [
        "--matmul_precision=highest",
        f"--compilation_cache_dir={tmp_path}/programs",
    ]
    code = f"""
import jax
from tests.tiny_runs import train

code = train(*{words})
assert jax.config.jax_default_matmul_precision == "highest"
raise SystemExit(code)
"""
    # Cache tiny programs too.
    environ = lenient() | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    run_code(code, environ)
    assert list((tmp_path / "programs").iterdir())
