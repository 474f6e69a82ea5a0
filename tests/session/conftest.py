"""The demo model as tests of a session open it: from its folder, and live."""

import pytest

import workbench as wb
from tests.session.stand_ins import closing
from workbench.hf.skeleton import open_source
from workbench.session import open_session


@pytest.fixture(scope="module")
def demo_source():
    return open_source("demo")


@pytest.fixture
def demo(demo_source):
    with closing(open_session(demo_source)) as session:
        yield session


@pytest.fixture(scope="module")
def pair():
    return wb.demo_model()


@pytest.fixture
def session(pair):
    with closing(open_session(*pair)) as session:
        yield session
