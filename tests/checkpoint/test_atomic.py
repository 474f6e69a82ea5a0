"""A folder appears whole or not at all: killed, full, forbidden, or in the way of another."""

from __future__ import annotations

import errno
import os
import random
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest

import workbench.checkpoint.atomic as atomic
from tests.checkpoint.fuzzed import make_whole
from workbench.checkpoint.atomic import new_directory
from workbench.errors import CheckpointError

ROOT = Path(__file__).parents[2]
# Each saves a folder whose bytes all say which save it is.
SAVES = """
from workbench.checkpoint.atomic import new_directory
from workbench.checkpoint.manifest import write_manifest
from workbench.checkpoint.writer import ShardWriter
def save(target, number):
    with new_directory(target, overwrite=True) as folder:
        writer = ShardWriter(folder, max_shard_bytes=300_000)
        for tensor in "abc":
            writer.add({tensor: torch.full((250_000,), number % 251, dtype=torch.uint8)})
        write_manifest(folder, writer.finish())
"""
EXPORTS = """
from dataclasses import replace
from pathlib import Path
from workbench.checkpoint.stored_contents import CheckpointContents
from workbench.targets.run import iter_export_to
class Numbered(CheckpointContents):
    def parts(self, cancel=None):
        for part in super().parts(cancel):
            filled = {name: torch.full_like(tensor, self.number % 251) for name, tensor in part.tensors.items()}
            yield replace(part, tensors=filled)
def save(target, number):
    contents = Numbered(Path(target).parent.parent / "native")
    contents.number = number
    for _ in iter_export_to("compressed-tensors", contents, target, overwrite=True):
        pass
"""
# Imports once, then saves again and again in a child for each line, until that is killed.
SAVER = """
import os, sys, torch
torch.set_num_threads(1)
{saves}
print("ready", flush=True)
for line in sys.stdin:
    target, told = line.rstrip().split("|")
    child = os.fork()
    if child == 0:
        number = 0
        while True:
            number += 1
            save(target, number)
            with open(told, "a") as file:
                print(number, file=file, flush=True)
    print(child, flush=True)
    os.waitpid(child, 0)
    print("dead", flush=True)
"""
# Saves once.
ONCE = """
import sys, torch
{saves}
save(sys.argv[1], 1)
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

    from workbench.checkpoint.manifest import MANIFEST_FILE, read_manifest
    from workbench.checkpoint.writer import file_sha256

    files = read_manifest(target).files
    assert set(files) | {MANIFEST_FILE} == set(entries(target))
    assert all(file_sha256(target / name) == facts["sha256"] for name, facts in files.items())
    values = {v for path in target.glob("*.safetensors") for t in load_file(path).values() for v in t.unique().tolist()}
    assert len(values) == 1
    return values.pop()


def check_export(target):
    """Every file is that of its record, and every dense value of one export; returns that export's number."""
    from safetensors.torch import load_file

    from workbench.targets.run import verify_export

    verify_export(target)
    dense = [t for path in target.glob("*.safetensors") for name, t in load_file(path).items() if "norm" in name]
    values = {float(value) for tensor in dense for value in tensor}
    assert len(values) == 1
    return int(values.pop())


def kill_at_random(target, saves, check, rounds, seed):
    """Kill a saving process at random points; returns how many temporary folders it was killed in."""
    chance, interrupted, told = random.Random(seed), 0, target.parent.parent / "told"
    target.parent.mkdir(parents=True)
    saver = subprocess.Popen(
        [sys.executable, "-c", SAVER.format(saves=saves)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    with saver:
        assert saver.stdout.readline() == "ready\n"
        for _ in range(rounds):
            told.write_text("")
            print(f"{target}|{told}", file=saver.stdin, flush=True)
            child = int(saver.stdout.readline())
            while not target.exists():
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 0.05))
            os.kill(child, signal.SIGKILL)
            assert saver.stdout.readline() == "dead\n"
            number, last = check(target), told.read_text().split()
            assert not last or number in (int(last[-1]) % 251, (int(last[-1]) + 1) % 251)
            interrupted += len(entries(target.parent)) > 1
            save(target.parent / "other")  # a save to another target cleans nothing of this one
            shutil.rmtree(target.parent / "other")
        saver.stdin.close()
    return interrupted


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    return make_whole(tmp_path_factory.mktemp("native") / "native", intermediate_size=64)


