"""Does llama.cpp compute what transformers does? Exports to GGUF, loads with llama-cpp-python, compares.

    python -m scripts.llama_cpp_check [--python VENV/bin/python] [--only NAME ...] [--keep FOLDER]

Without --python, llama-cpp-python is built first, in an environment of its own under build/ (a C++ compiler, CMake;
12 minutes on 8 cores). The demo model, a tiny model of every architecture and a tokenizer of every kind are exported;
the logits of llama.cpp are held against those of transformers on the weights that the file holds. llama.cpp quantizes
activations to 8 bits before it multiplies with int4, so that logits agree in direction, not bit for bit, and where two
experts are nearly tied, another one may be taken: a cosine of 0.9996 is asked for at half of the positions. The same
file with its int4 weights dequantized shows that nothing else differs: there, 0.99999 is asked for at every position,
the same greedy tokens, and the same tokens of two texts.
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

import gguf
import numpy as np
import torch
from torch import nn

import workbench as wb
from tests.targets.gguf_models import ZOO, make
from tests.targets.gguf_tokenizers import sentencepiece, trained
from workbench.checkpoint.model_contents import ModelContents
from workbench.checkpoint.native import int4_layers
from workbench.config import DOMAINS
from workbench.demo import demo_eval_text
from workbench.foreign.gguf_tokenizer import write_tokenizer
from workbench.targets.gguf import Gguf, file_name
from workbench.targets.gguf_blocks import decode_blocks, encode_blocks
from workbench.targets.gguf_pretokenizers import PRE_TOKENIZERS, ignores_merges
from workbench.targets.gguf_tokenizer import tokenizer_metadata

ROOT = Path(__file__).parent.parent
SIDE = ROOT / "scripts" / "llama_cpp_side.py"
DEMO, GREEDY = "demo", 24
INT4_COSINE, DENSE_COSINE = 0.9996, 0.99999
SPACED = "sentencepiece"
TOKENIZERS = (*PRE_TOKENIZERS.values(), SPACED)
TEXTS = ("Hello, world! It's 2026.\n\n  A tab\tand 漢字 and é.", demo_eval_text()[:2000])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--python", type=Path, help="a Python that has llama-cpp-python and numpy")
    parser.add_argument("--only", nargs="*", default=[DEMO, *ZOO, *TOKENIZERS], help="some of these")
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
    models = [(name, domain, tokenizer, ids) for name in names if name in (DEMO, *ZOO) for domain in DOMAINS]
    models += [(name, "int", words, ids) for name in names if (words := tokenizer_of(name, folder))]
    for name, domain, words, given in models:
        dense = copy.deepcopy(demo) if name == DEMO else make(name if name in ZOO else "llama")
        model = copy.deepcopy(dense)
        wb.quantize_(model, wb.Int4WeightOnlyConfig(group_size=64), solver="refined", domain=domain)
        file = f"{name}-{domain}.gguf"
        error = write(folder / file, ModelContents(model, words))
        found[file] = reference(dequantized(model, dense), given) | {"error": error}
        found[file]["tokens"] = [words(text)["input_ids"] for text in TEXTS]
        for one in (file, in_float32(folder / file).name):
            jobs.append({"file": one, "ids": given, "greedy": GREEDY, "texts": TEXTS})
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    return found


def tokenizer_of(name: str, folder: Path) -> Any:
    """Return a small tokenizer by the name of its pre-tokenizer, or SentencePiece's; None for a model's name."""
    from transformers import AutoTokenizer

    if name not in TOKENIZERS or name in ZOO:  # the demo model splits as qwen2
        return None
    home = folder / f"tokenizer-{name}"
    home.mkdir(exist_ok=True)
    if name == SPACED:
        metadata = tokenizer_metadata(sentencepiece(home), {"vocab_size": 272, "bos_token_id": 1, "eos_token_id": 2})
        (home / "tokenizer.model").unlink()
        write_tokenizer(home, {key: value.data for key, value in metadata.items()})
    else:
        trained(home, name, ignore_merges=ignores_merges(name))
    return AutoTokenizer.from_pretrained(home)


def write(path: Path, contents: ModelContents) -> float:
    """Write a file; return the largest rounding error."""
    outline = contents.outline()
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        layers = list(Gguf().write(contents, outline, Path(scratch)))
        (Path(scratch) / file_name(outline)).rename(path)
    return max(layer.max_error for layer in layers)


def in_float32(path: Path) -> Path:
    """Write the same file with every int4 tensor dequantized; return its path."""
    reader = gguf.GGUFReader(path)
    written = path.with_suffix(".f32.gguf")
    writer = gguf.GGUFWriter(written, reader.fields["general.architecture"].contents())
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            inner = field.types[1] if len(field.types) > 1 else None
            writer.add_key_value(key, field.contents(), field.types[0], inner)
    for tensor in reader.tensors:
        plain = tensor.tensor_type.name in ("F32", "F16", "BF16")
        data = tensor.data if plain else gguf.dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, data, raw_dtype=tensor.tensor_type if plain else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return written


def dequantized(model: nn.Module, dense: nn.Module) -> nn.Module:
    """Return the dense model in float32 with the weights that a loader sees in the int4 layers."""
    dense = dense.float().eval()
    tensors = dict(dense.named_parameters())
    with torch.no_grad():
        for name, layer in int4_layers(model).items():
            target = tensors.get(f"{name}.weight", tensors.get(name))
            assert target is not None, name
            weight = layer.quantized_weight()
            stored = decode_blocks(encode_blocks(name, weight).data, symmetric=weight.domain == "symmetric")
            target.copy_(stored.dequantize().view(target.shape))
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
    columns = (("cosine", 10), ("least", 10), ("in float32", 12), ("greedy", 10), ("tokens", 8), ("max |dw|", 10))
    print(f"{'file':32}" + "".join(f" {name:>{width}}" for name, width in columns))
    for file, expected in wanted.items():
        paths = [folder / f"{one}.npz" for one in (file, Path(file).with_suffix(".f32.gguf"))]
        if not all(path.is_file() for path in paths):
            print(f"{file:32} llama.cpp refused it")
            wrong += 1
            continue
        told, good = compared(expected, *map(np.load, paths))
        wrong += not good
        print(f"{file:32} {told}{'' if good else '  WRONG'}")
    print(f"{len(wanted) - wrong} of {len(wanted)} as they should be")
    return wrong


def compared(expected: dict[str, Any], int4: Any, dense: Any) -> tuple[str, bool]:
    """Return what is told about a file, and whether it is as it should be."""
    rows = [cosines(one["logits"], expected["logits"]) for one in (int4, dense)]
    half, least, plain = float(np.median(rows[0])), float(rows[0].min()), float(rows[1].min())
    same = int((dense["greedy"] == np.array(expected["greedy"])).cumprod().sum())
    tokens = all(list(int4[f"tokens{index}"]) == one for index, one in enumerate(expected["tokens"]))
    good = half >= INT4_COSINE and plain >= DENSE_COSINE and tokens and same == GREEDY
    words = f"{f'{same} of {GREEDY}':>10} {'equal' if tokens else 'differ':>8} {expected['error']:10.2e}"
    return f"{half:10.6f} {least:10.6f} {plain:12.7f} {words}", good


def cosines(one: Any, other: Any) -> Any:
    """Return the cosine of each row of logits, their means taken off."""
    one, other = one - one.mean(1, keepdims=True), other - other.mean(1, keepdims=True)
    return (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)


if __name__ == "__main__":
    sys.exit(main())
