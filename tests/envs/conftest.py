"""A small dataset that several tests of this folder read."""

import pytest

from envs.collect import collect


@pytest.fixture(scope="session")
def cube_data(tmp_path_factory):
    """A folder with cube-single-play: 200 transitions in four episodes, and 20 for validation."""
    folder = tmp_path_factory.mktemp("ogbench")
    collect("cube-single-play", folder, 200, workers=1, episode_steps=60)
    return folder
