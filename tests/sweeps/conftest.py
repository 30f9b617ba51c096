"""The tests of this folder run in the project's folder."""

import pytest

from tests.sweeps.stub_jobs import ROOT


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)
