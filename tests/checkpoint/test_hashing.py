"""Hashes of pieces: those of hashlib, each byte once, and an end when the person wants one."""

from __future__ import annotations

import hashlib
import threading

import pytest

from tests.checkpoint.fuzzed import make_whole
from workbench.checkpoint.hashing import Piece, iter_hashes
from workbench.checkpoint.integrity import iter_verify, verify_checkpoint
from workbench.errors import Cancelled


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return make_whole(tmp_path_factory.mktemp("whole") / "ours")


def test_hashes_are_those_of_hashlib(tmp_path):
    data = bytes(number * 7 % 251 for number in range(1_300_001))
    path = tmp_path / "data"
    path.write_bytes(data)
    places = [(0, len(data)), (0, 0), (1, 2), (5, 600_005), (1_300_000, 1_300_001), (1_299_000, 1_300_001)]
    pieces = [Piece(str(place), path, *place) for place in places]
    found = {one.piece.what: one for one in iter_hashes(pieces)}
    for start, stop in places:
        assert found[str((start, stop))].sha256 == hashlib.sha256(data[start:stop]).hexdigest()
        assert found[str((start, stop))].problem == ""


def test_values_are_looked_at_whole(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(bytes(1_000_000) + b"x")
    seen = []
    (found,) = iter_hashes([Piece("a", path, 3, 1_000_001, None, lambda data: seen.append(bytes(data)) or "bad")])
    assert seen == [path.read_bytes()[3:]] and found.problem == "bad"


def test_a_file_that_ends_early_or_is_gone_is_said(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(b"abc")
    for piece in (Piece("a", path, 0, 9), Piece("a", tmp_path / "gone", 0, 9)):
        (found,) = iter_hashes([piece])
        assert found.sha256 == "" and "cannot be read" in found.problem


def test_every_byte_of_a_checkpoint_is_hashed_once(whole):
    found = list(iter_verify(whole))
    done = [one.done_bytes for one in found if one.done_bytes]
    headers = sum(8 + int.from_bytes(path.read_bytes()[:8], "little") for path in whole.glob("*.safetensors"))
    all_bytes = sum(path.stat().st_size for path in whole.iterdir())
    manifest = (whole / "int4_manifest.json").stat().st_size
    assert done == sorted(done) and done[-1] == found[-1].total_bytes == all_bytes - manifest - headers


def test_cancel_ends_it(whole):
    cancel = threading.Event()
    steps = iter_verify(whole, cancel=cancel)
    next(steps)
    cancel.set()
    with pytest.raises(Cancelled):
        list(steps)
    with pytest.raises(Cancelled):
        verify_checkpoint(whole, cancel=cancel)


def test_walking_away_ends_the_threads(whole):
    before = threading.active_count()
    steps = iter_verify(whole)
    while not next(steps).done_bytes:
        pass
    steps.close()
    assert threading.active_count() <= before
