"""What llama.cpp makes of GGUF files: run by scripts/llama_cpp_check.py with a Python that has llama-cpp-python.

    python scripts/llama_cpp_side.py FOLDER

FOLDER holds jobs.json: [{"file", "ids", "greedy", "texts"}]; FILE.npz gets the logits of `ids`, the tokens that follow
them greedily, and the tokens of `texts`.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


def run(folder: Path, job: dict[str, Any]) -> None:
    from llama_cpp import Llama

    model = Llama(str(folder / job["file"]), n_ctx=512, n_threads=2, logits_all=True, verbose=False, type_k=0, type_v=0)
    model.eval(job["ids"])
    logits = np.array(model.scores[: len(job["ids"])], dtype=np.float32)
    greedy: list[int] = []
    for _ in range(job["greedy"]):
        greedy.append(int(np.argmax(model.scores[model.n_tokens - 1])))
        model.eval(greedy[-1:])
    tokens = [model.tokenize(text.encode(), add_bos=True, special=True) for text in job["texts"]]
    found: dict[str, Any] = {f"tokens{index}": np.array(one, dtype=np.int64) for index, one in enumerate(tokens)}
    found |= {"logits": logits, "greedy": np.array(greedy, dtype=np.int64)}
    np.savez(folder / f"{job['file']}.npz", **found)


def main() -> int:
    folder = Path(sys.argv[1])
    failed = 0
    for job in json.loads((folder / "jobs.json").read_text(encoding="utf-8")):
        try:
            run(folder, job)
        except Exception as error:  # llama.cpp refuses a file: the others are still looked at
            print(f"{job['file']}: {type(error).__name__}: {error}", file=sys.stderr)
            failed += 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
