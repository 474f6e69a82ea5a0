"""Damaged checkpoints by number: the same number is the same damage, on every machine.

`.venv/bin/python -m tests.checkpoint.mutations 123` says what number 123 does, and what comes of loading it.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file

from workbench.checkpoint.manifest import MANIFEST_FILE, read_manifest, write_manifest
from workbench.errors import CheckpointError
from workbench.safetensors_folder import INDEX_FILE

SEED = "a checkpoint that was damaged"
DEEP = "[" * 100_000
EDGES = [
    *(None, True, False, 0, 1, -1, 15, 16, 64, 4096, 2**24 + 1, 2**31, 2**63, 10**30, 1.5, -0.0, 1e308),
    *(float("nan"), float("inf"), "", "x", "../x", "/etc/hosts", "float", "int", "symmetric", "float32", "float16"),
    *("a" * 100_000, [], {}, [[]], [0] * 1000, {"a": None}, ["x"], [2**40, 2**40], "org/code"),
]


@dataclass(frozen=True)
class Mutation:
    """What was done.

    Attributes:
        what: In words.
        payload: Whether tensors' bytes are all that differs.
        sealed: Whether the manifest is the one that was saved, or damaged itself; else it was removed or renewed, as
            someone who means harm would.
    """

    what: str
    payload: bool
    sealed: bool


def mutate(folder: Path, number: int) -> Mutation:
    """Damage a whole checkpoint in one of many ways."""
    chance = random.Random(f"{SEED} {number}")
    done = damage(folder, chance)
    payload = done.startswith("payload")
    seal = chance.choice(["as saved", "as saved", "removed", "renewed"])
    if seal == "as saved" or MANIFEST_FILE in done:
        return Mutation(done, payload, True)
    tensors = read_manifest(folder).tensors
    (folder / MANIFEST_FILE).unlink()
    if seal == "renewed":
        try:
            write_manifest(folder, tensors)
        except (OSError, ValueError):
            seal = "removed"  # there is no hash of a header that is none
    return Mutation(f"{done}; manifest {seal}", payload, False)


def damage(folder: Path, chance: random.Random) -> str:
    """Damage a folder of any format in one of many ways; return which, in words."""
    way = chance.choices(list(WAYS), weights=list(WAYS.values()))[0]
    if way in NEED_SHARDS and not any(folder.glob("*.safetensors")):
        way = flip_anywhere
    return way(folder, chance)


def header_end(path: Path) -> int:
    """Return where the tensors' bytes begin."""
    with path.open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file())


def _shard(folder: Path, chance: random.Random) -> Path:
    return chance.choice(sorted(folder.glob("*.safetensors")))


def _json_file(folder: Path, chance: random.Random) -> Path:
    names = ["config.json", "config.json", INDEX_FILE, MANIFEST_FILE]
    found = [folder / name for name in names if (folder / name).exists()]
    return chance.choice(found or sorted(folder.glob("*.json")))


def flip_anywhere(folder: Path, chance: random.Random) -> str:
    """Flip one bit of what is no tensor's byte."""
    path = chance.choice(_files(folder))
    end = header_end(path) if path.suffix == ".safetensors" else path.stat().st_size
    return _flip(path, chance.randrange(end), chance)


def flip_payload(folder: Path, chance: random.Random) -> str:
    """Flip one bit of a tensor."""
    path = _shard(folder, chance)
    return "payload: " + _flip(path, chance.randrange(header_end(path), path.stat().st_size), chance)


def _flip(path: Path, place: int, chance: random.Random) -> str:
    data, bit = bytearray(path.read_bytes()), chance.randrange(8)
    data[place] ^= 1 << bit
    path.write_bytes(data)
    return f"flip bit {bit} of byte {place} of {path.name}"


def cut(folder: Path, chance: random.Random) -> str:
    """Cut a file, or let it go on."""
    path = chance.choice(_files(folder))
    data = path.read_bytes()
    end = chance.choice([0, 1, 7, 8, 9, len(data) - 1, chance.randrange(len(data))])
    if chance.random() < 0.2:
        path.write_bytes(data + data[:end] + b"\0")
        return f"append {end + 1} bytes to {path.name}"
    path.write_bytes(data[:end])
    return f"cut {path.name} at {end}"


def splice(folder: Path, chance: random.Random) -> str:
    """Put a block of one file over one of the same size in another, or in the same."""
    source, path = chance.choice(_files(folder)), chance.choice(_files(folder))
    data, origin = bytearray(path.read_bytes()), source.read_bytes()
    size = min(chance.choice([1, 8, 64, 4096]), len(data), len(origin))
    start, place = chance.randrange(len(origin) - size + 1), chance.randrange(len(data) - size + 1)
    before = bytes(data)
    data[place : place + size] = origin[start : start + size]
    if data == before:
        return flip_anywhere(folder, chance)
    path.write_bytes(data)
    only_payload = path.suffix == ".safetensors" and place >= header_end(path)
    said = f"{size} bytes of {source.name} at {start} over {path.name} at {place}"
    return f"payload: {said}" if only_payload else said


def edit_field(folder: Path, chance: random.Random) -> str:
    """Give a field of a JSON file another value."""
    path = _json_file(folder, chance)
    data = json.loads(path.read_text(encoding="utf-8"))
    return f"{path.name}: {_edit(data, chance, lambda: path.write_text(json.dumps(data), encoding='utf-8'))}"


