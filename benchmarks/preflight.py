"""What a preflight of a checkpoint with very many layers takes, in fresh processes: seconds and memory.

The folders hold headers alone, over files without content: no weight is read. Each process first looks at a folder of
the same architecture with one layer, so that everything is imported; then the time and the peak of the resident memory
of one preflight are taken, table included.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.memory import peak_bytes
from benchmarks.report import Goal, Report, finish, options, time_row

LIMIT_S, LIMIT_BYTES = 2.0, 100 * 2**20
_HEADER = 8  # bytes of a safetensors file that say how long its header is
_SHARD_BYTES = 10**9

# Name in the table → settings of its config.json, for one layer.
_COMMON: dict[str, Any] = {"hidden_size": 512, "num_attention_heads": 8, "num_key_value_heads": 8, "vocab_size": 32000}
_COMMON |= {"dtype": "bfloat16", "intermediate_size": 1024, "tie_word_embeddings": False}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {**_COMMON, "model_type": "llama", "architectures": ["LlamaForCausalLM"]},
    "qwen3_moe": {
        **_COMMON,
        "model_type": "qwen3_moe",
        "architectures": ["Qwen3MoeForCausalLM"],
        "num_experts": 16,
        "moe_intermediate_size": 128,
    },
}


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark."""
    parser = options("Time a preflight of a folder with many layers.")
    parser.add_argument("--layers", type=int, default=1000, help="layers of the models (default 1000)")
    parser.add_argument("--rounds", type=int, default=5, help="fresh processes for each model (default 5)")
    args = parser.parse_args(argv)
    rows, goals = [], []
    for name, config in MODELS.items():
        with tempfile.TemporaryDirectory() as place:
            small, large = (made(Path(place), config, layers) for layers in (1, args.layers))
            runs = [_in_new_process(small, large) for _ in range(args.rounds)]
        seconds = [run["seconds"] for run in runs]
        peak = max((run["bytes"] for run in runs if run["bytes"] is not None), default=None)
        about = {"layers": args.layers, "tensors": runs[0]["tensors"], "int4": runs[0]["int4"]}
        row = time_row(seconds)
        cpu = round(statistics.median(run["cpu_seconds"] for run in runs) * 1e3, 1)
        rows.append(
            {"model": name, **about, **row, "cpu_ms": cpu, "peak_mib": None if peak is None else round(peak / 2**20, 1)}
        )
        if name == "llama":
            goals.append(Goal(f"{name}: seconds, median", round(row["time_ms"] / 1e3, 3), LIMIT_S, "at most"))
        if name == "llama" and peak is not None:
            goals.append(Goal(f"{name}: bytes beyond the imports, most", peak, LIMIT_BYTES, "at most"))
    finish(Report("preflight", {"rounds": args.rounds}, rows, goals), args.json)
    return 0


def made(place: Path, config: dict[str, Any], layers: int) -> Path:
    """Make a model folder that holds headers alone, under the names that such a model has on the hub."""
    folder = place / str(layers)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": layers}))
    shards: list[dict[str, Any]] = [{}]
    end = 0
    for name, shape in _tensors(config, layers).items():
        size = 2 * math.prod(shape)
        if end + size > _SHARD_BYTES:
            shards.append({})
            end = 0
        shards[-1][name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    files = {f"model-{number}.safetensors": shard for number, shard in enumerate(shards)}
    for file, shard in files.items():
        _write_header(folder / file, shard)
    weight_map = {name: file for file, shard in files.items() for name in shard}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def _write_header(path: Path, header: dict[str, Any]) -> None:
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(_HEADER, "little") + text)
        file.truncate(_HEADER + len(text) + max(one["data_offsets"][1] for one in header.values()))


def measured(small: Path, large: Path) -> dict[str, Any]:
    """Return what one preflight of `large` takes in this process; everything is imported by one of `small`."""
    import workbench as wb

    wb.preflight(small)
    found: list[Any] = []
    start, cpu = time.perf_counter(), time.process_time()
    peak = peak_bytes(lambda: found.append(wb.preflight(large)))
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    (coverage,) = found
    times = {"seconds": seconds, "cpu_seconds": cpu, "bytes": peak}
    return {**times, "tensors": len(coverage.rows), "int4": len(coverage.int4_rows)}


def _tensors(config: dict[str, Any], layers: int) -> dict[str, list[int]]:
    hidden, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    shapes = {
        "model.embed_tokens.weight": [vocab, hidden],
        "model.norm.weight": [hidden],
        "lm_head.weight": [vocab, hidden],
    }
    layer = {f"self_attn.{name}_proj": [hidden, hidden] for name in "qkvo"}
    layer |= {name: [hidden] for name in ("input_layernorm", "post_attention_layernorm")}
    experts = config.get("num_experts", 0)
    if experts:
        inner, head = config["moe_intermediate_size"], hidden // config["num_attention_heads"]
        layer |= {"self_attn.q_norm": [head], "self_attn.k_norm": [head], "mlp.gate": [experts, hidden]}
    for prefix in [f"mlp.experts.{e}" for e in range(experts)] or ["mlp"]:
        layer |= {f"{prefix}.gate_proj": [inner, hidden], f"{prefix}.up_proj": [inner, hidden]}
        layer[f"{prefix}.down_proj"] = [hidden, inner]
    return shapes | {f"model.layers.{i}.{name}.weight": shape for i in range(layers) for name, shape in layer.items()}


def _in_new_process(small: Path, large: Path) -> dict[str, Any]:
    code = (
        "import json; from pathlib import Path; from benchmarks.preflight import measured;"
        f"print(json.dumps(measured(Path({str(small)!r}), Path({str(large)!r}))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    raise SystemExit(main())
