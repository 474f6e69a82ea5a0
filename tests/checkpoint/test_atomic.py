"""A folder appears whole or not at all: killed, full, forbidden, or in the way of another."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest

import workbench.checkpoint.atomic as atomic
from workbench.checkpoint.atomic import new_directory
from workbench.errors import CheckpointError

ROOT = Path(__file__).parents[2]
# Saves a folder of three shards whose bytes all say which save it is, again and again; a line for each one done.
SAVER = """
import sys, torch
from pathlib import Path
from workbench.checkpoint.atomic import new_directory
from workbench.checkpoint.manifest import write_manifest
from workbench.checkpoint.writer import ShardWriter
print("ready", flush=True)
for number in range(1, 10_000):
    with new_directory(sys.argv[1], overwrite=True) as folder:
        writer = ShardWriter(folder, max_shard_bytes=300_000)
        for tensor in "abc":
            writer.add({tensor: torch.full((250_000,), number % 251, dtype=torch.uint8)})
        write_manifest(folder, writer.finish())
    print(number, flush=True)
"""


def entries(folder):
    return sorted(path.name for path in folder.iterdir())


def save(target, text="new", **settings):
    with new_directory(target, **settings) as folder:
        (folder / "a.txt").write_text(text)
        (folder / "inner").mkdir()
        (folder / "inner" / "b.txt").write_text(text)


def old_folder(target):
    target.mkdir()
    (target / "a.txt").write_text("old")
    return target


# --- in its place ---------------------------------------------------------------------------------------------------


def test_the_folder_appears_at_the_end_only(tmp_path):
    target = tmp_path / "deep" / "er" / "ours"
    with new_directory(target) as folder:
        (folder / "a.txt").write_text("new")
        assert not target.exists()
        assert folder.parent == target.parent
    assert (target / "a.txt").read_text() == "new"
    assert entries(target.parent) == ["ours"]


@pytest.mark.parametrize("exchange", [True, False])
def test_overwriting_replaces_all_of_it(exchange, tmp_path, monkeypatch):
    if not exchange:
        monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
    target = old_folder(tmp_path / "ours")
    (target / "stale.txt").write_text("old")
    save(target, overwrite=True)
    assert entries(target) == ["a.txt", "inner"]
    assert entries(tmp_path) == ["ours"]


def test_linux_exchanges_in_one_step(tmp_path):
    one, other = old_folder(tmp_path / "one"), tmp_path / "other"
    other.mkdir()
    assert atomic._exchange(one, other)
    assert entries(one) == [] and entries(other) == ["a.txt"]
    assert not atomic._exchange(one, tmp_path / "nothing")


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, CheckpointError])
@pytest.mark.parametrize("existing", [True, False])
def test_any_error_leaves_what_was_there(existing, kind, tmp_path):
    target = tmp_path / "made" / "ours"
    if existing:
        target.parent.mkdir()
        old_folder(target)
    with pytest.raises(kind), new_directory(target, overwrite=True) as folder:
        (folder / "a.txt").write_text("half")
        raise kind("stop")
    assert entries(tmp_path) == (["made"] if existing else [])
    assert not existing or (target / "a.txt").read_text() == "old"


def test_the_old_folder_comes_back_when_the_second_step_fails(tmp_path, monkeypatch):
    target = old_folder(tmp_path / "ours")
    monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
    rename = Path.rename

    def failing(self, new):
        if self.name.endswith(".tmp"):
            raise OSError(errno.EIO, "broken disk")
        return rename(self, new)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(CheckpointError, match="broken disk"):
        save(target, overwrite=True)
    assert (target / "a.txt").read_text() == "old"
    assert entries(tmp_path) == ["ours"]


# --- refused before any work ----------------------------------------------------------------------------------------


def refused(target, match, **settings):
    with pytest.raises(CheckpointError, match=match), new_directory(target, **settings):
        pytest.fail("the work began")


def test_targets_that_cannot_be_are_refused(tmp_path):
    old_folder(tmp_path / "full")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "full")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    refused(tmp_path / "full", "not empty.*--overwrite")
    refused(tmp_path / "file", "is a file", overwrite=True)
    refused(tmp_path / "link", "symbolic link", overwrite=True)
    refused(tmp_path / "broken", "symbolic link", overwrite=True)
    refused(tmp_path / "file" / "ours", "not written")
    refused(Path("/"), "cannot hold")
    refused(tmp_path / ("n" * 300), "not written")
    refused(tmp_path / "a\0b", "not written")
    assert entries(tmp_path) == ["broken", "file", "full", "link"]


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "ours").mkdir()
    save(tmp_path / "ours")
    assert entries(tmp_path / "ours") == ["a.txt", "inner"]


def test_an_unwritable_parent_is_named(tmp_path, monkeypatch):
    def forbidden(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "mkdir", forbidden)
    refused(tmp_path / "ours", "Permission denied.*a folder that you may write to")


def test_too_little_space_is_said_before_the_work(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(10, 10, 999)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    refused(tmp_path / "not" / "yet" / "ours", r"needs 1\.00 kB, but its disk has 999 B free", need_bytes=1000)
    save(tmp_path / "ours", need_bytes=999)


# --- what killed saves left -----------------------------------------------------------------------------------------


def leftover(target, pid, ending="tmp", host=None):
    path = target.parent / f".{target.name}.{host or atomic._host()}.{pid}.0123abcd.{ending}"
    path.mkdir()
    (path / "a.txt").write_text("left")
    return path


@pytest.fixture
def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_leftovers_of_dead_processes_are_removed(tmp_path, dead_pid):
    target = tmp_path / "ours"
    gone = [leftover(target, dead_pid), leftover(target, os.getpid())]
    kept = [
        leftover(target, os.getppid()),
        leftover(target, dead_pid, host="another-machine"),
        leftover(tmp_path / "yours", dead_pid),
    ]
    save(target)
    assert not any(path.exists() for path in gone)
    assert all(path.exists() for path in kept)


def test_two_saves_of_one_process_leave_each_other_alone(tmp_path):
    with new_directory(tmp_path / "ours", overwrite=True) as first:
        (first / "a.txt").write_text("first")
        save(tmp_path / "ours", "second", overwrite=True)
        assert (first / "a.txt").read_text() == "first"
    assert (tmp_path / "ours" / "a.txt").read_text() == "first"
    assert entries(tmp_path) == ["ours"]


def test_a_folder_that_was_set_aside_is_put_back_by_the_next_save(tmp_path, dead_pid):
    target = tmp_path / "ours"
    leftover(target, dead_pid, "old")
    refused(target, "not empty")
    assert (target / "a.txt").read_text() == "left"
    leftover(target, dead_pid, "old")
    save(target, overwrite=True)
    assert entries(tmp_path) == ["ours"]


def test_where_processes_cannot_be_asked_for_a_leftover_waits_a_day(tmp_path, dead_pid, monkeypatch):
    target = tmp_path / "ours"
    old, young = leftover(target, dead_pid), leftover(target, dead_pid + 1)
    os.utime(old, (time.time() - 90_000,) * 2)
    monkeypatch.setattr(sys, "platform", "win32")
    save(target)
    assert not old.exists() and young.exists()


# --- for real -------------------------------------------------------------------------------------------------------


def check_whole(target):
    """Every byte of the folder is of one and the same save, and its manifest agrees; returns that save's number."""
    from safetensors.torch import load_file

    from workbench.checkpoint.files import read_json
    from workbench.checkpoint.writer import file_sha256

    files = read_json(target / "int4_manifest.json")["files"]
    assert set(files) | {"int4_manifest.json"} == set(entries(target))
    assert all(file_sha256(target / name) == facts["sha256"] for name, facts in files.items())
    values = {int(value) for path in target.glob("*.safetensors") for t in load_file(path).values() for value in t}
    assert len(values) == 1
    return values.pop()


