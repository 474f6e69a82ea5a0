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

from workbench.demo import demo_eval_text, demo_path
from workbench.hf.loading import load_model
from workbench.measure.quality import measure_quality, text_ids


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=demo_path())
    parser.add_argument("--window", type=int, default=512, help="tokens of context, 2 to 2048 (512)")
    arguments = parser.parse_args()
    if not 2 <= arguments.window <= 2048:
        parser.error(f"--window {arguments.window}: allowed are 2 to 2048 tokens")
    model, tokenizer = load_model(arguments.model, dtype=torch.float32)
    text = demo_eval_text()
    ids = text_ids(text, tokenizer)
    quality = measure_quality(model, ids, window=arguments.window)
    facts = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "window": arguments.window,
        "bytes": len(text.encode()),
        "tokens": len(ids),
        "perplexity": round(quality.perplexity, 3),
        "bits_per_byte": round(quality.nats_per_token * len(ids) / len(text.encode()) / math.log(2), 4),
    }
    print(json.dumps(facts))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
