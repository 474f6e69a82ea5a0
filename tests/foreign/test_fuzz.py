"""Damaged folders of other libraries: a CheckpointError or contents, and nothing else ever."""

from __future__ import annotations

import random
import sys

import pytest

from tests import tiny_models
from tests.checkpoint.fuzzed import MOST_BYTES, growth_bytes, limited, make_whole
from tests.checkpoint.mutations import again, damage
from workbench.checkpoint.stored_contents import CheckpointContents
from workbench.demo import demo_path
from workbench.errors import CheckpointError
from workbench.foreign import open_int4
from workbench.targets import TARGETS
from workbench.targets.run import ExportReport, iter_export_to

SEED = "a folder of another library that was damaged"
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pipes and limits of memory are POSIX's")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tiny model in each format that holds it and that has a reader, by the format's name."""
    root, found = tmp_path_factory.mktemp("foreign"), {}
    native = make_whole(root / "native", intermediate_size=64, vocab_size=4096)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (native / name).write_bytes((demo_path() / name).read_bytes())
    contents = CheckpointContents(native)
    with tiny_models.hushed():
        for name, target in TARGETS.items():
            if target.fit(contents.outline()).misfits:
                continue
            assert isinstance(list(iter_export_to(name, contents, root / name))[-1], ExportReport)
            try:
                open_int4(root / name)
            except CheckpointError as error:
                assert "format is not read here" in str(error)
            else:
                found[name] = root / name
    assert {"compressed-tensors", "gptq", "awq"} <= set(found)
    return found


def read(folder):
    """Read everything of a folder."""
    contents = open_int4(folder)
    contents.outline()
    for part in contents.parts():
        assert part.weight is None or part.weight.dequantize().isfinite().all()


def test_whole_folders_are_read(folders):
    for folder in folders.values():
        read(folder)


@pytest.mark.parametrize("count", [100, pytest.param(2_000, marks=pytest.mark.soak)])
def test_no_damage_gives_another_error(count, folders, tmp_path):
    names, found = sorted(folders), []

    def attempt():
        try:
            read(folder)
        except CheckpointError:
            pass
        except Exception as error:  # nothing but a CheckpointError may come of it
            found.append(f"{number} ({name}): {done}: {error!r}")

    with limited():
        for number in range(count):
            name = names[number % len(names)]
            folder = again(folders[name], tmp_path / "damaged")
            done = damage(folder, random.Random(f"{SEED} {number}"))
            taken = growth_bytes(attempt)
            if taken > MOST_BYTES:
                found.append(f"{number} ({name}): {done}: took {taken / 2**20:.0f} MiB")
    assert not found, "\n".join([f"{len(found)} of {count}:", *found[:20]])
