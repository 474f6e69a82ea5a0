"""Verifying a checkpoint against plain hashlib over the same bytes, with one thread and with two.

Verifying hashes each tensor and looks at every zero point and scale.
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from benchmarks.report import Goal, Report, finish, options, time_row
from workbench.checkpoint.integrity import verify_checkpoint
from workbench.checkpoint.manifest import write_manifest
from workbench.checkpoint.native import ModuleFormat, describe
from workbench.checkpoint.writer import ShardWriter, size_on_disk
from workbench.measure.timing import time_interleaved

_BLOCK_BYTES = 2**20
_SHARDS = 2


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark."""
    parser = options("Time verifying a checkpoint against plain hashing.")
    parser.add_argument("--layers", type=int, default=32, help="int4 layers (default 32, some 300 MB)")
    parser.add_argument("--side", type=int, default=4096, help="N and K of each, a multiple of 64 (default 4096)")
    parser.add_argument("--budget", type=float, default=4.0, help="seconds for each candidate (default 4)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _write(folder, args.layers, args.side)
        files, total = sorted(folder.glob("*.safetensors")), size_on_disk(folder)
        calls = {
            "verify": lambda: verify_checkpoint(folder),
            "hashlib, 1 thread": lambda: _hash_all(files, 1),
            "hashlib, 2 threads": lambda: _hash_all(files, 2),
        }
        times = time_interleaved(calls, budget_s=args.budget)
    rates = {name: total / 1e9 / statistics.median(seconds) for name, seconds in times.items()}
    rows = [{"what": name, **time_row(seconds), "gb_per_s": rates[name]} for name, seconds in times.items()]
    share = rates["verify"] / rates["hashlib, 2 threads"]
    goals = [
        Goal("verify, GB a second of checkpoint", rates["verify"], 1, "at least"),
        Goal("verify over plain hashing with two threads", share, 0.8, "at least"),
    ]
    finish(Report("verify", {"layers": args.layers, "side": args.side, "bytes": total}, rows, goals), args.json)
    return 0


def _write(folder: Path, layers: int, side: int) -> None:
    """Write a checkpoint of random codes; no model can be built from it, which verifying does not do."""
    chance = torch.Generator().manual_seed(0)
    form = ModuleFormat(side, side, 64, "int", "bfloat16")
    per_shard = math.ceil(layers / _SHARDS) * form.size_bytes
    writer = ShardWriter(folder, per_shard)
    forms = {f"layers.{index}": form for index in range(layers)}
    for name in forms:
        writer.add(
            {
                f"{name}.weight": torch.randint(0, 256, (side, side // 2), dtype=torch.uint8, generator=chance),
                f"{name}.weight_scale": torch.rand(side, side // 64, generator=chance).bfloat16(),
                f"{name}.weight_zp": torch.randint(0, 16, (side, side // 64), dtype=torch.uint8, generator=chance),
            }
        )
    hashes = writer.finish()
    config = {"quantization_config": describe(forms, [], None)}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    write_manifest(folder, hashes)


def _hash_all(files: list[Path], threads: int) -> list[str]:
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(_hash, files))


def _hash(path: Path) -> str:
    total, buffer = hashlib.sha256(), memoryview(bytearray(_BLOCK_BYTES))
    with path.open("rb", buffering=0) as file:
        while got := file.readinto(buffer):
            total.update(buffer[:got])
    return total.hexdigest()


if __name__ == "__main__":
    raise SystemExit(main())