def kill_at_random(target, rounds, seed):
    """Kill a saving process at random points; returns how many temporary folders it was killed in."""
    chance, interrupted = random.Random(seed), 0
    for _ in range(rounds):
        process = subprocess.Popen(
            [sys.executable, "-c", SAVER, str(target)], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        assert process.stdout.readline() == "ready\n"
        if not target.exists():
            assert process.stdout.readline() == "1\n"
        time.sleep(chance.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        told = process.communicate()[0].split()
        number = check_whole(target)
        assert not told or number >= int(told[-1]) % 251
        interrupted += len(entries(target.parent)) > 1
        save(target.parent / "other")  # a save to another target cleans nothing of this one
        shutil.rmtree(target.parent / "other")
    return interrupted


def test_kill_at_any_point_leaves_the_old_or_the_new_folder(tmp_path):
    target = tmp_path / "ours"
    kill_at_random(target, rounds=3, seed=1)
    save(target, overwrite=True)
    assert entries(tmp_path) == ["ours"]


@pytest.mark.soak
def test_kill_at_hundreds_of_points_leaves_the_old_or_the_new_folder(tmp_path):
    target = tmp_path / "ours"
    assert kill_at_random(target, rounds=300, seed=2) > 0
    save(target, overwrite=True)
    assert entries(tmp_path) == ["ours"]


def test_a_file_size_limit_is_said_and_leaves_the_old_folder(tmp_path):
    target = old_folder(tmp_path / "ours")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
    done = subprocess.run(
        [sys.executable, "-c", limit + SAVER, str(target)], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 1
    assert "larger than this process may write" in done.stderr and "ulimit -f" in done.stderr
    assert entries(tmp_path) == ["ours"] and entries(target) == ["a.txt"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 100_000