def edit_header(folder: Path, chance: random.Random) -> str:
    """Give a field of a shard's header another value."""
    path = _shard(folder, chance)
    data, end = path.read_bytes(), header_end(path)
    header = json.loads(data[8:end])

    def write() -> None:
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + data[end:])

    return f"header of {path.name}: {_edit(header, chance, write)}"


def _edit(data: dict, chance: random.Random, write: Callable[[], object]) -> str:
    places = list(_places(data))
    holder, key = chance.choice(places)
    way = chance.choice(["value", "value", "value", "remove", "rename", "exchange"])
    if way == "exchange":
        other, other_key = chance.choice(places)
        holder[key], other[other_key] = other[other_key], holder[key]
        said = f"exchange {key!r} and {other_key!r}"
    elif way == "value" or isinstance(holder, list):
        holder[key] = value = chance.choice(EDGES)
        said = f"{key!r} is {str(value)[:40]!r}"
    else:
        value = holder.pop(key)
        if way == "rename":
            holder[f"{key}x"] = value
        said = f"{way} {key!r}"
    try:
        write()
    except ValueError:  # exchanged with something that it holds
        return "nothing"
    return said


def _places(data):
    """Yield (what holds it, key) of every value in nested JSON."""
    for key in list(data) if isinstance(data, dict) else range(len(data)):
        yield data, key
        if isinstance(data[key], dict | list):
            yield from _places(data[key])


def swap_tensors(folder: Path, chance: random.Random) -> str:
    """Exchange the names of two tensors in a header."""
    path = _shard(folder, chance)
    data, end = path.read_bytes(), header_end(path)
    header = json.loads(data[8:end])
    one, other = chance.sample(sorted(set(header) - {"__metadata__"}), 2)
    header[one], header[other] = header[other], header[one]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[end:])
    return f"exchange {one!r} and {other!r} in the header of {path.name}"


def swap_values(folder: Path, chance: random.Random) -> str:
    """Exchange the values of two tensors of the same form."""
    path = _shard(folder, chance)
    tensors = load_file(path)
    groups: dict[tuple, list[str]] = {}
    for name, tensor in tensors.items():
        groups.setdefault((tensor.dtype, tensor.shape), []).append(name)
    alike = [names for names in groups.values() if len(names) > 1]
    one, other = chance.sample(chance.choice(alike), 2) if alike else [next(iter(tensors))] * 2
    if tensors[one].equal(tensors[other]):
        return flip_payload(folder, chance)
    tensors[one], tensors[other] = tensors[other].clone(), tensors[one].clone()
    save_file(tensors, path, metadata={"format": "pt"})
    return f"payload: exchange the values of {one!r} and {other!r}"


def swap_files(folder: Path, chance: random.Random) -> str:
    """Exchange two files."""
    one, other = chance.sample(_files(folder), 2)
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    return f"exchange {one.name} and {other.name}"


def replace_file(folder: Path, chance: random.Random) -> str:
    """Put something else in the place of a file."""
    path = chance.choice(_files(folder))
    path.unlink()
    way = chance.choice(["nothing", "folder", "pipe", "link", "device"])
    if way == "folder":
        path.mkdir()
    elif way == "pipe":
        os.mkfifo(path)
    elif way in ("link", "device"):
        path.symlink_to("/etc/hosts" if way == "link" else "/dev/zero")
    return f"{way} instead of {path.name}"


def bomb(folder: Path, chance: random.Random) -> str:
    """Write JSON that is deep, long, or names a key twice."""
    path = _json_file(folder, chance)
    text = path.read_text(encoding="utf-8")
    key = text.split('"')[1]
    way, start = chance.choice(
        [
            ("deep", f'{{"bomb": {DEEP}, '),
            ("digits", f'{{"bomb": {"9" * 5000}, '),
            ("string", f'{{"bomb": "{"a" * 1_000_000}", '),
            ("values", f'{{"bomb": [{"0," * 3_000_000}0], '),
            ("twice", f'{{"{key}": 1, '),
        ]
    )
    path.write_text(text.replace("{", start, 1), encoding="utf-8")
    return f"{way} in {path.name}"


WAYS: dict[Callable[[Path, random.Random], str], int] = {
    flip_anywhere: 6,
    flip_payload: 3,
    cut: 4,
    splice: 4,
    edit_field: 12,
    edit_header: 6,
    swap_tensors: 2,
    swap_values: 1,
    swap_files: 1,
    replace_file: 3,
    bomb: 1,
}


NEED_SHARDS = {flip_payload, edit_header, swap_tensors, swap_values}


def again(whole: Path, folder: Path) -> Path:
    """Put a whole checkpoint back where a damaged one was."""
    shutil.rmtree(folder, ignore_errors=True)
    return Path(shutil.copytree(whole, folder))


def main() -> None:
    """Say what numbers do."""
    import tempfile

    from tests.checkpoint.fuzzed import make_whole
    from workbench.hf.loading import load_checkpoint

    with tempfile.TemporaryDirectory() as temporary:
        whole = make_whole(Path(temporary) / "whole")
        for number in map(int, sys.argv[1:]):
            folder = again(whole, Path(temporary) / "damaged")
            print(number, mutate(folder, number))
            for verify in (True, False):
                try:
                    load_checkpoint(folder, verify=verify)
                    print(f"  verify={verify}: loads")
                except CheckpointError as error:
                    print(f"  verify={verify}: {str(error)[:300]}")


if __name__ == "__main__":
    main()
