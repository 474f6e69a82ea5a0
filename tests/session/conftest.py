"""The demo model as tests of a session open it."""

import pytest

from tests.session.stand_ins import TIMEOUT_S
from workbench.demo import demo_path
from workbench.hf.loading import load_model
from workbench.hf.skeleton import open_source
from workbench.session import open_session


@pytest.fixture(scope="module")
def demo_source():
    return open_source("demo")


@pytest.fixture
def demo(demo_source):
    session = open_session(demo_source)
    yield session
    session.cancel()
    assert session.wait(TIMEOUT_S)


@pytest.fixture(scope="module")
def live_pair():
    return load_model(demo_path())
