"""Does llama.cpp compute what transformers does? Exports to GGUF, loads with llama-cpp-python, compares.

    python -m scripts.llama_cpp_check [--python VENV/bin/python] [--only NAME ...] [--keep FOLDER]

Without --python, llama-cpp-python is built first, in an environment of its own under build/ (a C++ compiler, CMake;
12 minutes on 8 cores). The demo model and a tiny model of every architecture are quantized and exported; the logits of
llama.cpp are held against those of transformers on the same dequantized weights. llama.cpp quantizes activations to 8
bits before it multiplies, so that logits agree in direction, not bit for bit: a cosine of 0.9996 is asked for, and
of the demo model the same greedy tokens, and the same tokens of a text.
"""

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from torch import nn

import workbench as wb
from tests.targets.gguf_models import ZOO, make
from workbench.checkpoint.contents import ModelContents
from workbench.checkpoint.native import int4_layers
from workbench.config import DOMAINS
from workbench.demo import demo_eval_text
from workbench.targets.gguf import Gguf, file_name

ROOT = Path(__file__).parent.parent
SIDE = ROOT / "scripts" / "llama_cpp_side.py"
DEMO, COSINE, GREEDY = "demo", 0.9996, 24
TEXTS = ("Hello, world! It's 2026.\n\n  A tab\tand 漢字 and é.", demo_eval_text()[:2000])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--python", type=Path, help="a Python that has llama-cpp-python and numpy")
    parser.add_argument("--only", nargs="*", default=[DEMO, *ZOO], help=f"{DEMO} or names of tests/targets/gguf_models")
    parser.add_argument("--keep", type=Path, help="keep the files here")
    arguments = parser.parse_args()
    python = arguments.python or build()
    with tempfile.TemporaryDirectory(prefix="llama-cpp-check-") as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        wanted = export(folder, arguments.only)
        side = subprocess.run([str(python), str(SIDE), str(folder)], capture_output=True, text=True, check=False)
        print("\n".join(line for line in side.stderr.splitlines() if ".gguf:" in line), end="")
        return compare(folder, wanted)


def build() -> Path:
    """Make an environment with llama-cpp-python, built here; return its Python."""
    home = ROOT / "build" / "llama-cpp"
    python = home / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not python.is_file():
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    settings = {**os.environ, "CMAKE_ARGS": os.environ.get("CMAKE_ARGS", "-DGGML_NATIVE=OFF")}
    command = [str(python), "-m", "pip", "install", "--no-binary", "llama-cpp-python", "llama-cpp-python"]
    subprocess.run(command, check=True, env=settings)
    return python


def export(folder: Path, names: list[str]) -> dict[str, dict[str, Any]]:
    """Write a file for each model and domain; return what transformers makes of each."""
    found, jobs = {}, []
    demo, tokenizer = wb.demo_model()
    ids = tokenizer(TEXTS[1])["input_ids"][:64]
    for name in names:
        for domain in DOMAINS:
            model = copy.deepcopy(demo) if name == DEMO else make(name)
            wb.quantize_(model, wb.Int4WeightOnlyConfig(group_size=64), solver="refined", domain=domain)
            contents = ModelContents(model, tokenizer)
            outline = contents.outline()
            scratch = folder / f"{name}-{domain}"
            scratch.mkdir()
            written = list(Gguf().write(contents, outline, scratch))
            file = f"{name}-{domain}.gguf"
            (scratch / file_name(outline)).rename(folder / file)
            scratch.rmdir()
            dense = dequantized(model, copy.deepcopy(demo) if name == DEMO else make(name))
            found[file] = reference(dense, ids) | {"error": max(one.max_error for one in written)}
            found[file]["tokens"] = [tokenizer(text)["input_ids"] for text in TEXTS]
            jobs.append({"file": file, "ids": ids, "greedy": GREEDY, "texts": TEXTS})
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    return found


def dequantized(model: nn.Module, dense: nn.Module) -> nn.Module:
    """Return the dense model in float32 with the weights that the int4 layers stand for."""
    dense = dense.float().eval()
    tensors = dict(dense.named_parameters())
    with torch.no_grad():
        for name, layer in int4_layers(model).items():
            target = tensors.get(f"{name}.weight", tensors.get(name))
            assert target is not None, name
            target.copy_(layer.quantized_weight().dequantize().view(target.shape))
    return dense


def reference(model: Any, ids: list[int]) -> dict[str, Any]:
    """Return transformers' logits and greedy tokens."""
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0].numpy()
        greedy, text = [], list(ids)
        for _ in range(GREEDY):
            greedy.append(int(model(torch.tensor([text])).logits[0, -1].argmax()))
            text.append(greedy[-1])
    return {"logits": logits, "greedy": greedy}


def compare(folder: Path, wanted: dict[str, dict[str, Any]]) -> int:
    """Print one line for each file; return how many are wrong."""
    wrong = 0
    print(f"{'file':34} {'cosine, least':>14} {'greedy tokens':>14} {'tokens of texts':>16} {'max |dw|':>10}")
    for file, expected in wanted.items():
        path = folder / f"{file}.npz"
        if not path.is_file():
            print(f"{file:34} llama.cpp refused it")
            wrong += 1
            continue
        found = np.load(path)
        cosine = float(cosines(found["logits"], expected["logits"]).min())
        same = int((found["greedy"] == np.array(expected["greedy"])).cumprod().sum())
        tokens = all(list(found[f"tokens{index}"]) == one for index, one in enumerate(expected["tokens"]))
        good = cosine >= COSINE and tokens and (same == GREEDY or not file.startswith(DEMO))
        wrong += not good
        told = f"{cosine:14.6f} {f'{same} of {GREEDY}':>14} {'equal' if tokens else 'differ':>16}"
        print(f"{file:34} {told} {expected['error']:10.2e}{'' if good else '  WRONG'}")
    print(f"{len(wanted) - wrong} of {len(wanted)} as they should be")
    return wrong


def cosines(one: Any, other: Any) -> Any:
    """Return the cosine of each row of logits, their means taken off."""
    one, other = one - one.mean(1, keepdims=True), other - other.mean(1, keepdims=True)
    return (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)


if __name__ == "__main__":
    sys.exit(main())
