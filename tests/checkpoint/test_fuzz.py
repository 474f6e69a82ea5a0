"""Hundreds of damaged checkpoints: refused, or what was saved; thousands in the soak."""

from __future__ import annotations

import sys

import pytest

import workbench.checkpoint.integrity as integrity
from tests.checkpoint import mutations
from tests.checkpoint.fuzzed import faults, make_whole
from tests.checkpoint.mutations import again, mutate

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pipes and limits of memory are POSIX's")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return make_whole(tmp_path_factory.mktemp("whole") / "ours")


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.soak)])
def test_no_damage_loads_as_something_else(count, whole, tmp_path):
    print(f"seed {mutations.SEED!r}, numbers 0 to {count - 1}")
    found = faults(whole, tmp_path / "damaged", range(count))
    assert not found, "\n".join([f"{len(found)} of {count}:", *found[:20]])


def test_a_check_that_is_missing_is_seen(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(integrity, "check_sealed", lambda *_: None)
    assert "110" in faults(whole, tmp_path / "damaged", range(110, 111))[0]  # exchanges two tensors in a header


def test_a_number_is_the_same_damage_every_time(whole, tmp_path):
    def bytes_of(folder):
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and not path.is_symlink()}

    for number in range(40):
        one, two = (again(whole, tmp_path / name) for name in ("one", "two"))
        assert mutate(one, number) == mutate(two, number)
        assert bytes_of(one) == bytes_of(two)


def test_every_way_is_taken(whole, tmp_path):
    taken = {mutate(again(whole, tmp_path / "damaged"), number).what.split(" ")[0] for number in range(150)}
    assert len(taken) > 8