@pytest.mark.parametrize("rounds", [5, pytest.param(300, marks=pytest.mark.soak)])
@pytest.mark.parametrize("what", ["save", "export"])
def test_kill_at_any_point_leaves_the_old_or_the_new_folder(what, rounds, native, tmp_path):
    shutil.copytree(native, tmp_path / "native")
    saves, check = (SAVES, check_whole) if what == "save" else (EXPORTS, check_export)
    target = tmp_path / "home" / "ours"
    interrupted = kill_at_random(target, saves, check, rounds, seed=1)
    assert interrupted or rounds < 100
    save(target, overwrite=True)
    assert entries(target.parent) == ["ours"]


# Run in a small file system of their own; a namespace of the process makes it, where that is allowed.
FULL = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
MOUNT = "mount -t tmpfs -o size={size} none {folder} && {make}"
RUN = "{python} -c {code} {folder}/ours; rc=$?; ls -A {folder}; cat {folder}/ours/* 2>/dev/null; exit $rc"


def own_disks():
    """Say whether a process may mount a file system that it alone sees."""
    tried = [*FULL, "mount -t tmpfs none /tmp"]
    return shutil.which("unshare") and subprocess.run(tried, capture_output=True, check=False).returncode == 0


def save_where(folder, saves, make="true", size="2m"):
    """Save into `folder`/ours, where `folder` is a file system of its own; returns what came of it."""
    words = {"python": sys.executable, "code": shlex.quote(ONCE.format(saves=saves)), "folder": folder}
    command = f"{MOUNT.format(folder=folder, make=make, size=size)} && {RUN.format(**words)}"
    return subprocess.run([*FULL, command], capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.mark.parametrize("what", ["save", "export"])
def test_a_full_disk_is_said_and_leaves_nothing(what, native, tmp_path):
    shutil.copytree(native, tmp_path / "native")
    (tmp_path / "home").mkdir()
    saves = SAVES if what == "save" else EXPORTS
    if own_disks():
        old = f"mkdir {tmp_path}/home/ours && echo old > {tmp_path}/home/ours/a.txt"
        done = save_where(tmp_path / "home", saves, make=old, size="400k" if what == "save" else "24k")
        assert "disk is full" in done.stderr
        assert done.stdout == "ours\nold\n"
    else:  # the nearest that anyone may do: a limit of this process
        limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, 8_000))\n"
        code = [sys.executable, "-c", limit + ONCE.format(saves=saves), str(tmp_path / "home" / "ours")]
        done = subprocess.run(code, capture_output=True, text=True, cwd=ROOT, check=False)
        assert "larger than this process may write" in done.stderr
        assert entries(tmp_path / "home") == []
    assert done.returncode == 1


def test_a_target_that_is_only_read_is_said(native, tmp_path):
    if own_disks():
        done = save_where(tmp_path, SAVES, make=f"mount -o remount,ro {tmp_path}")
        said = done.stderr
    else:
        tmp_path.chmod(0o500)
        code = [sys.executable, "-c", ONCE.format(saves=SAVES), str(tmp_path / "ours")]
        said = subprocess.run(code, capture_output=True, text=True, cwd=ROOT, check=False).stderr
        tmp_path.chmod(0o700)
    assert "CheckpointError" in said and "was not written" in said and "may write to" in said
    assert entries(tmp_path) == []


def test_a_file_size_limit_is_said_and_leaves_the_old_folder(tmp_path):
    target = old_folder(tmp_path / "ours")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
    done = subprocess.run(
        [sys.executable, "-c", limit + ONCE.format(saves=SAVES), str(target)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 1
    assert "larger than this process may write" in done.stderr and "ulimit -f" in done.stderr
    assert entries(tmp_path) == ["ours"] and entries(target) == ["a.txt"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 100_000
