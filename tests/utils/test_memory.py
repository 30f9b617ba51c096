import math
import types

import jax
import pytest

from utils import memory


def test_the_budget_is_half_of_what_is_free():
    def budget(platform, stats):
        return memory.device_budget(
            types.SimpleNamespace(platform=platform, memory_stats=lambda: stats)
        )

    assert (
        budget("gpu", {"bytes_limit": 60e9, "bytes_in_use": 20e9, "other": 1}) == 20e9
    )
    # A GPU that reports no limit has no budget; a CPU has half of the host's memory.
    assert budget("gpu", None) == budget("gpu", {"bytes_in_use": 20e9}) == 0
    assert 1e7 < budget("cpu", None) < 1e13


@pytest.mark.parametrize(
    ("membership", "files", "limit"),
    [
        (
            "0::/slurm/job",
            {"slurm/memory.max": "4000", "slurm/job/memory.max": "max"},
            4000,
        ),
        ("0::/slurm/job", {"memory.max": "9000", "slurm/job/memory.max": "3000"}, 3000),
        ("0::/host/path/not/mounted", {"memory.max": "2000"}, 2000),
        (
            "5:cpu:/a\n4:memory:/job",
            {"cpu/a/memory.max": "1", "memory/job/memory.limit_in_bytes": "5000"},
            5000,
        ),
        ("0::/", {}, math.inf),
    ],
)
def test_the_memory_limit_of_a_job_is_the_smallest_of_its_control_groups(
    tmp_path, membership, files, limit
):
    (tmp_path / "cgroup").write_text(membership + "\n")
    for name, content in files.items():
        path = tmp_path / "mount" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    assert memory.cgroup_limit(tmp_path / "cgroup", tmp_path / "mount") == limit
    assert memory.cgroup_limit(tmp_path / "none", tmp_path / "mount") == math.inf


def test_a_dataset_on_a_cpu_takes_at_most_half_of_a_jobs_memory(monkeypatch):
    monkeypatch.setattr(memory, "cgroup_limit", lambda membership, mount: 4000)
    assert memory.device_budget(jax.devices("cpu")[0]) == 2000
