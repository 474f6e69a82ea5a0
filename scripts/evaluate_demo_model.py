"""Prints the demo model's perplexity on its held-out text.

    python scripts/evaluate_demo_model.py [--model DIR] [--window 512]

The text is one token stream, cut into windows that do not overlap; in each window every token but the first
is predicted from those before it. Perplexity is exp of the mean negative log-likelihood of those tokens.
"""

import argparse
import json
import math
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

DEMO_MODEL = Path(__file__).parents[1] / "workbench" / "demo_model"


@torch.no_grad()
def perplexity(model: torch.nn.Module, ids: torch.Tensor, *, window: int) -> float:
    """Perplexity of `ids`, int64 [T] with T at least 2, in windows of `window` tokens that do not overlap."""
    total, count = 0.0, 0
    for rows in ids.split(window):
        if len(rows) < 2:
            continue
        logits = model(input_ids=rows[None], use_cache=False).logits[0, :-1].float()
        total += torch.nn.functional.cross_entropy(logits, rows[1:], reduction="sum").item()
        count += len(rows) - 1
    return math.exp(total / count)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=DEMO_MODEL)
    parser.add_argument("--window", type=int, default=512, help="tokens of context, 2 to 2048 (512)")
    arguments = parser.parse_args()
    if not 2 <= arguments.window <= 2048:
        parser.error(f"--window {arguments.window}: allowed are 2 to 2048 tokens")
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
    text = (DEMO_MODEL / "eval.txt").read_text(encoding="utf-8")
    ids = torch.tensor(tokenizer(text, verbose=False)["input_ids"])
    value = perplexity(model, ids, window=arguments.window)
    nats = math.log(value) * len(ids) / len(text.encode())
    facts = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "window": arguments.window,
        "bytes": len(text.encode()),
        "tokens": len(ids),
        "perplexity": round(value, 3),
        "bits_per_byte": round(nats / math.log(2), 4),
    }
    print(json.dumps(facts))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
