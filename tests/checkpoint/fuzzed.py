"""Load damaged checkpoints and say which of them loaded as something that they are not."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import workbench as wb
from tests import tiny_models
from tests.checkpoint.mutations import Mutation, again, mutate
from workbench.checkpoint.save import save_checkpoint
from workbench.errors import CheckpointError
from workbench.hf.loading import load_checkpoint

MOST_BYTES = 96 * 2**20  # beyond what the process has, for a checkpoint of some 60 kB and JSON of up to 6 MB
_ROOM_BYTES = 2**30


def make_whole(folder: Path, **sizes: int) -> Path:
    """Save a checkpoint of a few tensors in two shards."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, **sizes}
    with tiny_models.hushed():
        model = tiny_models.qwen2(**sizes).to(torch.bfloat16)
        wb.quantize_(model, wb.Int4WeightOnlyConfig(group_size=32), domain="int")
        return save_checkpoint(model, folder, max_shard_bytes=9_000)


def weights(folder: Path, verify: bool) -> dict[str, torch.Tensor] | None:
    """Return what loads, or None when it is refused; any other error is passed on."""
    with tiny_models.hushed():
        try:
            model: Any = load_checkpoint(folder, verify=verify)[0]
        except CheckpointError:
            return None
        return dict(model.state_dict())


def faults(whole: Path, folder: Path, numbers: Iterator[int] | range) -> list[str]:
    """Damage a checkpoint by each number and load it; return what went wrong, in words with the number."""
    saved, found = weights(whole, verify=True), []
    assert saved is not None
    with limited():
        for number in numbers:
            mutation = mutate(again(whole, folder), number)
            try:
                found += [f"{number}: {mutation}: {said}" for said in _faults(folder, mutation, saved)]
            except Exception as error:  # nothing but a CheckpointError may come of it
                found.append(f"{number}: {mutation}: {error!r}")
    return found


def _faults(folder: Path, mutation: Mutation, saved: dict[str, torch.Tensor]) -> Iterator[str]:
    loaded: dict[bool, dict[str, torch.Tensor] | None] = {}

    def load() -> None:
        for verify in (True, False):
            loaded[verify] = weights(folder, verify)

    taken = growth_bytes(load)
    if taken > MOST_BYTES:
        yield f"took {taken / 2**20:.0f} MiB"
    for verify, state in loaded.items():
        free = not mutation.sealed or (mutation.payload and not verify)
        if state is not None and not free and not same(state, saved):
            yield f"loads something else with verify={verify}"


def growth_bytes(call: Callable[[], object]) -> int:
    """Return how far the resident memory rises while a call runs; 0 where Linux does not tell."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        before = _status_bytes("VmRSS")
    except (OSError, AttributeError):
        call()
        return 0
    call()
    return _status_bytes("VmHWM") - before


def _status_bytes(name: str) -> int:
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(text.partition(f"{name}:")[2].split()[0])


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Say whether two models hold the same tensors, bit for bit."""
    if one.keys() != other.keys():
        return False
    return all(one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one)


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Let the process grow by a GiB at most: what would take more fails, and the machine goes on."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except OSError:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + _ROOM_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
