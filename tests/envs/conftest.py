import pytest

from envs.collect import collect


@pytest.fixture(scope="session")
def cube_data(tmp_path_factory):
    """A folder with 200 + 20 transitions of cube-single-play, four episodes and one."""
    folder = tmp_path_factory.mktemp("ogbench")
    collect(
        "cube-single-play", folder, 200, workers=1, episode_steps=60, progress=False
    )
    return folder
